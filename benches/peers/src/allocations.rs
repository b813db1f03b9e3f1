//! Counts what is taken from the heap, while asked to.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

struct Counting;

static ON: AtomicBool = AtomicBool::new(false);
static BLOCKS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

// SAFETY: passes every request on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // One load while nobody counts; relaxed, as one thread counts what it does itself.
        if ON.load(Relaxed) {
            BLOCKS.fetch_add(1, Relaxed);
            BYTES.fetch_add(layout.size() as u64, Relaxed);
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Blocks and bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heap {
    pub blocks: u64,
    pub bytes: u64,
}

impl Heap {
    /// All that was taken while it was counted.
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

/// Does some work while all that is taken from the heap is counted.
pub fn counting<T>(work: impl FnOnce() -> T) -> T {
    ON.store(true, Relaxed);
    let done = work();
    ON.store(false, Relaxed);
    done
}
