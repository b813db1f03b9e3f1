//! The core: some keys with their states, of which only those are dropped that nobody can miss.
//!
//! A full shard looks at a few entries from its hand on, as the CLOCK algorithm does: an entry that was
//! used since the hand last passed it gets a second chance. So a lookup costs the same whatever the
//! size, and a flood of new keys displaces neither an open circuit nor a limit that is used up.

use super::store::State;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::mem;
use std::sync::Arc;

/// Entries that one lookup looks at.
const LOOKS: usize = 16;

/// Every so many lookups the shard drops idle entries.
const SWEEP_EVERY: u32 = 64;

/// The keys are spread by a hash with a secret seed, which is used as it is.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only hashes are hashed")
    }
}

#[derive(Debug)]
pub(super) struct Shard<T> {
    capacity: usize,
    /// Where the entry with this hash is.
    places: HashMap<u64, usize, BuildHasherDefault<Hashed>>,
    entries: Vec<Entry<T>>,
    hand: usize,
    lookups: u32,
}

#[derive(Debug)]
pub(super) struct Entry<T> {
    hash: u64,
    pub(super) key: Box<str>,
    pub(super) state: Arc<T>,
    /// Whether a call has used it since the hand last passed it.
    used: bool,
    /// When the hand last found it used.
    since: u64,
}

/// What a shard knows about a key.
#[derive(Debug)]
pub(super) enum Found<T> {
    Known(Arc<T>),
    /// There is room for a new entry.
    New,
    /// No entry can be dropped.
    Full,
}

/// Tells whether nobody can miss an entry's state. The second argument says that the entry was idle.
pub(super) trait Droppable<T>: Fn(&mut T, bool) -> bool {}
impl<T, F: Fn(&mut T, bool) -> bool> Droppable<T> for F {}

impl<T: State> Shard<T> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            places: HashMap::default(),
            entries: Vec::new(),
            hand: 0,
            lookups: 0,
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The entries, for handles.
    pub(super) fn entries(&self) -> &[Entry<T>] {
        &self.entries
    }

    /// The state of a key, without a trace that it was looked up.
    pub(super) fn peek(&self, hash: u64, key: &str) -> Option<&Arc<T>> {
        let entry = &self.entries[*self.places.get(&hash)?];
        (*entry.key == *key).then_some(&entry.state)
    }

    /// Whether this lookup should be followed by a [`sweep`](Self::sweep).
    #[inline]
    pub(super) fn is_sweep_due(&mut self) -> bool {
        self.lookups = self.lookups.wrapping_add(1);
        self.lookups % SWEEP_EVERY == 0
    }

    /// Looks a key up for a call.
    #[inline]
    pub(super) fn find(&mut self, hash: u64, key: &str) -> Option<Found<T>> {
        let &place = self.places.get(&hash)?;
        let entry = &mut self.entries[place];
        if *entry.key != *key {
            // Two keys with one hash of 64 bits: the second has no place.
            return Some(Found::Full);
        }
        entry.used = true;
        Some(Found::Known(entry.state.clone()))
    }

    /// Whether a new key has a place. The place is free when `insert` is called, unless another call
    /// takes it.
    pub(super) fn has_room(&mut self, now: u64, idle: u64, droppable: &impl Droppable<T>) -> bool {
        self.entries.len() < self.capacity
            || self
                .find_droppable(now, idle, droppable)
                .is_some_and(|place| {
                    // `insert` looks at this entry first.
                    self.hand = place;
                    true
                })
    }

    /// Adds a key that was not known a moment ago. Returns its state, and the entry that has no place or
    /// has none any more, which the caller drops without the lock.
    pub(super) fn insert(
        &mut self,
        (hash, key): (u64, &str),
        state: T,
        (now, idle): (u64, u64),
        droppable: &impl Droppable<T>,
    ) -> (Found<T>, Option<Entry<T>>) {
        let state = Arc::new(state);
        let entry = Entry {
            hash,
            key: key.into(),
            state: state.clone(),
            used: false,
            since: now,
        };
        if let Some(found) = self.find(hash, key) {
            return (found, Some(entry)); // another call was faster
        }
        if self.entries.len() < self.capacity {
            self.places.insert(hash, self.entries.len());
            self.entries.push(entry);
            return (Found::Known(state), None);
        }
        let Some(place) = self.find_droppable(now, idle, droppable) else {
            return (Found::Full, Some(entry));
        };
        self.places.insert(hash, place);
        let displaced = mem::replace(&mut self.entries[place], entry);
        self.places.remove(&displaced.hash);
        (Found::Known(state), Some(displaced))
    }

    /// Removes idle entries among the next few. The caller drops them without the lock.
    pub(super) fn sweep(
        &mut self,
        now: u64,
        idle: u64,
        droppable: &impl Droppable<T>,
    ) -> Vec<Entry<T>> {
        let mut swept = Vec::new();
        for _ in 0..LOOKS {
            let is_idle = |state: &mut T, unused| unused >= idle && droppable(state, true);
            let Some(place) = self.find_unused(now, &mut 0, is_idle) else {
                break;
            };
            swept.push(self.remove(place));
            self.hand = place; // where the last entry is now
        }
        swept
    }

    /// Removes a key.
    pub(super) fn forget(&mut self, hash: u64, key: &str) -> Option<Entry<T>> {
        self.peek(hash, key)?;
        let place = *self.places.get(&hash)?;
        Some(self.remove(place))
    }

    fn remove(&mut self, place: usize) -> Entry<T> {
        let entry = self.entries.swap_remove(place);
        self.places.remove(&entry.hash);
        if let Some(moved) = self.entries.get(place) {
            self.places.insert(moved.hash, place);
        }
        entry
    }

    /// Moves the hand over the next few entries, until one can be dropped. Prefers one that was not used
    /// since the hand last passed it.
    fn find_droppable(
        &mut self,
        now: u64,
        idle: u64,
        droppable: &impl Droppable<T>,
    ) -> Option<usize> {
        let (start, mut used) = (self.hand, 0);
        let accepts = |state: &mut T, unused| droppable(state, unused >= idle);
        if let Some(place) = self.find_unused(now, &mut used, accepts) {
            return Some(place);
        }
        (0..LOOKS)
            .filter(|look| used >> look & 1 == 1)
            .find_map(|look| {
                let place = (start + look) % self.entries.len();
                let state = Arc::get_mut(&mut self.entries[place].state)?;
                droppable(state, false).then_some(place)
            })
    }

    /// Moves the hand over the next few entries, until it accepts an unused one. Sets the bits of those
    /// that were used.
    fn find_unused(
        &mut self,
        now: u64,
        used: &mut u32,
        accepts: impl Fn(&mut T, u64) -> bool,
    ) -> Option<usize> {
        for look in 0..LOOKS.min(self.entries.len()) {
            let place = self.hand % self.entries.len();
            self.hand = place + 1;
            let entry = &mut self.entries[place];
            // `get_mut` also orders what the last other holder did before what is read here.
            let state = Arc::get_mut(&mut entry.state);
            // A call in flight ends after now: a later look notes when.
            let in_use = state.as_ref().is_none_or(|state| state.is_in_use());
            if mem::replace(&mut entry.used, in_use) {
                entry.since = now;
                *used |= 1 << look;
                continue;
            }
            let Some(state) = state else { continue };
            if accepts(state, now.saturating_sub(entry.since)) {
                return Some(place);
            }
        }
        None
    }
}

#[cfg(all(test, not(buttress_loom)))]
mod tests {
    use super::*;

    impl State for bool {
        type Admission = ();

        fn admission(&self) -> &() {
            &()
        }
    }

    /// A state that can be dropped if it is `true`.
    fn is_true(state: &mut bool, _: bool) -> bool {
        *state
    }

    fn shard(capacity: usize, entries: &[(u64, &str, bool)]) -> Shard<bool> {
        let mut shard = Shard::new(capacity);
        for &(hash, key, state) in entries {
            let (found, displaced) = shard.insert((hash, key), state, (0, 9), &is_true);
            assert!(matches!(found, Found::Known(_)) && displaced.is_none());
        }
        shard
    }

    fn knows(shard: &Shard<bool>, hash: u64, key: &str) -> bool {
        shard.peek(hash, key).is_some()
    }

    #[test]
    fn of_two_keys_with_one_hash_the_second_has_no_place() {
        let mut shard = shard(4, &[(1, "a", true)]);
        assert!(matches!(shard.find(1, "b"), Some(Found::Full)));
        assert!(matches!(shard.find(1, "a"), Some(Found::Known(_))));
        let (found, returned) = shard.insert((1, "b"), true, (0, 9), &is_true);
        assert!(matches!(found, Found::Full) && returned.is_some_and(|entry| &*entry.key == "b"));
        assert!(shard.forget(1, "b").is_none());
        assert!(knows(&shard, 1, "a"));
    }

    #[test]
    fn a_removed_key_takes_no_other_with_it() {
        let keys = [(1, "a", true), (2, "b", true), (3, "c", true)];
        for (hash, key, _) in keys {
            let mut shard = shard(4, &keys);
            assert_eq!(&*shard.forget(hash, key).unwrap().key, key);
            for (other, name, _) in keys {
                assert_eq!(knows(&shard, other, name), other != hash);
            }
        }
    }

    #[test]
    fn a_key_that_was_used_again_outlives_one_that_was_not() {
        let mut shard = shard(2, &[(1, "a", true), (2, "b", true)]);
        shard.find(1, "a");
        let (_, displaced) = shard.insert((3, "c"), true, (0, 9), &is_true);
        assert_eq!(&*displaced.unwrap().key, "b");
        assert!(knows(&shard, 1, "a") && knows(&shard, 3, "c"));
    }

    #[test]
    fn a_used_key_is_displaced_if_no_other_can_be() {
        let mut shard = shard(2, &[(1, "a", true), (2, "b", false)]);
        shard.find(1, "a");
        assert!(shard.has_room(0, 9, &is_true));
        let (_, displaced) = shard.insert((3, "c"), true, (0, 9), &is_true);
        assert_eq!(&*displaced.unwrap().key, "a");
    }

    #[test]
    fn a_state_that_somebody_holds_stays() {
        let mut shard = shard(1, &[(1, "a", true)]);
        let held = shard.peek(1, "a").unwrap().clone();
        assert!(!shard.has_room(0, 9, &is_true));
        assert!(shard.sweep(100, 9, &is_true).is_empty());
        drop(held);
        assert!(shard.has_room(0, 9, &is_true));
    }

    #[test]
    fn a_state_is_idle_from_the_end_of_its_last_call_on() {
        let mut shard = shard(1, &[(1, "a", true)]);
        let held = shard.peek(1, "a").unwrap().clone();
        for now in 1..=3 {
            assert!(shard.sweep(now, 9, &is_true).is_empty());
        }
        drop(held);
        assert!(shard.sweep(50, 9, &is_true).is_empty());
        assert!(shard.sweep(58, 9, &is_true).is_empty());
        assert_eq!(shard.sweep(59, 9, &is_true).len(), 1);
    }

    #[test]
    fn a_sweep_removes_only_what_is_idle_and_can_be_dropped() {
        let mut shard = shard(4, &[(1, "a", true), (2, "b", false), (3, "c", true)]);
        shard.find(3, "c");
        assert!(shard.sweep(5, 9, &is_true).is_empty()); // notes that "c" was used
        let swept = shard.sweep(10, 9, &is_true);
        let swept: Vec<_> = swept.iter().map(|entry| &*entry.key).collect();
        assert_eq!(swept, ["a"]);
        assert!(knows(&shard, 2, "b") && knows(&shard, 3, "c"));
    }

    #[test]
    fn a_lookup_looks_at_few_entries_however_many_there_are() {
        use std::cell::Cell;
        let keys: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
        let mut shard = Shard::new(1_000);
        for (hash, key) in (0..).zip(&keys) {
            shard.insert((hash, key), false, (0, 9), &is_true);
            shard.find(hash, key);
        }
        let looks = Cell::new(0);
        let counted = |state: &mut bool, _| {
            looks.set(looks.get() + 1);
            *state
        };
        assert!(!shard.has_room(0, 9, &counted));
        assert_eq!(looks.get(), LOOKS);
    }
}
