//! Requests as logs and traces know them: an id that a request has wherever it goes, and whether it was slow.
//!
//! * The id is made where a request comes in, or taken from who sends it. It travels beside the request: within a task by
//!   [`scope`], to other processes in the metadata of a call or a field of a message. Nothing is decided by it but what is told.
//! * What is slow is logged, a few lines a second of each kind at most: the next line says how many were left out.
//! * A share of the ids is *sampled*: the same ones in every process that samples as many, so that a trace is whole. Where none
//!   is, which is the rule, nothing is made for a trace.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::Span;

use crate::Random;

/// The metadata of a call that carries an id.
pub const HEADER: &str = "x-request-id";
/// The target of spans for traces: there are none but of requests that are traced.
pub const TARGET: &str = "geminga::request";
/// Lines about slow requests of a kind in a second.
const LINES: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);

/// What a request is called in logs and traces.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Id);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Id {
    /// By one of our processes.
    Made(u64),
    /// By a client, in other words than ours.
    Given(Arc<str>),
}

impl RequestId {
    /// Longest id of a client, bytes.
    pub const MAX_BYTES: usize = 64;

    /// An id that somebody sends; `None` for one that has no place in a line of a log: it is empty or too long, or has other
    /// characters than letters, digits and `.`, `_`, `:`, `-`.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=Self::MAX_BYTES).contains(&text.len());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
        if !fits || !text.bytes().all(plain) {
            return None;
        }
        // One of ours comes back.
        let lower = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == 16
            && text.bytes().all(lower)
            && let Ok(number) = u64::from_str_radix(text, 16)
        {
            return Some(Self(Id::Made(number)));
        }
        Some(Self(Id::Given(text.into())))
    }

    /// The id of one of the things that this request, a stream, brings about for as long as it lives: whoever looks for this id
    /// finds that one, too, and whether it is traced is decided for it alone.
    #[must_use]
    pub fn part(&self, number: u64) -> Self {
        let (mut text, end) = (self.to_string(), format!(".{number}"));
        // There are no other characters than those of one byte.
        text.truncate(Self::MAX_BYTES - end.len());
        text.push_str(&end);
        Self(Id::Given(text.into()))
    }

    /// The number of its trace, which every process makes of it alike.
    fn trace(&self) -> u128 {
        let spread = self.spread();
        (u128::from(spread) << 64) | u128::from(mix(spread))
    }

    /// A number that is as good as random, and the same wherever the id is seen.
    fn spread(&self) -> u64 {
        match &self.0 {
            Id::Made(number) => mix(*number),
            // FNV-1a.
            Id::Given(text) => mix(text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            })),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Id::Made(number) => write!(f, "{number:016x}"),
            Id::Given(text) => f.write_str(text),
        }
    }
}

/// SplitMix64's: a bijection, so that different numbers stay different.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

tokio::task_local! {
    static CURRENT: Option<RequestId>;
}

/// Runs `work` for a request; `None`: nobody knows for which.
pub fn scope<F: Future>(
    id: impl Into<Option<RequestId>>,
    work: F,
) -> impl Future<Output = F::Output> {
    CURRENT.scope(id.into(), work)
}

/// Does something at once that a request causes; `None`: nobody knows which.
pub fn caused_by<T>(id: Option<RequestId>, work: impl FnOnce() -> T) -> T {
    CURRENT.sync_scope(id, work)
}

/// The request that this is done for, where that is known.
pub fn current() -> Option<RequestId> {
    CURRENT.try_with(Clone::clone).ok().flatten()
}

/// What an operator may tune of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestsConfig {
    /// A request that takes longer is logged; zero: none is.
    pub slow: Duration,
    /// The share of requests that are traced, 0 to 1.
    pub traced: f64,
    /// Puts the span of a request that is traced into the trace of that number.
    pub adopt: Option<fn(&Span, u128)>,
}

/// The requests of a process; cheap to clone. The default makes ids, logs nothing and traces nothing.
#[derive(Debug, Clone, Default)]
pub struct Requests {
    inner: Arc<Inner>,
    window: Arc<Mutex<Window>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Where ids begin: no other process begins there, as good as certainly.
    base: u64,
    made: AtomicU64,
    slow: Duration,
    /// Ids that spread below it are sampled.
    sampled_below: u64,
    adopt: Option<fn(&Span, u128)>,
}

/// The lines of a second.
#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Requests {
    /// As configured.
    pub fn new(config: RequestsConfig, random: &dyn Random) -> Self {
        let traced = if config.traced.is_nan() { 0.0 } else { config.traced.clamp(0.0, 1.0) };
        let inner = Inner {
            base: random.next_u64(),
            slow: config.slow,
            // A share of all numbers; 1 is all but one of them.
            sampled_below: (traced * u64::MAX as f64) as u64,
            adopt: config.adopt,
            ..Inner::default()
        };
        Self { inner: Arc::new(inner), window: Arc::default() }
    }

    /// The same requests, for another kind of what is slow, whose lines have a bound of their own: many of one kind leave out none of
    /// another.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), window: Arc::default() }
    }

    /// A new id.
    pub fn make(&self) -> RequestId {
        let number = self.inner.made.fetch_add(1, Ordering::Relaxed);
        RequestId(Id::Made(mix(self.inner.base.wrapping_add(number))))
    }

    /// Whether a request is traced.
    pub fn traces(&self, id: &RequestId) -> bool {
        self.inner.sampled_below > 0 && id.spread() < self.inner.sampled_below
    }

    /// The span of a request if it is traced; else none, and `span` is not made.
    pub fn span(&self, id: &RequestId, span: impl FnOnce() -> Span) -> Span {
        if !self.traces(id) {
            return Span::none();
        }
        let span = span();
        if let Some(adopt) = self.inner.adopt {
            adopt(&span, id.trace());
        }
        span
    }

    /// Whether anybody is told of requests, so that their ids are worth something.
    pub fn are_told(&self) -> bool {
        self.logs_slow() || self.inner.sampled_below > 0
    }

    /// Whether requests that are slow are logged at all.
    pub fn logs_slow(&self) -> bool {
        !self.inner.slow.is_zero()
    }

    /// Whether a request that took so long is to be logged: how many others were left out since the last line.
    pub fn slow(&self, took: Duration) -> Option<u64> {
        if self.inner.slow.is_zero() || took < self.inner.slow {
            return None;
        }
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if window.began.is_none_or(|began| now.saturating_duration_since(began) >= SECOND) {
            (window.began, window.lines) = (Some(now), 0);
        }
        if window.lines >= LINES {
            window.left_out += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::SeededRandom;

    fn requests(slow_ms: u64, traced: f64) -> Requests {
        let config = RequestsConfig { slow: Duration::from_millis(slow_ms), traced, adopt: None };
        Requests::new(config, &SeededRandom::new(7))
    }

    #[test]
    fn what_could_spoil_a_log_is_no_id() {
        for id in ["a", "Order-17.retry_2:b", "x".repeat(64).as_str(), "00ff00ff00ff00ff"] {
            assert_eq!(RequestId::parse(id).map(|id| id.to_string()).as_deref(), Some(id));
        }
        for id in ["", "a b", "a\nb", "\"", "é", "x".repeat(65).as_str(), "a\u{1b}[31m"] {
            assert_eq!(RequestId::parse(id), None, "{id:?}");
        }
    }

    #[test]
    fn an_id_that_was_made_here_is_the_same_one_elsewhere() {
        let requests = requests(0, 0.0);
        let made: Vec<_> = (0..1_000).map(|_| requests.make()).collect();
        assert_eq!(made.iter().collect::<HashSet<_>>().len(), 1_000);
        for id in made {
            assert_eq!(RequestId::parse(&id.to_string()), Some(id));
        }
    }

    #[test]
    fn the_same_requests_are_traced_everywhere_and_about_as_many_as_asked_for() {
        let (here, there, none) = (requests(0, 0.1), requests(0, 0.1), requests(0, 0.0));
        let ids: Vec<_> = (0..10_000).map(|_| here.make()).collect();
        let traced = ids.iter().filter(|id| here.traces(id)).count();
        assert!((800..1_200).contains(&traced), "{traced} of 10,000");
        assert!(ids.iter().all(|id| here.traces(id) == there.traces(id)));
        assert!(!ids.iter().any(|id| none.traces(id)));
        let all = requests(0, 1.0);
        assert!(ids.iter().all(|id| all.traces(id)));
        let given: Vec<_> =
            (0..10_000).filter_map(|n| RequestId::parse(&format!("order-{n}"))).collect();
        let traced = given.iter().filter(|id| here.traces(id)).count();
        assert!((800..1_200).contains(&traced), "{traced} of 10,000 that were given");
    }

    #[test]
    fn parts_of_a_stream_are_found_by_its_id_and_traced_each_for_itself() {
        let requests = requests(0, 0.1);
        let longest = RequestId::parse(&"x".repeat(64)).unwrap();
        for stream in [requests.make(), longest] {
            let parts: Vec<_> = (0..10_000).map(|n| stream.part(n)).collect();
            let traced = parts.iter().filter(|part| requests.traces(part)).count();
            assert!((800..1_200).contains(&traced), "{traced} of 10,000");
            for part in parts {
                // On the way to a bookie.
                let text = part.to_string();
                assert_eq!(RequestId::parse(&text).as_ref(), Some(&part));
                assert!(text.starts_with(&stream.to_string()[..16]), "{text}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_ones_are_logged_and_not_more_than_some_a_second() {
        let requests = requests(100, 0.0);
        let (fast, slow) = (Duration::from_millis(99), Duration::from_millis(100));
        assert_eq!(requests.slow(fast), None);
        let logged = (0..50).filter_map(|_| requests.slow(slow)).collect::<Vec<_>>();
        assert_eq!(logged, [0; LINES as usize]);
        tokio::time::advance(SECOND).await;
        assert_eq!(requests.apart().slow(slow), Some(0), "of another kind none was left out");
        assert_eq!(requests.slow(fast), None);
        assert_eq!(requests.slow(slow), Some(40), "those that were left out");
        assert_eq!(requests.slow(slow), Some(0));
        assert_eq!(self::requests(0, 0.0).slow(Duration::from_secs(60)), None, "it is off");
    }

    #[tokio::test]
    async fn work_knows_whom_it_is_done_for() {
        assert_eq!(current(), None);
        let id = RequestId::parse("mine");
        let seen = scope(id.clone().unwrap(), async {
            tokio::task::yield_now().await;
            let other = RequestId::parse("other");
            assert_eq!(caused_by(other.clone(), current), other);
            current()
        });
        assert_eq!(seen.await, id);
        assert_eq!(current(), None);
    }
}
