//! `vocabulary.json`, and prompts in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use poquelin_data::Vocabulary;
use poquelin_fuzz::bounded;

fuzz_target!(|bytes: &[u8]| {
    let parsed = bounded(bytes.len(), || serde_json::from_slice::<Vocabulary>(bytes));
    let Ok(vocabulary) = parsed else { return };
    let tokens: Vec<u32> = (0..vocabulary.len() as u32).collect();
    let _ = vocabulary.decode(&tokens);
    let _ = vocabulary.encode(&String::from_utf8_lossy(bytes));
});
