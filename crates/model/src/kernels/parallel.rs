//! Work over threads: independent pieces, and parts that go step by step together.
//!
//! Into how many pieces work is cut follows from its size and the number of threads alone, never
//! from who happens to be free: the same thread count gives the same bits.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_utils::CachePadded;

use super::crew::{self, Patience};

/// The least work, in elementary operations, that is worth a thread which is awake: some ten
/// microseconds.
const WORTH_SHARING: usize = 1 << 18;
/// The same of one that must be woken first.
pub(super) const WORTH_WAKING: usize = 1 << 21;

/// A part of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) start: usize,
    pub(super) length: usize,
}

impl Piece {
    /// From `start` to before `end`.
    pub(super) fn between(start: usize, end: usize) -> Self {
        Self { start, length: end - start }
    }

    /// What there is of 0..`count` before and behind.
    pub(super) fn others(self, count: usize) -> impl Iterator<Item = Self> {
        let others = [Self::between(0, self.start), Self::between(self.start + self.length, count)];
        others.into_iter().filter(|piece| piece.length > 0)
    }

    /// The pieces of 0..`count`, all but the last of this length.
    pub(super) fn all(count: usize, length: usize) -> impl Iterator<Item = Self> {
        (0..count)
            .step_by(length.max(1))
            .map(move |start| Self { start, length: length.min(count - start) })
    }
}

/// How many threads there are: those of rayon's pool, as for Burn's backends.
pub(super) fn threads() -> usize {
    rayon::current_num_threads()
}

/// The length of the pieces into which `count` is cut so that each is worth a thread: all of it
/// where another thread would only cost. `work` is the number of elementary operations in all.
pub(super) fn piece_length(count: usize, work: usize) -> usize {
    count.div_ceil(threads().min(work / WORTH_SHARING).max(1)).max(1)
}

/// Does `task` for every item, on as many threads, where the work is worth another one; the results are
/// in their order. `work` is the number of elementary operations in all.
pub(super) fn for_each<I: Send, R: Send>(
    items: Vec<I>,
    work: usize,
    task: impl Fn(I) -> R + Sync,
) -> Vec<R> {
    if items.len() <= 1 || work < WORTH_SHARING {
        return items.into_iter().map(task).collect();
    }
    let slots: Vec<_> = items.into_iter().map(|item| Mutex::new((Some(item), None))).collect();
    let next = AtomicUsize::new(0);
    let helpers = slots.len().min(threads()) - 1;
    crew::call(helpers, work >= WORTH_WAKING, &|| {
        while let Some(slot) = slots.get(next.fetch_add(1, Ordering::Relaxed)) {
            let item = lock(slot).0.take().expect("every index is handed out once");
            let result = task(item);
            lock(slot).1 = Some(result);
        }
    });
    let results =
        slots.into_iter().map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner).1);
    results.map(|result| result.expect("every item was worked on")).collect()
}

/// Parts of one piece of work that go step by step together.
#[derive(Debug)]
pub(super) struct Team<P>(Vec<Place<P>>);

/// A part, and how far it is.
#[derive(Debug)]
struct Place<P> {
    /// On a cache line of its own: the others watch it, and who changes what lies beside it need not
    /// wait for that line.
    ended: CachePadded<AtomicUsize>,
    begun: AtomicUsize,
    part: spin::Mutex<P>,
}

/// Tells the others, when it is dropped, that a part has done what they wait for.
pub(super) struct Ended<'a>(Option<(&'a AtomicUsize, usize)>);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if let Some((ended, phase)) = self.0
            && !std::thread::panicking()
        {
            ended.store(phase + 1, Ordering::Release);
        }
    }
}

impl<P: Send> Team<P> {
    pub(super) fn new(parts: Vec<P>) -> Self {
        let place = |part| Place {
            ended: CachePadded::default(),
            begun: 0.into(),
            part: spin::Mutex::new(part),
        };
        Self(parts.into_iter().map(place).collect())
    }

    pub(super) fn into_parts(self) -> Vec<P> {
        self.0.into_iter().map(|place| place.part.into_inner()).collect()
    }

    /// Takes all parts through `phases` steps, each on a thread of its own as far as there are any.
    /// No part begins a step before all have ended the one before, and what a part wrote then is
    /// seen by all. A step may drop [`Ended`] before its end: what it does behind that nobody waits
    /// for. `work` is the number of elementary operations in all.
    ///
    /// Parts whose thread does not come, or has lost its processor, are taken over by the others.
    pub(super) fn run(
        &mut self,
        phases: usize,
        work: usize,
        step: impl Fn(&mut P, usize, Ended<'_>) + Sync,
    ) {
        if let [place] = self.0.as_mut_slice() {
            let part = place.part.get_mut();
            return (0..phases).for_each(|phase| step(part, phase, Ended(None)));
        }
        for place in &mut self.0 {
            (*place.begun.get_mut(), *place.ended.get_mut()) = (0, 0);
        }
        let places = self.0.as_slice();
        let arrived = CachePadded::new(AtomicUsize::new(0));
        let failed = CachePadded::new(AtomicBool::new(false));
        crew::call(places.len() - 1, work >= WORTH_WAKING, &|| {
            let own = arrived.fetch_add(1, Ordering::Relaxed);
            let _alarm = Alarm(&failed);
            for phase in 0..phases {
                if let Some(place) = places.get(own) {
                    place.try_step(phase, &step);
                }
                for (index, place) in places.iter().enumerate() {
                    let mut patience = Patience::default();
                    while !place.has_ended(phase) {
                        if failed.load(Ordering::Relaxed) {
                            return;
                        }
                        let absent = index >= arrived.load(Ordering::Relaxed);
                        if (absent || patience.is_at_an_end()) && place.try_step(phase, &step) {
                            break;
                        }
                        patience.wait();
                    }
                }
            }
        });
    }
}

impl<P> Place<P> {
    /// Makes the step, unless somebody began it.
    fn try_step(&self, phase: usize, step: &impl Fn(&mut P, usize, Ended<'_>)) -> bool {
        let claim =
            self.begun.compare_exchange(phase, phase + 1, Ordering::Relaxed, Ordering::Relaxed);
        if claim.is_err() {
            return false;
        }
        step(&mut self.part.lock(), phase, Ended(Some((&self.ended, phase))));
        true
    }

    fn has_ended(&self, phase: usize) -> bool {
        self.ended.load(Ordering::Acquire) > phase
    }
}

/// Tells the others when a thread panics: they would wait for its step forever.
pub(super) struct Alarm<'a>(pub(super) &'a AtomicBool);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_items() {
        for count in [0, 1, 2, 5, 100] {
            let squares = for_each((0..count).collect(), usize::MAX, |k: usize| k * k);
            assert_eq!(squares, (0..count).map(|k| k * k).collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_part_is_ahead_of_the_others() {
        for count in [1, 2, 3, 8] {
            let reached: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            let mut team = Team::new((0..count).map(|index| (index, 0)).collect());
            team.run(500, usize::MAX, |(index, steps), phase, ended| {
                assert_eq!(*steps, phase);
                assert!(reached.iter().all(|other| {
                    let other = other.load(Ordering::Relaxed);
                    other == phase || other == phase + 1
                }));
                reached[*index].store(phase + 1, Ordering::Relaxed);
                // Every other time before the part is done.
                if phase % 2 == 0 {
                    drop(ended);
                }
                *steps += 1;
            });
            assert!(team.into_parts().iter().all(|&(_, steps)| steps == 500));
        }
    }

    #[test]
    fn a_panic_in_a_step_leaves_nobody_waiting() {
        for bad in 0..3 {
            let mut team = Team::new(vec![0, 1, 2]);
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.run(100, usize::MAX, |&mut index, phase, _| {
                    assert!(index != bad || phase < 50, "a bad step");
                });
            }));
            assert!(result.is_err());
        }
    }
}
