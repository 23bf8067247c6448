//! What commands print of a server's answers: tables for people, JSON for programs. The JSON's names are part of the
//! command line's contract: fields may be added, none change.

mod bookie;
mod cluster;
mod group;
mod ledger;
mod quota;
mod topic;

use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::args::{Output, PrintArgs};
use crate::exit::Failure;

pub(crate) use bookie::{Bookie, Bookies};
pub(crate) use cluster::{Brokers, Status};
pub(crate) use group::{Group, Groups, Offsets};
#[cfg(test)]
pub(crate) use ledger::state as ledger_state;
pub(crate) use ledger::{Ledger, Ledgers};
pub(crate) use quota::Quotas;
pub(crate) use topic::{Altered, Description, Places, Topic, Topics};

/// Something that prints both ways.
pub(crate) trait View: Serialize {
    /// The text for people, ending with a line break.
    fn text(&self) -> String;

    /// Prints as asked.
    fn print(&self, print: PrintArgs) -> Result<(), Failure> {
        let text = match print.output {
            Output::Text => self.text(),
            Output::Json => serde_json::to_string_pretty(self).map_err(Failure::new)? + "\n",
        };
        Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
    }
}

/// A table without lines, as other tools read it: `awk`, `cut`, eyes.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for row in rows {
        table.add_row(row.map(visible));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

/// Names of groups and clients are anybody's to choose: what a terminal would obey, or take for another line, is shown.
fn visible(text: String) -> String {
    if text.chars().any(char::is_control) { text.escape_debug().collect() } else { text }
}

/// A point in time for people; the epoch means that it is not known.
fn time(ms: i64) -> String {
    match u64::try_from(ms) {
        Ok(ms @ 1..) => {
            humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
        }
        _ => "-".to_owned(),
    }
}

/// A number that may be missing.
fn optional(number: Option<i64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// A size for people.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count;
    let mut tenths = 0;
    let mut unit = 0;
    while value >= 1024 && unit + 1 < UNITS.len() {
        tenths = value % 1024 * 10 / 1024;
        value /= 1024;
        unit += 1;
    }
    if unit == 0 { format!("{value} B") } else { format!("{value}.{tenths} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_plain_columns() {
        let text = table(["NAME", "N"], [["a".to_owned(), "10".to_owned()]]);
        assert_eq!(text, "NAME  N\na     10\n");
    }

    #[test]
    fn a_terminal_is_not_told_what_to_do() {
        let text = table(["GROUP"], [["a\u{1b}[2Jb\nc".to_owned()]]);
        assert_eq!(text, "GROUP\na\\u{1b}[2Jb\\nc\n");
    }

    #[test]
    fn sizes_and_times() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 40), "3.0 TiB");
        assert_eq!(time(0), "-");
        assert_eq!(time(1_738_310_400_000), "2025-01-31T08:00:00Z");
    }
}
