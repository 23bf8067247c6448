use futures::FutureExt;

use super::*;

const ALL: usize = caps::MAX_CLIENT_MESSAGE_BYTES;

#[tokio::test]
async fn a_full_room_is_waited_for_and_what_is_answered_makes_room() {
    let room = ProduceRoom::new(0);
    let mut held = Held::new(room.clone());
    held.charge(false, false, room.take(false, ALL - 10).await, ALL - 10);
    held.charge(false, false, room.take(false, 10).await, 10);
    let mut waiting = Box::pin(room.take(false, 100));
    assert!((&mut waiting).now_or_never().is_none(), "there is no room");
    held.charge(true, true, room.take(true, ALL).await, ALL);
    held.give_back(false, 60);
    assert!((&mut waiting).now_or_never().is_none(), "there is not enough");
    held.give_back(false, 40);
    drop(waiting.await);
    drop(held);
    assert_eq!(room.take(false, usize::MAX).await.bytes(), ALL);
}

/// What a message announced is settled with what its elements cost.
#[tokio::test]
async fn what_was_too_much_is_given_back_and_what_is_missing_is_taken_as_far_as_it_is_free() {
    let room = ProduceRoom::new(0);
    let mut held = Held::new(room.clone());
    held.charge(false, false, room.take(false, 1_000).await, 700);
    assert_eq!((room.used(), held.owes()), ((700, 0), false));
    held.charge(false, false, room.take(false, 100).await, 300);
    assert_eq!((room.used(), held.owes()), ((1_000, 0), false));

    let rest = room.take(false, ALL - 1_050).await;
    held.charge(false, false, room.take(false, 20).await, 200);
    assert_eq!((room.used(), held.owes()), ((ALL, 0), true), "fifty were free, 150 are owed");
    held.give_back(false, 300);
    assert_eq!((room.used(), held.owes()), ((ALL - 150, 0), false), "what was owed is paid first");
    held.give_back(false, 900);
    assert_eq!(room.used(), (ALL - 1_050, 0), "all of it is back, and no more");
    drop(rest);
}

/// Which room a message needs is known only when it was read.
#[tokio::test]
async fn a_message_that_is_not_what_it_was_taken_for_is_charged_where_it_belongs() {
    let room = ProduceRoom::new(0);
    let mut held = Held::new(room.clone());
    held.charge(false, true, room.take(false, 500).await, 400);
    assert_eq!((room.used(), held.owes()), ((0, 400), false));
    let others = room.take(false, ALL).await;
    held.charge(true, false, room.take(true, 500).await, 400);
    assert_eq!((room.used(), held.owes()), ((ALL, 400), true), "it does not wait");
    held.give_back(false, 400);
    assert!(!held.owes());
    drop(others);
}

/// All hold some, and none can become whole: one may go beyond the room, and only one.
#[tokio::test]
async fn one_message_that_has_begun_may_exceed_the_room() {
    let room = ProduceRoom::new(0);
    let mut first = room.take(false, ALL / 2).await;
    let mut second = room.take(false, ALL - ALL / 2).await;
    let go_on = room.go_on(false, &mut first, ALL / 2 + 100);
    assert!(go_on.now_or_never().is_some());
    assert!(room.go_on(false, &mut second, ALL).now_or_never().is_none());
    // It stalls again, and what came of it has no room of its own.
    first.keep(ALL / 2 + 50);
    assert!(room.go_on(false, &mut second, ALL).now_or_never().is_none());

    // Its elements are charged; as long as they owe, it stays the one.
    let mut held = Held::new(room.clone());
    held.charge(false, false, first, ALL / 2 + 100);
    assert!(held.owes());
    assert!(room.go_on(false, &mut second, ALL).now_or_never().is_none());
    held.give_back(false, 100);
    assert!(!held.owes());
    assert!(room.go_on(false, &mut second, ALL).now_or_never().is_some());
}
