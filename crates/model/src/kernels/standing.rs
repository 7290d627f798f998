//! Threads that stay with a piece of work from call to call, and go ahead with what they can before
//! the next one comes.
//!
//! A [`Team`](super::parallel::Team) is called together for every call and sent away behind it,
//! which costs a microsecond: as much as a time step of a small layer. Here each thread owns its
//! part for good, and takes it on as soon as what it needs from the others is there.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use spin::Mutex;

use super::crew::Patience;
use super::parallel::Alarm;

/// How long a thread stays awake when there is nothing to do.
const VIGIL: Duration = Duration::from_micros(300);
/// Looks at the own part between two looks at the clock.
const LOOKS: usize = 64;

/// What the parts do.
pub(super) trait Work: Send + Sync + 'static {
    /// What one thread owns.
    type Part: Send + 'static;

    /// Takes a part on, if what that needs is there; says whether it was.
    fn step(&self, part: &mut Self::Part) -> bool;
}

/// Parts of some work, the first of which is the caller's own; each other one has a thread.
///
/// Parts whose thread sleeps, or has lost its processor, are taken on by the caller.
pub(super) struct Standing<W: Work> {
    stage: Arc<Stage<W>>,
    /// The caller's. Nobody else takes it on, so that it needs no lock: to close one waits until what was
    /// written before has reached the cache.
    own: W::Part,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads share.
struct Stage<W: Work> {
    work: W,
    /// All parts but the caller's.
    places: Vec<Place<W::Part>>,
    /// No call will come any more.
    closed: AtomicBool,
    failed: AtomicBool,
}

/// A part, and beside it, on cache lines of its own, whether its thread watches: the caller looks there
/// while that thread is at the part.
struct Place<P> {
    part: CachePadded<Mutex<P>>,
    awake: CachePadded<AtomicBool>,
}

impl<W: Work> Standing<W> {
    /// # Panics
    ///
    /// Where there is no part.
    pub(super) fn new(work: W, parts: impl IntoIterator<Item = W::Part>) -> Self {
        let mut parts = parts.into_iter();
        let own = parts.next().expect("the caller has a part");
        let place = |part| Place { part: Mutex::new(part).into(), awake: CachePadded::default() };
        let stage = Arc::new(Stage {
            work,
            places: parts.map(place).collect(),
            closed: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        });
        // Without a thread to be had the caller takes its part on.
        let threads = (0..stage.places.len()).map_while(|index| {
            let stage = Arc::clone(&stage);
            thread::Builder::new()
                .name(format!("lstm-writing-{}", index + 1))
                .spawn(move || stage.serve(index))
                .ok()
        });
        let threads = threads.collect();
        Self { stage, own, threads }
    }

    /// What the parts have in common.
    pub(super) fn work(&self) -> &W {
        &self.stage.work
    }

    /// The caller's part.
    pub(super) fn own(&self) -> &W::Part {
        &self.own
    }

    /// Takes the parts on until it is `done`, which is asked with the caller's own.
    ///
    /// # Panics
    ///
    /// Where a step does, on any thread.
    pub(super) fn run(&mut self, mut done: impl FnMut(&W, &W::Part) -> bool) {
        let Self { stage, own, threads } = self;
        let _alarm = Alarm(&stage.failed);
        let mut patience = Patience::default();
        while !done(&stage.work, own) {
            if stage.work.step(own) {
                patience = Patience::default();
                continue;
            }
            assert!(!stage.failed.load(Ordering::Relaxed), "a thread that helps has failed");
            for (index, place) in stage.places.iter().enumerate() {
                let absent = !place.awake.load(Ordering::Relaxed);
                if absent && let Some(thread) = threads.get(index) {
                    thread.thread().unpark();
                }
                if (absent || patience.is_at_an_end()) && stage.advance(place) {
                    break;
                }
            }
            patience.wait();
        }
    }

    /// The parts in turn, each as far as it can go.
    pub(super) fn for_each(&mut self, mut look: impl FnMut(&mut W::Part)) {
        let Self { stage, own, .. } = self;
        let mut go = |part: &mut W::Part| {
            while stage.work.step(part) {}
            look(part);
        };
        go(own);
        stage.places.iter().for_each(|place| go(&mut place.part.lock()));
    }
}

impl<W: Work> Stage<W> {
    /// Takes a part on, if that can be and nobody else is at it.
    fn advance(&self, place: &Place<W::Part>) -> bool {
        place.part.try_lock().is_some_and(|mut part| self.work.step(&mut part))
    }

    /// The life of a thread.
    fn serve(&self, index: usize) {
        let _alarm = Alarm(&self.failed);
        let place = &self.places[index];
        place.awake.store(true, Ordering::Relaxed);
        let mut idle: Option<Instant> = None;
        while !self.closed.load(Ordering::Relaxed) {
            // One lock for many looks: each would wait until what was written has reached the cache.
            if let Some(mut part) = place.part.try_lock() {
                for _ in 0..LOOKS {
                    match self.work.step(&mut part) {
                        true => idle = None,
                        false => std::hint::spin_loop(),
                    }
                }
            }
            match idle {
                Some(since) if since.elapsed() > VIGIL => {
                    // Whoever finds it asleep wakes it: a call that comes just now does so as soon
                    // as it waits for this part.
                    place.awake.store(false, Ordering::Relaxed);
                    thread::park();
                    place.awake.store(true, Ordering::Relaxed);
                    idle = None;
                }
                Some(_) => {}
                None => idle = Some(Instant::now()),
            }
        }
    }
}

impl<W: Work> Drop for Standing<W> {
    fn drop(&mut self) {
        self.stage.closed.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // What it may have panicked with was told where its part was missed.
            let _ = thread.join();
        }
    }
}

impl<W: Work> fmt::Debug for Standing<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standing")
            .field("parts", &(1 + self.stage.places.len()))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Every part counts to as far as the call says, none more than one ahead of the last.
    struct Counting {
        said: AtomicUsize,
        reached: Vec<AtomicUsize>,
        /// Which part panics, and where.
        bad: Option<[usize; 2]>,
    }

    impl Work for Counting {
        /// The index, and how far it is.
        type Part = [usize; 2];

        fn step(&self, [index, count]: &mut [usize; 2]) -> bool {
            let all = || self.reached.iter().map(|count| count.load(Ordering::Relaxed));
            if *count == self.said.load(Ordering::Relaxed) || all().any(|other| other < *count) {
                return false;
            }
            assert_ne!(self.bad, Some([*index, *count]), "a bad step");
            *count += 1;
            self.reached[*index].store(*count, Ordering::Relaxed);
            true
        }
    }

    impl Counting {
        fn count_to(team: &mut Standing<Self>, goal: usize) {
            team.work().said.store(goal, Ordering::Relaxed);
            team.run(|work, _| work.reached.iter().all(|at| at.load(Ordering::Relaxed) == goal));
        }
    }

    fn counting(parts: usize, bad: Option<[usize; 2]>) -> Standing<Counting> {
        let reached = (0..parts).map(|_| AtomicUsize::new(0)).collect();
        let work = Counting { said: AtomicUsize::new(0), reached, bad };
        Standing::new(work, (0..parts).map(|index| [index, 0]))
    }

    #[test]
    fn all_parts_go_as_far_as_they_can() {
        for parts in [1, 2, 3, 8] {
            let mut team = counting(parts, None);
            for call in 1..=300 {
                // Long enough, now and then, for the others to fall asleep.
                if call % 100 == 0 {
                    thread::sleep(10 * VIGIL);
                }
                Counting::count_to(&mut team, 3 * call);
                team.for_each(|&mut [_, count]| assert_eq!(count, 3 * call));
            }
        }
    }

    #[test]
    fn a_panic_in_a_step_is_the_callers() {
        for index in 0..3 {
            let mut team = counting(3, Some([index, 150]));
            let result = catch_unwind(AssertUnwindSafe(|| {
                (1..100).for_each(|call| Counting::count_to(&mut team, 3 * call));
            }));
            assert!(result.is_err());
        }
    }
}
