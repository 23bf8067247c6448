//! The flights over and over: row `n` is the row `n` of the data set, counted round, with the number `n` before it, so that no two are alike.
//! They are made as they are needed and judged as they are read: gigabytes of them are never in memory.

use std::collections::HashMap;
use std::io::BufRead;
use std::ops::Range;

use crate::flights::{Flights, ROWS, Row};

/// The data set, to be copied.
#[derive(Debug)]
pub struct Copies {
    /// Key, and the row without its number.
    rows: Vec<(String, String)>,
    /// Number of each row's key, from 0.
    keys: Vec<usize>,
}

impl Copies {
    /// Reads the data set.
    ///
    /// # Panics
    /// As [`Flights::load`].
    pub fn load() -> Self {
        let mut numbers: HashMap<String, usize> = HashMap::new();
        let (mut rows, mut keys) = (Vec::with_capacity(ROWS), Vec::with_capacity(ROWS));
        for row in Flights::load().rows() {
            let next = numbers.len();
            keys.push(*numbers.entry(row.key.clone()).or_insert(next));
            let (_, text) = row.value.split_once(',').expect("a number and a row");
            rows.push((row.key.clone(), text.to_owned()));
        }
        Self { rows, keys }
    }

    /// How many rows it takes for so many bytes of values, about.
    pub fn rows_of(&self, bytes: u64) -> u64 {
        let all: usize = self.rows.iter().map(|(_, text)| text.len() + 1).sum();
        let digits = 7;
        bytes * ROWS as u64 / (all + digits * ROWS) as u64
    }

    /// These rows, as `geminga produce --key-separator '|'` takes them.
    pub fn lines(&self, rows: Range<u64>) -> Vec<u8> {
        let mut lines = String::new();
        for number in rows {
            let (key, text) = self.row(number);
            lines.push_str(key);
            lines.push('|');
            lines.push_str(&number.to_string());
            lines.push(',');
            lines.push_str(text);
            lines.push('\n');
        }
        lines.into_bytes()
    }

    /// The first so many of them all at once, for a judge of single rows.
    pub fn first(&self, count: u64) -> Flights {
        let row = |number| {
            let (key, text) = self.row(number);
            Row { key: key.clone(), value: format!("{number},{text}") }
        };
        Flights::of((0..count).map(row).collect())
    }

    /// Judges what is read of the first so many rows.
    pub fn judge(&self, count: u64) -> Judge<'_> {
        let seen = vec![false; usize::try_from(count).expect("so many rows fit")];
        Judge { copies: self, seen, newest: vec![None; self.rows.len()], bytes: 0 }
    }

    fn row(&self, number: u64) -> &(String, String) {
        &self.rows[self.place(number)]
    }

    /// Of a row in the data set.
    fn place(&self, number: u64) -> usize {
        usize::try_from(number % self.rows.len() as u64).expect("as many fit")
    }
}

/// What was read so far.
#[derive(Debug)]
pub struct Judge<'a> {
    copies: &'a Copies,
    seen: Vec<bool>,
    /// The newest row of each key.
    newest: Vec<Option<u64>>,
    bytes: u64,
}

impl Judge<'_> {
    /// Reads values, one a line, to their end.
    ///
    /// # Panics
    /// When one of them is not what was written, or was read before, or comes behind a later one of its key.
    pub fn read(&mut self, mut values: impl BufRead) {
        let mut line = Vec::new();
        while values.read_until(b'\n', &mut line).expect("values can be read") > 0 {
            self.value(&line);
            line.clear();
        }
    }

    fn value(&mut self, line: &[u8]) {
        let shown = || String::from_utf8_lossy(line).into_owned();
        let text = line.strip_suffix(b"\n").unwrap_or_else(|| panic!("cut short: {}", shown()));
        let comma = text.iter().position(|byte| *byte == b',').unwrap_or(0);
        let number = std::str::from_utf8(&text[..comma]).ok().and_then(|n| n.parse::<u64>().ok());
        let number = number.unwrap_or_else(|| panic!("no row: {}", shown()));
        let (place, row) = (self.copies.place(number), self.copies.row(number));
        assert!(text[comma + 1..] == *row.1.as_bytes(), "not what was written: {}", shown());
        let seen = usize::try_from(number).ok().and_then(|number| self.seen.get_mut(number));
        let seen = seen.unwrap_or_else(|| panic!("nobody wrote {}", shown()));
        assert!(!std::mem::replace(seen, true), "read twice: {}", shown());
        let before = self.newest[self.copies.keys[place]].replace(number);
        assert!(before < Some(number), "behind row {before:?} of its key: {}", shown());
        self.bytes += line.len() as u64;
    }

    /// How many bytes that were, when every row was read.
    ///
    /// # Panics
    /// When one is missing.
    pub fn all(self) -> u64 {
        let lost = self.seen.iter().filter(|seen| !**seen).count();
        let first = self.seen.iter().position(|seen| !seen);
        assert!(lost == 0, "{lost} of {} rows are lost, the first is {first:?}", self.seen.len());
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies() -> Copies {
        let row = |key: &str, text: &str| (key.to_owned(), text.to_owned());
        Copies {
            rows: vec![row("a", "x,a"), row("b", "y,b"), row("a", "z,a")],
            keys: vec![0, 1, 0],
        }
    }

    fn judged(values: &str) -> u64 {
        let copies = copies();
        let mut judge = copies.judge(5);
        judge.read(values.as_bytes());
        judge.all()
    }

    #[test]
    fn rows_are_counted_on_and_judged() {
        let lines = String::from_utf8(copies().lines(2..5)).unwrap();
        assert_eq!(lines, "a|2,z,a\na|3,x,a\nb|4,y,b\n");
        assert_eq!(copies().first(4).rows()[3].value, "3,x,a");
        assert_eq!(judged("1,y,b\n0,x,a\n2,z,a\n3,x,a\n4,y,b\n"), 30);
    }

    #[test]
    fn whatever_is_wrong_is_told() {
        let wrong = |values: &'static str, why: &str| {
            let said = std::panic::catch_unwind(|| judged(values)).unwrap_err();
            let said = said.downcast_ref::<String>().unwrap();
            assert!(said.contains(why), "{said}");
        };
        wrong("0,x,a\n1,y,b\n2,z,a\n3,x,a\n", "1 of 5 rows are lost");
        wrong("0,x,a\n0,x,a\n", "read twice");
        wrong("0,y,a\n", "not what was written");
        wrong("5,z,a\n", "nobody wrote");
        wrong("2,z,a\n0,x,a\n", "behind row Some(2)");
        wrong("0,x", "cut short");
        wrong("x\n", "no row");
    }
}
