//! The report: a JSON line per record, in the order of input. Lines appear as acknowledgements arrive.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use geminga_proto::reason::ApiError;
use serde_json::json;

use crate::exit::Failure;

/// How one record ended.
#[derive(Debug)]
pub(super) enum Fate {
    /// Acknowledged.
    At {
        /// Its partition.
        partition: u32,
        /// Its offset.
        offset: i64,
    },
    /// Sent without waiting.
    Sent {
        /// Its partition, when the client chose it.
        partition: Option<u32>,
    },
    /// Not acknowledged.
    Failed(ApiError),
}

/// The file of `--report`, or nothing.
#[derive(Debug)]
pub(super) struct Report(Option<BufWriter<File>>);

impl Report {
    /// Starts an empty report.
    pub(super) fn create(path: Option<&Path>) -> Result<Self, Failure> {
        let file = path.map(|path| {
            File::create(path).map(BufWriter::new).map_err(|error| {
                Failure::usage(format!("--report {} cannot be written: {error}", path.display()))
            })
        });
        Ok(Self(file.transpose()?))
    }

    /// Adds the next record of the input.
    pub(super) fn add(&mut self, fate: &Fate) -> io::Result<()> {
        let Some(file) = &mut self.0 else { return Ok(()) };
        let line = match fate {
            Fate::At { partition, offset } => json!({"partition": partition, "offset": offset}),
            Fate::Sent { partition } => json!({"partition": partition}),
            Fate::Failed(error) => {
                json!({"error": error.reason.as_str(), "message": error.message})
            }
        };
        serde_json::to_writer(&mut *file, &line)?;
        file.write_all(b"\n")
    }

    /// Makes what was added visible.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.0.as_mut().map_or(Ok(()), Write::flush)
    }
}

#[cfg(test)]
mod tests {
    use geminga_proto::reason::Reason;

    use super::*;

    #[test]
    fn a_line_per_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report");
        let mut report = Report::create(Some(&path)).unwrap();
        report.add(&Fate::At { partition: 1, offset: 2 }).unwrap();
        report.add(&Fate::Sent { partition: Some(1) }).unwrap();
        report.add(&Fate::Failed(ApiError::new(Reason::NotWritten, "no"))).unwrap();
        report.flush().unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"offset\":2,\"partition\":1}\n{\"partition\":1}\n\
             {\"error\":\"NOT_WRITTEN\",\"message\":\"no\"}\n"
        );
        assert!(Report::create(Some(dir.path())).is_err());
        Report::create(None).unwrap().add(&Fate::Sent { partition: None }).unwrap();
    }
}
