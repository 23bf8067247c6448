//! The `geminga` binary. It composes the parts of all other packages and is the only place that reads files, flags
//! and environment variables.
//!
//! * [`client`]: how commands reach a server.
//! * [`command`]: one file per command, its arguments beside its work.
//! * [`config`]: what a server is told, from flags, variables and a file.
//! * [`exit`]: what a command ends with.

mod allocator;
mod args;
mod broker;
mod client;
mod command;
mod config;
mod exit;
mod http;
mod logging;
mod metadata;
mod progress;
mod record;
mod server;
mod traces;
mod view;

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    allocator::set_up();
    let cli = match args::Cli::told() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        // Someone was first: there is only one provider in this build, so it is the same one.
    }
    match command::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(line) = failure.line() {
                // Nothing can be said when stderr is gone; the exit code still tells.
                let _ = writeln!(std::io::stderr(), "error: {line}");
            }
            failure.exit.into()
        }
    }
}
