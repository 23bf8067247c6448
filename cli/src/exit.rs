//! What a command ends with: an exit code that means something, and at most one line on stderr that says what to do.

use std::fmt;
use std::io;
use std::process::ExitCode;

use geminga_ledger::InvalidConfig;
use geminga_proto::reason::{ApiError, Reason};

/// The meaning of each exit code, as `geminga --help` shows it. Codes never change meaning.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    refused or failed; the line on stderr says what to do and ends with a stable reason
  2    wrong usage or configuration
  3    not everything: some records were not acknowledged, or not read back as they were written
  4    the server or the metadata store cannot be reached
  130  interrupted before the work was done";

/// See [`EXIT_CODES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Refused or failed.
    Failed = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// Some of the work was not done.
    Incomplete = 3,
    /// Nobody answers.
    Unreachable = 4,
    /// Stopped by a signal.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The code to exit with.
    pub(crate) exit: Exit,
    /// The stable reason, where there is one.
    pub(crate) reason: Option<&'static str>,
    /// What is wrong and what to do, on one line; empty = say nothing.
    message: String,
}

impl Failure {
    /// What is wrong and what to do.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// A failure with the general code.
    pub(crate) fn new(message: impl fmt::Display) -> Self {
        Self::with(Exit::Failed, message)
    }

    /// Wrong usage or configuration.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::with(Exit::Usage, message)
    }

    /// A failure with a given code.
    pub(crate) fn with(exit: Exit, message: impl fmt::Display) -> Self {
        let message = message.to_string();
        let one_line: Vec<&str> = message.split_whitespace().collect();
        Self { exit, reason: None, message: one_line.join(" ") }
    }

    /// The same with a stable reason.
    #[must_use]
    pub(crate) fn because(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    /// The reader of our output has gone (`geminga consume ... | head`): there is nobody to tell.
    fn closed_pipe() -> Self {
        Self { exit: Exit::Interrupted, reason: None, message: String::new() }
    }

    /// The line for stderr.
    pub(crate) fn line(&self) -> Option<String> {
        if self.message.is_empty() {
            return None;
        }
        Some(match self.reason {
            Some(reason) => format!("{} ({reason})", self.message),
            None => self.message.clone(),
        })
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let exit = match error.reason {
            Reason::MetadataUnavailable => Exit::Unreachable,
            _ => Exit::Failed,
        };
        Self::with(exit, error.message).because(error.reason.as_str())
    }
}

/// Limits that do not go together.
impl From<InvalidConfig> for Failure {
    fn from(error: InvalidConfig) -> Self {
        Self::with(Exit::Usage, format!("a limit of the ledger layer, {error}"))
    }
}

/// Output that cannot be written.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::closed_pipe();
        }
        Self::new(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_that_ends_with_its_reason() {
        let error = ApiError::new(Reason::UnknownTopic, "topic `x` does not exist:\n  create it");
        let failure = Failure::from(error);
        assert_eq!(failure.exit, Exit::Failed);
        assert_eq!(failure.line().unwrap(), "topic `x` does not exist: create it (UNKNOWN_TOPIC)");
    }

    #[test]
    fn a_reader_that_went_away_is_not_reported() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.line(), None);
    }

    #[test]
    fn help_names_every_code() {
        for exit in
            [Exit::Failed, Exit::Usage, Exit::Incomplete, Exit::Unreachable, Exit::Interrupted]
        {
            assert!(EXIT_CODES.contains(&format!("\n  {:<5}", exit as u8)), "{exit:?}");
        }
    }
}
