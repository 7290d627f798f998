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

/// Has as many places brought near as these are, those behind them. Worth it for what another core has
/// had since, which takes longer to come than the machine looks ahead.
#[inline(always)]
pub(super) fn prefetch_behind<T>(places: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        const LINE: usize = 64;
        let behind = places.as_ptr_range().end.cast::<i8>();
        for offset in (0..size_of_val(places)).step_by(LINE) {
            // SAFETY: as above; at the end of a piece it calls for places that are another's or nobody's.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(behind.wrapping_add(offset)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = places;
}
