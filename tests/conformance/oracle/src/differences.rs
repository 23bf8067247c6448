//! Where Geminga's answers may differ from Kafka's: a list of `scenario | question | field | here | reason`, with `*` at the end of
//! a question or field for all that begin so. `here` is what Geminga says, or `*`: but not of fields that are not named, or any answer
//! would do. A line that nothing needs is wrong, too.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::transcript::Transcript;

/// The list.
#[derive(Debug)]
pub struct Differences {
    rows: Vec<Row>,
    used: BTreeSet<usize>,
}

#[derive(Debug)]
struct Row {
    scenario: String,
    what: String,
    field: String,
    here: String,
    line: String,
}

impl Differences {
    /// Reads the list.
    ///
    /// # Panics
    /// When a line is not as it should be, or has no reason.
    pub fn read(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let rows = lines.map(|line| {
            let parts: Vec<&str> = line.splitn(5, " | ").collect();
            let [scenario, what, field, here, reason] = parts[..] else {
                panic!("not `scenario | question | field | here | reason`: {line}");
            };
            assert!(!reason.trim().is_empty(), "no reason: {line}");
            let any = here == "*" && (field.is_empty() || field.ends_with('*'));
            assert!(!any, "any answer would do: name the fields, or say what is answered: {line}");
            let [scenario, what, field, here] = [scenario, what, field, here].map(str::to_owned);
            Row { scenario, what, field, here, line: line.to_owned() }
        });
        Self { rows: rows.collect(), used: BTreeSet::new() }
    }

    fn allows(&mut self, scenario: &str, what: &str, field: &str, here: &str) -> bool {
        let fits = |pattern: &str, text: &str| match pattern.strip_suffix('*') {
            Some(begin) => text.starts_with(begin),
            None => pattern == text,
        };
        let mut allowed = false;
        for (n, row) in self.rows.iter().enumerate() {
            if fits(&row.scenario, scenario)
                && fits(&row.what, what)
                && fits(&row.field, field)
                && fits(&row.here, here)
            {
                self.used.insert(n);
                allowed = true;
            }
        }
        allowed
    }

    /// Lines of these scenarios that no difference needed.
    pub fn unused(&self, played: &[&str]) -> Vec<&str> {
        let rows = self.rows.iter().enumerate();
        let idle = rows.filter(|(n, row)| {
            !self.used.contains(n)
                && (row.scenario.ends_with('*') || played.contains(&row.scenario.as_str()))
        });
        idle.map(|(_, row)| row.line.as_str()).collect()
    }
}

/// What differs and is not on the list, a line each.
pub fn compare(
    scenario: &str,
    theirs: &Transcript,
    ours: &Transcript,
    known: &mut Differences,
) -> Vec<String> {
    let (theirs, ours) = (theirs.answers(), ours.answers());
    let mut wrong = Vec::new();
    for ((what, version), answer) in &theirs {
        let Some(own) = ours.get(&(*what, *version)) else {
            wrong.push(format!("{scenario} | {what} | version {version} was not asked"));
            continue;
        };
        let mut found = Vec::new();
        differ("", answer, own, &mut found);
        for (field, their, own) in found {
            if !known.allows(scenario, what, &field, &own) {
                wrong.push(format!(
                    "{scenario} | {what} | {field} | {own} | version {version}, Kafka: {their}"
                ));
            }
        }
    }
    let unknown = ours.keys().filter(|key| !theirs.contains_key(key));
    wrong.extend(unknown.map(|(what, version)| {
        format!("{scenario} | {what} | version {version} is not recorded: record it again")
    }));
    wrong
}

/// Fields that differ, with both values.
fn differ(at: &str, theirs: &Value, ours: &Value, found: &mut Vec<(String, String, String)>) {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            let names: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
            for name in names {
                let field = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                let missing = Value::Null;
                let of = |fields: &serde_json::Map<String, Value>| {
                    fields.get(name).cloned().unwrap_or(missing.clone())
                };
                differ(&field, &of(theirs), &of(ours), found);
            }
        }
        (Value::Array(theirs), Value::Array(ours)) if theirs.len() == ours.len() => {
            for (theirs, ours) in theirs.iter().zip(ours) {
                differ(at, theirs, ours, found);
            }
        }
        _ if theirs == ours => {}
        _ => found.push((at.to_owned(), theirs.to_string(), ours.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn transcript(code: i16) -> Transcript {
        let mut transcript = Transcript::default();
        transcript.push("a question", 0, json!({"topics": [{"error_code": code}], "same": 1}));
        transcript
    }

    #[test]
    fn a_difference_is_found_and_allowed_by_the_list_only_as_it_is() {
        let (theirs, ours) = (transcript(3), transcript(17));
        let mut none = Differences::read("# nothing\n");
        let wrong = compare("s", &theirs, &ours, &mut none);
        assert_eq!(wrong, ["s | a question | topics.error_code | 17 | version 0, Kafka: 3"]);
        assert!(compare("s", &theirs, &transcript(3), &mut none).is_empty());

        let list = "s | a q* | topics.error_code | 17 | since it is so\nt | x | y | 1 | idle\n";
        let mut known = Differences::read(list);
        assert!(compare("s", &theirs, &ours, &mut known).is_empty());
        assert_eq!(compare("s", &theirs, &transcript(18), &mut known).len(), 1);
        assert_eq!(known.unused(&["s"]), [""; 0]);
        assert_eq!(known.unused(&["t"]), ["t | x | y | 1 | idle"]);
    }

    #[test]
    #[should_panic(expected = "name the fields")]
    fn a_line_by_which_any_answer_would_do_is_refused() {
        Differences::read("s | a question | topics.* | * | since it is so");
    }

    #[test]
    fn an_answer_that_is_missing_or_new_is_told() {
        let mut none = Differences::read("");
        assert_eq!(compare("s", &transcript(0), &Transcript::default(), &mut none).len(), 1);
        assert_eq!(compare("s", &Transcript::default(), &transcript(0), &mut none).len(), 1);
    }
}
