//! Standard input as records, one a line. A thread reads, since a read of a terminal or a pipe cannot be cancelled;
//! what it read waits in a short queue, so input is taken no faster than records are sent.

use std::io::{self, Read};

use bytes::{Bytes, BytesMut};
use geminga_proto::caps;
use tokio::sync::mpsc;

/// Chunks that wait to be sent; each is at most [`READ_BYTES`] or one line.
const QUEUE: usize = 4;
const READ_BYTES: usize = 64 * 1024;
/// A line that cannot fit into a batch; reading on would only fill memory.
const MAX_LINE_BYTES: usize = caps::MAX_BATCH_BYTES;

/// Whole lines without their last line break.
#[derive(Debug)]
pub(super) struct Lines(Bytes);

impl Iterator for Lines {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.0.is_empty() {
            return None;
        }
        match self.0.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                let line = self.0.split_to(end);
                let _line_break = self.0.split_to(1);
                Some(line)
            }
            None => Some(std::mem::take(&mut self.0)),
        }
    }
}

/// Starts reading. The queue ends with the input, or after an error.
pub(super) fn read(mut input: impl Read + Send + 'static) -> mpsc::Receiver<io::Result<Lines>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    std::thread::spawn(move || {
        let mut pending = BytesMut::new();
        loop {
            let next = next_lines(&mut input, &mut pending);
            let last = !matches!(next, Ok(Some(_)));
            let sent = match next.transpose() {
                Some(lines) => sender.blocking_send(lines).is_ok(),
                None => true,
            };
            // Without a receiver the command has ended.
            if last || !sent {
                return;
            }
        }
    });
    receiver
}

/// Reads until there is at least one whole line; at the end of the input what is left counts as one.
fn next_lines(input: &mut impl Read, pending: &mut BytesMut) -> io::Result<Option<Lines>> {
    loop {
        let old = pending.len();
        pending.resize(old + READ_BYTES, 0);
        let read = match input.read(&mut pending[old..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                pending.truncate(old);
                continue;
            }
            result => result?,
        };
        pending.truncate(old + read);
        if read == 0 {
            let rest = pending.split().freeze();
            return Ok((!rest.is_empty()).then_some(Lines(rest)));
        }
        if let Some(end) = pending[old..].iter().rposition(|byte| *byte == b'\n') {
            return Ok(Some(Lines(pending.split_to(old + end + 1).freeze())));
        }
        if pending.len() > MAX_LINE_BYTES {
            return Err(io::Error::other(format!(
                "a line of the input is longer than {MAX_LINE_BYTES} bytes, the most that a record can have"
            )));
        }
    }
}

/// Splits at the first separator; a line without one has no key.
pub(super) fn split(mut line: Bytes, separator: Option<&[u8]>) -> (Option<Bytes>, Bytes) {
    let Some(separator) = separator else { return (None, line) };
    match line.windows(separator.len()).position(|window| window == separator) {
        Some(at) => {
            let value = line.split_off(at + separator.len());
            line.truncate(at);
            (Some(line), value)
        }
        None => (None, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &'static [u8]) -> Vec<Bytes> {
        let mut receiver = read(input);
        let mut all = Vec::new();
        while let Some(lines) = receiver.blocking_recv() {
            all.extend(lines.unwrap());
        }
        all
    }

    #[test]
    fn every_line_is_a_record_byte_for_byte() {
        assert_eq!(lines(b""), [""; 0]);
        assert_eq!(lines(b"a\nb\n"), ["a", "b"]);
        assert_eq!(lines(b"a\n\nb\r\n"), ["a", "", "b\r"]);
        assert_eq!(lines(b"\n"), [""]);
        assert_eq!(lines(b"no line break"), ["no line break"]);
    }

    #[test]
    fn lines_are_whole_however_the_input_is_cut() {
        struct Trickle(u8);
        impl Read for Trickle {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                match self.0 {
                    1..=20 => {
                        buffer[0] = if self.0.is_multiple_of(7) { b'\n' } else { b'a' + self.0 }
                    }
                    _ => return Ok(0),
                }
                Ok(1)
            }
        }
        let mut receiver = read(Trickle(0));
        let mut all = Vec::new();
        while let Some(lines) = receiver.blocking_recv() {
            all.extend(lines.unwrap());
        }
        assert_eq!(all, ["bcdefg", "ijklmn", "pqrstu"]);
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut receiver = read(io::repeat(b'x'));
        let error = receiver.blocking_recv().unwrap().unwrap_err();
        assert!(error.to_string().contains("longer than"));
        assert!(receiver.blocking_recv().is_none());
    }

    #[test]
    fn keys_end_at_the_first_separator() {
        let split = |line: &'static str, separator: Option<&str>| {
            super::split(Bytes::from(line), separator.map(str::as_bytes))
        };
        assert_eq!(split("k::v::w", Some("::")), (Some("k".into()), "v::w".into()));
        assert_eq!(split(":v", Some(":")), (Some("".into()), "v".into()));
        assert_eq!(split("plain", Some(":")), (None, "plain".into()));
        assert_eq!(split("k:v", None), (None, "k:v".into()));
    }
}
