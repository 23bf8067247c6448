//! What an admin request names more than once: that is answered once, with an error, and not done at all.

use std::collections::HashMap;
use std::hash::Hash;

use super::error::{Code, Fault};

/// How often a request names each thing, and which of them were answered.
#[derive(Debug)]
pub(super) struct Names<K>(HashMap<K, usize>);

impl<K: Hash + Eq> Names<K> {
    /// Counts them.
    pub(super) fn of(keys: impl Iterator<Item = K>) -> Self {
        let mut times = HashMap::new();
        keys.for_each(|key| *times.entry(key).or_default() += 1);
        Self(times)
    }

    /// Whether to do what is asked of this one; `None` where it was answered already.
    pub(super) fn turn(&mut self, key: &K) -> Option<Result<(), Fault>> {
        match self.0.remove(key)? {
            1 => Some(Ok(())),
            times => {
                let why = format!("it is named {times} times: name it once");
                Some(Err(Fault::new(Code::INVALID_REQUEST, why)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_twice_is_answered_once_and_not_done() {
        let mut names = Names::of(["a", "b", "a"].into_iter());
        assert_eq!(names.turn(&"a").unwrap().unwrap_err().code, Code::INVALID_REQUEST);
        assert_eq!(names.turn(&"b"), Some(Ok(())));
        assert_eq!(names.turn(&"a"), None);
    }
}
