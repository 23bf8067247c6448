//! `docs/cli.md` and the tables of `docs/configuration.md` are made from the definition of the command line, so they
//! cannot say something else. `GEMINGA_UPDATE_DOCS=1 cargo test -p geminga docs` writes them anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::CommandFactory;

use super::Cli;

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
            let key = match flag {
                "config" => "–".to_owned(),
                "log-filter" => "`filter` in `[log]`".to_owned(),
                "log-format" => "`format` in `[log]`".to_owned(),
                "slow-request-log" => "`slow-requests` in `[log]`".to_owned(),
                other if other.starts_with("otlp-") => {
                    format!("`{}` in `[trace]`", other.trim_start_matches("otlp-"))
                }
                "object-store" => "`url` in `[object-store]`".to_owned(),
                "kafka" => "`listen` in `[kafka]`".to_owned(),
                "kafka-advertise" => "`advertise` in `[kafka]`".to_owned(),
                "auto-create-topics" | "default-partitions" => format!("`{flag}` in `[kafka]`"),
                other if other.starts_with("tls-") => {
                    format!("`{}` in `[tls]`", other.trim_start_matches("tls-"))
                }
                other => match other.split_once("object-store-").or(other.split_once("tier-")) {
                    Some(("", name)) if other.starts_with("tier-") => {
                        format!("`{name}` in `[tier]`")
                    }
                    Some(("", name)) => format!("`{name}` in `[object-store]`"),
                    _ => format!("`{other}`"),
                },
            };
            let meaning = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let variable = variable.to_string_lossy();
            writeln!(text, "| `--{flag}` | `{variable}` | {key} | {meaning} |")
                .expect("a string takes it");
        }
    }
    hold("configuration.md", &text);
}
