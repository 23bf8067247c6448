//! `geminga meta`: the metadata store, for people: look at it, save it, bring it back.

use std::fmt::Write;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use geminga_metastore::backup::{Backup, InvalidBackup, RestoreError};
use geminga_metastore::dump::{self, Value};
use geminga_metastore::{KeyValue, Versioned};
use geminga_runtime::{SystemClock, WallClock};
use serde::Serialize;
use serde_json::Value as Json;

use crate::args::PrintArgs;
use crate::config::{EtcdTlsArgs, MetastoreUrl};
use crate::exit::Failure;
use crate::view::View;
use crate::{metadata, server};

/// Arguments of `geminga meta`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// What to do with the metadata.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Print every key with its decoded value.
    #[command(
        after_help = "Examples:\n  geminga meta dump --metastore etcd://127.0.0.1:2379/prod\n  \
                      geminga meta dump --metastore file://data/metadata.redb --prefix topics/"
    )]
    Dump {
        /// Where: etcd://HOST:PORT[,HOST:PORT...][/CLUSTER], or file://PATH for a standalone server that is stopped.
        #[arg(long, value_name = "URL", env = "GEMINGA_METASTORE")]
        metastore: MetastoreUrl,
        #[command(flatten)]
        tls: EtcdTlsArgs,
        /// Only keys that start with this.
        #[arg(long, value_name = "PREFIX", default_value = "")]
        prefix: String,
        #[command(flatten)]
        print: PrintArgs,
    },
    /// Save all metadata, as of one moment, in a file. Records are not in it. Servers go on meanwhile.
    #[command(
        after_help = "Example:\n  geminga meta backup --to prod.backup --metastore etcd://127.0.0.1:2379/prod"
    )]
    Backup {
        /// The file; what it held before is replaced once the new one is whole.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Where: etcd://HOST:PORT[,HOST:PORT...][/CLUSTER], or file://PATH for a standalone server that is stopped.
        #[arg(long, value_name = "URL", env = "GEMINGA_METASTORE")]
        metastore: MetastoreUrl,
        #[command(flatten)]
        tls: EtcdTlsArgs,
        #[command(flatten)]
        print: PrintArgs,
    },
    /// Put a backup where no metadata is, in the cluster's next epoch. Bookies are to be started then, and compared with it by
    /// `geminga cluster audit`. Safe to run again when it was interrupted.
    #[command(
        after_help = "Example:\n  geminga meta restore --from prod.backup --metastore etcd://127.0.0.1:2379/prod"
    )]
    Restore {
        /// A file that `geminga meta backup` wrote.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Where: etcd://HOST:PORT[,HOST:PORT...][/CLUSTER]. There must be nothing yet.
        #[arg(long, value_name = "URL", env = "GEMINGA_METASTORE")]
        metastore: MetastoreUrl,
        #[command(flatten)]
        tls: EtcdTlsArgs,
        /// Choose an epoch above this one, too, such as one that an audit or a bookie names.
        #[arg(long, value_name = "EPOCH", default_value_t = 0)]
        above: u16,
        #[command(flatten)]
        print: PrintArgs,
    },
}

/// Does what is asked.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::Dump { metastore, tls, prefix, print } => {
            server::block_on_command(dump(metastore, tls, prefix, print))
        }
        Action::Backup { to, metastore, tls, print } => {
            server::block_on_command(backup(to, metastore, tls, print))
        }
        Action::Restore { from, metastore, tls, above, print } => {
            server::block_on_command(restore(from, metastore, tls, above, print))
        }
    }
}

async fn dump(
    metastore: MetastoreUrl,
    tls: EtcdTlsArgs,
    prefix: String,
    print: PrintArgs,
) -> Result<(), Failure> {
    let range = metadata::list(&metastore, &tls, &prefix).await?;
    if range.items.is_empty() && prefix.is_empty() {
        return Err(Failure::new(format!(
            "there is nothing in {metastore}: correct the name of the cluster, or run `geminga cluster init`"
        ))
        .because("NO_CLUSTER"));
    }
    let keys = range.items.into_iter().map(Key::from).collect();
    Dump { revision: range.revision.0, keys }.print(print)
}

/// Everything under a prefix, as of one revision.
#[derive(Debug, Serialize)]
struct Dump {
    revision: i64,
    keys: Vec<Key>,
}

#[derive(Debug, Serialize)]
struct Key {
    key: String,
    kind: &'static str,
    version: i64,
    created: i64,
    value: Json,
    #[serde(skip_serializing_if = "Option::is_none")]
    invalid: Option<String>,
}

impl From<KeyValue> for Key {
    fn from(KeyValue { key, value: Versioned { value, version, created } }: KeyValue) -> Self {
        let described = dump::describe(&key, &value);
        Self {
            key,
            kind: described.kind,
            version: version.0,
            created: created.0,
            value: json(described.value),
            invalid: described.invalid,
        }
    }
}

impl View for Dump {
    /// A line a key, so that `grep` finds it.
    fn text(&self) -> String {
        let mut text = String::new();
        for Key { key, version, value, invalid, .. } in &self.keys {
            let invalid =
                invalid.as_ref().map_or_else(String::new, |why| format!("  INVALID: {why}"));
            writeln!(text, "{key}  v{version}  {value}{invalid}").expect("memory takes it");
        }
        text
    }
}

fn json(value: Value) -> Json {
    match value {
        Value::None => Json::Null,
        Value::Flag(flag) => flag.into(),
        Value::Number(number) => match (u64::try_from(number), i64::try_from(number)) {
            (Ok(number), _) => number.into(),
            (_, Ok(number)) => number.into(),
            // No field is that wide.
            _ => number.to_string().into(),
        },
        Value::Text(text) => text.into(),
        Value::List(values) => values.into_iter().map(json).collect(),
        Value::Fields(fields) => {
            fields.into_iter().map(|(name, value)| (name, json(value))).collect()
        }
    }
}

/// What was saved, or brought back.
#[derive(Debug, Serialize)]
struct Saved {
    cluster: String,
    cluster_epoch: Option<u16>,
    file: String,
    keys: usize,
    revision: i64,
    taken_ms: i64,
}

impl Saved {
    fn of(backup: &Backup, file: &Path, cluster_epoch: Option<u16>) -> Self {
        Self {
            cluster: backup.cluster.to_string(),
            cluster_epoch,
            file: file.display().to_string(),
            keys: backup.items.len(),
            revision: backup.revision.0,
            taken_ms: backup.taken_ms,
        }
    }
}

impl View for Saved {
    fn text(&self) -> String {
        let Self { cluster, cluster_epoch, file, keys, .. } = self;
        match cluster_epoch {
            None => format!("{keys} keys of cluster {cluster} are in {file}.\n"),
            Some(epoch) => format!(
                "Cluster {cluster} is restored from {file}, {keys} keys, in epoch {epoch}. Start all bookies, then run \
                 `geminga cluster audit`.\n"
            ),
        }
    }
}

async fn backup(
    to: PathBuf,
    metastore: MetastoreUrl,
    tls: EtcdTlsArgs,
    print: PrintArgs,
) -> Result<(), Failure> {
    let range = metadata::list(&metastore, &tls, "").await?;
    let backup = Backup::of(range, SystemClock.now_ms())?;
    let file = backup.encode();
    replace(&to, &file).map_err(|error| Failure::new(format!("{}: {error}", to.display())))?;
    Saved::of(&backup, &to, None).print(print)
}

/// Writes a file that is there as a whole, or as it was before.
fn replace(to: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = to.with_file_name(name);
    let mut file = File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&part, to)?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

async fn restore(
    from: PathBuf,
    metastore: MetastoreUrl,
    tls: EtcdTlsArgs,
    above: u16,
    print: PrintArgs,
) -> Result<(), Failure> {
    let of_file = |error: &dyn std::fmt::Display| format!("{}: {error}", from.display());
    let file = std::fs::read(&from).map_err(|error| Failure::new(of_file(&error)))?;
    let backup = Backup::decode(&file.into())
        .map_err(|error: InvalidBackup| Failure::new(of_file(&error)).because("INVALID_BACKUP"))?;
    let store = metadata::connect(&metastore, tls.load(&metastore)?.as_ref()).await?;
    let restored = backup.restore(&*store, &SystemClock, above).await?;
    Saved::of(&backup, &from, Some(restored.epoch)).print(print)
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        let reason = match error {
            RestoreError::Cluster(error) => return error.into(),
            RestoreError::NotEmpty(_) => "METADATA_NOT_EMPTY",
            RestoreError::NoCluster(_) => "NO_CLUSTER",
        };
        Self::new(error).because(reason)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use geminga_metastore::record::{Coordinator, PartitionTerm};
    use geminga_metastore::{Revision, Version, keys};
    use geminga_proto::ids::{BrokerId, PartitionIndex, Term, TopicId};

    use super::*;

    fn stored(key: &str, value: Bytes) -> KeyValue {
        let value = Versioned { value, version: Version(7), created: Revision(3) };
        KeyValue { key: key.to_owned(), value }
    }

    #[test]
    fn a_dump_is_lines_for_people_and_json_for_programs() {
        let term = keys::term(TopicId::default(), PartitionIndex(2));
        let record = PartitionTerm { term: Term(4), broker: None }.encode();
        let keys = [
            stored(keys::COORDINATOR, Coordinator { broker: BrokerId(5) }.encode()),
            stored(&term, record),
            stored(keys::CLUSTER, Bytes::from_static(b"\xff")),
        ];
        let dump = Dump { revision: 9, keys: keys.into_iter().map(Key::from).collect() };
        let text = dump.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], r#"coordinator  v7  {"broker":5}"#);
        assert_eq!(lines[1], format!(r#"{term}  v7  {{"broker":null,"term":4}}"#));
        assert!(lines[2].starts_with(r#"cluster  v7  {"bytes":"ff"}  INVALID: "#), "{text}");
        let json = serde_json::to_value(&dump).expect("plain data");
        assert_eq!(json["revision"], 9);
        assert_eq!(json["keys"][1]["kind"], "term");
        assert_eq!(json["keys"][1]["value"]["broker"], Json::Null);
        assert_eq!(json["keys"][0].get("invalid"), None);
    }
}
