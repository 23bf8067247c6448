use geminga_metastore::record::CookieDisk;
use geminga_proto::ids::{DiskUuid, Incarnation};
use geminga_runtime::holds_only_with;

use super::*;

const BOOTS: u64 = 50;

fn cluster() -> ClusterUuid {
    ClusterUuid::from_random(1)
}

fn store() -> Store {
    Store { cluster: cluster(), epoch: 4, audited: true }
}

fn bookie() -> BookieId {
    "b-1".parse().unwrap()
}

fn lives(count: u64) -> Vec<(DiskUuid, Incarnation)> {
    (0..count).map(|n| (DiskUuid::from_random(u128::from(n) + 10), Incarnation(n + 100))).collect()
}

/// Disk `n` of two, in use.
fn used(n: usize) -> Found {
    let disks = lives(2);
    let cookie = DiskCookie {
        cluster: cluster(),
        cluster_epoch: 4,
        bookie: bookie(),
        disk: disks[n].0,
        disks,
        boot_counter: BOOTS,
        earlier: Vec::new(),
        stage: Stage::InService,
    };
    Found { dir: PathBuf::from(format!("d{n}")), cookie: Some(cookie), data: true }
}

fn empty(n: usize) -> Found {
    Found { dir: PathBuf::from(format!("d{n}")), cookie: None, data: false }
}

fn provisional(n: usize) -> Found {
    with(n, |cookie| cookie.stage = Stage::Provisional).without_data()
}

fn with(n: usize, change: impl FnOnce(&mut DiskCookie)) -> Found {
    let mut found = used(n);
    change(found.cookie.as_mut().unwrap());
    found
}

impl Found {
    fn without_data(self) -> Self {
        Self { data: false, ..self }
    }

    fn without_cookie(self) -> Self {
        Self { cookie: None, ..self }
    }
}

fn stored() -> Cookie {
    let disks = lives(2)
        .into_iter()
        .map(|(disk, incarnation)| CookieDisk {
            disk,
            incarnation,
            boot_counter: BOOTS,
            lost: vec![],
        })
        .collect();
    Cookie { cluster: cluster(), bookie: bookie(), disks }
}

fn table(known: Option<&Cookie>, disks: &[Found]) -> Result<Boot, Refusal> {
    decide(store(), &bookie(), known, disks, Mutations::default())
}

/// Row 1: absent, all empty.
#[test]
fn new_directories_are_a_first_boot() {
    assert_eq!(table(None, &[empty(0), empty(1)]), Ok(Boot::First));
}

/// Row 2: absent, only provisional cookies of one first boot, no data.
#[test]
fn a_first_boot_that_crashed_is_resumed() {
    assert_eq!(table(None, &[provisional(0), provisional(1)]), Ok(Boot::Resume));
    assert_eq!(table(None, &[provisional(0), empty(1)]), Ok(Boot::Resume));
    let other = with(1, |cookie| {
        cookie.stage = Stage::Provisional;
        cookie.disks[1].1 = Incarnation(9);
    });
    let refusal = table(None, &[provisional(0), other.without_data()]);
    assert!(matches!(refusal, Err(Refusal::OtherFirstBoot(_))), "{refusal:?}");
    let refusal = table(None, &[provisional(0)]);
    assert!(matches!(refusal, Err(Refusal::OtherFirstBoot(_))), "{refusal:?}");
}

/// Row 3: absent, any final cookie or data.
#[test]
fn a_used_disk_that_the_store_does_not_know_is_refused() {
    let registered = with(1, |cookie| cookie.stage = Stage::Registered).without_data();
    for disks in [[used(0), used(1)], [provisional(0), registered]] {
        let refusal = table(None, &disks);
        assert!(matches!(refusal, Err(Refusal::Decommissioned { .. })), "{refusal:?}");
    }
    let mut odd = provisional(0);
    odd.data = true;
    assert!(matches!(table(None, &[odd]), Err(Refusal::Decommissioned { .. })));
    let bare = used(0).without_cookie();
    assert!(matches!(table(None, std::slice::from_ref(&bare)), Err(Refusal::NoCookie(_))));
    assert!(matches!(table(Some(&stored()), &[bare, used(1)]), Err(Refusal::NoCookie(_))));
}

/// Row 4: present, all match. A first boot that crashed behind the create, and a boot that crashed between the disk's
/// counter and the store's, match too.
#[test]
fn matching_disks_boot() {
    assert_eq!(table(Some(&stored()), &[used(0), used(1)]), Ok(Boot::Normal));
    assert_eq!(table(Some(&stored()), &[used(1), used(0)]), Ok(Boot::Normal));
    assert_eq!(table(Some(&stored()), &[provisional(0), provisional(1)]), Ok(Boot::Normal));
    let ahead = with(0, |cookie| cookie.raise(Some(BOOTS), BOOTS + 9));
    assert_eq!(table(Some(&stored()), &[ahead, used(1)]), Ok(Boot::Normal));
}

/// Row 6: present, a disk missing or empty. A loss, and starting after one is not offered.
#[test]
fn a_missing_disk_is_refused() {
    let refusal = table(Some(&stored()), &[used(0), empty(1)]);
    assert!(matches!(refusal, Err(Refusal::DiskMissing { disks: 2, .. })), "{refusal:?}");
    let refusal = table(Some(&stored()), &[used(0)]);
    assert!(matches!(refusal, Err(Refusal::DiskCount { known: 2, given: 1, .. })), "{refusal:?}");
    let refusal = table(Some(&stored()), &[used(0), used(1).without_data()]);
    assert!(matches!(refusal, Err(Refusal::LogMissing(_))), "{refusal:?}");
}

/// Row 7: present, mismatch otherwise.
#[test]
fn every_other_mismatch_is_refused() {
    let check = |disks: &[Found]| table(Some(&stored()), disks).unwrap_err();
    let foreign = with(0, |cookie| cookie.cluster = ClusterUuid::from_random(8));
    assert!(matches!(check(&[foreign, used(1)]), Refusal::OtherCluster { .. }));
    let stranger = with(0, |cookie| {
        cookie.disk = DiskUuid::from_random(77);
        cookie.disks[0].0 = cookie.disk;
    });
    assert!(matches!(check(&[stranger, used(1)]), Refusal::Replaced { .. }));
    let former = with(0, |cookie| cookie.disks[0].1 = Incarnation(5));
    assert!(matches!(check(&[former, used(1)]), Refusal::Replaced { .. }));
    let copy = Found { dir: "copy".into(), ..used(0) };
    assert!(matches!(check(&[used(0), copy]), Refusal::Twice(..)));
    let ahead = with(0, |cookie| cookie.cluster_epoch = 5);
    assert!(matches!(check(&[ahead, used(1)]), Refusal::EpochBack { disk: 5, store: 4, .. }));
}

/// A restored copy, or a clone of a disk that was started elsewhere since: the store's boot counter is none of its own,
/// whether it is above or below.
#[test]
fn scenario_30_a_restored_copy_is_refused() {
    holds_only_with(Mutation::IgnoreBootCounter, |mutations| {
        for (former, number) in [(BOOTS - 9, BOOTS - 1), (BOOTS - 9, BOOTS + 1)] {
            let older = with(1, |cookie| {
                cookie.boot_counter = former;
                cookie.raise(Some(former), number);
            });
            let disks = [used(0), older];
            let refusal = decide(store(), &bookie(), Some(&stored()), &disks, mutations);
            let older = matches!(refusal, Err(Refusal::OlderCopy { .. }));
            let ahead = matches!(refusal, Err(Refusal::AheadOfStore { .. }));
            assert!(older && number < BOOTS || ahead && number > BOOTS, "{refusal:?}");
        }
    });
}

/// 6.8: metadata from a backup knows a boot of long ago; the epoch that was raised for it tells that from a copied disk.
#[test]
fn a_disk_that_is_ahead_of_a_restored_store_starts() {
    let booted = |epoch, number| {
        let mut disk = used(1);
        if let Some(cookie) = &mut disk.cookie {
            cookie.boot_counter = number - 1;
            cookie.raise(Some(number - 1), number);
            cookie.cluster_epoch = epoch;
        }
        disk
    };
    let check = |disk: Found| {
        let disks = [used(0), disk];
        decide(store(), &bookie(), Some(&stored()), &disks, Mutations::default())
    };
    assert_eq!(check(booted(3, BOOTS + 5)), Ok(Boot::Normal));
    assert!(matches!(check(booted(4, BOOTS + 5)), Err(Refusal::AheadOfStore { .. })));
    assert!(matches!(check(booted(3, BOOTS - 5)), Err(Refusal::OlderCopy { .. })));
}

#[test]
fn the_name_is_kept_from_the_disks() {
    let other: BookieId = "b-2".parse().unwrap();
    assert_eq!(name(&[empty(0)], None), Ok(None));
    assert_eq!(name(&[empty(0)], Some(&other)), Ok(Some(other.clone())));
    assert_eq!(name(&[empty(0), used(1)], None), Ok(Some(bookie())));
    assert!(matches!(name(&[used(0)], Some(&other)), Err(Refusal::OtherBookie { .. })));
    let stranger = with(1, |cookie| cookie.bookie = other.clone());
    assert!(matches!(name(&[used(0), stranger], None), Err(Refusal::OtherBookie { .. })));
}

/// An operator reads these: one line each.
#[test]
fn refusals_are_one_line() {
    let refusals = [
        table(None, &[used(0)]).unwrap_err(),
        table(Some(&stored()), &[empty(0)]).unwrap_err(),
        Refusal::Clone(bookie()),
    ];
    for refusal in refusals {
        assert!(!refusal.to_string().contains('\n'), "{refusal}");
    }
}
