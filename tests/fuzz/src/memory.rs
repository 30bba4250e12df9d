//! A bound for what a decoder may hold in memory: no length field of the input is to be believed.
//!
//! libFuzzer's own `-malloc_limit_mb` works with a sanitizer only, and sanitizers need a nightly compiler.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes in use by Rust code.
static IN_USE: AtomicUsize = AtomicUsize::new(0);
/// More must not be.
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Runs `f`, which may hold at most `bytes` more than there are now at any time. Ends the process if it takes more: for the
/// fuzzer that is a crash.
pub fn within<T>(bytes: usize, f: impl FnOnce() -> T) -> T {
    LIMIT.store(IN_USE.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
    let result = f();
    LIMIT.store(usize::MAX, Ordering::Relaxed);
    result
}

fn count(bytes: usize) {
    let in_use = IN_USE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    // A panic makes its report, which needs memory, too.
    if in_use > LIMIT.load(Ordering::Relaxed) && !std::thread::panicking() {
        // So does this one.
        LIMIT.store(usize::MAX, Ordering::Relaxed);
        eprintln!("an allocation of {bytes} bytes is above the limit: {in_use} bytes are in use");
        eprintln!("{}", std::backtrace::Backtrace::force_capture());
        std::process::abort();
    }
}

// SAFETY: hands everything to the system's allocator, and only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: as above.
        let moved = unsafe { System.realloc(pointer, layout, new_size) };
        IN_USE.fetch_sub(if moved.is_null() { new_size } else { layout.size() }, Ordering::Relaxed);
        moved
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) };
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
    }
}
