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
}

impl Signals {
    /// Begins to watch. A second signal of a kind leaves at once, with the same exit code.
    ///
    /// # Errors
    ///
    /// Where the system refuses the handlers.
    pub fn watch() -> std::io::Result<Self> {
        let signals = Self::default();
        for (number, seen, signal) in [
            (SIGINT, &signals.interrupt, Signal::Interrupt),
            (SIGTERM, &signals.terminate, Signal::Terminate),
            #[cfg(unix)]
            (SIGHUP, &signals.terminate, Signal::Terminate),
        ] {
            // In this order: the first signal finds the flag unset, then sets it.
            let code = i32::from(signal.exit_code());
            flag::register_conditional_shutdown(number, code, seen.clone())?;
            flag::register(number, seen.clone())?;
        }
        Ok(signals)
    }

    /// The signal that was received, if any was.
    pub fn received(&self) -> Option<Signal> {
        let seen = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        if seen(&self.interrupt) {
            Some(Signal::Interrupt)
        } else if seen(&self.terminate) {
            Some(Signal::Terminate)
        } else {
            None
        }
    }
}
