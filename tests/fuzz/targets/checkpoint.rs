//! Checkpoints and model files, as they come and with a checksum that is right.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use poquelin::device::DeviceChoice;
use poquelin::learning::adamw::AdamW;
use poquelin::learning::optimizer_state::{Tap, TappedAdamW};
use poquelin::learning::strategy::Restored;
use poquelin::model_file::{Contents, seal};
use poquelin_fuzz::bounded;

/// Opened once: what a device itself allocates is not the file's.
static DEVICE: LazyLock<poquelin::device::Device> = LazyLock::new(|| {
    let choice: DeviceChoice = "flex".parse().expect("a device's name");
    choice.open().expect("this build has flex").autodiff()
});

fuzz_target!(|bytes: &[u8]| {
    let (path, device) = (Path::new("input"), LazyLock::force(&DEVICE));
    let adam_w =
        AdamW { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.0, decay_vectors: true };
    let adam_w = TappedAdamW { adam_w, tap: Tap::default() };
    let mut sealed = bytes.to_vec();
    if sealed.len() >= 32 {
        seal(&mut sealed);
    }
    for bytes in [bytes, &sealed] {
        let read = bounded(bytes.len(), || Contents::from_bytes(path, bytes));
        let Ok(contents) = read else { continue };
        let _ = bounded(bytes.len(), || Restored::new(path, contents, adam_w.clone(), device));
    }
});
