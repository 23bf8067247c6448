//! Every combination that must be completed or refused.

use super::*;

fn cluster(write: u32, ack: u32, single: bool) -> Result<(u8, u8), Reason> {
    settle(write, ack, Quorum::CLUSTER, single).map(|q| (q.write, q.ack)).map_err(|e| e.reason)
}

#[test]
fn what_is_not_said_is_completed() {
    assert_eq!(cluster(0, 0, false), Ok((3, 2)));
    assert_eq!(cluster(3, 0, false), Ok((3, 2)));
    assert_eq!(cluster(2, 0, false), Ok((2, 2)));
    assert_eq!(cluster(5, 0, false), Ok((5, 3)));
    assert_eq!(cluster(0, 3, false), Ok((3, 3)));
    let standalone = settle(0, 0, Quorum::STANDALONE, true).unwrap();
    assert_eq!(standalone, Quorum::STANDALONE);
    assert!(standalone.is_single_copy());
}

#[test]
fn promises_that_cannot_be_kept_are_refused() {
    for (write, ack) in [(3, 1), (2, 1), (2, 3), (8, 0), (u32::MAX, 2), (0, 9)] {
        assert_eq!(cluster(write, ack, true), Err(Reason::InvalidQuorum), "{write}/{ack}");
    }
    assert_eq!(cluster(1, 0, false), Err(Reason::InvalidQuorum));
    assert_eq!(cluster(1, 1, true), Ok((1, 1)));
}

#[test]
fn the_cluster_must_have_the_bookies() {
    let check = |registered, live| {
        check_bookies(Quorum::CLUSTER, Bookies { registered, live }).map_err(|e| e.reason)
    };
    assert_eq!(check(3, 3), Ok(()));
    assert_eq!(check(3, 2), Ok(()));
    assert_eq!(check(2, 2), Err(Reason::NotEnoughBookies));
    assert_eq!(check(3, 1), Err(Reason::NotEnoughLiveBookies));
    assert_eq!(check(0, 0), Err(Reason::NotEnoughBookies));
}
