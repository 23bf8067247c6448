//! Why there is no connection, or none any more, in the innermost words: the outer ones say only that. Where a handshake failed
//! these are the sentence of its [`Trouble`](crate::Trouble).

use std::error::Error as StdError;

use tonic::Status;

/// What is at the bottom of an error.
pub fn cause(error: &(dyn StdError + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// The same of a call that the transport, or the other end, gave a status.
pub fn status_cause(status: &Status) -> String {
    match status.source() {
        Some(source) => cause(source),
        None if status.message().is_empty() => status.code().description().to_owned(),
        None => status.message().to_owned(),
    }
}
