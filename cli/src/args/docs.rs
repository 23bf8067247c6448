//! `docs/cli.md` and the tables of `docs/configuration.md` are made from the definition of the command line, so they
//! cannot say something else. `GEMINGA_UPDATE_DOCS=1 cargo test -p geminga docs` writes them anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use serde::de::DeserializeOwned;

use super::{Cli, Command};

const GENERATED: &str = "<!-- Made by `GEMINGA_UPDATE_DOCS=1 cargo test -p geminga docs`. -->";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

/// Compares a file with what it should be, or writes it when asked to.
fn hold(name: &str, expected: &str) {
    let path = path(name);
    if std::env::var_os("GEMINGA_UPDATE_DOCS").is_some() {
        std::fs::write(&path, expected).expect("docs/ is writable");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/{name} is not what the code says: run `GEMINGA_UPDATE_DOCS=1 cargo test -p geminga docs`"
    );
}

fn help(command: &clap::Command, path: &str) -> String {
    // Without the values that variables happen to have here.
    let mut command = command
        .clone()
        .bin_name(path.to_owned())
        .term_width(100)
        .mut_args(|arg| arg.hide_env_values(true));
    let text = command.render_long_help().to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n").trim_end().to_owned()
}

fn sections(command: &clap::Command, path: &str, depth: usize, out: &mut String) {
    let hashes = "#".repeat(depth);
    let text = help(command, path);
    write!(out, "\n{hashes} {path}\n\n```text\n{text}\n```\n").expect("a string takes it");
    for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
        sections(sub, &format!("{path} {}", sub.get_name()), 3, out);
    }
}

/// Where the file of `--config` says what a flag says: a key, in a table or at its top. `None`: nowhere.
fn place(flag: &str) -> Option<(Option<&'static str>, &str)> {
    /// What flags of a table begin with.
    const TABLES: &[(&str, &str)] = &[
        ("cold-cache-", "cold-cache"),
        ("disk-", "disk"),
        ("etcd-", "etcd"),
        ("kafka-", "kafka"),
        ("log-", "log"),
        ("object-store-", "object-store"),
        ("otlp-", "trace"),
        ("tier-", "tier"),
        ("tls-", "tls"),
    ];
    let in_table = |(beginning, table): &(&str, &'static str)| {
        flag.strip_prefix(beginning).map(|key| (Some(*table), key))
    };
    match flag {
        "config" => None,
        "kafka" => Some((Some("kafka"), "listen")),
        "auto-create-topics" | "default-partitions" => Some((Some("kafka"), flag)),
        "object-store" => Some((Some("object-store"), "url")),
        "slow-request-log" => Some((Some("log"), "slow-requests")),
        _ => Some(TABLES.iter().find_map(in_table).unwrap_or((None, flag))),
    }
}

/// Values of flags, of which each flag takes one at least, as the command line and the file write them.
const SAMPLES: &[(&str, &[&str])] = &[
    ("7", &["7", "'7'"]),
    ("true", &["true"]),
    ("0.5", &["0.5"]),
    ("17s", &["'17s'"]),
    ("999MiB", &["'999MiB'"]),
    ("127.0.0.9:99", &["'127.0.0.9:99'", "['127.0.0.9:99']"]),
    ("etcd://a:1", &["'etcd://a:1'"]),
    ("http://a:1", &["'http://a:1'"]),
    ("json", &["'json'"]),
    ("required", &["'required'"]),
    ("x", &["'x'", "['x']"]),
];

/// Whether a file with this text says what these options say, which is something.
fn says_the_same<T: DeserializeOwned + Default + PartialEq>(options: &T, text: &str) -> bool {
    *options != T::default() && toml::from_str::<T>(text).is_ok_and(|file| file == *options)
}

/// The first way to say in the file what the flag says that is understood so.
fn understood(server: &str, flag: &str, place: (Option<&str>, &str)) -> Option<String> {
    let (table, key) = place;
    let head = table.map_or_else(String::new, |table| format!("[{table}]\n"));
    for (value, written) in SAMPLES {
        let line = ["geminga", server, &format!("--{flag}={value}")];
        let Ok(Cli { command }) = Cli::try_parse_from(line) else { continue };
        let same = |text: &String| match &command {
            Command::Standalone(args) => says_the_same(&args.options, text),
            Command::Bookie(args) => says_the_same(&args.options, text),
            Command::Serving(args) => says_the_same(&args.options, text),
            _ => false,
        };
        let mut texts = written.iter().map(|written| format!("{head}{key} = {written}\n"));
        if let Some(text) = texts.find(same) {
            return Some(text);
        }
    }
    None
}

/// Whoever follows the page writes a file that is taken, and says what it says there.
#[test]
fn docs_configuration_is_right_about_the_file() {
    let mut command = Cli::command();
    command.build();
    for name in ["standalone", "bookie", "serving"] {
        let server = command.find_subcommand(name).expect("it is a command");
        for arg in server.get_arguments() {
            let (Some(flag), Some(_)) = (arg.get_long(), arg.get_env()) else { continue };
            let Some(place) = place(flag) else { continue };
            assert!(understood(name, flag, place).is_some(), "geminga {name} --{flag}: {place:?}");
        }
    }
}

#[test]
fn docs_cli() {
    let mut text = format!(
        "{GENERATED}\n# The command line\n\nWhat `--help` says, in one place. Flags may be added in later versions; \
         their meanings do not change.\n"
    );
    let mut command = Cli::command();
    command.build();
    sections(&command, "geminga", 2, &mut text);
    hold("cli.md", &text);
}

#[test]
fn docs_configuration() {
    let mut text = format!(
        "{GENERATED}\n# Configuration of servers\n\nA flag wins over a variable, a variable over the file of \
         `--config`, the file over the default.\n`--print-config` shows the result as a file that says the same. A \
         name that the file does not know is refused.\n"
    );
    let mut command = Cli::command();
    command.build();
    for name in ["standalone", "bookie", "serving"] {
        let server = command.find_subcommand(name).expect("it is a command");
        write!(
            text,
            "\n## geminga {name}\n\n| flag | variable | in the file | meaning |\n|---|---|---|---|\n"
        )
        .expect("a string takes it");
        for arg in server.get_arguments() {
            let (Some(flag), Some(variable)) = (arg.get_long(), arg.get_env()) else { continue };
            let key = match place(flag) {
                None => "–".to_owned(),
                Some((None, key)) => format!("`{key}`"),
                Some((Some(table), key)) => format!("`{key}` in `[{table}]`"),
            };
            let meaning = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let variable = variable.to_string_lossy();
            writeln!(text, "| `--{flag}` | `{variable}` | {key} | {meaning} |")
                .expect("a string takes it");
        }
    }
    hold("configuration.md", &text);
}
