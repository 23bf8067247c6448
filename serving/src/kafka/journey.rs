//! One request's way through this broker, from when its frame was there to when its answer was written: what it is called, and
//! where its time went. Told where it took long, and to traces.
//!
//! ```text
//!   frame ─ place ─► placed ─ store ─► made ─ send ─► written
//! ```
//!
//! Of most requests nothing is left between *placed* and *made*: only records are waited for behind their place. What a long poll
//! waits for records, or a member for others, is not slow. A request whose answer was never written is told like others: until it was given
//! up, its time is that of the step that it was in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use geminga_runtime::requests::{self, RequestId, Requests};
use tokio::time::Instant;
use tracing::Span;

use super::call::Peer;

/// What whoever serves a request says of it.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Partitions that it is about; 0: of none, or it does not say.
    partitions: AtomicU32,
    waited_us: AtomicU64,
}

impl Notes {
    /// It is about so many partitions.
    pub(super) fn about(&self, partitions: usize) {
        self.partitions.store(u32::try_from(partitions).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// It waits for something to happen, as its client wants it to, until this is dropped: also where the client gives up.
    pub(super) fn wait(&self) -> Waiting<'_> {
        Waiting { notes: self, since: Instant::now() }
    }

    /// It waited so long for something to happen, as its client wants it to.
    fn waited(&self, time: Duration) {
        let time_us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.waited_us.fetch_add(time_us, Ordering::Relaxed);
    }
}

/// What waits as its client wants it to.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    notes: &'a Notes,
    since: Instant,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.notes.waited(self.since.elapsed());
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Journey {
    requests: Requests,
    pub(super) id: RequestId,
    pub(super) api: &'static str,
    client_id: Arc<str>,
    /// Of the request's frame.
    bytes: usize,
    pub(super) notes: Arc<Notes>,
    pub(super) since: Instant,
    placed: Option<Instant>,
    made: Option<Instant>,
    /// Its answer comes later than its place.
    stores: bool,
    /// When its answer was written, and the bytes of it.
    written: Option<(Instant, usize)>,
    peer: Arc<Peer>,
    /// Most of its time until it has its place may be for others to do something.
    waits: bool,
    pub(super) span: Span,
}

impl Journey {
    /// A frame is there.
    pub(super) fn begin(
        requests: &Requests,
        (api, waits): (&'static str, bool),
        (peer, client_id): (Arc<Peer>, Arc<str>),
        bytes: usize,
    ) -> Self {
        let id = requests.make();
        let span = requests.span(&id, || {
            tracing::info_span!(
                target: requests::TARGET,
                "kafka",
                otel.name = api,
                otel.kind = "server",
                request = %id,
                client = &*client_id,
                bytes,
                partitions = tracing::field::Empty,
                place_ms = tracing::field::Empty,
                store_ms = tracing::field::Empty,
                send_ms = tracing::field::Empty,
            )
        });
        Self {
            requests: requests.clone(),
            id,
            api,
            client_id,
            bytes,
            notes: Arc::default(),
            since: Instant::now(),
            placed: None,
            made: None,
            stores: false,
            written: None,
            peer,
            waits,
            span,
        }
    }

    /// It has its place in the order of things. `waits`: all the time until then was for others to do something.
    pub(super) fn placed(&mut self, waits: bool) {
        let now = Instant::now();
        if waits {
            self.notes.waited(now.saturating_duration_since(self.since));
        }
        self.placed = Some(now);
    }

    /// Its answer is made later.
    pub(super) fn stores(&mut self) {
        self.stores = true;
    }

    /// Its answer was made then; `None`: when it had its place.
    pub(super) fn made(&mut self, at: Option<Instant>) {
        self.made = at;
    }

    /// Its answer, of so many bytes, was written, or it has none.
    pub(super) fn end(mut self, reply_bytes: usize, now: Instant) {
        self.written = Some((now, reply_bytes));
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        if self.span.is_none() && !self.requests.logs_slow() {
            return;
        }
        // Given up while it waited: for how long, nobody says.
        if self.placed.is_none() && self.waits {
            return;
        }
        let answered = self.written.is_some();
        let (now, reply_bytes) = self.written.unwrap_or_else(|| (Instant::now(), 0));
        let placed = self.placed.unwrap_or(now);
        let made = self.made.unwrap_or(if self.stores { now } else { placed });
        let waited = Duration::from_micros(self.notes.waited_us.load(Ordering::Relaxed));
        let partitions = self.notes.partitions.load(Ordering::Relaxed);
        let took = now.saturating_duration_since(self.since).saturating_sub(waited);
        let place = placed.saturating_duration_since(self.since).saturating_sub(waited);
        let store = made.saturating_duration_since(placed);
        let send = now.saturating_duration_since(made);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if !self.span.is_none() {
            self.span.record("partitions", partitions);
            self.span.record("place_ms", millis(place));
            self.span.record("store_ms", millis(store));
            self.span.record("send_ms", millis(send));
        }
        if let Some(left_out) = self.requests.slow(took) {
            tracing::warn!(
                request = %self.id,
                api = self.api,
                client = &*self.client_id,
                peer = %self.peer.address,
                partitions,
                bytes = self.bytes,
                answered,
                reply_bytes,
                took_ms = millis(took),
                place_ms = millis(place),
                store_ms = millis(store),
                send_ms = millis(send),
                left_out,
                "slow request"
            );
        }
    }
}
