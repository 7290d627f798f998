use std::io::{self, Read};
use std::path::Path;

use poquelin_data::{Corpus, CorpusError, CorpusOptions, Symbol, Units, UnknownSymbol, Vocabulary};

/// Gives its text in pieces of the lengths asked for, one after the other.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.1.min(self.0.len()).min(buffer.len());
        buffer[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

fn options() -> CorpusOptions {
    CorpusOptions::default()
}

fn text(corpus: &Corpus) -> String {
    let tokens: Vec<u32> = (0..corpus.len()).map(|position| corpus.token(position)).collect();
    corpus.vocabulary().decode(&tokens)
}

fn error(bytes: &[u8]) -> CorpusError {
    Corpus::read(bytes, &options()).unwrap_err()
}

#[test]
fn text_comes_back_however_it_is_read() {
    let original = "Eh! qu'est-ce? «Ô cœur»… 𝄞 日本\r\nfin";
    for size in 1..9 {
        let corpus = Corpus::read(Pieces(original.as_bytes(), size), &options()).unwrap();
        assert_eq!(text(&corpus), original);
        assert_eq!(corpus.len(), original.chars().count());
    }
}

#[test]
fn a_vocabulary_is_sorted_and_distinct() {
    let corpus = Corpus::read("baècaÀ\nb".as_bytes(), &options()).unwrap();
    let symbols: Vec<Symbol> =
        (0..corpus.vocabulary().len()).map(|id| corpus.vocabulary().symbol(id as u32)).collect();
    assert_eq!(symbols, ['\n', 'a', 'b', 'c', 'À', 'è'].map(Symbol::Char));
}

#[test]
fn a_byte_order_mark_is_dropped_at_the_start_only() {
    let corpus = Corpus::read("\u{feff}ab\u{feff}".as_bytes(), &options()).unwrap();
    assert_eq!(text(&corpus), "ab\u{feff}");
}

#[test]
fn carriage_returns_stay_unless_unwanted() {
    let original = "a\r\nb\rc\r\r\nd\r";
    assert_eq!(text(&Corpus::read(original.as_bytes(), &options()).unwrap()), original);
    let unify = CorpusOptions { unify_newlines: true, ..options() };
    for size in 1..4 {
        let corpus = Corpus::read(Pieces(original.as_bytes(), size), &unify).unwrap();
        assert_eq!(text(&corpus), "a\nb\rc\r\nd\r");
    }
}

#[test]
fn take_counts_characters_not_bytes() {
    let take = |count| CorpusOptions { take: Some(count), ..options() };
    assert_eq!(text(&Corpus::read("éàçab".as_bytes(), &take(3)).unwrap()), "éàç");
    assert_eq!(Corpus::read("éàçab".as_bytes(), &take(99)).unwrap().len(), 5);
    // What is behind the part taken is not read.
    let mut bytes = "ab".as_bytes().to_vec();
    bytes.push(0xff);
    assert_eq!(Corpus::read(&bytes[..], &take(2)).unwrap().len(), 2);
    let unify = CorpusOptions { unify_newlines: true, ..take(2) };
    assert_eq!(text(&Corpus::read("a\r\nb".as_bytes(), &unify).unwrap()), "a\n");
}

#[test]
fn bytes_are_taken_as_they_are() {
    let bytes = [0xff, 0x00, 0xc3, 0xff];
    let corpus =
        Corpus::read(&bytes[..], &CorpusOptions { units: Units::Byte, ..options() }).unwrap();
    assert_eq!(corpus.len(), 4);
    let symbols: Vec<Symbol> = (0..3).map(|id| corpus.vocabulary().symbol(id)).collect();
    assert_eq!(symbols, [0x00, 0xc3, 0xff].map(Symbol::Byte));
}

#[test]
fn more_than_256_symbols_need_wider_tokens() {
    let original: String = (0x4e00..0x4e00 + 1_000).filter_map(char::from_u32).rev().collect();
    let corpus = Corpus::read(original.as_bytes(), &options()).unwrap();
    assert_eq!(corpus.vocabulary().len(), 1_000);
    assert_eq!(text(&corpus), original);
}

#[test]
fn invalid_utf8_is_named_by_its_byte() {
    let offset = |bytes: &[u8], size| match Corpus::read(Pieces(bytes, size), &options()) {
        Err(CorpusError::InvalidUtf8 { offset }) => offset,
        other => panic!("expected an error, got {other:?}"),
    };
    let long = [vec![b'a'; 70_000], "é".into(), vec![0xc3]].concat();
    for size in [1, 2, 3, 70_001, 100_000] {
        assert_eq!(offset(b"ab\xff", size), 2);
        assert_eq!(offset(b"ab\xc3(", size), 2);
        // A character that the end cuts off.
        assert_eq!(offset(&long, size), 70_002);
    }
}

#[test]
fn texts_with_nothing_to_learn_are_refused() {
    assert!(matches!(error(b""), CorpusError::Empty));
    assert!(matches!(error("\u{feff}".as_bytes()), CorpusError::Empty));
    let only = Symbol::Char('é');
    assert!(matches!(error("ééé".as_bytes()), CorpusError::OneSymbol { symbol } if symbol == only));
}

#[test]
fn an_unknown_symbol_is_named_with_its_place() {
    let vocabulary = Corpus::read("abc".as_bytes(), &options()).unwrap().vocabulary().clone();
    let expected = UnknownSymbol { symbol: Symbol::Char('é'), position: 2 };
    assert_eq!(vocabulary.encode("abéz"), Err(expected));
    assert_eq!(vocabulary.encode("cab"), Ok(vec![2, 0, 1]));
    assert_eq!(vocabulary.encode_known("cébz"), vec![2, 1]);
    let error = Corpus::read_with("abé".as_bytes(), &options(), &vocabulary).unwrap_err();
    assert!(matches!(error, CorpusError::Unknown(unknown) if unknown == expected));
    let skip = CorpusOptions { skip_unknown: true, ..options() };
    let corpus = Corpus::read_with("abéba".as_bytes(), &skip, &vocabulary).unwrap();
    assert_eq!((corpus.len(), corpus.skipped()), (4, 1));
    let error = Corpus::read_with("éè".as_bytes(), &skip, &vocabulary).unwrap_err();
    assert!(matches!(error, CorpusError::NothingKnown));
    assert_eq!(expected.to_string(), "'é' (U+00E9) at position 2 is not in the vocabulary");
}

#[test]
fn a_stored_vocabulary_comes_back_and_a_broken_one_does_not() {
    let vocabulary = Corpus::read("Ô é\n𝄞".as_bytes(), &options()).unwrap().vocabulary().clone();
    let stored = serde_json::to_string(&vocabulary).unwrap();
    assert_eq!(serde_json::from_str::<Vocabulary>(&stored).unwrap(), vocabulary);
    for broken in [
        r#"{"units":"char","codes":[]}"#,
        r#"{"units":"char","codes":[2,2]}"#,
        r#"{"units":"char","codes":[3,2]}"#,
        r#"{"units":"char","codes":[55296]}"#,
        r#"{"units":"byte","codes":[256]}"#,
        r#"{"units":"byte","codes":[1],"more":1}"#,
        r#"{"units":"word","codes":[1]}"#,
    ] {
        assert!(serde_json::from_str::<Vocabulary>(broken).is_err(), "{broken}");
    }
}

#[test]
fn molieres_vocabulary_is_the_notebooks() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/moliere.txt");
    let Ok(bytes) = std::fs::read(&path) else {
        eprintln!("SKIPPED: no Molière at {}; datasets/README.md says where it is", path.display());
        return;
    };
    let count = |take| {
        let corpus = Corpus::read(&bytes[..], &CorpusOptions { take, ..options() }).unwrap();
        (corpus.len(), corpus.vocabulary().len())
    };
    assert_eq!(count(Some(100_000)), (100_000, 76));
    assert_eq!(count(None), (1_687_290, 85));
}

#[test]
fn the_comedy_is_what_its_readme_says() {
    let comedy = include_str!("../../datasets/comedie.txt");
    let readme = include_str!("../../datasets/README.md");
    let corpus = Corpus::read(comedy.as_bytes(), &options()).unwrap();
    for count in [corpus.len(), comedy.len(), comedy.lines().count()] {
        let thousands = format!("{},{:03}", count / 1_000, count % 1_000);
        assert!(readme.contains(&thousands), "datasets/README.md does not say {thousands}");
    }
    assert!(readme.contains(&format!("{} distinct", corpus.vocabulary().len())));
}

#[test]
fn nothing_of_80_characters_stands_twice_in_the_comedy() {
    let comedy: Vec<char> = include_str!("../../datasets/comedie.txt")
        .chars()
        .map(|c| if c == '\n' { ' ' } else { c })
        .collect();
    let mut seen = std::collections::HashSet::new();
    for run in comedy.windows(80) {
        assert!(seen.insert(run), "twice: {}", run.iter().collect::<String>());
    }
}
