use poquelin::device::{Backend, DeviceChoice, DeviceError};

use crate::program::{Folder, TRAIN, tiny};

fn choice(name: &str) -> Result<DeviceChoice, DeviceError> {
    name.parse()
}

#[test]
fn names_are_the_features() {
    assert_eq!(choice("wgpu:1"), Ok(DeviceChoice { backend: Backend::Wgpu, index: Some(1) }));
    assert_eq!(choice("flex"), Ok(DeviceChoice { backend: Backend::Flex, index: None }));
    for wrong in ["", "gpu", "wgpu:", "wgpu:x", "WGPU"] {
        assert!(matches!(choice(wrong), Err(DeviceError::UnknownName(_))), "{wrong}");
    }
}

#[test]
fn a_gpu_wins_over_the_cpu() {
    let preferred = DeviceChoice::preferred().unwrap().backend;
    let expected = if cfg!(feature = "cuda") {
        Backend::Cuda
    } else if cfg!(feature = "metal") {
        Backend::Metal
    } else if cfg!(feature = "vulkan") {
        Backend::Vulkan
    } else if cfg!(feature = "wgpu") {
        Backend::Wgpu
    } else if cfg!(feature = "ndarray") {
        Backend::NdArray
    } else {
        Backend::Flex
    };
    assert_eq!(preferred, expected);
}

#[test]
fn a_backend_that_is_not_compiled_in_says_which_feature_to_add() {
    for (name, compiled_in) in [
        ("ndarray", cfg!(feature = "ndarray")),
        ("flex", cfg!(feature = "flex")),
        ("wgpu", cfg!(feature = "wgpu")),
        ("vulkan", cfg!(feature = "vulkan")),
        ("metal", cfg!(feature = "metal")),
        ("cuda", cfg!(feature = "cuda")),
    ] {
        if compiled_in {
            continue;
        }
        let folder = tiny();
        let mut arguments = TRAIN.to_vec();
        *arguments.last_mut().unwrap() = name;
        let done = folder.run(&arguments);
        assert_eq!(done.code, 2);
        assert!(done.stderr.contains(&format!("--features {name}")), "{}", done.stderr);
        assert_eq!(folder.files().len(), 2, "nothing but text.txt and tiny.toml");
    }
}

#[test]
fn devices_that_do_not_exist() {
    let folder = tiny();
    for (device, words) in [("abacus", "expected one of cuda"), ("ndarray:3", "ndarray:3")] {
        let mut arguments = TRAIN.to_vec();
        *arguments.last_mut().unwrap() = device;
        let done = folder.run(&arguments);
        assert_eq!(done.code, 2);
        assert!(done.stderr.contains(words), "{device}: {}", done.stderr);
    }
}

/// Whether this build has wgpu and this machine something that it runs on.
#[cfg(feature = "wgpu")]
fn has_adapter() -> bool {
    let wgpu = DeviceChoice { backend: Backend::Wgpu, index: None };
    match wgpu.open() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("SKIPPED: the wgpu tests: {error}");
            false
        }
    }
}

#[test]
#[cfg(feature = "wgpu")]
fn the_gpu_learns_what_the_cpu_learns() {
    use crate::program::with;

    if !has_adapter() {
        return;
    }
    let folder: Folder = tiny();
    let train = |device: &'static str| {
        let arguments = [
            "train",
            "--config",
            "tiny.toml",
            "--device",
            device,
            "--run",
            device,
            "--json",
            "--set",
            "train.epochs=1",
            "--set",
            "sample.length=0",
        ];
        let stdout = folder.ok(&arguments).stdout;
        serde_json::from_str::<serde_json::Value>(stdout.lines().last().unwrap()).unwrap()
    };
    let (gpu, cpu) = (train("wgpu"), train(crate::program::CPU));
    assert_eq!(gpu["backend"], "wgpu");
    for part in ["train", "valid", "test"] {
        let nats = |summary: &serde_json::Value| summary[part]["nats_per_char"].as_f64().unwrap();
        assert!((nats(&gpu) - nats(&cpu)).abs() < 1e-3, "{part}: {gpu} {cpu}");
    }
    // What one device has trained the other reads.
    let evaluate = |device: &'static str| {
        let base = ["evaluate", "wgpu", "--json", "--device"];
        let stdout = folder.ok(&with(&base, &[device])).stdout;
        serde_json::from_str::<serde_json::Value>(&stdout).unwrap()["nats_per_char"]
            .as_f64()
            .unwrap()
    };
    assert!((evaluate("wgpu") - evaluate(crate::program::CPU)).abs() < 1e-5);
}

/// A GPU's numbers are read a step later, and the steps in between change nothing.
#[test]
#[cfg(feature = "wgpu")]
fn a_run_that_diverges_on_the_gpu_says_at_which_step() {
    use crate::program::with;

    if !has_adapter() {
        return;
    }
    let folder = tiny();
    let base = ["train", "--config", "tiny.toml", "--set", "optimizer.learning_rate=1e38"];
    let step = |device: &'static str, clip: &'static str| {
        let more = ["--set", clip, "--run", device, "--force", "--device", device];
        let done = folder.run(&with(&base, &more));
        assert_eq!(done.code, 1, "{}", done.stderr);
        let told = done.stderr.split("training diverged at ").nth(1).expect("what happened");
        told.split(':').next().unwrap().to_owned()
    };
    for clip in ["optimizer.clip=0", "optimizer.clip=1"] {
        assert_eq!(step("wgpu", clip), step(crate::program::CPU, clip), "{clip}");
    }
}

/// A GPU's sums are taken in one order, unless the build chooses among kernels by their speed.
#[test]
#[cfg(all(feature = "wgpu", not(any(feature = "fusion", feature = "autotune"))))]
fn a_run_goes_on_on_the_gpu_bit_for_bit() {
    use crate::essence::assert_same;
    use crate::program::{CPU, with};

    if !has_adapter() {
        return;
    }
    let folder = tiny();
    let constant = ["train", "--config", "tiny.toml", "--set", "schedule.kind=constant"];
    let train = |more: &[&str]| folder.ok(&with(&with(&constant, &["--device", "wgpu"]), more));
    train(&["--run", "whole", "--epochs", "3"]);
    train(&["--run", "more", "--epochs", "1"]);
    let on = folder.ok(&["resume", "more", "--epochs", "3"]);
    assert!(on.stderr.contains("the same bits as without a break"), "{}", on.stderr);
    assert_same(&folder.join("runs/whole"), &folder.join("runs/more"));

    let elsewhere = folder.ok(&["resume", "more", "--epochs", "4", "--device", CPU]);
    let words = "the same run to rounding, for it was on wgpu";
    assert!(elsewhere.stderr.contains(words), "{}", elsewhere.stderr);
}

/// The losses of the first 50 steps of the quickstart, as `poquelin train` makes them.
#[cfg(feature = "wgpu")]
fn quickstart_losses(device: &str) -> Vec<f64> {
    use std::sync::Arc;

    use burn::data::dataloader::DataLoader;
    use burn::optim::ModuleOptimizer;
    use burn_train::TrainStep;
    use poquelin::config::Config;
    use poquelin::learning::adamw::AdamW;
    use poquelin::learning::clipping::clip;
    use poquelin::learning::model::{LanguageModel, Step};
    use poquelin::learning::schedule::Schedule;
    use poquelin::text::TextSource;
    use poquelin_data::{ChunkLoader, Splits};
    use poquelin_model::Seed;

    let device = choice(device).unwrap().open().unwrap().autodiff();
    let config = Config::load(None, &[]).unwrap();
    let Config { data, optimizer: options, .. } = &config;
    let corpus = Arc::new(TextSource::new("").read(data, None).unwrap());
    let range = Splits::cut(corpus.len(), data.test, data.valid).train;
    let seed = Seed::new(config.train.seed);
    let offsets = seed.derive("offsets", 0).value();
    let (batch, sequence) = (data.batch, data.sequence);
    let chunks =
        ChunkLoader::training(corpus.clone(), range, batch, sequence, offsets, &device).unwrap();
    let network = config.model(corpus.vocabulary().len()).init(seed.derive("weights", 0), &device);
    let mut model = LanguageModel { network };
    let mut optimizer = ModuleOptimizer::from(AdamW {
        beta_1: options.beta_1 as f32,
        beta_2: options.beta_2 as f32,
        epsilon: options.epsilon as f32,
        weight_decay: options.weight_decay as f32,
        decay_vectors: config.optimizer.decay_vectors,
    });
    let schedule = Schedule::new(&config.schedule, options.learning_rate, 10_000);
    let mut state = None;
    let mut losses = Vec::new();
    for (step, batch) in chunks.iter().take(50).enumerate() {
        let seed = seed.derive("dropout", step as u64);
        let result = TrainStep::step(&model, Step { batch: batch.unwrap(), state, seed });
        let (loss, next) = result.item.tensors.unwrap();
        state = Some(next);
        losses.push(f64::from(loss.into_scalar::<f32>()));
        let (gradients, _) = clip(&model, result.grads, Some(options.clip));
        model = model.optimize(&mut optimizer, schedule.rate(step as u64).into(), gradients);
    }
    losses
}

#[test]
#[cfg(feature = "wgpu")]
fn the_gpu_follows_the_cpus_losses_on_the_quickstart() {
    if !has_adapter() {
        return;
    }
    let (gpu, cpu) = (quickstart_losses("wgpu"), quickstart_losses(crate::program::CPU));
    assert_eq!(gpu.len(), 50);
    for (step, (gpu, cpu)) in gpu.iter().zip(&cpu).enumerate() {
        assert!((gpu - cpu).abs() < 1e-3, "step {step}: {gpu} on the GPU, {cpu} on the CPU");
    }
    assert!(gpu[49] < gpu[0] - 0.5, "it learns: {gpu:?}");
}

/// Whatever this machine has, the CPU is there, and what a build has and a machine lacks is said.
#[test]
fn devices_are_listed() {
    let folder = Folder::new();
    let table = folder.ok(&["devices"]).stdout;
    assert!(table.lines().any(|line| line.starts_with(crate::program::CPU)), "{table}");
    for line in folder.ok(&["devices", "--json"]).stdout.lines() {
        let device: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        let name = device["device"].as_str().expect("what --device takes");
        choice(name).unwrap().open().expect("what is listed opens");
        let limits = if device["kind"] == "CPU" { "threads" } else { "group_units" };
        assert!(device[limits].as_u64().expect("a limit") >= 1, "{line}");
    }
}

#[cfg(not(feature = "wgpu"))]
const _: fn() -> Folder = Folder::new;
