//! Parts that go through their steps without meeting each other.
//!
//! Threads are seldom equally fast: a laptop has two kinds of cores, and others want them too. So a
//! thread takes several parts at a time, and one that has nothing left to do is given half of
//! another's, in the middle of their way. Who took which parts how far changes nothing in what
//! comes out.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::crew::{self, Patience};
use super::parallel::{Alarm, WORTH_WAKING, lock, threads};

/// Takes all parts through `steps` steps, some at a time, each time those of one slice; returns them in
/// their order. `work` is the number of elementary operations in all.
pub(super) fn advance<P: Send>(
    mut parts: Vec<P>,
    steps: usize,
    work: usize,
    step: impl Fn(&mut [P], usize) + Sync,
) -> Vec<P> {
    let count = parts.len();
    if count <= 1 || threads() == 1 {
        (0..steps).for_each(|index| step(&mut parts, index));
        return parts;
    }
    let share = count.div_ceil(threads());
    let mut bundles = Vec::new();
    while !parts.is_empty() {
        let first = (parts.len() - 1) / share * share;
        bundles.push(Bundle { first, step: 0, parts: parts.split_off(first) });
    }
    let helpers = bundles.len() - 1;
    let crowd = Crowd {
        waiting: bundles.len().into(),
        bundles: Mutex::new(bundles),
        idle: 0.into(),
        on_their_way: count.into(),
        arrived: Mutex::new(Vec::new()),
        failed: false.into(),
    };
    crew::call(helpers, work >= WORTH_WAKING, &|| {
        let _alarm = Alarm(&crowd.failed);
        while let Some(bundle) = crowd.next() {
            crowd.take(bundle, steps, &step);
        }
    });
    let mut arrived = crowd.arrived.into_inner().unwrap_or_else(PoisonError::into_inner);
    arrived.sort_unstable_by_key(|bundle| bundle.first);
    arrived.into_iter().flat_map(|bundle| bundle.parts).collect()
}

/// Parts that one thread takes along, all equally far.
struct Bundle<P> {
    /// Where the first stands among all parts.
    first: usize,
    /// How many steps they have made.
    step: usize,
    parts: Vec<P>,
}

/// All parts, and the threads that take them along.
struct Crowd<P> {
    /// Those that nobody takes along at the moment.
    bundles: Mutex<Vec<Bundle<P>>>,
    /// How many those are, for threads that look for one again and again.
    waiting: AtomicUsize,
    /// Threads that have none.
    idle: AtomicUsize,
    /// Parts that have not made all steps.
    on_their_way: AtomicUsize,
    arrived: Mutex<Vec<Bundle<P>>>,
    /// Whether a thread panicked.
    failed: AtomicBool,
}

impl<P> Crowd<P> {
    /// Parts for a thread that has none; waits until somebody leaves it some or all have arrived.
    fn next(&self) -> Option<Bundle<P>> {
        if let Some(bundle) = self.pick_up() {
            return Some(bundle);
        }
        self.idle.fetch_add(1, Ordering::Relaxed);
        let mut patience = Patience::default();
        let bundle = loop {
            if let Some(bundle) = self.pick_up() {
                break Some(bundle);
            }
            if self.on_their_way.load(Ordering::Relaxed) == 0 || self.failed.load(Ordering::Relaxed)
            {
                break None;
            }
            patience.wait();
        };
        self.idle.fetch_sub(1, Ordering::Relaxed);
        bundle
    }

    fn pick_up(&self) -> Option<Bundle<P>> {
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut bundles = lock(&self.bundles);
        let bundle = bundles.pop();
        self.waiting.store(bundles.len(), Ordering::Relaxed);
        bundle
    }

    fn put_down(&self, bundle: Bundle<P>) {
        let mut bundles = lock(&self.bundles);
        bundles.push(bundle);
        self.waiting.store(bundles.len(), Ordering::Relaxed);
    }

    /// Takes parts through the steps they have left; leaves half of them to a thread that has none.
    fn take(&self, mut bundle: Bundle<P>, steps: usize, step: &impl Fn(&mut [P], usize)) {
        while bundle.step < steps {
            let wanted = self.idle.load(Ordering::Relaxed) > self.waiting.load(Ordering::Relaxed);
            if wanted && bundle.parts.len() > 1 {
                let kept = bundle.parts.len().div_ceil(2);
                let parts = bundle.parts.split_off(kept);
                self.put_down(Bundle { first: bundle.first + kept, parts, ..bundle });
            }
            step(&mut bundle.parts, bundle.step);
            bundle.step += 1;
        }
        let count = bundle.parts.len();
        lock(&self.arrived).push(bundle);
        self.on_their_way.fetch_sub(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn every_part_makes_every_step_in_turn() {
        for count in [0, 1, 2, 5, 16] {
            let parts = (0..count).map(|index| (index, 0)).collect();
            let parts = advance(parts, 300, usize::MAX, |parts, step| {
                for (_, done) in parts {
                    assert_eq!(*done, step);
                    *done += 1;
                }
            });
            assert_eq!(parts, (0..count).map(|index| (index, 300)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_slow_thread_is_relieved() {
        // The thread that takes along the first part sleeps at every step: the others' parts must not
        // wait for it to the end.
        if threads() == 1 {
            return;
        }
        // Other tests call the same helpers: it may take several tries.
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            let beside_the_first = AtomicUsize::new(0);
            advance((0..2 * threads()).collect(), 200, usize::MAX, |parts, _| {
                if parts[0] == 0 {
                    beside_the_first.fetch_add(parts.len() - 1, Ordering::Relaxed);
                    thread::sleep(Duration::from_micros(200));
                }
            });
            if beside_the_first.load(Ordering::Relaxed) < 200 {
                return;
            }
        }
        panic!("nobody ever came to help");
    }

    #[test]
    fn a_panic_leaves_nobody_waiting() {
        for bad in 0..4 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                advance(vec![0, 1, 2, 3], 100, usize::MAX, |parts, step| {
                    assert!(step < 50 || !parts.contains(&bad), "a bad step");
                })
            }));
            assert!(result.is_err());
        }
    }
}
