//! Reading as a member of a group: print, make visible, then commit. So what was committed was printed, and what was
//! printed just before a crash is printed again.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use geminga_client::{
    Client, Consumer, ConsumerConfig, Error, Event, OffsetReset, Reason, Records,
};
use tokio::time::{Instant, timeout_at};

use super::end::End;
use super::{Args, Bounds, Printer};
use crate::client::interrupted;
use crate::exit::Failure;

/// How often a member that waits for the group's end asks how far the group is.
const POLL: Duration = Duration::from_millis(200);
/// What is there is taken for so long before it is committed together: a commit is written to stable storage, and nothing is taken meanwhile.
const COMMIT_EVERY: Duration = Duration::from_millis(200);

/// What records are read for.
pub(in crate::command) trait Sink {
    /// Takes some; they are not done yet.
    fn add(&mut self, records: &Records) -> Result<(), Failure>;
    /// Is done with all of them: they are committed next.
    fn done(&mut self) -> Result<(), Failure>;
}

/// A member, and how far it reads.
#[derive(Debug)]
pub(in crate::command) struct Member<'a> {
    pub(in crate::command) client: &'a Client,
    pub(in crate::command) topic: &'a str,
    pub(in crate::command) group: &'a str,
    /// It starts at the first record where nothing is committed, not after the last.
    pub(in crate::command) from_beginning: bool,
    /// It ends when the group has committed so far.
    pub(in crate::command) end: Option<End>,
    /// How long it waits for more before it commits; nothing: what is there is committed when no more is.
    pub(in crate::command) waits: Duration,
}

/// Prints what this member is given, until the group's end where there is one.
pub(super) async fn consume(
    client: &Client,
    args: &Args,
    group: &str,
    bounds: Bounds,
    mut printer: Printer,
) -> Result<(), Failure> {
    let end = args.until_end.then(|| bounds.end());
    let from_beginning = args.from_beginning;
    let topic = &args.topic;
    let member = Member { client, topic, group, from_beginning, end, waits: Duration::ZERO };
    let ended = member.read(&mut printer).await;
    printer.bar.finish_and_clear();
    ended
}

impl Sink for Printer {
    fn add(&mut self, records: &Records) -> Result<(), Failure> {
        Ok(Printer::add(self, records, None)?)
    }

    fn done(&mut self) -> Result<(), Failure> {
        Ok(self.flush()?)
    }
}

impl Member<'_> {
    /// Reads, and commits what the sink is done with, until the end; then the member leaves its group.
    ///
    /// # Errors
    /// Those of the sink; what makes reading impossible; an interruption.
    pub(in crate::command) async fn read(self, sink: &mut impl Sink) -> Result<(), Failure> {
        let Self { client, topic, group, from_beginning, end, waits } = self;
        let mut config = ConsumerConfig::new(group, topic);
        if from_beginning {
            config.offset_reset = OffsetReset::Earliest;
        }
        let mut consumer = client.consumer(config);
        // Where it starts at the end, the group has read everything: its offsets should say so.
        let commit_starts = end.is_some() && !from_beginning;
        let ended = {
            let mut done = pin!(until_committed(client, group, topic, end));
            loop {
                let event = tokio::select! {
                    event = consumer.next() => event,
                    done = &mut done => break done,
                    failure = interrupted() => break Err(failure),
                };
                // What was read is done with and committed before anything else, unless the user has lost patience with that.
                let handled = tokio::select! {
                    handled = handle(event, &mut consumer, sink, (commit_starts, waits)) => handled,
                    failure = interrupted() => Err(failure),
                };
                if let Err(failure) = handled {
                    break Err(failure);
                }
            }
        };
        consumer.leave().await;
        ended
    }
}

/// Resolves when the group has committed everything up to `end`, whichever member read it; never, without an end.
async fn until_committed(
    client: &Client,
    group: &str,
    topic: &str,
    end: Option<End>,
) -> Result<(), Failure> {
    let Some(end) = end else { return std::future::pending().await };
    let admin = client.admin();
    let topics = [topic.to_owned()];
    loop {
        let offsets = match admin.fetch_offsets(group, &topics).await {
            Ok(offsets) => offsets,
            Err(error) if error.reason() == Reason::UnknownGroup => Vec::new(),
            // The member itself finds out when there is no cluster any more.
            Err(error) if error.retriable() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let positions: BTreeMap<u32, i64> =
            offsets.into_iter().map(|o| (o.partition, o.offset)).collect();
        if end.reached(&positions) {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Gives one event and what is there beside it to the sink, and commits.
async fn handle(
    first: Result<Event, Error>,
    consumer: &mut Consumer,
    sink: &mut impl Sink,
    (commit_starts, waits): (bool, Duration),
) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut next = first?;
    loop {
        match next {
            Event::Records(records) => sink.add(&records)?,
            Event::Assigned(_) if commit_starts => {
                let starts = consumer.assignment().into_iter().collect();
                settle(consumer.commit_offsets(starts).await)?;
            }
            Event::Assigned(_) => {}
            // What was taken is committed before more is asked for: that would let the partitions go.
            Event::Revoked | Event::Lost => break,
        }
        if begun.elapsed() >= COMMIT_EVERY.max(waits) {
            break;
        }
        // Whoever interrupts it is heard between two answers.
        tokio::task::yield_now().await;
        next = match consumer.try_next()? {
            Some(event) => event,
            None => match timeout_at(begun + waits, consumer.next()).await {
                Ok(event) => event?,
                Err(_) => break,
            },
        };
    }
    sink.done()?;
    settle(consumer.commit().await)
}

/// What another member has been given meanwhile, it prints again: no failure of this one.
fn settle(committed: Result<(), Error>) -> Result<(), Failure> {
    match committed {
        Err(error)
            if matches!(
                error.reason(),
                Reason::StaleGeneration | Reason::UnknownMember | Reason::RebalanceInProgress
            ) =>
        {
            Ok(())
        }
        other => Ok(other?),
    }
}
