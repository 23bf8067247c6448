//! Transcripts as text that is kept: a line for each answer, `what was asked | versions | answer`, where versions that are
//! answered alike share one.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

/// What is said when the broker closes the connection.
pub(crate) const CLOSED: &str = "closed";

/// Answers in the order of their questions.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    steps: Vec<Step>,
}

#[derive(Debug, PartialEq, Eq)]
struct Step {
    what: String,
    first: i16,
    last: i16,
    answer: Value,
}

impl Transcript {
    pub(crate) fn push(&mut self, what: &str, version: i16, answer: Value) {
        let mut same = self.steps.iter_mut().rev();
        match same.find(|step| step.what == what) {
            Some(last) if last.last + 1 == version && last.answer == answer => last.last = version,
            _ => {
                let what = what.to_owned();
                self.steps.push(Step { what, first: version, last: version, answer });
            }
        }
    }

    /// Every answer by what was asked in which version.
    ///
    /// # Panics
    /// When two questions have one name.
    pub(crate) fn answers(&self) -> BTreeMap<(&str, i16), &Value> {
        let mut all = BTreeMap::new();
        for Step { what, first, last, answer } in &self.steps {
            for version in *first..=*last {
                let twice = all.insert((what.as_str(), version), answer);
                assert!(twice.is_none(), "asked twice: {what} in version {version}");
            }
        }
        all
    }

    /// As it is kept.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for Step { what, first, last, answer } in &self.steps {
            let versions =
                if first == last { first.to_string() } else { format!("{first}-{last}") };
            writeln!(out, "{what} | {versions} | {answer}").expect("a string takes it");
        }
        out
    }

    /// Reads what is kept.
    ///
    /// # Panics
    /// When it is not a transcript.
    pub fn read(text: &str) -> Self {
        let mut steps = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut parts = line.splitn(3, " | ");
            let mut part =
                || parts.next().unwrap_or_else(|| panic!("no line of a transcript: {line}"));
            let (what, versions, answer) = (part().to_owned(), part(), part());
            // A version may be negative.
            let dash = versions.get(1..).and_then(|rest| rest.find('-')).map(|at| at + 1);
            let (first, last) =
                dash.map_or((versions, versions), |at| (&versions[..at], &versions[at + 1..]));
            let number = |text: &str| text.parse().expect("a version");
            let answer = serde_json::from_str(answer).expect("JSON");
            steps.push(Step { what, first: number(first), last: number(last), answer });
        }
        Self { steps }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_transcript_is_kept_as_text_and_read_again() {
        let mut transcript = Transcript::default();
        transcript.push("a", 0, json!({"x": 1}));
        transcript.push("a", 1, json!({"x": 1}));
        transcript.push("a", 2, json!({"x": 2}));
        transcript.push("b", 3, json!("closed"));
        let text = transcript.text();
        assert_eq!(text, "a | 0-1 | {\"x\":1}\na | 2 | {\"x\":2}\nb | 3 | \"closed\"\n");
        let read = Transcript::read(&text);
        assert_eq!(read, transcript);
        assert_eq!(read.answers().len(), 4);
    }
}
