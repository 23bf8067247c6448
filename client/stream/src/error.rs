//! What the client's calls fail with.

use std::error::Error as _;
use std::time::Duration;

use geminga_proto::reason::{ApiError, DOMAIN, Reason};
use geminga_records::BatchError;
use geminga_tls::status_cause;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Why a call did not succeed. Whatever could be cured by trying again has been tried again before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The server refused; the reason is stable.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Nobody answers, or the connection broke.
    #[error("no answer from {server} ({why}): check the address and that the server runs")]
    Unreachable {
        /// The address that was tried.
        server: String,
        /// What the network said.
        why: String,
    },
    /// Not acknowledged in time; it may be there all the same.
    #[error("not acknowledged within {after:?}: {last}")]
    TimedOut {
        /// The timeout.
        after: Duration,
        /// The last thing that went wrong.
        last: Box<Self>,
    },
    /// Refused, after an earlier attempt with an unknown outcome: it may be there all the same.
    #[error("it may have been written by an earlier attempt: {last}")]
    InDoubt {
        /// Why it is not sent again.
        last: Box<Self>,
    },
    /// A record or batch that cannot be sent or read.
    #[error(transparent)]
    Record(#[from] BatchError),
    /// The client, or the producer, was closed before.
    #[error("the client is closed")]
    Closed,
    /// An address or a setting that makes no sense.
    #[error("{0}")]
    Config(String),
}

impl Error {
    /// Whether trying again may help.
    pub fn retriable(&self) -> bool {
        match self {
            Self::Api(error) => error.reason.retriable(),
            Self::Unreachable { .. } => true,
            Self::TimedOut { .. }
            | Self::InDoubt { .. }
            | Self::Record(_)
            | Self::Closed
            | Self::Config(_) => false,
        }
    }

    /// The stable reason that fits best.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Api(error) => error.reason,
            Self::Record(error) => error.reason(),
            Self::TimedOut { last, .. } => last.reason(),
            Self::Unreachable { .. } | Self::InDoubt { .. } | Self::Closed => Reason::Unknown,
            Self::Config(_) => Reason::InvalidRequest,
        }
    }

    /// Whether nobody was there to answer, now or until the timeout.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::TimedOut { last, .. } | Self::InDoubt { last } => last.is_unreachable(),
            Self::Api(_) | Self::Record(_) | Self::Closed | Self::Config(_) => false,
        }
    }

    /// Whether another broker should be asked: nobody answers here, or not for long.
    pub(crate) fn sends_away(&self) -> bool {
        self.is_unreachable() || self.reason() == Reason::ShuttingDown
    }

    /// Whether whoever answers cannot help now, and another broker may: it is cut off from the metadata store, or from the
    /// owner, or does not know the owner yet.
    pub(crate) fn needs_another(&self) -> bool {
        matches!(self.reason(), Reason::MetadataUnavailable | Reason::NotOwner | Reason::NotReady)
    }

    /// Of what may have been written before `last` went wrong.
    pub(crate) fn in_doubt(last: &Self) -> Self {
        Self::InDoubt { last: Box::new(last.clone()) }
    }

    /// With a stable reason.
    pub fn to_api(&self) -> ApiError {
        match self {
            Self::Api(error) => error.clone(),
            other => ApiError::new(other.reason(), other.to_string()),
        }
    }

    /// What a status means. Ours carry their reason; of foreign ones those that the transport makes say that the
    /// connection broke.
    pub(crate) fn from_status(server: &str, status: &Status) -> Self {
        let ours = status.get_details_error_info().is_some_and(|info| info.domain == DOMAIN);
        let final_code = matches!(
            status.code(),
            Code::Unimplemented
                | Code::InvalidArgument
                | Code::OutOfRange
                | Code::ResourceExhausted
                | Code::NotFound
                | Code::PermissionDenied
                | Code::Unauthenticated
        );
        if ours || final_code {
            return Self::Api(ApiError::from_status(status));
        }
        Self::Unreachable { server: server.to_owned(), why: status_cause(status) }
    }
}

/// Whether the request surely never left this process.
pub(crate) fn never_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_status_is_a_broken_connection_unless_it_is_final() {
        let lost = Error::from_status("h:1", &Status::unavailable("connection refused"));
        assert!(lost.retriable() && lost.is_unreachable());
        assert!(lost.to_string().contains("h:1 (connection refused)"), "{lost}");
        let old = Error::from_status("h:1", &Status::unimplemented("no such service"));
        assert_eq!(old.reason(), Reason::NotSupported);
        assert!(!old.retriable());
        let ours = ApiError::new(Reason::NotReady, "wait").to_status();
        let ours = Error::from_status("h:1", &ours);
        assert_eq!(ours.reason(), Reason::NotReady);
        assert!(ours.needs_another() && !ours.sends_away());
        assert!(!lost.needs_another() && !old.needs_another());
    }

    #[test]
    fn a_timeout_keeps_its_last_reason() {
        let last = Box::new(Error::Api(ApiError::new(Reason::NotEnoughLiveBookies, "start some")));
        let error = Error::TimedOut { after: Duration::from_secs(2), last };
        assert_eq!(error.to_api().reason, Reason::NotEnoughLiveBookies);
        assert!(!error.retriable());
    }
}
