//! The history of a run as a file, written by all clients. Lines are in the order of their times, since both are decided
//! under one lock.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use geminga_check::{Content, Event, FORMAT, Line, Place};
use parking_lot::Mutex;
use tokio::time::Instant;

/// A handle on the file; clones write to the same.
#[derive(Debug, Clone)]
pub(crate) struct History(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    start: Instant,
    file: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: BufWriter<File>,
    /// The first thing that went wrong with the file.
    error: Option<std::io::Error>,
}

impl History {
    /// Begins a history that says this of itself.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub(crate) fn create(path: &Path, about: &str) -> Result<Self> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        let state = State { file: BufWriter::new(file), error: None };
        let inner = Inner { path: path.to_owned(), start: Instant::now(), file: Mutex::new(state) };
        let history = Self(Arc::new(inner));
        history.write("chaos", Event::Start { format: FORMAT, about: about.to_owned() });
        Ok(history)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    /// The time since its beginning.
    pub(crate) fn elapsed(&self) -> std::time::Duration {
        self.0.start.elapsed()
    }

    /// Adds a line. What goes wrong is told by [`History::flush`].
    pub(crate) fn write(&self, client: &str, event: Event) {
        let mut state = self.0.file.lock();
        let t = u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX);
        let line = Line { t, client: client.to_owned(), event };
        let written = line.to_json().map_err(std::io::Error::from).and_then(|mut text| {
            text.push('\n');
            state.file.write_all(text.as_bytes())
        });
        if let Err(error) = written {
            state.error.get_or_insert(error);
        }
    }

    /// Makes sure that all lines are in the file.
    ///
    /// # Errors
    /// When a line could not be written, now or before.
    pub(crate) fn flush(&self) -> Result<()> {
        let mut state = self.0.file.lock();
        let flushed = state.file.flush();
        match state.error.take() {
            Some(error) => Err(error),
            None => flushed,
        }
        .with_context(|| self.0.path.display().to_string())
    }
}

/// The value of a record: who sent it, its number, and something to carry.
pub(crate) fn value(producer: &str, seq: u64, filler: usize) -> Vec<u8> {
    format!("{producer} {seq} {}", "x".repeat(filler)).into_bytes()
}

/// What a value says it is, and the hash of what is really there. A value that is none of ours belongs to nobody.
pub(crate) fn content(value: &[u8]) -> Content {
    let hash = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(value));
    let parsed = std::str::from_utf8(value).ok().and_then(|text| {
        let mut words = text.split(' ');
        Some((words.next()?, words.next()?.parse().ok()?))
    });
    let (producer, seq) = parsed.unwrap_or(("nobody", 0));
    Content { producer: producer.to_owned(), seq, hash }
}

/// A partition by name.
pub(crate) fn place(topic: &str, partition: u32) -> Place {
    Place { topic: topic.to_owned(), partition }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_says_what_it_is_and_its_hash_what_it_carries() {
        let one = content(&value("p1", 7, 20));
        assert_eq!((&*one.producer, one.seq), ("p1", 7));
        assert_ne!(one.hash, content(&value("p1", 7, 21)).hash);
        assert_eq!(content(&[0xff]).producer, "nobody");
    }
}
