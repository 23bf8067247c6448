//! The standard input of a command. Writing blocks while the command does not read, but not for ever: a test whose command is stuck
//! fails and says so.

use std::io::{ErrorKind, Write};
use std::process::ChildStdin;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How long a command may read nothing: longer than a producer waits for an acknowledgement, and for a stream that is stuck, before it
/// says so.
const PATIENCE: Duration = Duration::from_secs(200);
/// What a pipe takes at once when it says that it takes anything (`PIPE_BUF`).
const AT_ONCE: usize = 4096;

/// See the [module](self).
#[derive(Debug)]
pub struct Input {
    what: String,
    pipe: ChildStdin,
}

/// The command has ended, or reads no more.
#[derive(Debug)]
pub struct NobodyReads;

impl Input {
    /// The input of what a failing test calls so.
    pub(crate) fn new(what: &str, pipe: ChildStdin) -> Self {
        Self { what: what.to_owned(), pipe }
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// When the command has ended: it loses it.
    ///
    /// # Panics
    /// When it reads nothing for longer than a test waits.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), NobodyReads> {
        for piece in bytes.chunks(AT_ONCE) {
            self.wait();
            if let Err(error) = self.pipe.write_all(piece) {
                assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{}: {error}", self.what);
                return Err(NobodyReads);
            }
        }
        Ok(())
    }

    /// Waits until it takes something, be it an error.
    fn wait(&self) {
        let patience = Timespec::try_from(PATIENCE).expect("minutes");
        let mut pipes = [PollFd::new(&self.pipe, PollFlags::OUT)];
        let ready = loop {
            match poll(&mut pipes, Some(&patience)) {
                Err(Errno::INTR) => {}
                ready => break ready.expect("a pipe can be waited for"),
            }
        };
        assert!(ready > 0, "`{}` has read nothing for {PATIENCE:?}", self.what);
    }
}
