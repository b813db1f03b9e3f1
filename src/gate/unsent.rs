//! Whether a call that was dropped had been waiting in a gate, so that it was certainly not sent.
//!
//! Retry wants to know that of the attempt that it drops: its token is then put back. There may be
//! any layers in between, so the gate leaves a note where retry finds it: on the thread, since a
//! drop is one call on one thread.

use std::cell::Cell;

thread_local!(static LEFT_WAITING: Cell<bool> = const { Cell::new(false) });

/// A call that waits is being dropped.
pub(super) fn note() {
    // While a thread ends there is nobody left to read the note.
    let _ = LEFT_WAITING.try_with(|left| left.set(true));
}

/// Drops a call; says whether it was waiting in a gate.
pub(crate) fn left_waiting(drop_call: impl FnOnce()) -> bool {
    let _ = LEFT_WAITING.try_with(|left| left.set(false));
    drop_call();
    LEFT_WAITING
        .try_with(|left| left.replace(false))
        .unwrap_or(false)
}
