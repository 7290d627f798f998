use std::path::Path;

use poquelin::device::DeviceChoice;
use poquelin::learning::adamw::AdamW;
use poquelin::learning::optimizer_state::{Tap, TappedAdamW};
use poquelin::learning::strategy::Restored;
use poquelin::model_file::{Contents, seal};

use crate::essence::checkpoints;
use crate::program::{CPU, TRAIN, tiny};

/// A checkpoint of a small run.
fn checkpoint() -> Vec<u8> {
    let folder = tiny();
    folder.ok(&TRAIN);
    std::fs::read(checkpoints(&folder.join("runs/tiny")).pop().unwrap()).unwrap()
}

/// The same numbers every time.
fn numbers() -> impl FnMut(usize) -> usize {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    }
}

fn is_whole(bytes: &[u8]) -> bool {
    Contents::from_bytes(Path::new("checkpoint"), bytes).is_ok()
}

#[test]
fn every_flipped_bit_is_seen() {
    let whole = checkpoint();
    assert!(is_whole(&whole));
    let (mut bytes, mut below) = (whole.clone(), numbers());
    for _ in 0..10_000 {
        let (place, bit) = (below(bytes.len()), below(8));
        bytes[place] ^= 1 << bit;
        assert!(!is_whole(&bytes), "bit {bit} of byte {place}");
        bytes[place] ^= 1 << bit;
    }
    assert!(bytes == whole);
}

#[test]
fn every_truncation_is_seen() {
    let bytes = checkpoint();
    let mut below = numbers();
    let lengths = (0..100).chain((0..900).map(|_| below(bytes.len())));
    for length in lengths {
        assert!(!is_whole(&bytes[..length]), "the first {length} bytes");
    }
}

/// Bytes that were changed by somebody who knows the checksum: whatever they say, it is an error or a
/// checkpoint, never a panic.
#[test]
fn nothing_behind_the_checksum_panics() {
    let whole = checkpoint();
    let device = CPU.parse::<DeviceChoice>().unwrap().open().unwrap().autodiff();
    let adam_w =
        AdamW { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.0, decay_vectors: true };
    let adam_w = TappedAdamW { adam_w, tap: Tap::default() };
    let path = Path::new("checkpoint");
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut below = numbers();
    let (mut refused, mut taken) = (0, 0);
    for _ in 0..3_000 {
        let mut bytes = whole.clone();
        for _ in 0..=below(3) {
            // Digits and names are where it hurts.
            let place = 8 + below(header - 8);
            bytes[place] = b"0123456789\"{}[],:-eanul.x"[below(25)];
        }
        seal(&mut bytes);
        let restored = Contents::from_bytes(path, &bytes)
            .and_then(|contents| Restored::new(path, contents, adam_w.clone(), &device));
        match restored {
            Ok(_) => taken += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 1_000 && taken > 10, "{refused} refused, {taken} taken");
}
