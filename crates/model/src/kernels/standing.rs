//! Threads that stay with a piece of work from call to call, and go ahead with what they can before
//! the next one comes.
//!
//! A [`Team`](super::parallel::Team) is called together for every call and sent away behind it,
//! which costs a microsecond: as much as a time step of a small layer. Here each thread owns its
//! part for good, and takes it on as soon as what it needs from the others is there.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::crew::Patience;
use super::parallel::{Alarm, lock};

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
    threads: Vec<JoinHandle<()>>,
}

/// What the threads share.
struct Stage<W: Work> {
    work: W,
    places: Vec<Place<W::Part>>,
    /// No call will come any more.
    closed: AtomicBool,
    failed: AtomicBool,
}

/// A part. On cache lines of its own.
#[repr(align(128))]
struct Place<P> {
    part: Mutex<P>,
    /// Whether its thread watches.
    awake: AtomicBool,
}

impl<W: Work> Standing<W> {
    pub(super) fn new(work: W, parts: Vec<W::Part>) -> Self {
        let place = |part| Place { part: Mutex::new(part), awake: AtomicBool::new(false) };
        let stage = Arc::new(Stage {
            work,
            places: parts.into_iter().map(place).collect(),
            closed: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        });
        // Without a thread to be had the caller takes its part on.
        let threads = (1..stage.places.len()).map_while(|index| {
            let stage = Arc::clone(&stage);
            thread::Builder::new()
                .name(format!("lstm-writing-{index}"))
                .spawn(move || stage.serve(index))
                .ok()
        });
        let threads = threads.collect();
        Self { stage, threads }
    }

    /// What the parts have in common.
    pub(super) fn work(&self) -> &W {
        &self.stage.work
    }

    /// Takes the parts on until it is `done`, which is asked with the caller's own.
    ///
    /// # Panics
    ///
    /// Where a step does, on any thread.
    pub(super) fn run(&mut self, mut done: impl FnMut(&W, &W::Part) -> bool) {
        let stage = &*self.stage;
        let [own, others @ ..] = stage.places.as_slice() else { return };
        let mut patience = Patience::default();
        while !done(&stage.work, &lock(&own.part)) {
            if stage.advance(own) {
                patience = Patience::default();
                continue;
            }
            assert!(!stage.failed.load(Ordering::Relaxed), "a thread that helps has failed");
            for (index, place) in others.iter().enumerate() {
                let absent = !place.awake.load(Ordering::Relaxed);
                if absent && let Some(thread) = self.threads.get(index) {
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
        for place in &self.stage.places {
            let mut part = lock(&place.part);
            while self.stage.work.step(&mut part) {}
            look(&mut part);
        }
    }
}

impl<W: Work> Stage<W> {
    /// Takes a part on, if that can be and nobody else is at it.
    fn advance(&self, place: &Place<W::Part>) -> bool {
        match place.part.try_lock() {
            Ok(mut part) => self.work.step(&mut part),
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Poisoned(_)) => panic!("a thread that helps has failed"),
        }
    }

    /// The life of a thread.
    fn serve(&self, index: usize) {
        let _alarm = Alarm(&self.failed);
        let place = &self.places[index];
        place.awake.store(true, Ordering::Relaxed);
        let mut idle: Option<Instant> = None;
        while !self.closed.load(Ordering::Relaxed) {
            for _ in 0..LOOKS {
                match self.advance(place) {
                    true => idle = None,
                    false => std::hint::spin_loop(),
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
        f.debug_struct("Standing").field("parts", &self.stage.places.len()).finish_non_exhaustive()
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
        Standing::new(work, (0..parts).map(|index| [index, 0]).collect())
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
