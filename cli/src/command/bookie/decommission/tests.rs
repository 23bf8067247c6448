use geminga_proto::ids::BookieId;

use super::*;

fn id(number: u64) -> BookieId {
    format!("bookie-{number}").parse().expect("a name")
}

#[test]
fn bookies_are_chosen_by_name_or_number() {
    let others = ["other", "old-bookie-4"].map(|name| name.parse().expect("a name"));
    let cluster = Cluster {
        known: (1..=4).map(id).chain(others).collect(),
        draining: vec![],
        live: vec![],
        ledgers: vec![],
        topics: vec![],
    };
    assert_eq!(cluster.choose(Some(&id(2)), None, None).expect("known"), [id(2)]);
    let numbered = |from, set| cluster.choose(None, Some(from), set).expect("known");
    assert_eq!(numbered(3, Some("bookie")), [id(3), id(4)]);
    assert_eq!(numbered(3, Some("book")), []);
    assert_eq!(numbered(5, Some("bookie")), []);
    let any: Vec<String> = numbered(4, None).iter().map(BookieId::to_string).collect();
    assert_eq!(any, ["bookie-4", "old-bookie-4"]);
    let unknown = cluster.choose(Some(&id(9)), None, None).expect_err("unknown");
    assert_eq!(unknown.reason, Some("UNKNOWN_BOOKIE"));
}
