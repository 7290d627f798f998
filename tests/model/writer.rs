use poquelin_model::{CharLstm, CharLstmConfig, Seed, Writer};

use crate::support::{devices, is_gpu};

const VOCABULARY: usize = 31;

/// Reads, writes, reads something in between and writes again.
fn write(mut writer: Writer) -> Vec<u32> {
    let lanes = writer.lanes();
    // More steps than a launch of a GPU makes.
    let uniforms = |rows: usize| -> Vec<f64> {
        (0..rows * lanes).map(|k| (k as f64 * 0.618_034 + 0.1).fract()).collect()
    };
    writer.read(&[1, 30, 4]);
    let mut written = writer.write(&uniforms(150));
    assert_eq!(written.len(), 150 * lanes);
    assert!(writer.write(&[]).is_empty());
    // And more of them again.
    writer.read(&std::array::from_fn::<u32, 80, _>(|k| (k * k) as u32 % VOCABULARY as u32));
    written.extend(writer.write(&uniforms(9)));
    written.extend(writer.write(&uniforms(1)));
    written
}

fn networks(device: &burn::tensor::Device) -> Vec<CharLstm> {
    let config = |hidden, layers| CharLstmConfig::new(VOCABULARY, hidden).with_layers(layers);
    let configs = [
        config(9, 1),
        config(40, 2),
        config(130, 1),
        config(1, 3),
        config(24, 3).with_residual(true),
        config(33, 2).with_layer_norm(true),
        // A vocabulary that makes many rounds of a kernel's loops.
        CharLstmConfig::new(2_000, 24),
        config(20, 1).with_layer_norm(true).with_tied(true).with_d_embedding(Some(12)),
    ];
    configs.map(|config| config.init(Seed::new(6), device)).into()
}

#[test]
fn a_gpu_writes_what_the_cpu_writes() {
    let mut any = false;
    for (name, device) in devices() {
        for (index, network) in networks(&device).iter().enumerate() {
            let cases = [(1, 1.0), (9, 0.4), (3, 1.5), (5, 0.0)];
            // All of them with the second network, and one with each of the others.
            let cases = cases.iter().cycle().skip(index).take(if index == 1 { 4 } else { 1 });
            for &(lanes, temperature) in cases {
                let writer = Writer::on_device(network, lanes, temperature);
                assert_eq!(writer.is_some(), is_gpu(name), "{name}");
                let Some(writer) = writer else { continue };
                any = true;
                assert!(writer.is_on_device());
                let expected = write(Writer::on_cpu(network, lanes, temperature));
                let got = write(writer);
                let place = got.iter().zip(&expected).position(|(got, expected)| got != expected);
                let what = format!("{name}, network {index}, {lanes} lanes at {temperature}");
                assert_eq!((got.len(), place), (expected.len(), None), "{what}: the first other");
            }
        }
    }
    if !any {
        eprintln!("SKIPPED: writing on a GPU, for no device of this build is one");
    }
}

/// The lanes of a writer do not know of each other.
#[test]
fn a_lane_writes_what_it_would_alone() {
    const LANES: usize = 6;
    let made: [fn(&CharLstm, usize) -> Option<Writer>; 2] = [
        |network, lanes| Some(Writer::on_cpu(network, lanes, 0.8)),
        |network, lanes| Writer::on_device(network, lanes, 0.8),
    ];
    for ((name, device), make) in devices().into_iter().flat_map(|d| made.map(|m| (d.clone(), m))) {
        let network = CharLstmConfig::new(VOCABULARY, 18).init(Seed::new(7), &device);
        let uniforms: Vec<f64> = (0..LANES * 20).map(|k| (k as f64 * 0.37).fract()).collect();
        let write = |lanes, uniforms: &[f64]| {
            let mut writer = make(&network, lanes)?;
            writer.read(&[5]);
            Some(writer.write(uniforms))
        };
        let Some(all) = write(LANES, &uniforms) else { continue };
        for lane in 0..LANES {
            let own: Vec<f64> = uniforms.iter().copied().skip(lane).step_by(LANES).collect();
            let expected: Vec<u32> = all.iter().copied().skip(lane).step_by(LANES).collect();
            assert_eq!(write(1, &own), Some(expected), "{name}, lane {lane}");
        }
    }
}

#[test]
#[should_panic = "token 31 is not below the vocabulary's 31"]
fn a_writer_refuses_tokens_it_does_not_know() {
    let (_, device) = devices().swap_remove(0);
    let network = CharLstmConfig::new(VOCABULARY, 4).init(Seed::new(7), &device);
    Writer::on_cpu(&network, 2, 1.0).read(&[3, 31]);
}
