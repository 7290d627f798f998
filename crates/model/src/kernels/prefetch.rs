//! Telling the memory what will be read soon.

/// Has the numbers brought near, where the machine can be told so. Worth it for what lies in pieces
/// too short for the machine to see by itself where they lead.
#[inline(always)]
pub(super) fn prefetch(numbers: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // A line of the cache has 16 numbers.
        for line in numbers.chunks(16) {
            // SAFETY: a prefetch is part of SSE, which every x86-64 has; it changes nothing that a
            // program can see and faults at no address, and this one is a slice's besides.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = numbers;
}
