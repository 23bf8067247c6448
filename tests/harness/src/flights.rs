//! The real input: every flight that left New York in 2013 (the nycflights13 data set, CC0). A row's key is its tail
//! number, its value the row number and the row.

use std::collections::HashMap;

use crate::binary;

/// Rows of the whole data set.
pub const ROWS: usize = 336_776;
/// Different tail numbers in it.
pub const TAIL_NUMBERS: usize = 4_044;

/// The column of the tail number.
const TAIL_COLUMN: usize = 11;

/// One row as it is produced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The tail number.
    pub key: String,
    /// Row number from 0, a comma, the row.
    pub value: String,
}

/// The rows in their order.
#[derive(Debug)]
pub struct Flights {
    rows: Vec<Row>,
}

impl Flights {
    /// All of them.
    ///
    /// # Panics
    /// When the file is not there or is not what it should be.
    pub fn load() -> Self {
        let path = binary::repository().join(".cache/flights.csv");
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|e| panic!("{}: {e}: run `.ci/install test`", path.display()));
        let rows: Vec<Row> = text
            .lines()
            .skip(1)
            .enumerate()
            .map(|(number, line)| {
                let key = line.split(',').nth(TAIL_COLUMN).expect("a column of tail numbers");
                Row { key: key.to_owned(), value: format!("{number},{line}") }
            })
            .collect();
        assert_eq!(rows.len(), ROWS, "{} is cut short: remove it", path.display());
        Self { rows }
    }

    /// Rows that somebody made: each value begins with its place.
    pub(crate) fn of(rows: Vec<Row>) -> Self {
        Self { rows }
    }

    /// The first `count` rows only.
    #[must_use]
    pub fn first(mut self, count: usize) -> Self {
        self.rows.truncate(count);
        self
    }

    /// The rows.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Rows as `geminga produce --key-separator '|'` takes them.
    pub fn lines(rows: &[Row]) -> Vec<u8> {
        let mut text = Vec::with_capacity(rows.len() * 110);
        for row in rows {
            text.extend_from_slice(row.key.as_bytes());
            text.push(b'|');
            text.extend_from_slice(row.value.as_bytes());
            text.push(b'\n');
        }
        text
    }

    /// Judges what was read, row by row in the order of reading within each partition.
    pub fn judge(&self, read: &[Record]) -> Verdict {
        let mut verdict = Verdict { seen: vec![0; self.rows.len()], ..Verdict::default() };
        let mut last_of_key: HashMap<&str, usize> = HashMap::new();
        for record in read {
            let number = record.value.split(',').next().and_then(|n| n.parse::<usize>().ok());
            let row = number.and_then(|n| self.rows.get(n).map(|row| (n, row)));
            let Some((number, row)) = row.filter(|(_, row)| {
                row.value == record.value && record.key.as_deref() == Some(&row.key)
            }) else {
                verdict.foreign += 1;
                continue;
            };
            verdict.seen[number] += 1;
            if verdict.seen[number] > 1 {
                verdict.duplicates.push(number);
                continue;
            }
            // Order is judged on first deliveries: a retry repeats records, it does not reorder new ones.
            match last_of_key.insert(&row.key, number) {
                Some(before) if before > number => verdict.out_of_order.push((before, number)),
                _ => {}
            }
        }
        verdict
    }
}

/// A record as `geminga consume --format json` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<String>,
    /// Its value.
    pub value: String,
}

impl Record {
    /// Reads the output of `geminga consume --format json`.
    ///
    /// # Panics
    /// When a line is something else.
    pub fn parse_all(stdout: &[u8]) -> Vec<Self> {
        let text = std::str::from_utf8(stdout).expect("JSON lines are UTF-8");
        text.lines()
            .map(|line| {
                let json: serde_json::Value =
                    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
                Self {
                    partition: json["partition"]
                        .as_u64()
                        .and_then(|p| u32::try_from(p).ok())
                        .expect("a partition"),
                    offset: json["offset"].as_i64().expect("an offset"),
                    key: json["key"].as_str().map(str::to_owned),
                    value: json["value"].as_str().expect("a value that is text").to_owned(),
                }
            })
            .collect()
    }

    /// The same of a command that still runs, or was killed: its last line may be cut off.
    ///
    /// # Panics
    /// When a whole line is something else.
    pub fn parse_whole(stdout: &[u8]) -> Vec<Self> {
        let whole = stdout.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        Self::parse_all(&stdout[..whole])
    }
}

/// What [`Flights::judge`] found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How often each row was read.
    pub seen: Vec<u32>,
    /// Rows read again, in the order of reading.
    pub duplicates: Vec<usize>,
    /// Pairs of rows of one key whose first deliveries came in the wrong order.
    pub out_of_order: Vec<(usize, usize)>,
    /// Records that are no row of the data set.
    pub foreign: usize,
}

impl Verdict {
    /// Rows that were never read.
    pub fn lost(&self) -> Vec<usize> {
        self.seen.iter().enumerate().filter(|(_, n)| **n == 0).map(|(row, _)| row).collect()
    }

    /// Holds when every row was read exactly once, as it is, in order.
    ///
    /// # Panics
    /// When not.
    #[track_caller]
    pub fn exactly_once(&self) {
        assert_eq!(self.duplicates.len(), 0, "rows twice: {:?}", head(&self.duplicates));
        self.at_least_once();
    }

    /// Holds when every row was read as it is, first deliveries in order.
    ///
    /// # Panics
    /// When not.
    #[track_caller]
    pub fn at_least_once(&self) {
        let lost = self.lost();
        assert_eq!(lost.len(), 0, "rows lost: {:?}", head(&lost));
        assert_eq!(self.foreign, 0, "records that nobody produced");
        assert_eq!(self.out_of_order.len(), 0, "out of order: {:?}", head(&self.out_of_order));
    }
}

fn head<T>(items: &[T]) -> &[T] {
    &items[..items.len().min(10)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flights() -> Flights {
        let row = |n: usize, key: &str| Row { key: key.to_owned(), value: format!("{n},x,{key}") };
        Flights { rows: vec![row(0, "a"), row(1, "b"), row(2, "a"), row(3, "a")] }
    }

    fn read(flights: &Flights, order: &[usize]) -> Vec<Record> {
        let record = |n: &usize| {
            let Row { key, value } = flights.rows[*n].clone();
            Record { partition: 0, offset: 0, key: Some(key), value }
        };
        order.iter().map(record).collect()
    }

    #[test]
    fn a_verdict_sees_loss_duplicates_order_and_strangers() {
        let flights = flights();
        let judge = |order: &[usize]| flights.judge(&read(&flights, order));
        judge(&[1, 0, 2, 3]).exactly_once();
        assert_eq!(judge(&[0, 1, 3]).lost(), [2]);
        assert_eq!(judge(&[0, 1, 3, 2]).out_of_order, [(3, 2)]);
        let again = judge(&[0, 1, 2, 0, 2, 3]);
        assert_eq!(again.duplicates, [0, 2]);
        again.at_least_once();
        let mut wrong = read(&flights, &[0]);
        wrong[0].value.push('!');
        assert_eq!(flights.judge(&wrong).foreign, 1);
    }
}
