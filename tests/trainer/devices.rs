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
        assert_eq!(folder.names(), ["text.txt", "tiny.toml"]);
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

#[cfg(not(feature = "wgpu"))]
const _: fn() -> Folder = Folder::new;
