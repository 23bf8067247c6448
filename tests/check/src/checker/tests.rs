//! Each property has a history that is good but for one thing, and fails for exactly that property.
//!
//! Histories are written short here: `client event field=value ...`; a record is `producer:seq`. Everything happens in
//! partition 0 of one topic, to one group, unless a line says otherwise.

use serde_json::{Map, Value, json};

use crate::{Checker, Malformed, Property, Report};

/// Two producers, a group whose partition goes from one member to the next, and a reset.
const GOOD: &str = "
x start
p1 produce seq=0
p1 produce seq=1
p2 produce seq=0
p1 ack seq=0 offset=0
p2 ack seq=0 offset=1
c1 join
c1 assign offset=0
c1 fetch offset=0 record=p1:0
c1 fetch offset=1 record=p2:0
p1 ack seq=1 offset=2
c1 commit offset=1
c1 committed
a look
a seen offset=1
p2 produce seq=1
x fault
p2 produce seq=2
c2 join
c1 fetch offset=2 record=p1:1
c2 assign offset=1
c2 fetch offset=1 record=p2:0
c1 revoke
c2 fetch offset=2 record=p1:1
p2 fail seq=1 in_doubt=true
p2 ack seq=2 offset=3
c2 fetch offset=3 record=p2:2
c2 commit offset=4
c2 committed
c2 revoke
o reset offset=2
o reset-done
c3 join
c3 assign offset=2
c3 fetch offset=2 record=p1:1
c3 fetch offset=3 record=p2:2
c3 commit offset=3
c3 committed
x log start=0 end=4
x read offset=0 record=p1:0
x read offset=1 record=p2:0
x read offset=2 record=p1:1
x read offset=3 record=p2:2
";

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}

fn json(t: usize, short: &str) -> String {
    let mut words = short.split(' ');
    let (client, event) = (words.next().unwrap(), words.next().unwrap());
    let mut line = Map::new();
    line.extend([
        ("t".to_owned(), json!(t)),
        ("client".to_owned(), json!(client)),
        ("event".to_owned(), json!(event)),
        ("topic".to_owned(), json!("t")),
        ("partition".to_owned(), json!(0)),
        ("group".to_owned(), json!("g")),
        ("format".to_owned(), json!(1)),
        ("about".to_owned(), json!("a test")),
        ("what".to_owned(), json!("a fault")),
        ("why".to_owned(), json!("a reason")),
        ("producer".to_owned(), json!(client)),
    ]);
    for word in words {
        let (name, text) = word.split_once('=').unwrap();
        match text.split_once(':').filter(|_| name == "record") {
            Some((producer, seq)) => {
                line.insert("producer".to_owned(), json!(producer));
                line.insert("seq".to_owned(), value(seq));
            }
            None => drop(line.insert(name.to_owned(), value(text))),
        }
    }
    let hash = format!("{}-{}", line["producer"], line.get("seq").unwrap_or(&Value::Null));
    line.entry("hash").or_insert(json!(hash));
    Value::Object(line).to_string()
}

fn judge(history: &str) -> Result<Report, Malformed> {
    let mut checker = Checker::new();
    for (t, line) in history.trim().lines().enumerate() {
        checker.line(&json(t, line))?;
    }
    checker.finish()
}

/// The good history with one change.
fn doctored(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "{from} must be there once");
    GOOD.replace(from, to)
}

/// Fails for this property only; the lines that show it contain each of these texts.
#[track_caller]
fn fails(history: &str, property: Property, shown: &[&str]) {
    let report = judge(history).unwrap();
    let properties: Vec<Property> = report.counts.keys().copied().collect();
    assert_eq!(properties, [property], "{report}{:?}", report.violations);
    let lines: Vec<&str> = history.trim().lines().collect();
    let cited = report.violations.iter().flat_map(|violation| &violation.lines);
    let cited: Vec<&str> = cited.map(|n| lines[usize::try_from(*n).unwrap() - 1]).collect();
    for text in shown {
        assert!(cited.iter().any(|line| line.contains(text)), "{text} is not in {cited:?}");
    }
}

#[test]
fn a_good_history_passes() {
    let report = judge(GOOD).unwrap();
    assert!(report.is_clean(), "{:?}", report.violations);
    assert_eq!(report.records, [5, 4, 0, 1, 4]);
    assert_eq!((report.deliveries, report.repeats), (8, 4));
    assert_eq!((report.assignments, report.commits, report.resets, report.faults), (3, 3, 1, 1));
}

#[test]
fn what_is_in_doubt_may_be_there_as_well() {
    let there =
        doctored("x log start=0 end=4", "c3 fetch offset=4 record=p2:1\nx log start=0 end=5");
    // It may not come after what was sent later.
    fails(&format!("{there}x read offset=4 record=p2:1\n"), Property::Order, &["x read offset=3"]);
    let last = GOOD.replace("p2 fail seq=1 in_doubt=true\np2 ack seq=2", "p2 ack seq=1");
    let last = last.replace("record=p2:2", "record=p2:1").replace("p2 produce seq=2\n", "");
    assert!(judge(&last).unwrap().is_clean());
}

#[test]
fn an_acknowledged_record_that_is_not_there_is_lost() {
    let history = doctored("p2 fail seq=1 in_doubt=true", "p2 ack seq=1");
    fails(&history, Property::Lost, &["p2 produce seq=1", "p2 ack seq=1"]);
    // Another record where it should be.
    let end = "p2 produce seq=3\np2 ack seq=3 offset=4\nx log start=0 end=4";
    fails(&doctored("x log start=0 end=4", end), Property::Lost, &["p2 ack seq=3 offset=4"]);
}

#[test]
fn a_record_that_is_there_twice_is_noticed() {
    let history =
        doctored("x log start=0 end=4", "c3 fetch offset=4 record=p2:2\nx log start=0 end=5");
    let history = format!("{history}x read offset=4 record=p2:2\n");
    fails(&history, Property::Duplicated, &["x read offset=3", "x read offset=4"]);
    // Which of both was acknowledged, does not matter.
    let history = history.replace("p2 ack seq=2 offset=3", "p2 ack seq=2 offset=4");
    fails(&history, Property::Duplicated, &["x read offset=3", "x read offset=4"]);
}

#[test]
fn a_log_that_changes_the_order_of_a_producer_is_noticed() {
    let both = GOOD
        .replace(
            "p2 fail seq=1 in_doubt=true\np2 ack seq=2 offset=3",
            "p2 ack seq=2 offset=3\np2 ack seq=1 offset=4",
        )
        .replace("x log start=0 end=4", "c3 fetch offset=4 record=p2:1\nx log start=0 end=5");
    let history = format!("{both}x read offset=4 record=p2:1\n");
    fails(&history, Property::Order, &["x read offset=3", "x read offset=4"]);
}

#[test]
fn a_member_that_is_led_past_a_record_is_noticed() {
    // Somebody gets it later, so that it is not missed.
    let history = doctored("c1 fetch offset=1 record=p2:0\n", "");
    fails(&history, Property::Order, &["c1 fetch offset=2"]);
}

#[test]
fn a_gap_in_the_log_is_noticed() {
    let one = "x start\np1 produce seq=0\np1 produce seq=1\np1 ack seq=0 offset=0\np1 ack seq=1 offset=2\n";
    let gap = "x log start=0 end=3\nx read offset=0 record=p1:0\nx read offset=2 record=p1:1";
    fails(&format!("{one}{gap}"), Property::Dense, &["x read offset=0", "x read offset=2"]);
    let late = "x log start=0 end=2\nx read offset=1 record=p1:0\nx read offset=2 record=p1:1";
    let history = format!("{one}{late}").replace("seq=0 offset=0", "seq=0 offset=1");
    fails(&history, Property::Dense, &["x log", "x read offset=1"]);
}

#[test]
fn a_log_that_cannot_be_read_to_its_end_is_noticed() {
    let history = "x start\np1 produce seq=0\np1 produce seq=1\np1 died\nx log start=0 end=2\nx read offset=0 record=p1:0";
    fails(history, Property::Dense, &["x log", "x read offset=0"]);
    fails(&history.replace("\nx read offset=0 record=p1:0", ""), Property::Dense, &["x log"]);
}

#[test]
fn other_bytes_are_noticed() {
    let history = doctored("x read offset=1 record=p2:0", "x read offset=1 record=p2:0 hash=other");
    let report = judge(&history).unwrap();
    assert_eq!(report.counts.get(&Property::Content), Some(&2), "{:?}", report.violations);
    let history =
        doctored("c2 fetch offset=3 record=p2:2", "c2 fetch offset=3 record=p2:2 hash=other");
    fails(&history, Property::Content, &["p2 produce seq=2", "c2 fetch offset=3"]);
}

#[test]
fn another_record_at_the_same_offset_is_noticed() {
    // A member was given what the log does not have there.
    let history = doctored("c1 fetch offset=2 record=p1:1", "c1 fetch offset=2 record=p2:1");
    let report = judge(&history).unwrap();
    assert!(report.counts.contains_key(&Property::Content));
    let history = doctored("c2 fetch offset=3 record=p2:2", "c2 fetch offset=3 record=p9:2");
    fails(&history, Property::Content, &["p9:2"]);
}

#[test]
fn what_was_delivered_and_is_not_in_the_log_is_noticed() {
    let history = doctored(
        "c3 commit offset=3",
        "p2 produce seq=3\np2 fail seq=3 in_doubt=true\nc3 fetch offset=4 record=p2:3\nc3 commit offset=3",
    );
    fails(&history, Property::Content, &["c3 fetch offset=4"]);
}

#[test]
fn an_acknowledgement_with_a_wrong_offset_is_noticed() {
    let history = doctored("p2 ack seq=2 offset=3", "p2 ack seq=2 offset=2");
    fails(&history, Property::Content, &["p2 ack seq=2", "x read offset=3"]);
    // Without one, it only has to be there.
    assert!(judge(&doctored("p2 ack seq=2 offset=3", "p2 ack seq=2")).unwrap().is_clean());
}

#[test]
fn what_was_refused_must_not_be_there() {
    let history = doctored("p2 ack seq=2 offset=3", "p2 fail seq=2 in_doubt=false");
    fails(&history, Property::Refused, &["p2 fail seq=2", "x read offset=3"]);
}

/// The good history, but the second producer is killed when nobody has told it how its second record ended.
fn killed() -> String {
    let open = doctored("p2 fail seq=1 in_doubt=true\n", "");
    open.replace("c2 revoke\no reset", "c2 revoke\np2 died\no reset")
}

#[test]
fn a_record_that_nobody_tells_the_end_of_is_noticed_unless_its_producer_was_killed() {
    let history = doctored("p2 fail seq=1 in_doubt=true\n", "");
    fails(&history, Property::Untold, &["p2 produce seq=1"]);
    // Another's death does not excuse it.
    let history = history.replace("c2 revoke\no reset", "c2 revoke\np1 died\no reset");
    fails(&history, Property::Untold, &["p2 produce seq=1"]);

    let report = judge(&killed()).unwrap();
    assert!(report.is_clean(), "{:?}", report.violations);
    assert_eq!((report.deaths, report.open_at_death, report.records[3]), (1, 1, 1));
}

#[test]
fn what_a_killed_producer_had_on_its_way_may_be_there_but_once_and_in_order() {
    // Its second record was acknowledged, and its third was on its way.
    let last = GOOD.replace("p2 fail seq=1 in_doubt=true\np2 ack seq=2 offset=3", "p2 died");
    let last = last.replace("p2 produce seq=2\n", "").replace("record=p2:2", "record=p2:1");
    assert!(judge(&last).unwrap().is_clean(), "{:?}", judge(&last).unwrap().violations);
    let twice =
        last.replace("x log start=0 end=4", "c3 fetch offset=4 record=p2:1\nx log start=0 end=5");
    let twice = format!("{twice}x read offset=4 record=p2:1\n");
    fails(&twice, Property::Duplicated, &["x read offset=3", "x read offset=4"]);
    let late = killed()
        .replace("x log start=0 end=4", "c3 fetch offset=4 record=p2:1\nx log start=0 end=5");
    fails(&format!("{late}x read offset=4 record=p2:1\n"), Property::Order, &["x read offset=3"]);
    // What was acknowledged before it died is not excused.
    let lost = killed().replace("p2 died", "p2 ack seq=1\np2 died");
    fails(&lost, Property::Lost, &["p2 ack seq=1"]);
}

#[test]
fn a_killed_member_is_followed_from_its_last_commit_on() {
    let history = doctored("c1 revoke\n", "c1 died\n");
    assert!(judge(&history).unwrap().is_clean(), "{:?}", judge(&history).unwrap().violations);
    // What it had not committed comes again; what it had, does not.
    let history =
        history.replace("c2 assign offset=1\n", "c2 assign\nc2 fetch offset=0 record=p1:0\n");
    fails(&history, Property::Repeated, &["c1 committed", "c2 assign", "c2 fetch offset=0"]);
    // It gets nothing back after its death, under its own name.
    let dead = judge(&doctored("c1 revoke\n", "c1 died\nc1 revoke\n")).unwrap_err();
    assert!(dead.to_string().contains("c1 has died before"), "{dead}");
}

#[test]
fn what_a_group_never_got_is_noticed() {
    let history = doctored("c2 fetch offset=3 record=p2:2\n", "");
    let history = history.replace("c3 fetch offset=3 record=p2:2\n", "");
    fails(&history, Property::Missed, &["x read offset=3"]);
    // Only a reset may pass over something.
    let history = history.replace("o reset offset=2", "o reset offset=4");
    let history = history
        .replace("c3 assign offset=2\nc3 fetch offset=2 record=p1:1\n", "c3 assign offset=4\n");
    let history = history.replace("c3 commit offset=3", "c3 commit offset=4");
    assert!(judge(&history).unwrap().is_clean(), "{:?}", judge(&history).unwrap().violations);
}

#[test]
fn a_partition_that_a_group_never_had_is_missed() {
    let other = "p1 produce seq=0 partition=1\np1 ack seq=0 offset=0 partition=1\nx log start=0 end=1 partition=1\nx read offset=0 record=p1:0 partition=1";
    fails(&format!("{GOOD}{other}"), Property::Missed, &["partition=1"]);
}

#[test]
fn a_record_given_twice_within_one_assignment_is_noticed() {
    let again = "c2 fetch offset=2 record=p1:1\nc2 fetch offset=2 record=p1:1";
    let history = doctored("c2 fetch offset=2 record=p1:1", again);
    fails(&history, Property::Repeated, &["c2 assign", "c2 fetch offset=2"]);
}

#[test]
fn a_member_that_starts_below_what_was_committed_is_noticed() {
    let history = doctored("c2 assign offset=1\n", "c2 assign\nc2 fetch offset=0 record=p1:0\n");
    fails(&history, Property::Repeated, &["c1 committed", "c2 assign", "c2 fetch offset=0"]);
    // Before it says where it starts, at its word.
    let history =
        doctored("c2 assign offset=1\n", "c2 assign offset=0\nc2 fetch offset=0 record=p1:0\n");
    fails(&history, Property::WentBack, &["c2 assign offset=0"]);
    // Without a commit that is certain, all may come again.
    let history = history.replace("c1 committed\na look\na seen offset=1\n", "");
    assert!(judge(&history).unwrap().is_clean());
}

#[test]
fn an_assignment_that_arrives_late_may_start_at_what_was_committed_then() {
    // c4 asks, is given the partition, and hears of it when c2 has had it since.
    let history = doctored("c2 join\n", "c2 join\nc4 join\n");
    let late = "c2 committed\nc4 assign offset=1\nc4 fetch offset=1 record=p2:0\nc2 revoke\n";
    let history = history.replace("c2 committed\nc2 revoke\n", late);
    assert!(judge(&history).unwrap().is_clean(), "{:?}", judge(&history).unwrap().violations);
    // What was committed before c2 had it binds c4 as well.
    let history =
        history.replace("c4 assign offset=1", "c4 assign offset=0\nc4 fetch offset=0 record=p1:0");
    fails(&history, Property::WentBack, &["c1 committed", "c4 assign"]);
    // One that asks afterwards starts where c2 left off.
    let history = doctored(
        "c2 committed\nc2 revoke\n",
        "c2 committed\nc4 join\nc4 assign offset=1\nc2 revoke\n",
    );
    fails(&history, Property::WentBack, &["c2 committed", "c4 assign"]);
}

#[test]
fn after_a_reset_records_come_from_there_on() {
    let below = "c3 assign offset=2\nc3 fetch offset=1 record=p2:0\n";
    fails(&doctored("c3 assign offset=2\n", below), Property::Repeated, &["c3 fetch offset=1"]);
    // A reset without an answer may have taken place or not.
    for offset in [2, 4] {
        let history = doctored("o reset-done\n", "");
        let assign = format!("c3 assign offset={offset}");
        let history = history.replace("c3 assign offset=2", &assign);
        let history = if offset == 2 {
            history
        } else {
            let fetched =
                "c3 fetch offset=2 record=p1:1\nc3 fetch offset=3 record=p2:2\nc3 commit offset=3";
            history.replace(fetched, "c3 commit offset=4")
        };
        assert!(judge(&history).unwrap().is_clean(), "{:?}", judge(&history).unwrap().violations);
    }
}

#[test]
fn a_record_for_a_member_without_the_partition_is_noticed() {
    let history = doctored("c3 assign offset=2\n", "");
    fails(&history, Property::Unassigned, &["c3 fetch offset=2"]);
    // Its predecessor has let go.
    let history = doctored("c1 revoke\n", "c1 revoke\nc1 fetch offset=3 record=p2:2\n");
    fails(&history, Property::Unassigned, &["c1 fetch offset=3"]);
}

#[test]
fn a_commit_that_goes_back_is_noticed() {
    let history = doctored(
        "c2 commit offset=4\nc2 committed\n",
        "c2 commit offset=4\nc2 committed\nc2 commit offset=3\nc2 committed\n",
    );
    fails(&history, Property::WentBack, &["c2 committed", "c2 commit offset=3"]);
    // Two at once: which was first, nobody can tell.
    let at_once = "c1 commit offset=3\nc2 commit offset=4\nc2 committed\nc1 committed\n";
    let history = doctored("c2 commit offset=4\nc2 committed\n", at_once);
    assert!(judge(&history).unwrap().is_clean());
    // One that fails says nothing.
    let history = doctored(
        "c2 commit offset=4\nc2 committed\n",
        "c2 commit offset=4\nc2 commit offset=3\nc2 committed\n",
    );
    assert!(judge(&history).unwrap().is_clean());
}

#[test]
fn a_look_that_finds_less_than_was_committed_is_noticed() {
    let history = doctored("a seen offset=1", "a seen offset=0");
    fails(&history, Property::WentBack, &["c1 committed", "a look"]);
    // Its question came before the commit.
    let history = doctored(
        "c1 commit offset=1\nc1 committed\na look\n",
        "a look\nc1 commit offset=1\nc1 committed\n",
    );
    let history = history.replace("a seen offset=1", "a seen offset=0");
    assert!(judge(&history).unwrap().is_clean());
    // What one look saw binds the next.
    let history = doctored(
        "c1 commit offset=1\nc1 committed\na look\na seen offset=1\n",
        "c1 commit offset=1\na look\na seen offset=1\na look\na seen offset=0\n",
    );
    fails(&history, Property::WentBack, &["a seen offset=1"]);
}

#[test]
fn what_is_no_history_is_refused() {
    let refused = |history: &str| judge(history).unwrap_err().to_string();
    assert!(refused("p1 produce seq=0").contains("begins with a start line"));
    assert!(refused("x start format=9").contains("format 9 is not known"));
    assert!(refused("x start\nx start").contains("a second start"));
    assert!(refused("x start\nx guess").contains("unknown variant"));
    assert!(refused("x start\np1 produce seq=1").contains("have no gaps"));
    assert!(refused("x start\np1 ack seq=0").contains("was never sent"));
    assert!(
        refused("x start\np1 produce seq=0\np1 ack seq=0\np1 ack seq=0").contains("ended before")
    );
    assert!(refused("x start\np1 produce seq=0").contains("was not read at the end"));
    assert!(refused("x start\nx read offset=0 record=p1:0").contains("before its bounds"));
    assert!(refused("x start\nx log start=2 end=1").contains("a log from 2 to 1"));
    assert!(refused("x start\nc1 committed").contains("no commit"));
    assert!(refused("x start\no reset-done").contains("no reset"));
    assert!(Checker::new().line("[").unwrap_err().to_string().starts_with("line 1: "));
    assert!(Checker::new().finish().unwrap_err().to_string().contains("empty"));
    let mut checker = Checker::new();
    checker.line(&json(5, "x start")).unwrap();
    assert!(checker.line(&json(4, "x fault")).unwrap_err().to_string().contains("time goes back"));
}

#[test]
fn numbers_as_large_as_there_are_do_no_harm() {
    let largest = u64::MAX;
    let history = format!(
        "x start\np1 produce seq=0\np1 ack seq=0 offset={largest}\nc1 assign offset={largest}\n\
         c1 fetch offset={largest} record=p1:0\nc1 commit offset={largest}\nc1 committed\n\
         x log start=0 end={largest}\nx read offset={largest} record=p1:0"
    );
    let report = judge(&history).unwrap();
    assert_eq!(report.counts.get(&Property::Dense), Some(&1), "{report}");
}

#[test]
fn findings_show_their_lines() {
    let report = judge(&doctored("p2 fail seq=1 in_doubt=true", "p2 ack seq=1")).unwrap();
    let evidence =
        report.cited().into_iter().map(|line| (line, format!("text of {line}"))).collect();
    let findings = report.findings(&evidence);
    assert!(findings.starts_with("lost: t/0: record 1 of p2 was acknowledged\n"), "{findings}");
    assert!(findings.contains("    line 16: text of 16\n"), "{findings}");
    assert!(report.to_string().contains("1 VIOLATIONS"), "{report}");
}

/// What `tests/check/nats_history.py` wrote in two seconds.
const NATS: &str = include_str!("../../histories/nats.jsonl");

fn judge_whole(lines: &[&str]) -> Result<Report, Malformed> {
    let mut checker = Checker::new();
    lines.iter().try_for_each(|line| checker.line(line))?;
    checker.finish()
}

#[test]
fn a_history_of_another_system_passes_and_fails_when_it_is_doctored() {
    let lines: Vec<&str> = NATS.lines().collect();
    let report = judge_whole(&lines).unwrap();
    assert!(report.is_clean(), "{report}{:?}", report.violations);
    let [sent, acked, ..] = report.records;
    assert!(acked == sent && sent > 100 && report.repeats > 0 && report.faults > 0, "{report}");

    // Without any one line of these, something is missing.
    for (event, property) in
        [("read", Property::Dense), ("assign", Property::Unassigned), ("fetch", Property::Order)]
    {
        let event = format!(r#""event":"{event}""#);
        let count = lines.iter().filter(|line| line.contains(&event)).count();
        let victim = count / 2;
        let mut seen = 0;
        let less: Vec<&str> = lines
            .iter()
            .copied()
            .filter(|line| {
                seen += usize::from(line.contains(&event));
                !(line.contains(&event) && seen == victim)
            })
            .collect();
        let report = judge_whole(&less).unwrap();
        assert!(report.counts.contains_key(&property), "without {event} {victim}: {report}");
    }
}
