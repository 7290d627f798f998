//! The threads that help: they stay awake for a while after each call, so that the next one finds
//! them at once.
//!
//! To wake a sleeping thread takes some fifty microseconds, as long as a whole layer at batch 1. A
//! waiting one that watches a flag is there within a tenth of a microsecond, which makes it worth
//! while to meet after every time step ([`Team`](super::parallel::Team)).
//!
//! Nobody ever waits for a helper that has not begun: what is to be done is handed out piece by
//! piece to whoever asks, and the caller goes on asking until nothing is left. A helper that is
//! late, asleep or busy elsewhere costs nothing but its help.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

/// How long a helper stays awake when there is nothing to do: longer than a training step goes without
/// a call, which is between the way back and the optimizer, up to half a millisecond.
const VIGIL: Duration = Duration::from_millis(1);
/// Looks at the board between two looks at the clock.
const LOOKS: usize = 64;

/// What helpers are called to.
type Task<'a> = &'a (dyn Fn() + Sync);

/// One crew serves the process; a second caller at the same time works alone.
static CREW: Crew = Crew {
    busy: AtomicBool::new(false),
    board: CachePadded::new(Board {
        state: AtomicU64::new(0),
        task: AtomicPtr::new(std::ptr::null_mut()),
    }),
    panic: Mutex::new(None),
    hired: AtomicUsize::new(0),
    asleep: AtomicUsize::new(0),
    sleepers: Mutex::new(Vec::new()),
};

struct Crew {
    busy: AtomicBool,
    /// On cache lines of its own: who watches it takes them away from who changes what lies beside it.
    board: CachePadded<Board>,
    /// What a helper panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// How many helpers there are, asleep or awake.
    hired: AtomicUsize,
    /// How many sleep, or are about to.
    asleep: AtomicUsize,
    sleepers: Mutex<Vec<Thread>>,
}

/// Where a call is announced.
struct Board {
    /// How many helpers may still come, in the upper half; how many are at work, in the lower.
    state: AtomicU64,
    /// A [`Task`] on the caller's stack; valid as long as `state` is not 0.
    task: AtomicPtr<()>,
}

/// One helper that may still come.
const TICKET: u64 = 1 << 32;
/// The helpers at work.
const AT_WORK: u64 = TICKET - 1;

/// Calls `task` on this thread and on up to `helpers` others at the same time; returns when all of
/// them have left it. Some or all of the helpers may never come: `task` hands out its work to
/// whoever calls it, and a single call does all of it.
///
/// Sleeping helpers are woken only if the work is worth it, `wake`.
///
/// # Panics
///
/// Where `task` does, on any thread.
pub(super) fn call(helpers: usize, wake: bool, task: Task<'_>) {
    if helpers == 0 || CREW.busy.swap(true, Ordering::Acquire) {
        return task();
    }
    let crew = &CREW;
    crew.board.open(helpers, &task);
    let closing = Closing(crew);
    if wake {
        crew.wake(helpers);
    }
    task();
    drop(closing);
}

/// Sends the helpers away when a call ends, by a panic too.
struct Closing<'a>(&'a Crew);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.board.close();
        let panic = self.0.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.0.busy.store(false, Ordering::Release);
        if let Some(panic) = panic
            && !thread::panicking()
        {
            resume_unwind(panic);
        }
    }
}

impl Board {
    fn open(&self, helpers: usize, task: &Task<'_>) {
        let task: *const Task<'_> = task;
        self.task.store(task.cast_mut().cast(), Ordering::Relaxed);
        // Before the look at who is asleep; so is, in `rest`, falling asleep before the last look
        // at the board: one of the two sees the other.
        self.state.store(helpers as u64 * TICKET, Ordering::SeqCst);
    }

    /// Lets nobody in any more, and waits for those who are in.
    fn close(&self) {
        self.state.fetch_and(AT_WORK, Ordering::Relaxed);
        let mut patience = Patience::default();
        while self.state.load(Ordering::Acquire) != 0 {
            patience.wait();
        }
    }

    fn is_open(&self) -> bool {
        self.state.load(Ordering::SeqCst) >= TICKET
    }
}

impl Crew {
    /// Takes part, if somebody asks for it; says whether it did.
    fn take_part(&self) -> bool {
        let Board { state: shared, task } = &*self.board;
        let mut state = shared.load(Ordering::Relaxed);
        loop {
            if state < TICKET {
                return false;
            }
            let entered = state - TICKET + 1;
            match shared.compare_exchange_weak(state, entered, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        let task: *const Task<'_> = task.load(Ordering::Relaxed).cast_const().cast();
        // SAFETY: this thread is counted among those at work, in the same exchange that saw the
        // call open. The caller returns from `call`, and so ends the life of what `task` points
        // to and of all that it borrows, only after `close` has seen that count at 0; `task` is
        // `Sync`, so that it may be called from here.
        let task = unsafe { *task };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(task)) {
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        shared.fetch_sub(1, Ordering::Release);
        true
    }

    /// Wakes so many helpers at most, and hires them first where there are fewer.
    fn wake(&'static self, helpers: usize) {
        let hired = self.hired.load(Ordering::Relaxed);
        if hired >= helpers && self.asleep.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = helpers.min(sleepers.len());
        sleepers.drain(..count).for_each(|thread| thread.unpark());
        for index in hired..helpers {
            let name = format!("lstm-{}", index + 1);
            // Without a thread to be had there is one helper less.
            if thread::Builder::new().name(name).spawn(|| self.serve()).is_err() {
                break;
            }
            self.hired.store(index + 1, Ordering::Relaxed);
        }
    }

    /// The life of a helper.
    fn serve(&self) {
        loop {
            self.watch();
            self.rest();
        }
    }

    /// Takes part in calls until there has been none for a while.
    fn watch(&self) {
        let mut since = Instant::now();
        loop {
            for _ in 0..LOOKS {
                if self.take_part() {
                    since = Instant::now();
                }
                std::hint::spin_loop();
            }
            if since.elapsed() > VIGIL {
                return;
            }
        }
    }

    /// Sleeps until a call that is worth waking for.
    fn rest(&self) {
        self.asleep.fetch_add(1, Ordering::SeqCst);
        let sleepers = || self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        sleepers().push(thread::current());
        if !self.board.is_open() {
            thread::park();
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
        // Woken without having been asked, a thread is still on the list.
        let id = thread::current().id();
        sleepers().retain(|thread| thread.id() != id);
    }
}

/// Waits for something that another thread is about to do; lets others have the processor when
/// it takes long.
#[derive(Default)]
pub(super) struct Patience {
    waits: u32,
}

impl Patience {
    const SHORT: u32 = 2_000;

    pub(super) fn wait(&mut self) {
        self.waits += 1;
        match self.is_at_an_end() {
            false => std::hint::spin_loop(),
            true => thread::yield_now(),
        }
    }

    /// Whether the other thread seems to have lost its processor.
    pub(super) fn is_at_an_end(&self) -> bool {
        self.waits > Self::SHORT
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Tries until a helper came: other tests call the same crew.
    fn until(mut try_once: impl FnMut() -> bool) {
        let began = Instant::now();
        while !try_once() {
            assert!(began.elapsed() < Duration::from_secs(60), "no helper ever came");
        }
    }

    #[test]
    fn helpers_come_and_all_leave_before_the_call_ends() {
        let inside = AtomicUsize::new(0);
        let most = AtomicUsize::new(0);
        until(|| {
            call(3, true, &|| {
                let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(2));
                inside.fetch_sub(1, Ordering::SeqCst);
            });
            assert_eq!(inside.load(Ordering::SeqCst), 0);
            most.load(Ordering::SeqCst) >= 2
        });
    }

    #[test]
    fn helpers_that_fell_asleep_come_again() {
        for _ in 0..3 {
            until(|| {
                thread::sleep(10 * VIGIL);
                let calls = AtomicUsize::new(0);
                call(1, true, &|| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(20));
                });
                calls.load(Ordering::Relaxed) >= 2
            });
        }
    }

    #[test]
    fn calls_within_calls_and_beside_them_are_done_by_their_callers() {
        let counts = [const { AtomicUsize::new(0) }; 4];
        thread::scope(|scope| {
            for count in &counts {
                scope.spawn(move || {
                    for _ in 0..100 {
                        call(1, true, &|| {
                            call(1, true, &|| {
                                count.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) >= 100));
    }

    #[test]
    fn a_panic_of_a_helper_is_the_callers() {
        let caller = thread::current().id();
        until(|| {
            let result = catch_unwind(|| {
                call(1, true, &|| {
                    assert_eq!(thread::current().id(), caller, "not the caller");
                    thread::sleep(Duration::from_millis(5));
                });
            });
            let Err(message) = result else { return false };
            assert!(message.downcast::<String>().expect("a message").contains("not the caller"));
            true
        });
    }
}
