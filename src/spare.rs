//! A service instance that is there to be cloned, for calls that are sent later.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// It is never polled, so its clones hold no reservation. The mutex is there because a service need not be `Sync`.
/// The lock is not held while cloning.
pub(crate) struct Spare<S>(Mutex<Option<S>>);

/// An instance that has been taken out. It goes back even if cloning it panics.
struct Taken<'a, S> {
    home: &'a Spare<S>,
    service: Option<S>,
}

impl<S: Clone> Spare<S> {
    pub(crate) fn new(service: S) -> Self {
        Self(Mutex::new(Some(service)))
    }

    /// An unready clone. `None` while another thread is cloning.
    pub(crate) fn unready(&self) -> Option<S> {
        let service = self.lock().take();
        let taken = Taken {
            home: self,
            service,
        };
        taken.service.clone()
    }
}

impl<S> Spare<S> {
    fn lock(&self) -> MutexGuard<'_, Option<S>> {
        // No code panics under the lock, so its poison can be ignored.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Drop for Taken<'_, S> {
    fn drop(&mut self) {
        if self.service.is_some() {
            *self.home.lock() = self.service.take();
        }
    }
}
