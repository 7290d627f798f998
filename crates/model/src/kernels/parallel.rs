//! Work over rayon's threads.

/// The least work, in elementary operations, that is worth another thread: to wake one takes as
/// long as some millions of multiplications.
const WORTH_WAKING: usize = 1 << 22;
/// The same where calls follow so closely that the threads are still awake.
const WORTH_CALLING: usize = 1 << 18;

/// A part of a range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) start: usize,
    pub(super) length: usize,
}

/// The length of the pieces into which `count` is cut so that each is worth a thread: all of it
/// where another thread would only cost. `work` is the number of elementary operations in all.
pub(super) fn piece_length(count: usize, work: usize) -> usize {
    length_for(count, work / WORTH_WAKING)
}

/// The same for work that is done again and again without a pause.
pub(super) fn piece_length_awake(count: usize, work: usize) -> usize {
    length_for(count, work / WORTH_CALLING)
}

fn length_for(count: usize, threads: usize) -> usize {
    count.div_ceil(rayon::current_num_threads().min(threads).max(1)).max(1)
}

/// Does `task` for every piece of 0..`count`; the results are in the order of the pieces.
pub(super) fn in_pieces<R: Send>(
    count: usize,
    work: usize,
    task: impl Fn(Piece) -> R + Sync,
) -> Vec<R> {
    // In whole panels of a product's right factor.
    let length = piece_length(count, work).next_multiple_of(32);
    let pieces: Vec<Piece> = (0..count)
        .step_by(length)
        .map(|start| Piece { start, length: length.min(count - start) })
        .collect();
    for_each(pieces, task)
}

/// Does `task` for every item, each on a thread of its own; the results are in their order.
pub(super) fn for_each<I: Send, R: Send>(items: Vec<I>, task: impl Fn(I) -> R + Sync) -> Vec<R> {
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    let mut work: Vec<(I, &mut Option<R>)> = items.into_iter().zip(&mut results).collect();
    let Some((item, result)) = work.pop() else { return Vec::new() };
    rayon::in_place_scope(|scope| {
        for (item, result) in work {
            let task = &task;
            scope.spawn(move |_| *result = Some(task(item)));
        }
        *result = Some(task(item));
    });
    results.into_iter().map(|result| result.expect("every item was worked on")).collect()
}
