//! The tensors of any safetensors file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use poquelin::weights::from_safetensors;
use poquelin_fuzz::bounded;

fuzz_target!(|bytes: &[u8]| {
    let _ = bounded(bytes.len(), || from_safetensors(bytes));
});
