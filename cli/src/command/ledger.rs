//! `geminga ledger`: the pieces that partitions' logs are made of, for an operator. Works on the metadata store and the
//! bookies directly, so that it also does when no broker runs.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use geminga_ledger::{BookieDirectory, Config, LedgerClient, Parts, RecoverError};
use geminga_metastore::record::{LedgerMeta, LedgerState};
use geminga_metastore::{KeyValue, LedgerIds, cluster, keys};
use geminga_proto::ids::LedgerId;
use geminga_runtime::{SystemClock, SystemRandom, Tasks};
use geminga_tls::Credentials;

use crate::args::PrintArgs;
use crate::config::{EtcdTlsOptions, MetastoreUrl, TlsArgs};
use crate::exit::{Exit, Failure};
use crate::view::{Ledger, Ledgers, View};
use crate::{metadata, server};

/// Arguments of `geminga ledger`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// What to do with ledgers.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// List ledgers.
    #[command(
        after_help = "Examples:\n  geminga ledger list --metastore etcd://127.0.0.1:2379/prod --topic flights\n  \
                      geminga ledger list --metastore file://data/metadata.redb --state open"
    )]
    List {
        #[command(flatten)]
        place: Place,
        /// Only those in this state.
        #[arg(long, value_enum)]
        state: Option<State>,
        /// Only those of this topic.
        #[arg(long, value_name = "NAME")]
        topic: Option<String>,
        #[command(flatten)]
        print: PrintArgs,
    },
    /// Show one ledger: its state, its end, and which bookies hold which entries.
    #[command(
        after_help = "Example:\n  geminga ledger describe 0000000000000002 --metastore etcd://127.0.0.1:2379/prod"
    )]
    Describe {
        /// Its id, 16 hexadecimal digits.
        #[arg(value_name = "LEDGER", value_parser = ledger_id)]
        ledger: LedgerId,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        print: PrintArgs,
    },
    /// Close a ledger whose writer is gone, at the end that its bookies agree on. Safe at any time: a writer that is still there
    /// is fenced, and goes on in a new ledger. Nothing that was acknowledged is lost.
    #[command(
        after_help = "Example:\n  geminga ledger recover 0000000000000002 --metastore etcd://127.0.0.1:2379/prod"
    )]
    Recover {
        /// Its id, 16 hexadecimal digits.
        #[arg(value_name = "LEDGER", value_parser = ledger_id)]
        ledger: LedgerId,
        #[command(flatten)]
        place: Place,
        /// How long bookies that do not answer are waited for.
        #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
        wait: Duration,
        #[command(flatten)]
        print: PrintArgs,
    },
    /// Close a ledger whose bookies are gone for good, at the last entry that the rest is known to have. Acknowledged
    /// records may be lost: first bring back the bookies that `recover` names, or their disks. The ledger is stamped with
    /// who was missing.
    #[command(
        after_help = "Example:\n  geminga ledger force-close 0000000000000002 --confirm 0000000000000002 \
                      --metastore etcd://127.0.0.1:2379/prod"
    )]
    ForceClose {
        /// Its id, 16 hexadecimal digits.
        #[arg(value_name = "LEDGER", value_parser = ledger_id)]
        ledger: LedgerId,
        /// The same id again; asked for on a terminal when it is not given.
        #[arg(long, value_name = "LEDGER", value_parser = ledger_id)]
        confirm: Option<LedgerId>,
        #[command(flatten)]
        place: Place,
        /// How long bookies that do not answer are waited for.
        #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
        wait: Duration,
        #[command(flatten)]
        print: PrintArgs,
    },
}

/// Where the metadata is.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Place {
    /// Where: etcd://HOST:PORT[,HOST:PORT...][/CLUSTER]; to look, also file://PATH for a standalone server that is
    /// stopped.
    #[arg(long, value_name = "URL", env = "GEMINGA_METASTORE")]
    pub(crate) metastore: MetastoreUrl,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    #[command(flatten)]
    etcd: EtcdTlsOptions,
}

impl Place {
    /// What etcd is shown and believed.
    pub(crate) fn of_etcd(&self) -> Result<Option<Credentials>, Failure> {
        self.etcd.check(self.metastore.is_tls())?;
        self.etcd.or(&self.tls)
    }
}

/// A state to choose ledgers by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    /// Its writer may write.
    Open,
    /// Sealed; its end is being found.
    InRecovery,
    /// Ends for ever.
    Closed,
    /// About to be removed.
    Deleting,
}

impl From<State> for LedgerState {
    fn from(state: State) -> Self {
        match state {
            State::Open => Self::Open,
            State::InRecovery => Self::InRecovery,
            State::Closed => Self::Closed,
            State::Deleting => Self::Deleting,
        }
    }
}

/// An id as every table, log line and key shows it.
pub(crate) fn ledger_id(text: &str) -> Result<LedgerId, String> {
    let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match u64::from_str_radix(text, 16) {
        Ok(id) if digits => Ok(LedgerId(id)),
        _ => Err(format!(
            "`{text}` is not a ledger id: 16 hexadecimal digits, as `geminga ledger list` shows"
        )),
    }
}

/// Does what is asked.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::List { place, state, topic, print } => {
            server::block_on_command(list(place, state, topic, print))
        }
        Action::Describe { ledger, place, print } => {
            server::block_on_command(describe(ledger, place, print))
        }
        Action::Recover { ledger, place, wait, print } => {
            server::block_on_command(recover(ledger, place, wait, print))
        }
        Action::ForceClose { ledger, confirm, place, wait, print } => {
            confirmed(ledger, confirm)?;
            server::block_on_command(force_close(ledger, place, wait, print))
        }
    }
}

async fn list(
    place: Place,
    state: Option<State>,
    topic: Option<String>,
    print: PrintArgs,
) -> Result<(), Failure> {
    let range =
        metadata::list_by(&place.metastore, place.of_etcd()?.as_ref(), keys::LEDGERS).await?;
    let state = state.map(LedgerState::from);
    let wanted = |meta: &LedgerMeta| {
        state.is_none_or(|state| meta.state == state)
            && topic.as_ref().is_none_or(|topic| meta.custom.name == *topic)
    };
    let mut ledgers = Vec::new();
    for item in range.items {
        let meta = decode(&item)?;
        if wanted(&meta) {
            ledgers.push(Ledger::from(&meta));
        }
    }
    Ledgers(ledgers).print(print)
}

async fn describe(ledger: LedgerId, place: Place, print: PrintArgs) -> Result<(), Failure> {
    let key = keys::ledger(ledger);
    let range = metadata::list_by(&place.metastore, place.of_etcd()?.as_ref(), &key).await?;
    match range.items.iter().find(|item| item.key == key) {
        Some(item) => Ledger::from(&decode(item)?).print(print),
        None => Err(unknown(ledger)),
    }
}

fn decode(item: &KeyValue) -> Result<LedgerMeta, Failure> {
    let corrupt = |why: String| {
        Failure::new(format!("the value of {} cannot be read: {why}", item.key))
            .because("METADATA_CORRUPT")
    };
    let id = keys::parse_ledger(&item.key)
        .ok_or_else(|| corrupt("the key is no ledger's".to_owned()))?;
    LedgerMeta::decode(id, &item.value.value).map_err(|invalid| corrupt(invalid.to_string()))
}

pub(crate) fn unknown(ledger: LedgerId) -> Failure {
    Failure::new(format!(
        "the metadata has no ledger {ledger}: it was never made, is deleted, or its segment was folded, which `geminga topic describe` \
         counts; `geminga ledger list` shows all others"
    ))
    .because("UNKNOWN_LEDGER")
}

async fn recover(
    ledger: LedgerId,
    place: Place,
    wait: Duration,
    print: PrintArgs,
) -> Result<(), Failure> {
    let tasks = Tasks::new("ledger");
    let client = connect(&place, &tasks, config(wait)).await?;
    let meta = client.recover(ledger).await?;
    Ledger::from(&meta).print(print)
}

/// The id must be said twice: what may be lost cannot be brought back.
fn confirmed(ledger: LedgerId, again: Option<LedgerId>) -> Result<(), Failure> {
    let again = match again {
        Some(again) => again,
        None if std::io::stdin().is_terminal() => {
            let mut err = std::io::stderr();
            write!(err, "Acknowledged records may be lost. Type the ledger's id again: ")?;
            err.flush()?;
            let mut line = String::new();
            std::io::stdin().read_line(&mut line)?;
            ledger_id(line.trim()).map_err(Failure::usage)?
        }
        None => {
            return Err(Failure::usage(format!(
                "acknowledged records may be lost: say the id again with --confirm {ledger}"
            )));
        }
    };
    if again != ledger {
        return Err(Failure::usage(format!(
            "{again} is another ledger than {ledger}: nothing was done"
        )));
    }
    Ok(())
}

async fn force_close(
    ledger: LedgerId,
    place: Place,
    wait: Duration,
    print: PrintArgs,
) -> Result<(), Failure> {
    let tasks = Tasks::new("ledger");
    let client = connect(&place, &tasks, config(wait)).await?;
    let meta = client.force_close(ledger).await?;
    Ledger::from(&meta).print(print)
}

fn config(wait: Duration) -> Config {
    Config { recovery_deadline: wait, ..Config::default() }
}

/// A client of the ledger layer in this process. It knows all bookies that are registered now.
pub(crate) async fn connect(
    place: &Place,
    tasks: &Tasks,
    config: Config,
) -> Result<LedgerClient, Failure> {
    let store = metadata::connect(&place.metastore, place.of_etcd()?.as_ref()).await?;
    let Some((cluster, _)) = cluster::read(&*store).await? else {
        return Err(Failure::new(format!(
            "there is no cluster in {}: correct the name of the cluster",
            place.metastore
        ))
        .because("NO_CLUSTER"));
    };
    let config = config.validated()?;
    let (tasks_of_bookies, local) = (tasks.child("bookies"), HashMap::new());
    let bookies = BookieDirectory::start(
        &*store,
        tasks_of_bookies,
        local,
        config.lane_bytes,
        place.tls.dial()?,
    )
    .await?;
    Ok(LedgerClient::new(Parts {
        cluster: cluster.uuid,
        ids: Arc::new(LedgerIds::new(Arc::clone(&store), cluster.epoch)),
        store,
        bookies,
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        tasks: tasks.child("ledgers"),
        config,
        owner: format!("operator-{}", std::process::id()),
    }))
}

impl From<RecoverError> for Failure {
    fn from(error: RecoverError) -> Self {
        let (exit, reason) = match &error {
            RecoverError::Gone(ledger) => return unknown(*ledger),
            RecoverError::Missing { .. } => (Exit::Unreachable, "BOOKIES_MISSING"),
            RecoverError::InObject(_) => (Exit::Failed, "LEDGER_IN_OBJECT"),
            RecoverError::Damaged { .. } => (Exit::Failed, "LEDGER_DAMAGED"),
            RecoverError::Metadata(error) => return error.clone().into(),
        };
        Self::with(exit, error).because(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::ledger_state;

    #[test]
    fn ledger_ids_are_what_tables_show() {
        let id = LedgerId::from_parts(1, 0xbeef).expect("fits");
        assert_eq!(ledger_id(&id.to_string()), Ok(id));
        for wrong in ["", "17", "+00000000000000f", "00000000000000zz", "00100000000000beef"] {
            assert!(ledger_id(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_id_is_said_twice() {
        let id = LedgerId(0x17);
        assert_eq!(confirmed(id, Some(id)), Ok(()));
        assert!(confirmed(id, Some(LedgerId(0x18))).is_err());
    }

    #[test]
    fn states_have_the_same_word_as_argument_and_in_tables() {
        for state in State::value_variants() {
            let word = state.to_possible_value().expect("no variant is hidden");
            assert_eq!(word.get_name(), ledger_state(LedgerState::from(*state)));
        }
    }
}
