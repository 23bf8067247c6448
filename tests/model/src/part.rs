//! Parts of a state, each kept once: a state is a few dozen pointers, so that copying, comparing and hashing one costs little
//! however much its parts hold. Kept parts are never given back; where there are millions of states there are thousands of
//! different parts.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};

use crate::symmetry::{MAX_BOOKIES, Named, Names};

/// What can be kept, and where.
pub(crate) trait Keep: Eq + Hash + Sized + Send + Sync + 'static {
    fn shelf() -> &'static Shelf<Self>;
}

/// Where the different parts of one kind are kept, by hash.
pub(crate) struct Shelf<T: 'static>(LazyLock<Vec<Board<T>>>);

type Board<T> = Mutex<HashMap<u64, Vec<&'static Kept<T>>>>;

/// So that two searching threads rarely wait for each other.
const BOARDS: u64 = 64;

impl<T> Shelf<T> {
    pub(crate) const fn new() -> Self {
        Self(LazyLock::new(|| (0..BOARDS).map(|_| Mutex::default()).collect()))
    }
}

struct Kept<T> {
    value: T,
    hash: u64,
    /// The hash under each way to name so many bookies, once it was asked for.
    renamed: [OnceLock<Box<[u64]>>; MAX_BOOKIES + 1],
}

/// One part of a state.
#[derive(Debug)]
pub(crate) struct Part<T: 'static>(&'static Kept<T>);

impl<T: std::fmt::Debug> std::fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.value.fmt(f)
    }
}

impl<T> Clone for Part<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Part<T> {}

/// Equal parts are one.
impl<T> PartialEq for Part<T> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl<T> Eq for Part<T> {}

impl<T> Hash for Part<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

impl<T> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

pub(crate) fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl<T: Keep> Part<T> {
    pub(crate) fn of(value: T) -> Self {
        let hash = hash_of(&value);
        let board = &T::shelf().0[usize::try_from(hash % BOARDS).expect("few boards")];
        let mut board = board.lock().unwrap_or_else(PoisonError::into_inner);
        let same = board.entry(hash).or_default();
        if let Some(kept) = same.iter().find(|kept| kept.value == value) {
            return Self(kept);
        }
        let kept: &'static Kept<T> =
            Box::leak(Box::new(Kept { value, hash, renamed: Default::default() }));
        same.push(kept);
        Self(kept)
    }

    /// A part that is like this one but for a change.
    pub(crate) fn with<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R
    where
        T: Clone,
    {
        let mut value = T::clone(self);
        let result = change(&mut value);
        *self = Self::of(value);
        result
    }

    pub(crate) fn hash(self) -> u64 {
        self.0.hash
    }
}

impl<T: Keep + Named> Part<T> {
    /// Its hash under each way to name so many bookies.
    pub(crate) fn hashes(self, bookies: usize) -> &'static [u64] {
        self.0.renamed[bookies].get_or_init(|| {
            let names = Names::all(bookies).iter();
            names.map(|names| hash_of(&self.0.value.renamed(names))).collect()
        })
    }
}
