use clap::CommandFactory;
use clap::error::ErrorKind;

use super::*;
use crate::command::group::Position;
use crate::command::produce::{Acks, Compression};
use crate::command::{cluster, consume, group, perf, produce, topic};

fn parse(line: &str) -> Command {
    parse_err(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn parse_err(line: &str) -> Result<Command, clap::Error> {
    Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
}

/// Every command that does something, by the words that name it.
fn leaves(command: &clap::Command, path: &str, out: &mut Vec<(String, clap::Command)>) {
    let mut subcommands = command.get_subcommands().filter(|c| c.get_name() != "help").peekable();
    if subcommands.peek().is_none() {
        out.push((path.to_owned(), command.clone()));
    }
    for sub in subcommands {
        leaves(sub, &format!("{path} {}", sub.get_name()), out);
    }
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_an_example_that_parses() {
    let mut commands = Vec::new();
    leaves(&Cli::command(), "geminga", &mut commands);
    assert_eq!(commands.len(), 45, "{:?}", commands.iter().map(|c| &c.0).collect::<Vec<_>>());
    for (path, command) in commands {
        let help = command.get_after_help().expect(&path).to_string();
        let examples: Vec<_> = help.lines().filter_map(|line| line.split_once(&path)).collect();
        assert!(!examples.is_empty(), "{path} has no example");
        for (_, rest) in examples {
            let rest = rest.split(" <").next().expect("split yields one").trim();
            parse(format!("{path} {rest}").trim());
        }
    }
}

#[test]
fn the_contract_holds() {
    // Word for word what the command line promised when it was introduced: later versions only add to it.
    for line in [
        "geminga standalone --data-dir d",
        "geminga standalone --data-dir d --grpc 127.0.0.1:7070 --http 127.0.0.1:7080",
        "geminga bookie --metastore etcd://h:1,h:2/c --data-dir a b --listen 127.0.0.1:3181 \
         --http 127.0.0.1:1 --advertise h:1 --id i --zone z",
        "geminga serving --metastore etcd://h:1 --grpc 127.0.0.1:1 --http 127.0.0.1:2 --advertise h:1 --zone z",
        "geminga topic create t --partitions 3 --write-quorum 3 --ack-quorum 2 --allow-single-copy \
         --config a=b --config c=d=e",
        "geminga topic list",
        "geminga topic describe t",
        "geminga topic delete t",
        "geminga produce t --key-separator , --compression zstd --acks none --no-idempotence --report f",
        "geminga consume t --group g --from-beginning --until-end --format key-value",
        "geminga group list",
        "geminga group describe g",
        "geminga group delete g",
        "geminga group reset-offsets g --topic t --to earliest",
        "geminga cluster init --metastore etcd://h:1",
        "geminga cluster status",
        "geminga meta dump --metastore etcd://h:1",
        "geminga meta backup --to f --metastore etcd://h:1",
        "geminga meta restore --from f --metastore etcd://h:1 --above 3",
        "geminga cluster epoch-bump --metastore etcd://h:1 --above 3",
        "geminga cluster audit --metastore etcd://h:1 --without a,b --dry-run --object-store file:///d --trust-object-store --wait 5s",
        "geminga restore scan --object-store file:///d --verify",
        "geminga restore import --object-store file:///d --topic a,b --after-gaps --metastore etcd://h:1",
        "geminga ledger list --metastore etcd://h:1 --state in-recovery --topic t",
        "geminga ledger describe 0000000000000002 --metastore etcd://h:1",
        "geminga ledger recover 0000000000000002 --metastore etcd://h:1 --wait 5s",
        "geminga ledger force-close 0000000000000002 --confirm 0000000000000002 --metastore etcd://h:1 --wait 5s",
        "geminga migrate plan --from h:1,h:2 --topic a,b --exclude c --name n",
        "geminga migrate run --from h:1 --from-tls-ca f --until-caught-up --rate 20MiB --accept-repeats",
        "geminga migrate offsets --from h:1 --from-tls --group g,h --dry-run --overwrite",
        "geminga perf produce t --records 10 --size 100 --rate 5",
        "geminga perf consume t --records 10 --size 100",
        "geminga perf ledger --metastore etcd://h:1 --entries 1 --size 1 --ledgers 2 --write-quorum 1 --ack-quorum 1 \
         --rate 5 --keep",
        "geminga perf ledger-read 0000000000000002 --metastore etcd://h:1 --delete",
    ] {
        parse(&line.split_whitespace().collect::<Vec<_>>().join(" "));
    }
}

#[test]
fn several_servers_can_be_given() {
    let Command::Produce(args) = parse("geminga produce t --server a:1,b:2") else { panic!() };
    assert_eq!(args.client.server, "a:1,b:2");
    assert_eq!(host_ports("a:1, [::1]:2"), Ok("a:1,[::1]:2".to_owned()));
    for wrong in ["", "a:1,", "a:1,b", "a:1;b:2"] {
        host_ports(wrong).unwrap_err();
    }
}

#[test]
fn produce_has_its_defaults() {
    let Command::Produce(args) = parse("geminga produce t") else { panic!("not produce") };
    let produce::Args { topic, key_separator, compression, acks, no_idempotence, report, client } =
        args;
    assert!(!no_idempotence);
    assert_eq!((topic.as_str(), key_separator, report), ("t", None, None));
    assert_eq!((compression, acks), (Compression::None, Acks::All));
    let server = std::env::var("GEMINGA_SERVER").unwrap_or_else(|_| "127.0.0.1:7070".to_owned());
    assert_eq!((client.server, client.print.output), (server, Output::Text));
}

#[test]
fn consume_has_its_defaults() {
    let Command::Consume(args) = parse("geminga consume t") else { panic!("not consume") };
    let consume::Args { group, from_beginning, until_end, format, .. } = args;
    assert_eq!((group, from_beginning, until_end), (None, false, false));
    assert_eq!(format, None);
}

#[test]
fn topic_configs_split_at_the_first_sign() {
    let line = "geminga topic create t --partitions 3 --config a=b --config c=d=e";
    let Command::Topic(topic::Args { action: topic::Action::Create(args) }) = parse(line) else {
        panic!("not topic create")
    };
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    assert_eq!(args.configs, [pair("a", "b"), pair("c", "d=e")]);
    assert_eq!((args.write_quorum, args.ack_quorum, args.allow_single_copy), (None, None, false));
}

#[test]
fn positions() {
    for (text, position) in [
        ("earliest", Position::Earliest),
        ("latest", Position::Latest),
        ("0", Position::Offset(0)),
        ("1738310400000", Position::Offset(1_738_310_400_000)),
        ("2025-01-31T08:00:00Z", Position::TimestampMs(1_738_310_400_000)),
    ] {
        let line = format!("geminga group reset-offsets g --topic t --to {text}");
        let Command::Group(group::Args { action: group::Action::ResetOffsets { to, .. } }) =
            parse(&line)
        else {
            panic!("not reset-offsets")
        };
        assert_eq!(to, position, "{text}");
    }
}

#[test]
fn wrong_usage_is_refused() {
    for line in [
        "geminga topic create t",
        "geminga topic create t --partitions -1",
        "geminga topic create t --partitions 1 --config x",
        "geminga produce t --acks 1",
        "geminga produce t --compression brotli",
        "geminga produce t --key-separator=",
        "geminga produce t --server nowhere",
        "geminga produce t --server a:70000",
        "geminga produce t --server ftp://a:1",
        "geminga consume t --format xml",
        "geminga group reset-offsets g --topic t --to -5",
        "geminga group reset-offsets g --topic t --to yesterday",
        "geminga group reset-offsets g --topic t",
        "geminga perf produce t --records 0 --size 100",
        "geminga perf produce t --records 1 --size 1",
        "geminga perf consume t --size 100",
        "geminga serving --metastore redis://a:1",
        "geminga meta dump",
    ] {
        let error = parse_err(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
        assert_ne!(error.kind(), ErrorKind::DisplayHelp, "{line}");
    }
}

#[test]
fn perf_writes_and_reads_the_same_content_by_default() {
    let load = |line: &str| match parse(line) {
        Command::Perf(perf::Args { action: perf::Action::Produce(args) }) => args.load,
        Command::Perf(perf::Args { action: perf::Action::Consume(args) }) => args.load,
        other => panic!("{other:?}"),
    };
    let written = load("geminga perf produce t --records 10 --size 100");
    let expected = load("geminga perf consume t --records 10 --size 100");
    assert_eq!(written.seed, expected.seed);
}

#[test]
fn init_names_its_store() {
    let line = "geminga cluster init --metastore etcd://h:1/c";
    let Command::Cluster(cluster::Args { action: cluster::Action::Init { metastore, .. } }) =
        parse(line)
    else {
        panic!("not cluster init")
    };
    assert_eq!(metastore.to_string(), "etcd://h:1/c");
}
