//! Tells retry whether a call that it drops was still waiting in a gate: then the call was certainly
//! not sent, and its token goes back to the budget.
//!
//! Any layers may be between retry and the gate. So the gate leaves a note in a thread-local, where
//! retry reads it: dropping a call is one function call on one thread. In the other direction, hedging tells a circuit
//! breaker below that the calls that it drops were beaten.

use std::cell::Cell;

thread_local!(static LEFT_WAITING: Cell<bool> = const { Cell::new(false) });

/// Called when a waiting call is dropped.
pub(super) fn note() {
    // While a thread ends nobody reads the note.
    let _ = LEFT_WAITING.try_with(|left| left.set(true));
}

/// Drops a call. Returns whether it was waiting in a gate.
pub(crate) fn left_waiting(drop_call: impl FnOnce()) -> bool {
    let _ = LEFT_WAITING.try_with(|left| left.set(false));
    drop_call();
    LEFT_WAITING
        .try_with(|left| left.replace(false))
        .unwrap_or(false)
}

/// Drops one of several calls for one. Returns whether it was waiting. For a caller of [`left_waiting`] above, the whole
/// was waiting only if each of them was.
pub(crate) fn also_left_waiting(drop_call: impl FnOnce()) -> bool {
    let before = LEFT_WAITING.try_with(Cell::get).unwrap_or(false);
    let waiting = left_waiting(drop_call);
    let _ = LEFT_WAITING.try_with(|left| left.set(before && waiting));
    waiting
}

thread_local!(static BEATEN: Cell<bool> = const { Cell::new(false) });

/// Drops calls that lost against another copy of their request. Their age says nothing about the upstream.
pub(crate) fn drop_beaten(drop_calls: impl FnOnce()) {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            let _ = BEATEN.try_with(|beaten| beaten.set(false));
        }
    }
    let _reset = Reset;
    let _ = BEATEN.try_with(|beaten| beaten.set(true));
    drop_calls();
}

/// Whether the call that is being dropped was beaten.
pub(crate) fn is_beaten() -> bool {
    BEATEN.try_with(Cell::get).unwrap_or(false)
}
