//! The kept responses: at most so many, and those go first that were not used for the longest time (CLOCK).

use super::rules::{Key, Varied};
use bytes::Bytes;
use http::{HeaderMap, Version};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A response that was kept.
pub(super) struct Kept {
    pub(super) headers: HeaderMap,
    pub(super) version: Version,
    pub(super) body: Bytes,
    pub(super) varied: Varied,
    /// When it arrived, and its age then.
    pub(super) at: Instant,
    pub(super) age: Duration,
    /// How long it may be served from then on.
    pub(super) usable: Duration,
}

struct Slot {
    key: Key,
    kept: Arc<Kept>,
    used: bool,
}

#[derive(Default)]
pub(super) struct Store {
    places: HashMap<Key, usize>,
    slots: Vec<Slot>,
    hand: usize,
    bytes: usize,
}

impl Store {
    pub(super) fn get(&mut self, key: &Key) -> Option<Arc<Kept>> {
        let slot = &mut self.slots[*self.places.get(key)?];
        slot.used = true;
        Some(slot.kept.clone())
    }

    /// Keeps a response, in place of another if there are `most`.
    pub(super) fn put(&mut self, key: Key, kept: Kept, most: usize) {
        self.bytes += kept.body.len();
        let kept = Arc::new(kept);
        let slot = Slot {
            key: key.clone(),
            kept,
            used: false,
        };
        if let Some(place) = self.places.get(&key).copied() {
            let old = std::mem::replace(&mut self.slots[place], slot);
            self.bytes -= old.kept.body.len();
            return;
        }
        if self.slots.len() < most {
            self.places.insert(key, self.slots.len());
            self.slots.push(slot);
            return;
        }
        while std::mem::take(&mut self.slots[self.hand].used) {
            self.hand = (self.hand + 1) % self.slots.len();
        }
        let old = std::mem::replace(&mut self.slots[self.hand], slot);
        self.bytes -= old.kept.body.len();
        self.places.remove(&old.key);
        self.places.insert(key, self.hand);
        self.hand = (self.hand + 1) % self.slots.len();
    }

    pub(super) fn remove(&mut self, key: &Key) {
        let Some(place) = self.places.remove(key) else {
            return;
        };
        let old = self.slots.swap_remove(place);
        self.bytes -= old.kept.body.len();
        if let Some(moved) = self.slots.get(place) {
            self.places.insert(moved.key.clone(), place);
        }
        if self.hand >= self.slots.len() {
            self.hand = 0;
        }
    }

    /// Removes what was kept for any credentials.
    pub(super) fn remove_all(&mut self, key: &Key) {
        let same = self.slots.iter().filter(|slot| slot.key.has_same_uri(key));
        for key in same.map(|slot| slot.key.clone()).collect::<Vec<_>>() {
            self.remove(&key);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
