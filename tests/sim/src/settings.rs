//! What one run is like: drawn from its seed, so that a batch covers small and large, calm and stormy.

use geminga_bookie::ledger as bookie;
use geminga_bookie::log;
use geminga_bookie::tiering as tier;
use geminga_ledger::core::mutation as client;

use crate::dice::Dice;
use crate::schedule::{MS, Time};

/// A rule that is broken on purpose, to see that a run notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// A rule of the bookie's log.
    Log(log::Mutation),
    /// A rule of a ledger at a bookie.
    Bookie(bookie::Mutation),
    /// A rule of the ledger client.
    Client(client::Mutation),
    /// A rule of tiering.
    Tier(tier::Mutation),
}

/// Rules that can be broken, by the name that the runner takes. Not here are those that another rule stands in for in this
/// world (a tombstone, where K2 reads the metadata first), or whose harm takes what it does not have (repairs of open ledgers), or hardly ever (a swap that takes place after its object was given up): the model and
/// unit tests break these.
pub const RULES: &[(&str, Broken)] = &[
    ("skip-sync", Broken::Log(log::Mutation::SkipSync)),
    ("skip-dir-sync", Broken::Log(log::Mutation::SkipDirSync)),
    ("skip-look-ahead", Broken::Log(log::Mutation::SkipLookAhead)),
    ("trust-found-tail", Broken::Log(log::Mutation::TrustFoundTail)),
    ("keep-stale-tail", Broken::Log(log::Mutation::KeepStaleTail)),
    ("snapshot-before-durable", Broken::Log(log::Mutation::SnapshotBeforeDurable)),
    ("drop-uncovered", Broken::Log(log::Mutation::DropUncovered)),
    ("forget-spilled", Broken::Log(log::Mutation::ForgetSpilled)),
    ("reply-before-seal", Broken::Bookie(bookie::Mutation::ReplyBeforeSealIsDurable)),
    ("reply-before-empty-seal", Broken::Bookie(bookie::Mutation::ReplyBeforeEmptySealIsDurable)),
    ("seal-with-one-less", Broken::Client(client::Mutation::SealWithOneLess)),
    ("seal-from-the-start", Broken::Client(client::Mutation::SealFromTheStart)),
    ("count-unknown", Broken::Client(client::Mutation::CountUnknownAsNegative)),
    ("publish-stand-ins-early", Broken::Client(client::Mutation::PublishStandInsEarly)),
    ("take-shortest-tail", Broken::Client(client::Mutation::TakeShortestTail)),
    ("rewrite-end", Broken::Client(client::Mutation::RewriteEnd)),
    ("assume-applied", Broken::Client(client::Mutation::AssumeApplied)),
    ("ack-with-one-less", Broken::Client(client::Mutation::AckWithOneLess)),
    ("ack-in-one-zone", Broken::Client(client::Mutation::AckInOneZone)),
    ("append-empty-fragment", Broken::Client(client::Mutation::AppendEmptyFragment)),
    ("write-when-not-open", Broken::Client(client::Mutation::WriteWhenNotOpen)),
    ("serve-another-life", Broken::Bookie(bookie::Mutation::IgnoreIncarnation)),
    ("recovery-raises-lac", Broken::Bookie(bookie::Mutation::RecoveryRaisesLac)),
    ("forget-seal", Broken::Bookie(bookie::Mutation::ForgetSeal)),
    ("accept-after-seal", Broken::Bookie(bookie::Mutation::AcceptAfterSeal)),
    ("accept-stale-epoch", Broken::Bookie(bookie::Mutation::AcceptStaleEpoch)),
    ("ack-duplicate-at-once", Broken::Bookie(bookie::Mutation::AckDuplicateAtOnce)),
    ("forget-operation", Broken::Client(client::Mutation::ForgetOperation)),
    ("complete-while-changing", Broken::Client(client::Mutation::CompleteWhileChanging)),
    ("drop-before-trimmed", Broken::Tier(tier::Mutation::DropBeforeTrimmed)),
    ("skip-read-back", Broken::Tier(tier::Mutation::SkipReadBack)),
    ("publish-unclaimed", Broken::Tier(tier::Mutation::PublishUnclaimed)),
    ("repair-swaps-first", Broken::Client(client::Mutation::RepairSwapsFirst)),
];

/// The parameters of one run.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) qw: u8,
    pub(crate) qa: u8,
    pub(crate) bookies: usize,
    /// Events until faults and producers stop.
    pub(crate) events: u64,
    /// Mean time between faults.
    pub(crate) fault_gap: Time,
    /// Mean time between entries.
    pub(crate) produce_gap: Time,
    /// Entries after which a ledger is rolled.
    pub(crate) ledger_entries: i64,
    /// Largest payload, bytes.
    pub(crate) payload: u64,
    /// Closed ledgers that are kept; older ones are deleted.
    pub(crate) keep_ledgers: usize,
    /// Looks out of a thousand at which a log writes a snapshot; more when space waits for it.
    pub(crate) snapshots: u64,
    pub(crate) log_mutations: log::Mutations,
    pub(crate) bookie_mutations: bookie::Mutations,
    pub(crate) client_mutations: client::Mutations,
    /// Whether closed ledgers are uploaded, trimmed and repaired. Every fourth seed, whatever else is drawn.
    pub(crate) keepers: bool,
    /// Whether their copies move besides, under locks, and are given up where no place names them. Every sixteenth seed.
    pub(crate) movers: bool,
    pub(crate) tier_mutations: tier::Mutations,
    /// Zones that bookies are in, by turns. Two in every eighth seed, whatever else is drawn.
    pub(crate) zones: usize,
    /// Zones that an acknowledgement is in, where its ledger began in so many.
    pub(crate) min_ack_zones: usize,
}

/// Events of one run.
pub(crate) const EVENTS: u64 = 20_000;

impl Settings {
    pub(crate) fn draw(seed: u64, dice: &Dice, broken: Option<Broken>) -> Self {
        let quorums = [(3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2), (3, 3), (5, 3)];
        let (qw, qa) = *dice.pick(&quorums);
        let mut settings = Self {
            qw,
            qa,
            // Where every copy is needed somebody must be able to stand in, or the first loss ends the run.
            bookies: usize::from(qw) + usize::from(qw == qa) + dice.below(4),
            events: EVENTS,
            fault_gap: *dice.pick(&[60, 120, 250, 600]) * MS,
            produce_gap: *dice.pick(&[2, 4, 8]) * MS,
            ledger_entries: *dice.pick(&[15, 60, 200]),
            payload: *dice.pick(&[40, 400, 1500]),
            keep_ledgers: 3 + dice.below(8),
            snapshots: *dice.pick(&[0, 40, 300]),
            log_mutations: log::Mutations::default(),
            bookie_mutations: bookie::Mutations::default(),
            client_mutations: client::Mutations::default(),
            keepers: seed % 4 == 3,
            movers: seed % 16 == 7,
            tier_mutations: tier::Mutations::default(),
            zones: if seed % 8 == 1 { 2 } else { 1 },
            min_ack_zones: 2,
        };
        if settings.keepers {
            // Closed ledgers are what it is about.
            settings.keep_ledgers += 6;
            settings.ledger_entries = settings.ledger_entries.min(60);
        }
        if settings.movers {
            // Somebody must be there to move to.
            settings.bookies = settings.bookies.max(usize::from(qw) + 2);
        }
        match broken {
            Some(Broken::Log(rule)) => settings.log_mutations = log::Mutations::only(rule),
            Some(Broken::Bookie(rule)) => settings.bookie_mutations = bookie::Mutations::only(rule),
            Some(Broken::Client(rule)) => settings.client_mutations = client::Mutations::only(rule),
            Some(Broken::Tier(rule)) => settings.tier_mutations = tier::Mutations::only(rule),
            None => {}
        }
        settings
    }
}
