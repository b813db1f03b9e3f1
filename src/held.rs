//! References to a layer's state, as calls hold them.
//!
//! A call outlives the service that made it, so it holds a counted reference to the state. Counting
//! is two atomic writes a call, to a word that all threads share: dearer than most decisions made
//! with it. So a call that ends leaves its reference on its thread, and the next one takes it over.
//!
//! What is kept so is the state of a few circuits and limits, their names among it, and nothing else
//! of the user's. It is freed when another takes its place, and at the end of the thread.

use std::array;
use std::cell::Cell;
use std::ops::Deref;
use std::sync::Arc;
use std::thread::LocalKey;

/// How many references a thread keeps of each type, each in the one place that its address gives.
const PLACES: usize = 8;

pub(crate) struct Kept<T>([Cell<Option<Arc<T>>>; PLACES]);

impl<T> Kept<T> {
    pub(crate) fn new() -> Self {
        Self(array::from_fn(|_| Cell::default()))
    }

    fn place(&self, address: *const T) -> &Cell<Option<Arc<T>>> {
        // The top bits of a product with 2^64 divided by the golden ratio: neighbours are scattered.
        let hash = (address as usize as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        &self.0[(hash >> (64 - PLACES.ilog2())) as usize]
    }
}

/// State of which threads keep references.
pub(crate) trait Keep: Sized + 'static {
    fn kept() -> &'static LocalKey<Kept<Self>>;
}

/// A reference that goes back to the thread when it is dropped.
#[derive(Debug)]
pub(crate) struct Held<T: Keep>(Option<Arc<T>>);

impl<T: Keep> Held<T> {
    #[inline]
    pub(crate) fn of(state: &Arc<T>) -> Self {
        let take = |kept: &Kept<T>| kept.place(Arc::as_ptr(state)).take();
        // An error: the thread is about to end.
        let found = T::kept().try_with(take).ok().flatten();
        let found = found.filter(|found| Arc::ptr_eq(found, state));
        Self(Some(found.unwrap_or_else(|| state.clone())))
    }
}

impl<T: Keep> Held<T> {
    /// The reference; nothing is left in its place.
    pub(crate) fn take(&mut self) -> Self {
        Self(self.0.take())
    }

    pub(crate) fn is_taken(&self) -> bool {
        self.0.is_none()
    }
}

impl<T: Keep> Deref for Held<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.0.as_deref().expect("held until it is dropped")
    }
}

impl<T: Keep> Drop for Held<T> {
    #[inline]
    fn drop(&mut self) {
        if let Some(state) = self.0.take() {
            let leave = |kept: &Kept<T>| kept.place(Arc::as_ptr(&state)).replace(Some(state));
            drop(T::kept().try_with(leave));
        }
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::sync::Weak;
    use std::thread;

    #[derive(Debug)]
    struct State;

    impl Keep for State {
        fn kept() -> &'static LocalKey<Kept<Self>> {
            thread_local!(static KEPT: Kept<State> = Kept::new());
            &KEPT
        }
    }

    /// On a thread of its own, which has kept nothing yet.
    fn on_a_thread(work: impl FnOnce() + Send + 'static) {
        thread::spawn(work).join().unwrap();
    }

    #[test]
    fn a_reference_that_is_dropped_is_the_next_one() {
        on_a_thread(|| {
            let state = Arc::new(State);
            for _ in 0..3 {
                let held = Held::of(&state);
                assert_eq!(Arc::strong_count(&state), 2);
                drop(held);
                assert_eq!(Arc::strong_count(&state), 2);
            }
            let three = [(); 3].map(|()| Held::of(&state));
            assert_eq!(Arc::strong_count(&state), 4);
            drop(three);
            assert_eq!(Arc::strong_count(&state), 2);
        });
    }

    #[test]
    fn each_reference_is_to_what_it_was_made_of() {
        on_a_thread(|| {
            let states: Vec<_> = (0..100).map(|_| Arc::new(State)).collect();
            for state in states.iter().chain(&states) {
                let held = Held::of(state);
                assert!(std::ptr::eq(&raw const *held, Arc::as_ptr(state)));
            }
        });
    }

    #[test]
    fn a_thread_keeps_no_more_than_its_places_and_nothing_beyond_its_end() {
        let (states, alive) = {
            let states: Vec<_> = (0..100).map(|_| Arc::new(State)).collect();
            let weak: Vec<_> = states.iter().map(Arc::downgrade).collect();
            (states, weak)
        };
        let count = |states: &[Weak<State>]| states.iter().filter(|s| s.strong_count() > 0).count();
        let seen = alive.clone();
        on_a_thread(move || {
            for state in &states {
                drop(Held::of(state));
            }
            drop(states);
            assert!((1..=PLACES).contains(&count(&seen)));
        });
        assert_eq!(count(&alive), 0);
    }

    #[test]
    fn a_reference_dropped_while_its_thread_ends_is_given_up() {
        thread_local!(static LAST: RefCell<Option<Held<State>>> = const { RefCell::new(None) });
        let state = Arc::new(State);
        let weak = Arc::downgrade(&state);
        on_a_thread(move || {
            // Before the kept ones are first used, and so destroyed after them.
            LAST.with(|last| *last.borrow_mut() = Some(Held::of(&state)));
        });
        assert_eq!(weak.strong_count(), 0);
    }
}
