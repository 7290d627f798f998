//! The CPU threads that the backends use.

/// Runs `work` with at most `count` CPU threads; 0 stands for one per core.
///
/// The backends' pools read environment variables when they are first used: `RAYON_NUM_THREADS`
/// (ndarray's element-wise operations, all of flex) and `MATMUL_NUM_THREADS` (ndarray's matrix
/// products). Call this before any tensor is made.
///
/// `work` runs on a thread of rayon's pool. Every small operation of the CPU backends asks that
/// pool for help; asked from outside, each would wait for another thread to wake up, which more
/// than doubles the time of a small model's training step.
pub fn run<T: Send>(count: usize, work: impl FnOnce() -> T + Send) -> T {
    if count > 0 {
        for variable in ["RAYON_NUM_THREADS", "MATMUL_NUM_THREADS"] {
            // SAFETY: the commands call this once they have read their configuration, when the
            // process has one thread, so nobody reads the environment at the same time.
            unsafe { std::env::set_var(variable, count.to_string()) };
        }
    }
    rayon::scope(|_| work())
}
