//! What the fuzz targets share: an allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a parser may take beside its input: tables, buffers and messages of a fixed size.
const FIXED: usize = 1 << 20;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of this method, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of this method, which is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs a parser on an input of `length` bytes.
///
/// # Panics
///
/// Where it held more than four times the input at once.
pub fn bounded<T>(length: usize, parse: impl FnOnce() -> T) -> T {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let parsed = parse();
    let most = MOST.load(Ordering::Relaxed).saturating_sub(before);
    assert!(most <= 4 * length + FIXED, "{most} bytes for {length}");
    parsed
}
