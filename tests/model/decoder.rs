use std::thread;
use std::time::Duration;

use burn::tensor::{Tensor, TensorData};
use poquelin_model::{CharLstm, CharLstmConfig, Decoder, Seed};

use crate::support::{cpus, relative_error, values};

#[test]
fn a_decoder_makes_the_steps_of_its_network() {
    for (name, device) in cpus() {
        for (hidden, layers, lanes) in
            [(9, 1, 1), (40, 3, 2), (300, 1, 1), (300, 2, 5), (300, 2, 12)]
        {
            let config = CharLstmConfig::new(31, hidden).with_layers(layers);
            let network = config.init(Seed::new(4), &device);
            let steps = 6;
            let ids: Vec<i32> = (0..lanes * steps).map(|k| (k * 7 % 31) as i32).collect();
            let tokens = TensorData::new(ids.clone(), [lanes, steps]);
            let (logits, _) = network.forward(Tensor::from_data(tokens, &device), None);
            let expected = values(logits);
            let mut decoder = Decoder::new(&network, lanes);
            // Twice: the second time shows that it can begin anew.
            for _ in 0..2 {
                for step in 0..steps {
                    let tokens: Vec<u32> =
                        (0..lanes).map(|lane| ids[lane * steps + step] as u32).collect();
                    let logits = decoder.step(&tokens);
                    for (lane, logits) in logits.chunks(31).enumerate() {
                        let expected = &expected[(lane * steps + step) * 31..][..31];
                        let error = relative_error(logits, expected);
                        assert!(error < 2e-5, "{name}, H {hidden}, step {step}: {error:e}");
                    }
                }
                decoder.reset();
            }
        }
    }
}

#[test]
fn a_decoder_gives_the_same_bits_whoever_makes_its_steps() {
    /// What all steps gave, of a decoder whose threads have the time to fall asleep now and then.
    fn write(network: &CharLstm, lanes: usize) -> Vec<f32> {
        let (mut decoder, mut all) = (Decoder::new(network, lanes), Vec::new());
        for step in 0..400 {
            if step % 100 == 99 {
                thread::sleep(Duration::from_millis(5));
            }
            let token = |lane| ((step * (lane + 3) + lane) % network.vocabulary()) as u32;
            let tokens: Vec<u32> = (0..lanes).map(token).collect();
            all.extend_from_slice(decoder.step(&tokens));
        }
        all
    }
    let Some((name, device)) = cpus().next() else { return };
    // The third has more of a head than of anything else: each thread owns some columns. The last has lanes
    // enough for products by pairs, where those pay.
    for (hidden, layers, lanes, vocabulary) in
        [(128, 1, 1, 76), (200, 3, 4, 31), (64, 2, 2, 999), (130, 2, 17, 31)]
    {
        let config = CharLstmConfig::new(vocabulary, hidden).with_layers(layers);
        let network = config.init(Seed::new(5), &device);
        let expected = write(&network, lanes);
        // More of them than there are processors: threads lose theirs in the middle of a step.
        let others: Vec<Vec<f32>> = thread::scope(|scope| {
            let threads = [(); 3].map(|()| scope.spawn(|| write(&network, lanes)));
            threads.map(|thread| thread.join().expect("it writes")).into()
        });
        for got in others {
            assert!(got == expected, "{name}, H {hidden}, L {layers}, B {lanes}");
        }
    }
}
