//! Each way in which a broker's key can be missing.

use super::*;

const TTL: Duration = Duration::from_secs(6);

fn set(ids: &[i32]) -> BTreeSet<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

fn liveness(present: &[i32], now: Instant) -> Liveness {
    let mut liveness = Liveness::new(TTL, false);
    liveness.on_snapshot(now, set(present));
    liveness
}

#[tokio::test(start_paused = true)]
async fn a_deletion_seen_with_contact_is_death_at_once() {
    let now = Instant::now();
    let mut liveness = liveness(&[1, 2], now);
    liveness.on_deleted(now, BrokerId(2), true);
    liveness.on_owners(now, &set(&[1, 2]));
    assert_eq!(liveness.live(), &set(&[1]));
    assert_eq!(liveness.suspects(now), set(&[]));
    assert_eq!(liveness.next_deadline(now), None);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_after_a_gap_waits_and_a_return_ends_the_suspicion() {
    let now = Instant::now();
    let mut liveness = liveness(&[1, 2], now);
    let later = now + TTL - TTL / 3;
    liveness.on_deleted(later, BrokerId(2), false);
    liveness.on_owners(later, &set(&[1, 2]));
    assert_eq!(liveness.suspects(later), set(&[2]));
    assert_eq!(liveness.next_deadline(later), Some(later + TTL + GRACE));
    liveness.on_registered(BrokerId(2));
    assert_eq!(liveness.suspects(later), set(&[]));
    assert_eq!(liveness.live(), &set(&[1, 2]));
}

#[tokio::test(start_paused = true)]
async fn an_owner_never_seen_waits_its_time_from_the_first_notice() {
    let now = Instant::now();
    let mut liveness = liveness(&[1], now);
    liveness.on_owners(now, &set(&[1, 9]));
    let later = now + Duration::from_secs(3);
    liveness.on_owners(later, &set(&[1, 9]));
    assert_eq!(liveness.suspects(later), set(&[9]));
    let end = now + TTL + GRACE;
    assert_eq!(liveness.next_deadline(later), Some(end));
    liveness.on_owners(end, &set(&[1, 9]));
    assert_eq!(liveness.suspects(end), set(&[]));
}

#[tokio::test(start_paused = true)]
async fn lost_history_is_no_evidence() {
    let now = Instant::now();
    let mut liveness = liveness(&[1, 2], now);
    liveness.on_snapshot(now, set(&[1]));
    assert_eq!(liveness.suspects(now), set(&[2]));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_where_no_other_broker_can_exist() {
    let now = Instant::now();
    let mut liveness = Liveness::new(TTL, true);
    liveness.on_snapshot(now, set(&[7]));
    liveness.on_owners(now, &set(&[6, 7]));
    assert_eq!(liveness.suspects(now), set(&[]));
    assert_eq!(liveness.next_deadline(now), None);
}

#[tokio::test(start_paused = true)]
async fn the_dead_are_forgotten_once_nobody_names_them() {
    let now = Instant::now();
    let mut liveness = liveness(&[1, 2], now);
    liveness.on_deleted(now, BrokerId(2), true);
    liveness.on_owners(now, &set(&[1]));
    // Named again without having come back, it is a stranger and waits like one.
    liveness.on_owners(now, &set(&[1, 2]));
    assert_eq!(liveness.suspects(now), set(&[2]));
}

#[tokio::test(start_paused = true)]
async fn probes_end_a_suspicion_and_start_none() {
    let now = Instant::now();
    let mut liveness = liveness(&[1, 2, 3], now);
    liveness.on_deleted(now, BrokerId(2), false);
    liveness.on_deleted(now, BrokerId(3), false);
    liveness.on_probed_dead(now, &set(&[1, 2]));
    liveness.on_owners(now, &set(&[1, 2, 3]));
    assert_eq!(liveness.live(), &set(&[1]), "a key that is there counts, whatever probes say");
    assert_eq!(liveness.suspects(now), set(&[3]));
    liveness.on_registered(BrokerId(2));
    assert_eq!(liveness.live(), &set(&[1, 2]));
}
