use std::future::{pending, ready};

use bytes::Bytes;
use futures::FutureExt;
use geminga_ledger::{BookieConnection, ConnectionLost};
use geminga_metastore::record::LiveBookie;
use geminga_proto::bookie::Adds;
use geminga_proto::entry::{Attributes, Kind, NO_SNAPSHOT, Position};
use geminga_proto::ids::BookieId;

use super::*;

const LEDGER: LedgerId = LedgerId(1);
const PIECE: usize = MIN_PIECE_BYTES;
/// Bytes a second, where readers are held back.
const FLOOR: u64 = 1024 * 1024;

/// Bookies that add as many entries as this says, for other brokers.
#[derive(Debug, Default)]
struct Elsewhere(Mutex<u32>);

impl Elsewhere {
    fn nothing() -> Arc<Self> {
        Arc::default()
    }

    /// They add something all the time.
    async fn add(&self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(Duration::from_millis(2)).await;
            *self.0.lock() += 1;
        }
    }
}

impl Bookies for Elsewhere {
    fn connection(&self, bookie: &BookieId) -> Result<Arc<dyn BookieConnection>, ConnectionLost> {
        Err(ConnectionLost { bookie: bookie.clone(), why: "there is none".to_owned() })
    }

    fn live(&self) -> Vec<LiveBookie> {
        Vec::new()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    fn adds(&self) -> Vec<(BookieId, Adds)> {
        let adds = Adds { count: *self.0.lock(), most: Duration::from_millis(2) };
        vec![("b-0".parse().unwrap(), adds)]
    }
}

/// Much room, and readers that are held back.
fn slow() -> Reads {
    Reads::new(64 * MAX_PIECE_BYTES, FLOOR, Elsewhere::nothing(), Tasks::new("test"))
}

/// Room for so many pieces; nobody is held back.
fn reads(pieces: usize) -> Reads {
    Reads::new(pieces * PIECE, u64::MAX, Elsewhere::nothing(), Tasks::new("test"))
}

fn entry(id: i64, bytes: usize) -> Entry {
    let (ledger, entry) = (LEDGER, EntryId(id));
    Entry {
        position: Position { ledger, entry, lac: EntryId::NONE, cumulative_length: 0 },
        attributes: Attributes {
            kind: Kind::Batches,
            first_offset: id,
            offset_count: 1,
            max_timestamp: 0,
            running_max_timestamp: 0,
            last_snapshot_entry: NO_SNAPSHOT,
        },
        payload_len: u32::try_from(bytes).unwrap(),
        index_len: 0,
        index: Bytes::new(),
        payload: Bytes::from(vec![0; bytes]),
    }
}

/// Bookies that deliver such an entry at once, and note that they were asked.
fn delivers(asked: &Arc<AtomicUsize>, id: i64, bytes: usize) -> Call {
    let asked = Arc::clone(asked);
    async move {
        asked.fetch_add(1, Ordering::Relaxed);
        Ok(vec![entry(id, bytes)])
    }
    .boxed()
}

/// Bookies that do not answer.
fn hangs(asked: &Arc<AtomicUsize>) -> Call {
    let asked = Arc::clone(asked);
    async move {
        asked.fetch_add(1, Ordering::Relaxed);
        pending().await
    }
    .boxed()
}

/// Lets all tasks run until nothing happens any more.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_for_what_there_is_no_room_for() {
    let (reads, asked) = (reads(4), Arc::default());
    let mut pieces: Vec<_> =
        (0..10).map(|id| reads.begin(LEDGER, EntryId(id), PIECE, hangs(&asked))).collect();
    settle().await;
    assert_eq!((asked.load(Ordering::Relaxed), reads.bytes()), (4, 4 * PIECE));
    // A caller that goes away takes its read with it, and the next has its turn.
    pieces.drain(..2);
    settle().await;
    assert_eq!((asked.load(Ordering::Relaxed), reads.bytes()), (6, 4 * PIECE));
    pieces.clear();
    settle().await;
    assert_eq!(reads.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn few_ask_at_a_time() {
    let (reads, asked) = (reads(1000), Arc::default());
    let begin = |id| reads.begin(LEDGER, EntryId(id), PIECE, hangs(&asked));
    let pieces: Vec<_> = (0..100).map(begin).collect();
    settle().await;
    assert_eq!(asked.load(Ordering::Relaxed), ASKING);
    drop(pieces);
}

#[tokio::test(start_paused = true)]
async fn what_is_charged_is_what_came() {
    let (reads, asked) = (reads(100), Arc::default());
    let small = reads.begin(LEDGER, EntryId(0), MAX_PIECE_BYTES, delivers(&asked, 0, 1_000));
    let read = small.wait().await.unwrap().unwrap();
    assert_eq!((read[0].payload.len(), reads.bytes()), (1_000, 1_000));
    let large = reads.begin(LEDGER, EntryId(1), PIECE, delivers(&asked, 1, 3 * PIECE));
    large.wait().await.unwrap().unwrap();
    assert_eq!(reads.bytes(), 1_000 + 3 * PIECE, "an entry that is larger than was asked for");
    drop((small, large));
    settle().await;
    assert_eq!(reads.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn reading_ahead_leaves_half_of_the_room() {
    let (reads, asked) = (reads(8), Arc::default());
    let ahead = |id| reads.ahead(LEDGER, EntryId(id), PIECE, delivers(&asked, id, PIECE));
    let pieces: Vec<_> = (0..10).map_while(ahead).collect();
    settle().await;
    assert_eq!((pieces.len(), reads.bytes()), (4, 4 * PIECE));
}

/// What is merely kept stands in nobody's way; what somebody waits for does not go before he has it.
#[tokio::test(start_paused = true)]
async fn whoever_waits_for_room_gets_that_of_what_is_kept() {
    let (reads, asked) = (reads(4), Arc::default());
    let kept: Vec<_> = (0..4)
        .map(|id| reads.begin(LEDGER, EntryId(id), PIECE, delivers(&asked, id, PIECE)))
        .collect();
    settle().await;
    assert_eq!(reads.bytes(), 4 * PIECE);
    // Who was given something just now may come back for it.
    tokio::time::sleep(SPARED).await;
    let begun = tokio::time::Instant::now();
    let more = reads.begin(LEDGER, EntryId(9), PIECE, delivers(&asked, 9, PIECE));
    assert!(more.wait().await.unwrap().is_some());
    assert_eq!(begun.elapsed(), Duration::ZERO, "at once");
    assert!(kept.iter().all(|piece| !piece.is_good() && !piece.covers(piece.first)));
    assert_eq!(kept[0].wait().await, Ok(None), "to be asked for again");
    assert!(reads.ahead(LEDGER, EntryId(10), PIECE, hangs(&asked)).is_some(), "nobody waits now");
}

/// A stream whose client does not read is not polled: its reads must not hold up those of others.
#[tokio::test(start_paused = true)]
async fn what_nobody_comes_for_is_given_up() {
    let (reads, asked) = (reads(1), Arc::default());
    let stalled = reads.begin(LEDGER, EntryId(0), PIECE, delivers(&asked, 0, PIECE));
    let mut never_polled_again = stalled.wait().boxed();
    assert!((&mut never_polled_again).now_or_never().is_none());
    let begun = tokio::time::Instant::now();
    let other = reads.begin(LEDGER, EntryId(1), PIECE, delivers(&asked, 1, PIECE));
    assert!(other.wait().await.unwrap().is_some());
    assert_eq!(begun.elapsed(), KEPT);
    assert_eq!(never_polled_again.await, Ok(None), "it asks again");
}

/// What nobody wants any more when its turn comes is not read; what somebody comes back for in time is.
#[tokio::test(start_paused = true)]
async fn what_was_abandoned_is_not_read() {
    for (away, read) in [(ABANDONED, false), (ABANDONED / 2, true)] {
        let (reads, asked) = (reads(1), Arc::default());
        let first = reads.begin(LEDGER, EntryId(0), PIECE, hangs(&asked));
        let later = reads.begin(LEDGER, EntryId(1), PIECE, delivers(&asked, 1, PIECE));
        let left = tokio::time::timeout(Duration::from_millis(100), later.wait()).await;
        assert!(left.is_err(), "there is no room yet");
        tokio::time::sleep(away).await;
        drop(first);
        settle().await;
        assert_eq!(later.covers(EntryId(1)), read);
        assert_eq!(asked.load(Ordering::Relaxed), 1 + usize::from(read));
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_says_why_and_holds_nothing() {
    let reads = reads(1);
    let error = ReadError::Unavailable("no bookie".to_owned());
    let call = ready(Err(error.clone())).boxed();
    let failed = reads.begin(LEDGER, EntryId(0), PIECE, call);
    assert_eq!(failed.wait().await, Err(error));
    settle().await;
    assert_eq!(reads.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_stops_keeps_nobody_waiting() {
    let tasks = Tasks::new("test");
    let (reads, asked) =
        (Reads::new(PIECE, FLOOR, Elsewhere::nothing(), tasks.clone()), Arc::default());
    let piece = reads.begin(LEDGER, EntryId(0), PIECE, hangs(&asked));
    settle().await;
    assert!(tasks.finish(Duration::from_secs(1)).await);
    assert!(matches!(piece.wait().await, Err(ReadError::Unavailable(_))));
}

/// An object store that does not answer holds up nobody who reads from bookies, however many wait for it.
#[tokio::test(start_paused = true)]
async fn an_object_store_that_hangs_takes_no_place_of_bookies() {
    let reads = reads(64);
    let asked = Arc::new(AtomicUsize::new(0));
    let cold: Vec<Piece> =
        (0..200).map(|id| reads.cold().begin(LEDGER, EntryId(id), PIECE, hangs(&asked))).collect();
    settle().await;
    assert!((1..=ASKING_COLD).contains(&asked.load(Ordering::Relaxed)), "few at a time");
    assert!(reads.bytes() <= 32 * PIECE, "the others hold nothing: {}", reads.bytes());
    let warm = reads.begin(LEDGER, EntryId(500), PIECE, delivers(&asked, 500, 10));
    assert!(warm.wait().await.unwrap().is_some());
    drop(cold);
}

/// Producers are there: something is committed all the time.
async fn produce(reads: &Reads) -> std::convert::Infallible {
    loop {
        let append = reads.append();
        tokio::time::sleep(Duration::from_millis(2)).await;
        append.committed();
    }
}

/// A mebibyte, of which each takes a second at the floor.
fn large() -> usize {
    usize::try_from(FLOOR).unwrap()
}

/// Reads so many pieces of a mebibyte, all at once; how long that took.
async fn read_large(reads: &Reads, pieces: i64) -> Duration {
    let (asked, began) = (Arc::default(), Instant::now());
    let each = |id| reads.begin(LEDGER, EntryId(id), large(), delivers(&asked, id, large()));
    let pieces: Vec<Piece> = (0..pieces).map(each).collect();
    for piece in pieces {
        assert!(piece.wait().await.unwrap().is_some());
    }
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn old_entries_wait_for_producers_and_for_nobody_else() {
    let reads = slow();
    let took = tokio::select! {
        took = read_large(&reads, 4) => took,
        never = produce(&reads) => match never {},
    };
    // Commits take no longer for it, so they go a little faster at the end.
    assert!((2_000..=3_000).contains(&took.as_millis()), "{took:?}");
    // Whoever begins to read is held to the floor until it is known that nobody else is there.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let took = read_large(&reads, 40).await;
    assert!(took < Duration::from_millis(300), "{took:?}");
}

/// Nobody produces here, and bookies say that they add entries all the same.
#[tokio::test(start_paused = true)]
async fn old_entries_wait_for_producers_at_other_brokers() {
    let others = Elsewhere::nothing();
    let bookies = Arc::<Elsewhere>::clone(&others);
    let reads = Reads::new(64 * MAX_PIECE_BYTES, FLOOR, bookies, Tasks::new("test"));
    let took = tokio::select! {
        took = read_large(&reads, 4) => took,
        never = others.add() => match never {},
    };
    assert!((2_000..=3_000).contains(&took.as_millis()), "{took:?}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let took = read_large(&reads, 40).await;
    assert!(took < Duration::from_millis(300), "{took:?}");
}

/// Whoever goes away while it waits leaves nothing to pay.
#[tokio::test(start_paused = true)]
async fn those_who_gave_up_hold_nobody_back() {
    let reads = slow();
    let asked = Arc::default();
    let work = async {
        assert!(read_large(&reads, 1).await < Duration::from_millis(100));
        let gone = |id| reads.begin(LEDGER, EntryId(id), large(), delivers(&asked, id, large()));
        let gone: Vec<Piece> = (0..40).map(gone).collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(gone);
        read_large(&reads, 1).await
    };
    let took = tokio::select! {
        took = work => took,
        never = produce(&reads) => match never {},
    };
    assert!(took <= Duration::from_millis(900), "{took:?}");
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

/// What is asked for counts only as far as it is there: many partitions of which a little is wanted cost little.
#[tokio::test(start_paused = true)]
async fn what_is_read_is_paid_for_and_not_what_was_asked_for() {
    let reads = slow();
    let (asked, began) = (Arc::default(), Instant::now());
    let work = async {
        for id in 0..200 {
            let piece = reads.begin(LEDGER, EntryId(id), large(), delivers(&asked, id, 1_000));
            assert!(piece.wait().await.unwrap().is_some());
        }
    };
    tokio::select! {
        () = work => {}
        never = produce(&reads) => match never {},
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}
