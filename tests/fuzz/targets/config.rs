//! Configurations, and `--set`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use poquelin::config::Config;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(config) = Config::parse("input", &text) {
        // What was accepted is written so that it is accepted again.
        let again = Config::parse("again", &config.to_toml()).expect("a checked configuration");
        assert_eq!(again, config);
    }
    let _ = Config::load(None, &[text.into_owned()]);
});
