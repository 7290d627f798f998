use std::collections::BTreeSet;
use std::sync::Arc;

use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::tensor::{Device, Int, Tensor};
use poquelin_data::{
    ChunkLoader, Corpus, CorpusOptions, Layout, TokenBatch, TokenBatcher, Windows,
};

/// Letters in an order in which every pair of neighbours is rare.
fn corpus(length: usize) -> Arc<Corpus> {
    let text: String = (0..length).map(|k| char::from(b'a' + (k * k % 23) as u8)).collect();
    Arc::new(Corpus::read(text.as_bytes(), &CorpusOptions::default()).unwrap())
}

fn device() -> Device {
    Device::flex()
}

fn numbers(tensor: Tensor<2, Int>) -> Vec<i64> {
    tensor.into_data().iter::<i64>().collect()
}

fn epoch(loader: &dyn DataLoader<TokenBatch>) -> Vec<TokenBatch> {
    loader.iter().map(Result::unwrap).collect()
}

fn places(batches: &[TokenBatch]) -> Vec<(usize, usize)> {
    batches.iter().map(|batch| (batch.epoch, batch.chunk)).collect()
}

#[test]
fn chunks_go_on_where_the_last_ended() {
    let corpus = corpus(500);
    let loader = ChunkLoader::training(corpus.clone(), 20..480, 3, 7, 9, &device()).unwrap();
    for number in 0..3 {
        let layout = loader.layout(number);
        let batches = epoch(&loader);
        assert_eq!(batches.len(), layout.chunks());
        for batch in &batches {
            assert_eq!(batch.epoch, number);
            assert_eq!(batch.characters(), 21);
            let expected = |shift: usize| -> Vec<i64> {
                (0..3)
                    .flat_map(|lane| layout.inputs(batch.chunk, lane))
                    .map(|position| i64::from(corpus.token(position + shift)))
                    .collect()
            };
            assert_eq!(numbers(batch.inputs.clone()), expected(0));
            assert_eq!(numbers(batch.targets.clone()), expected(1));
        }
    }
}

#[test]
fn every_epoch_has_its_own_offset_and_every_run_the_same() {
    let corpus = corpus(500);
    let make =
        |seed| ChunkLoader::training(corpus.clone(), 0..500, 1, 50, seed, &device()).unwrap();
    let starts = |loader: &ChunkLoader| -> Vec<usize> {
        (0..40).map(|epoch| loader.layout(epoch).inputs(0, 0).start).collect()
    };
    let first = starts(&make(1));
    assert_eq!(first, starts(&make(1)));
    assert_ne!(first, starts(&make(2)));
    assert!(first.iter().all(|&start| start < 50));
    let distinct: std::collections::HashSet<_> = first.iter().collect();
    assert!(distinct.len() > 15, "{first:?}");
}

#[test]
fn a_loader_begins_anywhere_and_moves_on() {
    let loader = ChunkLoader::training(corpus(300), 0..300, 2, 10, 3, &device()).unwrap();
    let whole = epoch(&loader);
    loader.seek(0, 5);
    let rest = epoch(&loader);
    assert_eq!(places(&rest), places(&whole[5..]));
    assert_eq!(numbers(rest[0].inputs.clone()), numbers(whole[5].inputs.clone()));
    assert_eq!(epoch(&loader)[0].epoch, 1);
    let mut chunks = loader.iter();
    chunks.next();
    let progress = chunks.progress();
    assert_eq!((progress.items_processed, progress.items_total), (1, loader.chunks(2)));
}

#[test]
fn copies_for_a_device_share_the_place_and_slices_cut_it() {
    let loader = ChunkLoader::training(corpus(300), 0..300, 2, 10, 3, &device()).unwrap();
    let copy = loader.to_device(&device());
    assert_eq!(epoch(&*copy)[0].epoch, 0);
    assert_eq!(epoch(&loader)[0].epoch, 1);
    loader.seek(0, 0);
    let whole = places(&epoch(&loader));
    loader.seek(0, 0);
    let slice = loader.slice(3, 8);
    assert_eq!(slice.num_items(), 5);
    assert_eq!(places(&epoch(&*slice)), whole[3..8]);
    loader.seek(0, 0);
    assert_eq!(places(&epoch(&*slice.slice(1, 99))), whole[4..8]);
}

#[test]
fn evaluation_is_the_same_in_every_epoch() {
    let loader = ChunkLoader::evaluation(corpus(300), 10..300, 64, &device()).unwrap();
    let lengths = |batches: &[TokenBatch]| -> Vec<usize> {
        batches.iter().map(TokenBatch::characters).collect()
    };
    let first = epoch(&loader);
    assert_eq!(lengths(&first), [64, 64, 64, 64, 33]);
    let second = epoch(&loader);
    for (a, b) in first.iter().zip(&second) {
        assert_eq!(numbers(a.inputs.clone()), numbers(b.inputs.clone()));
    }
}

#[test]
fn burns_own_loader_can_serve_the_windows_too() {
    let corpus = corpus(300);
    let windows = Windows::new(corpus, Layout::training(0..300, 4, 10, 2).unwrap());
    let chunks = windows.layout().chunks();
    let loader = DataLoaderBuilder::new(TokenBatcher { epoch: 6 })
        .batch_size(4)
        .set_device(device())
        .build(windows);
    let batches: Vec<TokenBatch> = loader.iter().map(Result::unwrap).collect();
    assert_eq!(places(&batches), (0..chunks).map(|chunk| (6, chunk)).collect::<Vec<_>>());
}

#[test]
fn varied_chunks_follow_one_another_and_stay_within_their_bounds() {
    let corpus = corpus(2_600);
    let loader = |seed| {
        ChunkLoader::training(corpus.clone(), 7..2_500, 3, 20, seed, &device()).unwrap().varied()
    };
    let mut lengths = BTreeSet::new();
    for epoch in 0..20 {
        let layout = loader(1).layout(epoch);
        assert_eq!(layout, loader(1).layout(epoch), "it follows from the seed and the epoch");
        assert_ne!(layout, loader(2).layout(epoch));
        assert_ne!(layout, loader(1).layout(epoch + 1));
        for lane in 0..3 {
            let chunks: Vec<_> = (0..layout.chunks()).map(|k| layout.inputs(k, lane)).collect();
            assert!(chunks.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(chunks.iter().all(|chunk| (10..=30).contains(&chunk.len())));
            lengths.extend(chunks.iter().map(|chunk| chunk.len()));
            // Less than the shortest chunk is left out.
            let end = chunks.last().unwrap().end;
            let next = if lane < 2 { layout.inputs(0, lane + 1).start } else { 2_499 };
            assert!((0..10 + 2).contains(&(next - end)), "{end} to {next}");
        }
    }
    assert_eq!(lengths.len(), 21, "every length is drawn: {lengths:?}");
    // The shortest text that is long enough is one chunk.
    let shortest = ChunkLoader::training(corpus, 0..102, 1, 51, 1, &device()).unwrap().varied();
    assert!((0..50).all(|epoch| shortest.chunks(epoch) >= 1));
}
