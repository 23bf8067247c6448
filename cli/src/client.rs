//! The public client, for commands: how they connect, and what its errors mean for an exit code.

use geminga_client::{Client, ClientConfig, Error};

use crate::args::ClientArgs;
use crate::exit::{Exit, Failure};

/// What servers see of this program.
const CLIENT_ID: &str = "geminga-cli";

/// A client of the server that the arguments name; nothing is sent yet. Must run inside the runtime.
pub(crate) fn connect(args: &ClientArgs) -> Result<Client, Failure> {
    let config = ClientConfig {
        client_id: CLIENT_ID.to_owned(),
        tls: args.tls.load()?,
        ..ClientConfig::default()
    };
    Ok(Client::with(&args.server, config)?)
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::Config(why) => Self::usage(why),
            _ if error.is_unreachable() => Self::with(Exit::Unreachable, error),
            _ => Self::from(error.to_api()),
        }
    }
}

/// Resolves when the user interrupts; never, when that cannot be heard of.
pub(crate) async fn interrupted() -> Failure {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
    Failure::with(Exit::Interrupted, "")
}

#[cfg(test)]
mod tests {
    use geminga_client::{ApiError, Reason};

    use super::*;

    #[test]
    fn an_exit_code_tells_refused_from_unreachable() {
        let lost = Error::Unreachable { server: "h:1".to_owned(), why: "refused".to_owned() };
        assert_eq!(Failure::from(lost).exit, Exit::Unreachable);
        let refused = Error::Api(ApiError::new(Reason::TopicExists, "topic `t` exists"));
        let failure = Failure::from(refused);
        assert_eq!(failure.exit, Exit::Failed);
        assert_eq!(failure.line().unwrap(), "topic `t` exists (TOPIC_EXISTS)");
    }
}
