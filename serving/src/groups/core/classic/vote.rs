//! The choice of a protocol: among those that every member can follow, the one that most want most. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::groups::classic::Protocol;

/// Whether a newcomer who can follow `wanted` has a protocol in common with all of the `others` together.
pub(super) fn agrees<'a>(
    wanted: &[Protocol],
    others: impl Iterator<Item = &'a [Protocol]> + Clone,
) -> bool {
    wanted.iter().any(|protocol| followed_by_all(&protocol.name, others.clone()))
}

/// The protocol for these members; of equally wanted ones the leader's preference decides. `None` when they have none in
/// common.
pub(super) fn choose<'a>(
    leader: &[Protocol],
    members: impl Iterator<Item = &'a [Protocol]> + Clone,
) -> Option<Arc<str>> {
    let common = leader.iter().filter(|p| followed_by_all(&p.name, members.clone()));
    let common: Vec<&Arc<str>> = common.map(|p| &p.name).collect();
    let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
    for member in members {
        let first = member.iter().find(|p| common.contains(&&p.name));
        *votes.entry(first.map_or("", |p| &*p.name)).or_default() += 1;
    }
    let most = common.iter().map(|name| votes.get(&***name).copied().unwrap_or(0)).max()?;
    common.into_iter().find(|name| votes.get(&***name).copied().unwrap_or(0) == most).cloned()
}

fn followed_by_all<'a>(name: &str, mut members: impl Iterator<Item = &'a [Protocol]>) -> bool {
    members.all(|protocols| protocols.iter().any(|p| *p.name == *name))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn protocols(names: &[&str]) -> Vec<Protocol> {
        let one = |&name: &&str| Protocol { name: name.into(), metadata: Bytes::new() };
        names.iter().map(one).collect()
    }

    fn chosen(members: &[&[&str]]) -> Option<String> {
        let members: Vec<_> = members.iter().map(|names| protocols(names)).collect();
        let leader = members.first().map_or(&[][..], Vec::as_slice);
        choose(leader, members.iter().map(Vec::as_slice)).map(|name| name.to_string())
    }

    #[test]
    fn only_what_all_can_follow_is_chosen() {
        assert_eq!(chosen(&[&["a", "b"], &["b", "c"]]), Some("b".to_owned()));
        assert_eq!(chosen(&[&["a"], &["b"]]), None);
        assert_eq!(chosen(&[]), None);
    }

    #[test]
    fn most_votes_win_and_the_leader_breaks_ties() {
        assert_eq!(chosen(&[&["a", "b"], &["b", "a"], &["b", "a"]]), Some("b".to_owned()));
        assert_eq!(chosen(&[&["b", "a"], &["a", "b"]]), Some("b".to_owned()));
        // A vote goes to the first that is possible at all.
        assert_eq!(chosen(&[&["a", "b"], &["x", "b", "a"], &["b", "a"]]), Some("b".to_owned()));
    }

    #[test]
    fn a_newcomer_needs_one_in_common_with_all() {
        let (a, b) = (protocols(&["a", "c"]), protocols(&["b", "c"]));
        let others = || [a.as_slice(), b.as_slice()].into_iter();
        assert!(agrees(&protocols(&["c"]), others()));
        assert!(!agrees(&protocols(&["a", "b"]), others()), "one with each is not enough");
        assert!(agrees(&protocols(&["z"]), std::iter::empty()));
        assert!(!agrees(&[], std::iter::empty()));
    }
}
