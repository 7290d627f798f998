//! Texts: any bytes, in every way of reading them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use poquelin_data::{Corpus, CorpusOptions, Units};
use poquelin_fuzz::bounded;

fuzz_target!(|bytes: &[u8]| {
    let Some((&how, text)) = bytes.split_first() else { return };
    let options = CorpusOptions {
        units: if how & 1 == 0 { Units::Char } else { Units::Byte },
        take: (how & 2 != 0).then_some(usize::from(how) + 1),
        unify_newlines: how & 4 != 0,
        skip_unknown: how & 16 != 0,
        // What a file system says of a size need not be true.
        size_hint: if how & 8 == 0 { text.len() } else { 0 },
    };
    let Ok(corpus) = bounded(text.len(), || Corpus::read(text, &options)) else { return };
    // Read again in its own vocabulary, it is the same.
    let again = Corpus::read_with(text, &options, corpus.vocabulary()).expect("it was read before");
    assert_eq!(again.len(), corpus.len());
});
