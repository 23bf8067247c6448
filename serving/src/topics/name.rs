//! Names of topics, by Kafka's rules.

use geminga_proto::caps;
use geminga_proto::reason::{ApiError, Reason};

/// Namespace of topics that users create.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Namespace of our own topics.
pub const SYSTEM_NAMESPACE: &str = "_system";
/// The topic in [`SYSTEM_NAMESPACE`] whose partitions hold the consumer groups.
pub const GROUPS_TOPIC: &str = "__groups";

/// Names that Kafka keeps for itself and that ours use; tools treat topics of these names specially.
const RESERVED: &[&str] = &[
    GROUPS_TOPIC,
    "__consumer_offsets",
    "__transaction_state",
    "__share_group_state",
    "__cluster_metadata",
];

/// Checks a name that a user chose for a new topic.
///
/// # Errors
/// [`Reason::InvalidName`].
pub fn check(name: &str) -> Result<(), ApiError> {
    let invalid = |why: String| Err(ApiError::new(Reason::InvalidName, why));
    if name.is_empty() || name.len() > caps::MAX_TOPIC_NAME_BYTES {
        return invalid(format!(
            "topic name has {} characters: use 1 to {}",
            name.len(),
            caps::MAX_TOPIC_NAME_BYTES
        ));
    }
    if let Some(bad) =
        name.chars().find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-'))
    {
        return invalid(format!(
            "topic name contains {bad:?}: use letters, digits, '.', '_' and '-'"
        ));
    }
    if name == "." || name == ".." {
        return invalid(format!("topic name may not be {name:?}: choose another"));
    }
    if RESERVED.contains(&name) {
        return invalid(format!("topic name {name} is reserved for internal use: choose another"));
    }
    Ok(())
}

/// Whether two different names are one in Kafka's metrics, which write `_` for `.`: a topic cannot have a name that collides with
/// that of another.
pub fn collide(one: &str, other: &str) -> bool {
    let plain = |c: char| if c == '.' { '_' } else { c };
    one != other && one.chars().map(plain).eq(other.chars().map(plain))
}

/// Checks a partition count.
///
/// # Errors
/// [`Reason::InvalidPartitions`].
pub fn check_partitions(partitions: u32) -> Result<(), ApiError> {
    if (1..=caps::MAX_PARTITIONS_PER_TOPIC).contains(&partitions) {
        return Ok(());
    }
    Err(ApiError::new(
        Reason::InvalidPartitions,
        format!("{partitions} partitions: ask for 1 to {}", caps::MAX_PARTITIONS_PER_TOPIC),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kafkas() {
        for good in ["a", "Flights_2013.v1-x", "...", "__mine", &"x".repeat(249)] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        let long = "x".repeat(250);
        for bad in
            ["", ".", "..", "a b", "a/b", "ü", "a\n", "__groups", "__consumer_offsets", &long]
        {
            let error = check(bad).unwrap_err();
            assert_eq!(error.reason, Reason::InvalidName);
            assert!(!error.message.contains('\n'), "{}", error.message);
        }
    }

    #[test]
    fn names_collide_where_metrics_would() {
        assert!(collide("a.b_c", "a_b.c") && collide("a.b", "a_b"));
        assert!(!collide("a.b", "a.b") && !collide("a-b", "a_b") && !collide("a.b", "a.bc"));
    }

    #[test]
    fn partitions_have_both_bounds() {
        assert_eq!(check_partitions(0).unwrap_err().reason, Reason::InvalidPartitions);
        assert_eq!(check_partitions(10_001).unwrap_err().reason, Reason::InvalidPartitions);
        assert!(check_partitions(1).is_ok() && check_partitions(10_000).is_ok());
    }
}
