//! Clients of librdkafka's: what kcat is told, and what it prints.

use geminga_harness::flights::Record;
use geminga_harness::{Cluster, Running};

/// How [`parse`] has it print records.
const FORMAT: &str = "%p|%o|%k|%s\n";

/// One that is told the addresses of all brokers.
pub(crate) fn start(cluster: &Cluster, args: &[&str]) -> Running {
    let brokers: Vec<&str> = cluster.brokers.iter().filter_map(|b| b.kafka.as_deref()).collect();
    let brokers = brokers.join(",");
    let all: Vec<&str> = ["-b", &brokers, "-q"].iter().chain(args).copied().collect();
    Running::program("kcat", &all, cluster.dir())
}

/// A member of a classic group that reads a topic from its beginning; [`parse`] reads what it prints.
pub(crate) fn member(cluster: &Cluster, group: &str, topic: &str) -> Running {
    let earliest = "auto.offset.reset=earliest";
    start(cluster, &["-G", group, "-X", earliest, "-u", "-f", FORMAT, topic])
}

/// The whole lines that a [`member`] has printed.
pub(crate) fn parse(text: &[u8]) -> Vec<Record> {
    let text = String::from_utf8_lossy(text);
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let record = |line: &str| {
        let mut fields = line.splitn(4, '|').map(str::to_owned);
        let mut next = || fields.next().unwrap_or_else(|| panic!("{line}"));
        let partition = next().parse().unwrap_or_else(|e| panic!("{e}: {line}"));
        let offset = next().parse().unwrap_or_else(|e| panic!("{e}: {line}"));
        Record { partition, offset, key: Some(next()), value: next() }
    };
    whole.lines().map(record).collect()
}
