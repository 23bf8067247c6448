use geminga_proto::ids::BookieId;

use super::*;

fn id(number: u64) -> BookieId {
    format!("bookie-{number}").parse().expect("a name")
}

#[test]
fn bookies_are_chosen_by_name_or_number() {
    let others = ["other".parse().expect("a name")];
    let cluster = Cluster {
        known: (1..=4).map(id).chain(others).collect(),
        draining: vec![],
        live: vec![],
        ledgers: vec![],
        topics: vec![],
    };
    assert_eq!(cluster.choose(Some(&id(2)), None).expect("known"), [id(2)]);
    assert_eq!(cluster.choose(None, Some(3)).expect("known"), [id(3), id(4)]);
    assert_eq!(cluster.choose(None, Some(5)).expect("known"), []);
    let unknown = cluster.choose(Some(&id(9)), None).expect_err("unknown");
    assert_eq!(unknown.reason, Some("UNKNOWN_BOOKIE"));
}
