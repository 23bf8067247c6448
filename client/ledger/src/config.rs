//! Limits and timeouts of the ledger layer (protocol 2.6, 4.3). An operator sets none of them but `min_zones` and `min_ack_zones`. A
//! broker derives `total_outstanding_bytes` and `lane_bytes` from the memory that it has; all else is as it stands in `Default`, for
//! tests to change.

use std::time::Duration;

use geminga_proto::caps;

/// Limits and timeouts of writers, readers and recoverers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How many zones count for more than a bookie's quarantine (6.7): until the copies of an entry are in so many, as far as so many have a
    /// bookie that takes data, one in quarantine is chosen all the same. Default 2, minimum 1, at most as many as there can be copies.
    pub min_zones: usize,
    /// In how many zones what is acknowledged is (6.7), or in all that its ledger began with, where they are fewer. Default 1: wherever the
    /// ack quorum is. Minimum 1, at most `min_zones`.
    pub min_ack_zones: usize,
    /// Most bytes that one ledger holds unacknowledged or not yet on every member; beyond it appends wait.
    /// Default 32 MiB, minimum one entry.
    pub outstanding_bytes: usize,
    /// The same for all ledgers of this process together. Default 1 GiB, minimum that of one ledger.
    pub total_outstanding_bytes: usize,
    /// How long a position may be without a connection before it is given up. Default 2 s.
    pub reconnect_grace: Duration,
    /// How long a member of a ledger that nothing is written to may be unregistered before it is asked whether it is there, and given
    /// up unless it answers; up to half as long again by chance. Default 30 s.
    pub member_grace: Duration,
    /// How long an add may stay without an answer before its position is given up; four times the 99.9th percentile of this
    /// ledger's adds where that is longer. Default 5 s.
    pub add_timeout: Duration,
    /// How long a position may be behind the ledger's LAC before it is given up as slow. Default 3 s.
    pub lag_limit: Duration,
    /// How many bytes a position may be behind the ledger's LAC before it is given up as slow. Default 16 MiB.
    pub lag_bytes: u64,
    /// How long the oldest entry may stay unacknowledged before the owner is asked to close and roll. Default 15 s.
    pub quorum_timeout: Duration,
    /// How old the last successful read of the metadata may be when an ensemble is changed. Default 1 s.
    pub metadata_fresh: Duration,
    /// The pause before others are looked for again, where nobody was found. Default 5 s.
    pub search_pause: Duration,
    /// Most changes of one ledger's ensemble within a minute; beyond it the ledger is rolled. Default 8.
    pub max_changes: usize,
    /// Errors of one bookie within a minute that put it into quarantine. Default 100.
    pub quarantine_errors: u32,
    /// How long a bookie in quarantine is chosen only where others do not suffice. Default 30 min.
    pub quarantine: Duration,
    /// LAC is told to bookies on its own when nothing was sent for so long. Default 10 ms.
    pub idle_lac: Duration,
    /// First pause before another attempt at a bookie; doubles up to `retry_max`. Default 20 ms.
    pub retry_min: Duration,
    /// Longest pause between attempts. Default 500 ms.
    pub retry_max: Duration,
    /// How long one recovery attempt waits for missing members. Default 30 s.
    pub recovery_deadline: Duration,
    /// How long a recovery waits for the rest once coverage is reached. Default 100 ms.
    pub recovery_grace: Duration,
    /// How long a recovery waits for copies beyond the ack quorum. Default 1 s.
    pub recovery_copy_grace: Duration,
    /// How long a reader waits for one replica before it asks the next. Default 2 s.
    pub read_timeout: Duration,
    /// Most bytes asked for in one read. Default 1 MiB.
    pub read_bytes: u32,
    /// Most bytes of entries in one add request. Default 1 MiB.
    pub add_bytes: usize,
    /// Most bytes of entries that wait in the connection to one bookie: one that does not read keeps what its writers had
    /// sent it, even after they have left it out. Above, its connection counts as broken. Default 64 MiB, minimum the
    /// largest request.
    pub lane_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            min_zones: 2,
            min_ack_zones: 1,
            outstanding_bytes: 32 * 1024 * 1024,
            total_outstanding_bytes: 1024 * 1024 * 1024,
            reconnect_grace: Duration::from_secs(2),
            member_grace: Duration::from_secs(30),
            add_timeout: Duration::from_secs(5),
            lag_limit: Duration::from_secs(3),
            lag_bytes: 16 * 1024 * 1024,
            quorum_timeout: Duration::from_secs(15),
            metadata_fresh: Duration::from_secs(1),
            search_pause: Duration::from_secs(5),
            max_changes: 8,
            quarantine_errors: 100,
            quarantine: Duration::from_secs(30 * 60),
            idle_lac: Duration::from_millis(10),
            retry_min: Duration::from_millis(20),
            retry_max: Duration::from_millis(500),
            recovery_deadline: Duration::from_secs(30),
            recovery_grace: Duration::from_millis(100),
            recovery_copy_grace: Duration::from_secs(1),
            read_timeout: Duration::from_secs(2),
            read_bytes: 1024 * 1024,
            add_bytes: 1024 * 1024,
            lane_bytes: 64 * 1024 * 1024,
        }
    }
}

/// A setting that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {value}: {must}")]
pub struct InvalidConfig {
    /// Which.
    pub setting: &'static str,
    /// What it is.
    pub value: String,
    /// What it must be.
    pub must: String,
}

impl Config {
    /// The same, if it can work.
    ///
    /// # Errors
    /// [`InvalidConfig`] that names the first setting that cannot.
    pub fn validated(self) -> Result<Self, InvalidConfig> {
        let least = |setting, value: u64, least: u64| {
            let must = format!("must be at least {least}");
            let invalid = InvalidConfig { setting, value: value.to_string(), must };
            if value >= least { Ok(()) } else { Err(invalid) }
        };
        let ledger = self.outstanding_bytes as u64;
        least("outstanding_bytes", ledger, caps::MAX_ENTRY_BYTES as u64)?;
        least("total_outstanding_bytes", self.total_outstanding_bytes as u64, ledger)?;
        least("min_zones", self.min_zones as u64, 1)?;
        let most = usize::from(caps::MAX_WRITE_QUORUM);
        if self.min_zones > most {
            let must = format!("must be at most {most}, as copies are");
            let value = self.min_zones.to_string();
            return Err(InvalidConfig { setting: "min_zones", value, must });
        }
        least("min_ack_zones", self.min_ack_zones as u64, 1)?;
        if self.min_ack_zones > self.min_zones {
            let must = format!("must be at most min_zones, {}", self.min_zones);
            let value = self.min_ack_zones.to_string();
            return Err(InvalidConfig { setting: "min_ack_zones", value, must });
        }
        least("lag_bytes", self.lag_bytes, 1)?;
        least("max_changes", self.max_changes as u64, 1)?;
        least("quarantine_errors", self.quarantine_errors.into(), 1)?;
        least("read_bytes", self.read_bytes.into(), 1)?;
        least("add_bytes", self.add_bytes as u64, 1)?;
        let request = self.add_bytes.max(caps::MAX_ENTRY_BYTES);
        least("lane_bytes", self.lane_bytes as u64, request as u64)?;
        let times = [
            ("reconnect_grace", self.reconnect_grace),
            ("member_grace", self.member_grace),
            ("add_timeout", self.add_timeout),
            ("lag_limit", self.lag_limit),
            ("quorum_timeout", self.quorum_timeout),
            ("metadata_fresh", self.metadata_fresh),
            ("search_pause", self.search_pause),
            ("idle_lac", self.idle_lac),
            ("retry_min", self.retry_min),
            ("recovery_deadline", self.recovery_deadline),
            ("read_timeout", self.read_timeout),
        ];
        if let Some((setting, value)) = times.into_iter().find(|(_, time)| time.is_zero()) {
            let must = "must be longer than nothing".to_owned();
            return Err(InvalidConfig { setting, value: format!("{value:?}"), must });
        }
        if self.retry_max < self.retry_min {
            let must = format!("must not be below retry_min, {:?}", self.retry_min);
            let value = format!("{:?}", self.retry_max);
            return Err(InvalidConfig { setting: "retry_max", value, must });
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        assert_eq!(Config::default().validated(), Ok(Config::default()));
        let refused = |config: Config| config.validated().unwrap_err().setting;
        assert_eq!(
            refused(Config { outstanding_bytes: 1, ..Config::default() }),
            "outstanding_bytes"
        );
        let config = Config { total_outstanding_bytes: 1 << 20, ..Config::default() };
        assert_eq!(refused(config), "total_outstanding_bytes");
        let config = Config { lane_bytes: caps::MAX_ENTRY_BYTES - 1, ..Config::default() };
        assert_eq!(refused(config), "lane_bytes");
        let config = Config { add_bytes: 65 << 20, ..Config::default() };
        assert_eq!(refused(config), "lane_bytes");
        for min_zones in [0, 8] {
            assert_eq!(refused(Config { min_zones, ..Config::default() }), "min_zones");
        }
        for min_ack_zones in [0, 3] {
            let config = Config { min_ack_zones, ..Config::default() };
            assert_eq!(refused(config), "min_ack_zones");
        }
        let config = Config { idle_lac: Duration::ZERO, ..Config::default() };
        assert_eq!(refused(config), "idle_lac");
        let config = Config { retry_max: Duration::from_millis(1), ..Config::default() };
        assert_eq!(refused(config), "retry_max");
    }
}
