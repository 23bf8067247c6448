//! What happened, line by line. Every line goes into one hash, by which two runs are compared; the last lines are kept for
//! a failure, all of them for a replay.

use std::collections::VecDeque;
use std::fmt::{self, Write};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::schedule::Time;

/// Lines that are kept for a failure.
const RECENT: usize = 60;

/// The record of one run.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hash: u64,
    recent: VecDeque<String>,
    whole: Option<Vec<String>>,
}

impl Trace {
    /// `whole`: keep every line.
    pub(crate) fn new(whole: bool) -> Self {
        Self { hash: 0, recent: VecDeque::with_capacity(RECENT), whole: whole.then(Vec::new) }
    }

    pub(crate) fn note(&mut self, now: Time, what: fmt::Arguments<'_>) {
        let mut line = match self.recent.len() {
            RECENT => self.recent.pop_front().unwrap_or_default(),
            _ => String::with_capacity(120),
        };
        line.clear();
        // Writing to a string does not fail.
        let _written = write!(line, "{:>4}.{:06} {what}", now / 1_000_000, now % 1_000_000);
        self.hash = xxh3_64_with_seed(line.as_bytes(), self.hash);
        if let Some(whole) = &mut self.whole {
            whole.push(line.clone());
        }
        self.recent.push_back(line);
    }

    /// Equal for equal runs.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// The lines that were kept: all of them, or the last.
    pub(crate) fn into_lines(self) -> Vec<String> {
        self.whole.unwrap_or_else(|| self.recent.into())
    }
}
