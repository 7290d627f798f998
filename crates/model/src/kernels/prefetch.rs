//! Telling the memory what will be read soon.

/// Has the numbers brought near, where the machine can be told so. Worth it for what lies in pieces
/// too short for the machine to see by itself where they lead.
#[inline(always)]
pub(super) fn prefetch(numbers: &[f32]) {
    call_for(numbers.as_ptr(), size_of_val(numbers));
}

/// Has as many numbers brought near as these are, those behind them, where there are any. Worth it for
/// what another core has had since, which takes longer to come than the machine looks ahead.
#[inline(always)]
pub(super) fn prefetch_behind(numbers: &[f32]) {
    call_for(numbers.as_ptr_range().end, size_of_val(numbers));
}

/// Calls for the lines of so many bytes.
#[inline(always)]
fn call_for(first: *const f32, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        const LINE: usize = 64;
        for offset in (0..bytes).step_by(LINE) {
            // SAFETY: a prefetch is part of SSE, which every x86-64 has; it changes nothing that a
            // program can see and faults at no address, be there something or not.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.cast::<i8>().wrapping_add(offset)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (first, bytes);
}
