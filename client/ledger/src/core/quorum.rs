//! Quorum arithmetic, in one place (protocol 0).

/// Members that must have a property so that every possible ack quorum contains one that has it: `Qw - Qa + 1`.
pub fn coverage(qw: u8, qa: u8) -> usize {
    usize::from(qw) - usize::from(qa) + 1
}

/// Whether `have` members of a write set of `n` meet every possible ack quorum of it.
pub fn covered(n: u8, qa: u8, have: usize) -> bool {
    have >= coverage(n, qa)
}

/// Whether `have` durable copies acknowledge an entry (W2).
pub fn acknowledged(qa: u8, have: usize) -> bool {
    have >= usize::from(qa)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The four equivalent statements of coverage, by counting subsets.
    #[test]
    fn coverage_meets_every_ack_quorum() {
        for qw in 1..=5u8 {
            for qa in 1..=qw {
                for have in 0..=u32::from(qw) {
                    let members: u32 = (1 << have) - 1;
                    let every_ack_quorum_meets_it = (0..1u32 << qw)
                        .filter(|s| s.count_ones() == u32::from(qa))
                        .all(|s| s & members != 0);
                    assert_eq!(
                        covered(qw, qa, have as usize),
                        every_ack_quorum_meets_it,
                        "{qw}/{qa}/{have}"
                    );
                }
            }
        }
    }
}
