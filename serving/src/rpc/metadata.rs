//! What a client is told when the metadata store fails.

use geminga_metastore::Error;
use geminga_proto::reason::{ApiError, Reason};

/// The store's error under a stable reason; its message says what to do.
pub(crate) fn api_error(error: &Error) -> ApiError {
    let reason = match error {
        Error::Unknown(_) | Error::Unavailable(_) | Error::LeaseGone(_) => {
            Reason::MetadataUnavailable
        }
        Error::NoSpace => Reason::MetadataNoSpace,
        Error::Invalid(_) | Error::Corrupt { .. } => Reason::Internal,
    };
    ApiError::new(reason, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_says_who_must_act() {
        let away = api_error(&Error::Unavailable("connection refused".to_owned()));
        assert_eq!(away.reason, Reason::MetadataUnavailable);
        assert!(away.message.contains("check that it runs"), "{}", away.message);
        let full = api_error(&Error::NoSpace);
        assert_eq!(full.reason, Reason::MetadataNoSpace);
        assert!(full.message.contains("compact and defragment"), "{}", full.message);
    }
}
