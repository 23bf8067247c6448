//! `geminga group`: consumer groups as an operator sees them.

use std::str::FromStr;

use clap::Subcommand;
use geminga_client::v1::reset_offsets_request::To;

use super::topic::{done, moment};
use crate::args::ClientArgs;
use crate::client;
use crate::exit::Failure;
use crate::server;
use crate::view::{Group, Groups, Offsets, View};

/// Arguments of `geminga group`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) action: Action,
}

/// What to do with groups.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// List groups.
    #[command(after_help = "Example:\n  geminga group list")]
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show a group's members, offsets and lag.
    #[command(after_help = "Example:\n  geminga group describe billing --output json")]
    Describe {
        /// The group.
        group: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Delete a group without members and its offsets.
    #[command(after_help = "Example:\n  geminga group delete billing")]
    Delete {
        /// The group.
        group: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Set the offsets of a group without members.
    #[command(
        after_help = "Examples:\n  geminga group reset-offsets billing --topic orders --to earliest\n  \
                      geminga group reset-offsets billing --topic orders --to 2026-01-31T08:00:00Z"
    )]
    ResetOffsets {
        /// The group.
        group: String,
        /// The topic; all its partitions are set.
        #[arg(long, value_name = "T")]
        topic: String,
        /// `earliest`, `latest`, an offset, or a time like 2026-01-31T08:00:00Z.
        #[arg(long, value_name = "earliest|latest|OFFSET|TIMESTAMP")]
        to: Position,
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// Where a group should go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    /// At the first record there is.
    Earliest,
    /// After the last record.
    Latest,
    /// At this offset.
    Offset(i64),
    /// At the first record of this time or later: milliseconds since the Unix epoch.
    TimestampMs(i64),
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Ok(offset) = text.parse::<i64>() {
            return match offset {
                0.. => Ok(Self::Offset(offset)),
                _ => Err(format!("offset {offset} is negative")),
            };
        }
        let wrong = || {
            format!(
                "`{text}` is not earliest, latest, an offset or a time like 2026-01-31T08:00:00Z"
            )
        };
        moment(text).map(Self::TimestampMs).map_err(|()| wrong())
    }
}

impl From<Position> for To {
    fn from(position: Position) -> Self {
        match position {
            Position::Earliest => Self::Earliest(true),
            Position::Latest => Self::Latest(true),
            Position::Offset(offset) => Self::Offset(offset),
            Position::TimestampMs(ms) => Self::TimestampMs(ms),
        }
    }
}

/// Does what is asked.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    server::block_on_command(act(args.action))
}

async fn act(action: Action) -> Result<(), Failure> {
    match action {
        Action::List { client: args } => {
            let groups = client::connect(&args)?.admin().list_groups().await?;
            Groups::from(groups).print(args.print)
        }
        Action::Describe { group, client: args } => {
            let described = client::connect(&args)?.admin().describe_group(&group).await?;
            Group::from(described).print(args.print)
        }
        Action::Delete { group, client: args } => {
            client::connect(&args)?.admin().delete_group(&group).await?;
            done(&format!("deleted group {group}"), args.print.output)
        }
        Action::ResetOffsets { group, topic, to, client: args } => {
            let admin = client::connect(&args)?.admin();
            let offsets = admin.reset_offsets(&group, &topic, to.into()).await?;
            Offsets::from(offsets).print(args.print)
        }
    }
}
