//! Counts heap allocations while counting is switched on.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

struct Counting;

static ON: AtomicBool = AtomicBool::new(false);
static BLOCKS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

// SAFETY: forwards every request to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Costs one load while counting is off. Relaxed is enough, because a thread counts only its
        // own allocations.
        if ON.load(Relaxed) {
            BLOCKS.fetch_add(1, Relaxed);
            BYTES.fetch_add(layout.size() as u64, Relaxed);
        }
        // SAFETY: the caller upholds the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A number of allocations and their bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heap {
    pub blocks: u64,
    pub bytes: u64,
}

impl Heap {
    /// Everything that was allocated while counting was on.
    pub fn taken() -> Self {
        Self {
            blocks: BLOCKS.load(Relaxed),
            bytes: BYTES.load(Relaxed),
        }
    }
}

impl Add for Heap {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self {
            blocks: self.blocks + more.blocks,
            bytes: self.bytes + more.bytes,
        }
    }
}

impl Sub for Heap {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            blocks: self.blocks - before.blocks,
            bytes: self.bytes - before.bytes,
        }
    }
}

/// Runs `work` and counts its allocations.
pub fn counting<T>(work: impl FnOnce() -> T) -> T {
    ON.store(true, Relaxed);
    let done = work();
    ON.store(false, Relaxed);
    done
}
