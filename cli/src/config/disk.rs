//! How full the disks of a bookie may get.

use geminga_bookie::Limits;
use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// Where a disk takes less than everything, in percent of the file system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct DiskOptions {
    /// From so many percent of a disk used, space is given back in a hurry [default: 85].
    #[arg(
        id = "disk_warn",
        long = "disk-warn",
        value_name = "PERCENT",
        env = "GEMINGA_DISK_WARN",
        help_heading = "Disks"
    )]
    pub(crate) warn: Option<u8>,
    /// From so many percent used, a disk takes no new data: the rest is for copies that recovery makes, and for giving space
    /// back [default: 90].
    #[arg(
        id = "disk_read_only",
        long = "disk-read-only",
        value_name = "PERCENT",
        env = "GEMINGA_DISK_READ_ONLY",
        help_heading = "Disks"
    )]
    pub(crate) read_only: Option<u8>,
    /// From so many percent used, a disk takes what closes and deletes ledgers, and nothing else [default: 96].
    #[arg(
        id = "disk_hard",
        long = "disk-hard",
        value_name = "PERCENT",
        env = "GEMINGA_DISK_HARD",
        help_heading = "Disks"
    )]
    pub(crate) hard: Option<u8>,
}

impl DiskOptions {
    /// These options where they are set, those of `file` elsewhere, the bookie's own defaults last; checked.
    pub(crate) fn over(self, file: Self) -> Result<Self, Failure> {
        let own = Limits::default();
        let limits = Limits {
            warn_percent: self.warn.or(file.warn).unwrap_or(own.warn_percent),
            read_only_percent: self.read_only.or(file.read_only).unwrap_or(own.read_only_percent),
            hard_percent: self.hard.or(file.hard).unwrap_or(own.hard_percent),
        };
        let Limits { warn_percent, read_only_percent, hard_percent } = limits;
        if warn_percent > read_only_percent
            || read_only_percent >= hard_percent
            || hard_percent >= 100
        {
            return Err(Failure::usage(format!(
                "--disk-warn {warn_percent}, --disk-read-only {read_only_percent} and --disk-hard {hard_percent}: let each be below the next, \
                 and the last below 100, so that a full disk can still be emptied"
            )));
        }
        Ok(Self {
            warn: Some(warn_percent),
            read_only: Some(read_only_percent),
            hard: Some(hard_percent),
        })
    }

    /// As the bookie has them.
    pub(crate) fn limits(&self) -> Limits {
        let own = Limits::default();
        Limits {
            warn_percent: self.warn.unwrap_or(own.warn_percent),
            read_only_percent: self.read_only.unwrap_or(own.read_only_percent),
            hard_percent: self.hard.unwrap_or(own.hard_percent),
        }
    }
}
