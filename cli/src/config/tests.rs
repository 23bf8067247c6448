use std::io::Write;

use clap::Parser;

use super::*;
use crate::args::{Cli, Command};
use crate::exit::Exit;

/// Options as the command line gives them; the variables are not set in tests.
fn serving(flags: &[&str]) -> ServingOptions {
    let words = ["geminga", "serving", "--metastore", "etcd://127.0.0.1:2379"];
    let words = words.into_iter().chain(flags.iter().copied());
    match Cli::try_parse_from(words).expect("valid flags").command {
        Command::Serving(args) => args.options,
        other => panic!("{other:?}"),
    }
}

fn bookie(flags: &[&str]) -> BookieOptions {
    let words = ["geminga", "bookie"].into_iter().chain(flags.iter().copied());
    match Cli::try_parse_from(words).expect("valid flags").command {
        Command::Bookie(args) => args.options,
        other => panic!("{other:?}"),
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("writable");
    file
}

const MINIMAL: &str = "metastore = 'etcd://a:1'\ndata-dir = ['one']\n";

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let file =
        file(&format!("{MINIMAL}zone = 'file'\nlisten = '127.0.0.1:1'\n[log]\nformat = 'json'"));
    let options = read_file(Some(file.path())).expect("valid file");
    let settings = bookie(&["--zone", "flag", "--data-dir", "a", "--data-dir", "b,c"])
        .settle(options)
        .expect("complete");
    assert_eq!(settings.zone, "flag");
    assert_eq!(settings.data_dir, ["a", "b", "c"].map(PathBuf::from));
    assert_eq!(settings.listen.to_string(), "127.0.0.1:1");
    assert_eq!(settings.http, None);
    assert_eq!(settings.log.format, Some(LogFormat::Json));
    assert_eq!(settings.log.filter.as_deref(), Some("info"));
}

#[test]
fn printed_settings_are_a_valid_file_that_says_the_same() {
    let settings = bookie(&[
        "--metastore=etcd://a:1,b:2/prod",
        "--data-dir=x",
        "--http=0.0.0.0:7080",
        "--insecure",
        "--id=b1",
        "--log-filter=debug",
    ])
    .settle(BookieOptions::default())
    .expect("complete");
    let file = file(&render(&settings).expect("printable"));
    let again: BookieOptions = read_file(Some(file.path())).expect("valid");
    assert_eq!(BookieOptions::default().settle(again).expect("complete"), settings);
}

#[test]
fn limits_of_disks_rise_and_leave_room_to_empty_a_full_one() {
    let settle = |flags: &[&str], text: &str| {
        let file = file(&format!("{MINIMAL}{text}"));
        bookie(flags).settle(read_file(Some(file.path())).expect("valid file"))
    };
    let limits = settle(&["--disk-hard=99"], "[disk]\nread-only = 95\nhard = 98").expect("valid");
    let limits = limits.disk.limits();
    let percents = [limits.warn_percent, limits.read_only_percent, limits.hard_percent];
    assert_eq!(percents, [85, 95, 99]);
    for (flags, refused) in [
        (&["--disk-warn=91"][..], "--disk-warn 91"),
        (&["--disk-read-only=96"], "--disk-read-only 96"),
        (&["--disk-hard=100"], "--disk-hard 100"),
    ] {
        let failure = settle(flags, "").expect_err(refused);
        assert_eq!(failure.exit, Exit::Usage);
        let line = failure.line().expect("a message");
        assert!(line.contains(refused), "{line}");
    }
}

#[test]
fn a_false_flag_wins_over_a_true_file() {
    let file = file(&format!("{MINIMAL}insecure = true\nlisten = '0.0.0.0:3181'"));
    let read = || read_file(Some(file.path())).expect("valid file");
    assert!(bookie(&[]).settle(read()).is_ok());
    assert!(bookie(&["--insecure=false"]).settle(read()).is_err());
}

#[test]
fn mistakes_in_the_file_are_named_by_line() {
    for (text, expected) in [
        ("zone = 'a'\nzoen = 'b'\n", "line 2: unknown field `zoen`"),
        ("metastore = 'zk://a:1'\n", "line 1: `zk://a:1` has no known scheme"),
        ("[log]\nlevel = 'info'\n", "line 2: unknown field `level`"),
        ("listen = 7\n", "line 1: invalid type"),
        ("zone =\n", "line 1: "),
        // Brokers place copies: bookies have no part in it.
        ("min-zones = 2\n", "line 1: unknown field `min-zones`"),
    ] {
        let file = file(text);
        let failure = read_file::<BookieOptions>(Some(file.path())).expect_err(text);
        let line = failure.line().expect("a message");
        assert!(line.contains(expected), "{line}");
        assert_eq!(failure.exit, Exit::Usage);
    }
    let zones = file("min-zones = 8\n");
    let failure = read_file::<ServingOptions>(Some(zones.path())).expect_err("too many");
    assert!(failure.line().expect("a message").contains("line 1: 8 zones: from 1 to 7"));
    let zones = file("min-zones = 3\nmin-ack-zones = 3\n");
    let read = || read_file::<ServingOptions>(Some(zones.path())).expect("zones");
    let settings = serving(&[]).settle(read()).expect("as many as copies");
    assert_eq!((settings.min_zones.get(), settings.min_ack_zones.get()), (3, 3));
    let failure = serving(&["--min-ack-zones", "4"]).settle(read()).expect_err("more than copies");
    let line = failure.line().expect("a message");
    assert!(line.contains("--min-ack-zones 4 is more than --min-zones 3"), "{line}");
    assert_eq!(failure.exit, Exit::Usage);
    let absent = read_file::<BookieOptions>(Some(Path::new("no/such/file"))).expect_err("absent");
    assert!(absent.line().expect("a message").contains("--config no/such/file cannot be read"));
}

#[test]
fn what_is_missing_says_where_it_can_come_from() {
    let failure = bookie(&[]).settle(BookieOptions::default()).expect_err("nothing given");
    assert_eq!(
        failure.line().expect("a message"),
        "--metastore is missing: give the flag, set GEMINGA_METASTORE, or name it in the file of --config"
    );
}

#[test]
fn listeners_that_others_reach_need_consent() {
    let settle = |listen: &str| {
        bookie(&["--metastore=etcd://a:1", "--data-dir=x", "--listen", listen])
            .settle(BookieOptions::default())
    };
    for local in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1", "[::ffff:127.0.0.1]:1"] {
        assert!(settle(local).is_ok(), "{local}");
    }
    for open in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
        let line = settle(open).expect_err(open).line().expect("a message");
        assert!(line.contains("add --insecure"), "{line}");
    }
}

#[test]
fn a_wildcard_is_not_advertised() {
    let open = "0.0.0.0:7070".parse().expect("an address");
    assert!(advertised("--grpc", None, open).is_err());
    assert_eq!(advertised("--grpc", Some("me:7070"), open).expect("given"), "me:7070");
    let local = "127.0.0.1:7070".parse().expect("an address");
    assert_eq!(advertised("--grpc", None, local).expect("its own"), "127.0.0.1:7070");
}

#[test]
fn metastore_urls() {
    for (text, shown) in [
        ("etcd://a:1", "etcd://a:1/default"),
        ("etcd://a:1/", "etcd://a:1/default"),
        ("etcd://a:1,[::1]:2/prod-1", "etcd://a:1,[::1]:2/prod-1"),
        ("https://a:1,b:2/prod", "https://a:1,b:2/prod"),
        ("file://data/metadata.redb", "file://data/metadata.redb"),
    ] {
        assert_eq!(text.parse::<MetastoreUrl>().expect(text).to_string(), shown);
    }
    for wrong in
        ["", "a:1", "etcd://", "etcd://a", "etcd://a:0", "etcd://a:1,", "etcd://a:1/x/y", "file://"]
    {
        assert!(wrong.parse::<MetastoreUrl>().is_err(), "{wrong}");
    }
    // A client of etcd refuses these, and would do so for ever.
    for wrong in ["etcd://a:1, b:1", "etcd:// a:1", "etcd://a b:1", "https://a:1,b%:1"] {
        let error = wrong.parse::<MetastoreUrl>().unwrap_err();
        assert!(error.contains("is not HOST:PORT"), "{wrong}: {error}");
    }
    for right in ["etcd://[::1]:1/default", "etcd://etcd_0.etcd:1,10.0.0.1:2/default"] {
        assert_eq!(right.parse::<MetastoreUrl>().expect(right).to_string(), right);
    }
    let file: MetastoreUrl = "file://x".parse().expect("valid");
    assert!(file.require_etcd().is_err());
}
