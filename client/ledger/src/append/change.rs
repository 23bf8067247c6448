//! Who takes the places of members that failed, and the transaction that puts them there (2.5).

use std::sync::Arc;
use std::time::Duration;

use geminga_metastore::record::{Fragment, LedgerMeta, LedgerState, LiveBookie};
use geminga_metastore::{Error, MetaStore, Version};
use geminga_proto::ids::{LedgerId, Member};
use geminga_runtime::Random;

use super::close::read_meta;
use crate::connection::Bookies;
use crate::core::commit::{CasResult, Commit, Next};
use crate::placement::{self, Choice};
use crate::quarantine::Quarantine;

/// A search for replacements.
pub(super) struct Hunt {
    pub(super) store: Arc<dyn MetaStore>,
    pub(super) bookies: Arc<dyn Bookies>,
    pub(super) quarantine: Arc<Quarantine>,
    pub(super) random: Arc<dyn Random>,
    /// [`Config::min_zones`](crate::Config::min_zones).
    pub(super) min_zones: usize,
    pub(super) ledger: LedgerId,
    /// The last fragment, as this writer left it.
    pub(super) fragment: Fragment,
    /// The positions to fill.
    pub(super) lost: Vec<usize>,
    /// Who failed here a moment ago.
    pub(super) shunned: Vec<Member>,
    /// How long the metadata may take to answer.
    pub(super) timeout: Duration,
}

/// What a search came to.
pub(super) enum Found {
    /// The metadata as it is now, who takes whose place, and who is registered.
    Replacements(Box<(LedgerMeta, Version)>, Vec<(Member, Member)>, Vec<LiveBookie>),
    /// The metadata store did not answer in time.
    Unanswered,
    /// It was not searched: the ensemble changed too often.
    TooMany,
    /// Somebody else has the ledger.
    Deposed,
}

impl Hunt {
    /// One linearizable read, so that an outage of the store stops no ledger that has Qa (step 0), and a choice.
    pub(super) async fn run(self) -> Found {
        let read = read_meta(&*self.store, self.ledger);
        let meta = match tokio::time::timeout(self.timeout, read).await {
            Ok(Ok(Some(read))) => read,
            Ok(Ok(None)) => return Found::Deposed,
            Ok(Err(error)) => {
                tracing::warn!(ledger = %self.ledger, %error, "no replacement: the metadata cannot be read");
                return Found::Unanswered;
            }
            Err(_) => {
                tracing::warn!(ledger = %self.ledger, "no replacement: the metadata store does not answer");
                return Found::Unanswered;
            }
        };
        if meta.0.state != LedgerState::Open || *meta.0.last_fragment() != self.fragment {
            return Found::Deposed;
        }
        let live = self.bookies.live();
        let by = Choice {
            min_zones: self.min_zones,
            quarantine: &self.quarantine,
            random: &*self.random,
        };
        let (ensemble, lost) = (&self.fragment.ensemble, &self.lost);
        let found = placement::replace(&live, ensemble, lost, &self.shunned, by);
        Found::Replacements(Box::new(meta), found, live)
    }
}

/// How a change ended.
pub(super) enum Changed {
    /// In the metadata.
    Committed(Box<LedgerMeta>, Version),
    /// Certainly not in the metadata, because the store refused every attempt.
    Refused,
    /// Somebody else has the ledger.
    Deposed,
}

/// Commits a change of the ensemble. Once an attempt may have taken place it goes on until the outcome is known (M9).
pub(super) async fn commit(
    store: Arc<dyn MetaStore>,
    ledger: LedgerId,
    (mut commit, mut next): (Commit, Next),
    pause: Duration,
) -> Changed {
    let mut may_be_there = false;
    loop {
        next = match next {
            Next::Cas { expected, meta } => {
                let key = geminga_metastore::keys::ledger(ledger);
                match store.put_if(&key, Some(expected), meta.encode()).await {
                    Ok(Some(version)) => commit.cas_done(CasResult::Applied(version)),
                    Ok(None) => commit.cas_done(CasResult::Lost),
                    Err(Error::Unknown(_)) => {
                        may_be_there = true;
                        commit.cas_done(CasResult::Unknown)
                    }
                    Err(error) if !may_be_there => return refused(ledger, &error),
                    Err(_) => {
                        tokio::time::sleep(pause).await;
                        Next::Read
                    }
                }
            }
            Next::Read => match read_meta(&*store, ledger).await {
                Ok(read) => commit.read(read),
                Err(error) if !may_be_there => return refused(ledger, &error),
                Err(error) => {
                    tracing::warn!(%ledger, %error, "whether the ensemble changed is not known yet");
                    tokio::time::sleep(pause).await;
                    Next::Read
                }
            },
            Next::Committed(meta, version) => return Changed::Committed(meta, version),
            Next::Lost => return Changed::Deposed,
        }
    }
}

fn refused(ledger: LedgerId, error: &Error) -> Changed {
    tracing::warn!(%ledger, %error, "the ensemble was not changed");
    Changed::Refused
}
