//! The partitions that one broker of the source leads, on their way over: fetched by one connection, written by one stream. While
//! what was fetched is written, the next is fetched; nothing else is kept, so a lane takes the room of a few answers.
//!
//! One task owns the partitions from the lane's begin to its end, and hands them back when the source's leader changes, when one of
//! them is in trouble, when all are where they are to stop, or when the run is to stop.

use std::collections::HashMap;
use std::time::Duration;

use geminga_client::{BatchWriter, Client, Error, Reason};
use tokio::sync::watch;
use tokio::time::Instant;

use super::back::IN_DOUBT;
use super::copying::{Copying, Trouble};
use super::keeper::Keeper;
use super::meter::{Meter, Pace};
use super::pieces::{Piece, pieces};
use super::source::{Answer, Fetched, Leader, SourceError};

/// How often what is new is kept.
const SAVE: Duration = Duration::from_secs(1);
/// How often what is not new is kept again: a checkpoint that nobody renews is forgotten after seven days.
const RENEW: Duration = Duration::from_secs(3600);
/// How long the target is tried before a look at whether the run is to stop.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What lanes share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) keeper: Keeper,
    pub(super) meter: Meter,
    pub(super) pace: Pace,
    /// Go on where nobody knows whether the last records are there.
    pub(super) accept_repeats: bool,
    /// True: come to an end.
    pub(super) stop: watch::Receiver<bool>,
}

/// See the module.
pub(super) struct Lane<'a> {
    shared: &'a Shared,
    leader: Leader,
    writer: BatchWriter,
    partitions: Vec<Copying>,
    /// Where each of them is.
    index: HashMap<(String, u32), usize>,
    /// The partition that is asked for first; another one each time.
    turn: usize,
    saved: Instant,
    renewed: Instant,
}

/// Pieces of a partition, by its place in the lane.
type Load = Vec<(usize, Vec<Piece>)>;

impl<'a> Lane<'a> {
    pub(super) fn new(shared: &'a Shared, leader: Leader, partitions: Vec<Copying>) -> Self {
        let writer = shared.client.batch_writer(PATIENCE);
        let now = Instant::now();
        let key = |(index, copying): (usize, &Copying)| {
            ((copying.topic.to_string(), copying.partition), index)
        };
        let index = partitions.iter().enumerate().map(key).collect();
        Self { shared, leader, writer, partitions, index, turn: 0, saved: now, renewed: now }
    }

    /// Copies; returns the partitions, and why it ended where that was not to be.
    pub(super) async fn run(mut self) -> (Vec<Copying>, Option<SourceError>) {
        let mut load = Load::new();
        let mut ended = None;
        loop {
            let stopping = *self.shared.stop.borrow() || ended.is_some() || self.has_trouble();
            let asked = if stopping { Vec::new() } else { self.asked() };
            if asked.is_empty() && load.is_empty() {
                break;
            }
            let most = self.shared.pace.piece();
            let fetching = async {
                match asked.is_empty() {
                    true => Ok(Vec::new()),
                    false => self.leader.fetch(&asked, most).await,
                }
            };
            let writing = write(self.shared, &mut self.writer, &mut self.partitions, load);
            let (fetched, left) = tokio::join!(fetching, writing);
            load = left;
            if !load.is_empty() {
                // The target takes nothing now. What was fetched behind it is fetched again.
                if *self.shared.stop.borrow() {
                    break;
                }
                for (index, _) in &load {
                    // Some of it may be written.
                    self.partitions[*index].again();
                    self.partitions[*index].unproven = true;
                }
                load.clear();
            }
            match fetched {
                Ok(fetched) => self.take(&asked, fetched, &mut load).await,
                Err(error) => ended = Some(error),
            }
            self.keep().await;
            self.shared.meter.note(&self.partitions);
        }
        self.partitions.iter_mut().for_each(Copying::again);
        self.save().await;
        self.shared.meter.note(&self.partitions);
        (self.partitions, ended)
    }

    fn has_trouble(&self) -> bool {
        self.partitions.iter().any(|copying| copying.trouble.is_some() || copying.unproven)
    }

    /// What to ask for next.
    fn asked(&mut self) -> Vec<(String, u32, i64)> {
        let count = self.partitions.len().max(1);
        self.turn = (self.turn + 1) % count;
        let all = self.partitions.iter().cycle().skip(self.turn).take(self.partitions.len());
        let wanting = all.filter(|copying| copying.wants());
        let asked =
            |copying: &Copying| (copying.topic.to_string(), copying.partition, copying.next);
        wanting.map(asked).collect()
    }

    /// Makes of what was fetched what is to be written.
    async fn take(&mut self, asked: &[(String, u32, i64)], fetched: Vec<Fetched>, load: &mut Load) {
        let mut bytes = 0;
        let asked = asked.iter().map(|(topic, partition, from)| ((topic, *partition), *from));
        let asked: HashMap<_, _> = asked.collect();
        for Fetched { topic, partition, answer } in fetched {
            let from = asked.get(&(&topic, partition)).copied();
            let Some(&index) = self.index.get(&(topic, partition)) else { continue };
            let copying = &mut self.partitions[index];
            // What was written meanwhile was refused, or has to be written again.
            if from != Some(copying.next) || copying.trouble.is_some() || copying.unproven {
                continue;
            }
            match answer {
                Answer::Records { batches, aborted, end } => {
                    bytes += batches.len();
                    let (found, wrong) = pieces(batches, copying.next, &aborted);
                    let pieces = copying.fetched(found, end);
                    if pieces.is_empty() {
                        copying.settled();
                        if let Some(wrong) = wrong {
                            copying.fail(wrong);
                        }
                    } else {
                        // What is wrong behind them comes again, alone.
                        load.push((index, pieces));
                    }
                }
                Answer::OutOfRange => copying.trouble = Some(Trouble::OutOfRange),
                Answer::Moved => copying.trouble = Some(Trouble::Moved),
                Answer::Refused(error) => copying.fail(error),
            }
        }
        self.shared.pace.wait(bytes, self.shared.stop.clone()).await;
    }

    /// Keeps what is new, now and then. A target that does not take it now takes it the next time.
    async fn keep(&mut self) {
        if self.saved.elapsed() >= SAVE {
            self.save().await;
        }
        if self.renewed.elapsed() >= RENEW {
            if let Err(error) = self.shared.keeper.renew(&self.partitions).await {
                self.shared.meter.say(&format!("checkpoints cannot be renewed now: {error}"));
            }
            self.renewed = Instant::now();
        }
    }

    async fn save(&mut self) {
        if let Err(error) = self.shared.keeper.save(&mut self.partitions).await {
            self.shared.meter.say(&format!("what is copied cannot be noted now: {error}"));
        }
        self.saved = Instant::now();
    }
}

/// Writes what was fetched; returns what the target does not take now.
async fn write(
    shared: &Shared,
    writer: &mut BatchWriter,
    partitions: &mut [Copying],
    mut load: Load,
) -> Load {
    load = met(shared, partitions, load).await;
    while !load.is_empty() {
        let batches: Vec<_> =
            load.iter().flat_map(|(index, pieces)| partitions[*index].batches(pieces)).collect();
        let mut ends = writer.append(&batches).await.into_iter();
        drop(batches);
        let (mut later, mut forgotten) = (Load::new(), Load::new());
        for (index, mut pieces) in load {
            let copying = &mut partitions[index];
            let ends: Vec<_> = ends.by_ref().take(pieces.len()).collect();
            let mut written = 0;
            let mut failed = None;
            for (piece, end) in pieces.iter().zip(ends) {
                match end {
                    Ok(at) if copying.acknowledged(piece, at) => {}
                    Ok(_) => break,
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
                written += 1;
            }
            pieces.drain(..written);
            match failed {
                None if copying.trouble.is_some() || copying.unproven => {}
                None => copying.settled(),
                Some(error) if error.reason() == Reason::UnknownProducerId => {
                    forgotten.push((index, pieces));
                }
                Some(Error::TimedOut { last, .. }) => {
                    shared.meter.say(&format!("the target takes nothing now: {last}"));
                    later.push((index, pieces));
                }
                Some(Error::Closed) => later.push((index, pieces)),
                Some(error)
                    if shared.accept_repeats && error.reason() == Reason::OutOfOrderSequence =>
                {
                    forgotten.push((index, pieces));
                }
                Some(error) => copying.fail(refused(&error, copying)),
            }
        }
        if !later.is_empty() {
            later.append(&mut forgotten);
            return later;
        }
        load = renumber(shared, partitions, forgotten).await;
    }
    load
}

/// What of a load was not written by an earlier try. Where the source has others now than were written, nobody knows what is there.
async fn met(shared: &Shared, partitions: &mut [Copying], load: Load) -> Load {
    let (mut left, mut others) = (Load::new(), Load::new());
    for (index, mut pieces) in load {
        let copying = &mut partitions[index];
        match copying.recognise(&mut pieces) {
            true if pieces.is_empty() => copying.settled(),
            true => left.push((index, pieces)),
            false if shared.accept_repeats => others.push((index, pieces)),
            false => copying.fail(IN_DOUBT),
        }
    }
    left.append(&mut renumber(shared, partitions, others).await);
    left
}

/// The target forgot the producer of these, which was silent for long, and has taken nothing of them, or repeats are accepted: their
/// numbers begin anew. That is kept before any of them is used.
async fn renumber(shared: &Shared, partitions: &mut [Copying], load: Load) -> Load {
    if load.is_empty() {
        return load;
    }
    let producer = match shared.client.admin().new_producer_id().await {
        Ok(producer) => producer,
        Err(error) => {
            load.iter().for_each(|(index, _)| partitions[*index].fail(&error));
            return Load::new();
        }
    };
    for (index, _) in &load {
        partitions[*index].renumber(producer);
    }
    if let Err(error) = shared.keeper.save(partitions).await {
        load.iter().for_each(|(index, _)| partitions[*index].fail(&error));
        return Load::new();
    }
    load
}

/// Why a partition goes no further, and what to do.
fn refused(error: &Error, copying: &Copying) -> String {
    match error.reason() {
        Reason::OutOfOrderSequence => format!(
            "the source has other batches behind offset {} than when it was copied before, as compaction makes them: what of them is \
             at the target already, nobody knows. --accept-repeats copies them once more",
            copying.checkpoint.source
        ),
        Reason::InvalidTimestamp => format!(
            "{error}; set message.timestamp.after.max.ms and message.timestamp.before.max.ms of the topic here to let old or wrong dates in"
        ),
        _ => error.to_string(),
    }
}
