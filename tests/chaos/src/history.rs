//! The history of a run as a file, written by all clients, most of which are processes of their own that are killed in the middle.
//!
//! Every line is one write to a file that is open for appending, so that the lines of all processes stand in the order in which they
//! were written, whatever their clocks say; and what a killed process wrote is there. [`settle`] makes a whole history of it.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use flate2::Crc;
use geminga_check::{Content, Event, FORMAT, Line, Place};
use parking_lot::Mutex;
use tokio::time::Instant;

/// What every line begins with.
const BEGIN: &str = r#"{"t":"#;

/// A handle on the file; clones write to the same.
#[derive(Debug, Clone)]
pub(crate) struct History(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    start: Instant,
    /// How long the run had lasted when this process started.
    before: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    /// The first thing that went wrong with the file.
    error: Option<std::io::Error>,
}

impl History {
    /// Begins a history that says this of itself.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub(crate) fn create(path: &Path, about: &str) -> Result<Self> {
        File::create(path).with_context(|| path.display().to_string())?;
        let history = Self::join(path, Duration::ZERO)?;
        history.write("chaos", Event::Start { format: FORMAT, about: about.to_owned() });
        Ok(history)
    }

    /// The same history in another process, which was started when the run had lasted for so long.
    ///
    /// # Errors
    /// When there is no such file.
    pub(crate) fn join(path: &Path, before: Duration) -> Result<Self> {
        let file = OpenOptions::new().append(true).open(path);
        let file = file.with_context(|| path.display().to_string())?;
        let state = Mutex::new(State { file, error: None });
        let inner = Inner { path: path.to_owned(), start: Instant::now(), before, state };
        Ok(Self(Arc::new(inner)))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0.path
    }

    /// The time since its beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.before + self.0.start.elapsed()
    }

    /// Adds a line. What goes wrong is told by [`History::check`].
    pub(crate) fn write(&self, client: &str, event: Event) {
        let t = u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX);
        let line = Line { t, client: client.to_owned(), event };
        let mut state = self.0.state.lock();
        let written = line.to_json().map_err(std::io::Error::from).and_then(|mut text| {
            text.push('\n');
            state.file.write_all(text.as_bytes())
        });
        if let Err(error) = written {
            state.error.get_or_insert(error);
        }
    }

    /// Whether all lines are in the file.
    ///
    /// # Errors
    /// When a line could not be written.
    pub(crate) fn check(&self) -> Result<()> {
        match self.0.state.lock().error.take() {
            Some(error) => Err(error).with_context(|| self.0.path.display().to_string()),
            None => Ok(()),
        }
    }
}

/// Copies what the processes wrote to a history that can be judged: times never go back there. A line that a process was killed in
/// the middle of is left out; nobody has acted on it, since it was not written.
///
/// # Errors
/// When a line is none, or a file cannot be read or written.
pub(crate) fn settle(from: &Path, to: &Path) -> Result<()> {
    let open = File::open(from).with_context(|| from.display().to_string())?;
    let created = File::create(to).with_context(|| to.display().to_string())?;
    let mut file = BufWriter::new(created);
    let mut latest = 0;
    for (number, line) in (1..).zip(BufReader::new(open).lines()) {
        let line = line?;
        // What follows a torn line stands behind it.
        let whole = line.rfind(BEGIN).map_or("", |start| &line[start..]);
        let Ok(Line { t, client, event }) = serde_json::from_str(whole) else {
            anyhow::ensure!(line.starts_with('{'), "{}: line {number}: {line}", from.display());
            continue;
        };
        latest = t.max(latest);
        writeln!(file, "{}", Line { t: latest, client, event }.to_json()?)?;
    }
    file.flush().with_context(|| to.display().to_string())
}

/// The value of a record: who sent it, its number, and something to carry.
pub(crate) fn value(producer: &str, seq: u64, filler: usize) -> Vec<u8> {
    format!("{producer} {seq} {}", "x".repeat(filler)).into_bytes()
}

/// What a value says it is, and the hash (zlib's crc32, as all clients take it) of what is really there. A value that is none of ours belongs to nobody.
pub(crate) fn content(value: &[u8]) -> Content {
    let mut hash = Crc::new();
    hash.update(value);
    let parsed = std::str::from_utf8(value).ok().and_then(|text| {
        let mut words = text.split(' ');
        Some((words.next()?, words.next()?.parse().ok()?))
    });
    let (producer, seq) = parsed.unwrap_or(("nobody", 0));
    Content { producer: producer.to_owned(), seq, hash: format!("{:08x}", hash.sum()) }
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

    #[test]
    fn lines_of_processes_are_in_the_order_of_writing_and_torn_ones_are_left_out() {
        let dir = std::env::temp_dir().join(format!("geminga-history-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let [raw, whole] = ["raw", "whole"].map(|name| dir.join(name));
        let one = History::create(&raw, "a test").unwrap();
        // A process whose clock is behind, and one that is killed while it writes.
        let other = History::join(&raw, Duration::ZERO).unwrap();
        let late = History::join(&raw, Duration::from_secs(5)).unwrap();
        let fault = |what: &str| Event::Fault { what: what.to_owned() };
        late.write("late", fault("first"));
        other.write("other", fault("second"));
        let mut torn = OpenOptions::new().append(true).open(&raw).unwrap();
        torn.write_all(br#"{"t":7,"client":"dead","eve"#).unwrap();
        one.write("one", fault("third"));
        torn.write_all(br#"{"t":8,"cli"#).unwrap();
        settle(&raw, &whole).unwrap();

        let text = std::fs::read_to_string(&whole).unwrap();
        let lines: Vec<Line> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let clients: Vec<&str> = lines.iter().map(|line| &*line.client).collect();
        assert_eq!(clients, ["chaos", "late", "other", "one"]);
        assert!(lines.is_sorted_by_key(|line| line.t) && lines[3].t >= 5_000_000);
        std::fs::write(&raw, "no line\n").unwrap();
        assert!(settle(&raw, &whole).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
