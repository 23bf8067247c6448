//! Holds `docs/fault-matrix.md` against the sources: every scenario has one row, every test that a row names exists, and
//! runs the removal that stands beside it.

use std::collections::BTreeMap;
use std::path::Path;

/// The scenarios that the matrix has to hold: all of the protocol's, and from 65 on our own.
fn scenarios() -> Vec<u32> {
    (1..=70).collect()
}

/// The rows that show no removal because the rule is the shape of the code. Another one needs a reason that a reader believes.
const BY_CONSTRUCTION: [u32; 2] = [57, 61];

/// A file of the repository.
fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// One row of the table.
struct Row {
    number: u32,
    tests: Vec<String>,
    rule: String,
    removals: Vec<String>,
    /// The cell of the removals, as it is written.
    reason: String,
}

/// What stands between backquotes.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn rows() -> Vec<Row> {
    let text = read("docs/fault-matrix.md");
    let mut rows = Vec::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let Some(Ok(number)) = cells.get(1).map(|cell| cell.parse()) else { continue };
        let [_, _, scenario, expected, tests, rule, removal, _] = cells[..] else {
            panic!("row {number} has not six cells")
        };
        assert!(!scenario.is_empty() && !expected.is_empty(), "row {number} says too little");
        rows.push(Row {
            number,
            tests: quoted(tests),
            rule: rule.to_owned(),
            removals: quoted(removal),
            reason: removal.to_owned(),
        });
    }
    rows
}

/// The text of a function of a file.
fn body(path: &str, name: &str) -> String {
    let source = read(path);
    let start =
        source.find(&format!("fn {name}(")).unwrap_or_else(|| panic!("no {name} in {path}"));
    let end = source[start..].find("\n}\n").expect("a function ends");
    source[start..start + end].to_owned()
}

#[test]
fn every_scenario_has_one_row() {
    let mut seen = BTreeMap::new();
    for row in rows() {
        *seen.entry(row.number).or_insert(0) += 1;
    }
    let expected: BTreeMap<u32, i32> = scenarios().into_iter().map(|n| (n, 1)).collect();
    assert_eq!(seen, expected);
}

#[test]
fn every_row_names_tests_that_run_their_removals() {
    let mut by_construction = Vec::new();
    for Row { number, tests, rule, removals, reason } in rows() {
        if reason.starts_with("not applicable: ") {
            assert!(tests.is_empty() && removals.is_empty(), "row {number} applies after all");
            continue;
        }
        assert!(!rule.is_empty(), "row {number} names no rule");
        assert!(!tests.is_empty(), "row {number} names no test");
        let bodies: String = tests
            .iter()
            .map(|test| {
                let (path, name) = test.split_once("::").expect("path::name");
                let prefix = format!("scenario_{number:02}_");
                assert!(name.starts_with(&prefix), "row {number} names {name}");
                body(path, name)
            })
            .collect();
        if reason.starts_with("by construction: ") {
            by_construction.push(number);
            continue;
        }
        assert!(!removals.is_empty(), "row {number} names no removal");
        for removal in removals {
            let runs = bodies.contains("holds_only_with(")
                && bodies.contains(&format!("Mutation::{removal}"));
            assert!(runs, "no test of row {number} runs without {removal}");
        }
    }
    assert_eq!(by_construction, BY_CONSTRUCTION, "rows that show no removal");
}
