//! Signals that ask a run to finish its step, save and leave.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(unix)]
use signal_hook::consts::SIGHUP;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// What asked a run to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// A request to end, or a terminal that went away.
    Terminate,
}

impl Signal {
    /// 128 plus the signal's number, as shells report it.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "Ctrl-C",
            Self::Terminate => "a request to terminate",
        })
    }
}

/// Watches for signals from when it is made.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    interrupt: Arc<AtomicBool>,
    terminate: Arc<AtomicBool>,
    hang_up: Arc<AtomicBool>,
}

/// The exit code of a program that did not wait for its run to be saved.
const UNSAVED: i32 = 1;

impl Signals {
    /// Begins to watch. A second Ctrl-C, or a second SIGTERM, leaves at once, with exit code 1; a second SIGHUP does
    /// not, for terminals that go away send several. What whoever started the program has it ignore, as `nohup`
    /// does SIGHUP, stays ignored where the system tells of it: on Linux.
    ///
    /// # Errors
    ///
    /// Where the system refuses the handlers.
    pub fn watch() -> std::io::Result<Self> {
        let signals = Self::default();
        for (number, seen, may_leave) in [
            (SIGINT, &signals.interrupt, true),
            (SIGTERM, &signals.terminate, true),
            #[cfg(unix)]
            (SIGHUP, &signals.hang_up, false),
        ] {
            if is_ignored(number) {
                continue;
            }
            // In this order: the first signal finds the flag unset, then sets it.
            if may_leave {
                flag::register_conditional_shutdown(number, UNSAVED, seen.clone())?;
            }
            flag::register(number, seen.clone())?;
        }
        Ok(signals)
    }

    /// The signal that was received, if any was.
    pub fn received(&self) -> Option<Signal> {
        let seen = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        if seen(&self.interrupt) {
            Some(Signal::Interrupt)
        } else if seen(&self.terminate) || seen(&self.hang_up) {
            Some(Signal::Terminate)
        } else {
            None
        }
    }
}

/// Whether the program was started with a signal ignored.
fn is_ignored(number: i32) -> bool {
    if cfg!(not(target_os = "linux")) {
        return false;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Bit 0 is signal 1.
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (number - 1) & 1 == 1)
}
