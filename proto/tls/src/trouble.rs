//! What can go wrong with a handshake, as one sentence that says what to do. Libraries say it in their own words, each
//! end in others; here both are given the same name.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// Who says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who was connected to.
    Server,
    /// Who connected.
    Client,
}

/// Why two processes do not talk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The other's certificate is not valid any more.
    Expired,
    /// The other's certificate is not valid yet.
    NotYetValid,
    /// The other's certificate is of an authority that is not known here.
    UnknownAuthority,
    /// The server is not who was to be talked to.
    WrongName(String),
    /// The other's certificate is not for what it is used for.
    WrongPurpose,
    /// The client showed no certificate.
    NoCertificate,
    /// The other end does not speak TLS.
    PlainText,
    /// The other end speaks TLS where nothing is encrypted.
    TlsOnPlain,
    /// The other end refused this one's certificate, or the lack of one.
    Refused(AlertDescription),
    /// The handshake took too long, or the first words.
    Slow,
    /// Others began to connect, more than can at once, before it was done.
    Crowded,
    /// The connection ended before the handshake did.
    Ended,
    /// Anything else, in the words of the library.
    Other(String),
}

impl Trouble {
    /// What an error of a handshake, or of a connection that was just made, says.
    pub fn of(error: &io::Error) -> Self {
        let mut next: Option<&(dyn StdError + 'static)> = error.get_ref().map(|inner| inner as _);
        while let Some(inner) = next {
            if let Some(tls) = inner.downcast_ref::<Error>() {
                return Self::of_tls(tls);
            }
            next = inner.source();
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => Self::Ended,
            io::ErrorKind::TimedOut => Self::Slow,
            _ => Self::Other(error.to_string()),
        }
    }

    /// What the library's error says.
    pub fn of_tls(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(why) => Self::of_certificate(why),
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType
                | InvalidMessage::UnknownProtocolVersion
                | InvalidMessage::MessageTooLarge,
            ) => Self::PlainText,
            Error::AlertReceived(alert) => Self::Refused(*alert),
            other => Self::Other(other.to_string()),
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        use CertificateError as Why;
        match error {
            Why::Expired | Why::ExpiredContext { .. } => Self::Expired,
            Why::NotValidYet | Why::NotValidYetContext { .. } => Self::NotYetValid,
            // Another authority of the same name has another key.
            Why::UnknownIssuer | Why::BadSignature => Self::UnknownAuthority,
            Why::NotValidForName => Self::WrongName("another name".to_owned()),
            Why::NotValidForNameContext { presented, .. } => {
                Self::WrongName(names(presented).join(", "))
            }
            Why::InvalidPurpose | Why::InvalidPurposeContext { .. } => Self::WrongPurpose,
            other => Self::Other(other.to_string()),
        }
    }

    /// A word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::UnknownAuthority => "unknown-authority",
            Self::WrongName(_) => "wrong-name",
            Self::WrongPurpose => "wrong-purpose",
            Self::NoCertificate => "no-certificate",
            Self::PlainText => "plain-text",
            Self::TlsOnPlain => "tls-on-plain",
            Self::Refused(_) => "refused-by-peer",
            Self::Slow => "slow",
            Self::Crowded => "crowded",
            Self::Ended => "ended",
            Self::Other(_) => "other",
        }
    }

    /// The sentence, as one end says it.
    pub fn told_by(&self, side: Side) -> Told<'_> {
        Told { trouble: self, side }
    }

    /// An error to end a connection with.
    pub(crate) fn to_io(&self, side: Side) -> io::Error {
        let kind = match self {
            Self::Slow => io::ErrorKind::TimedOut,
            Self::Ended => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, self.told_by(side).to_string())
    }
}

/// Whom a certificate is for, out of what the library writes around it.
pub(crate) fn names(presented: &[String]) -> Vec<String> {
    let kinds = [("DnsName(\"", "\")"), ("IpAddress(", ")")];
    let bare = |name: &String| {
        let bare = kinds.iter().find_map(|(left, right)| {
            name.strip_prefix(left).and_then(|name| name.strip_suffix(right))
        });
        bare.unwrap_or(name).to_owned()
    };
    presented.iter().map(bare).collect()
}

/// See [`Trouble::told_by`].
#[derive(Debug)]
pub struct Told<'a> {
    trouble: &'a Trouble,
    side: Side,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other = match self.side {
            Side::Server => "client",
            Side::Client => "server",
        };
        match self.trouble {
            Trouble::Expired => write!(
                f,
                "the certificate of the {other} has expired: renew it there, or set the clock here"
            ),
            Trouble::NotYetValid => write!(
                f,
                "the certificate of the {other} is not valid yet: set the clocks, or issue it anew"
            ),
            Trouble::UnknownAuthority => write!(
                f,
                "the certificate of the {other} is of another authority than those of --tls-ca{}: \
                 add its authority here, or give the {other} a certificate of this one",
                match self.side {
                    Side::Client => " (of etcd --etcd-ca)",
                    Side::Server => "",
                }
            ),
            Trouble::WrongName(presented) => write!(
                f,
                "the certificate of the {other} is for {presented}, not for the address that was \
                 connected to: connect by that name, or issue it for this one"
            ),
            Trouble::WrongPurpose => write!(
                f,
                "the certificate of the {other} is not for this use: issue it for both server and \
                 client authentication"
            ),
            Trouble::NoCertificate => write!(
                f,
                "the {other} shows no certificate and this listener asks for one: give it --tls-cert and --tls-key"
            ),
            Trouble::PlainText => self.plain(f),
            Trouble::TlsOnPlain => write!(
                f,
                "the {other} speaks TLS and nothing is encrypted here: connect without TLS, or start the server \
                 with --tls-cert"
            ),
            Trouble::Refused(alert) => self.refused(f, *alert),
            Trouble::Slow => {
                write!(f, "the {other} said nothing in time, or did not finish the TLS handshake")
            }
            Trouble::Crowded => write!(
                f,
                "the {other} was not done connecting when more came than can begin at once: see who connects and says nothing"
            ),
            Trouble::Ended => write!(
                f,
                "the {other} ended the connection in the TLS handshake: see its log, and whether \
                 that port speaks TLS"
            ),
            Trouble::Other(why) => write!(f, "the TLS handshake failed: {why}"),
        }
    }
}

impl Told<'_> {
    fn plain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.side {
            Side::Server => {
                "the client speaks plain text and this port speaks TLS: connect with --tls-ca or https://"
            }
            Side::Client => {
                "the server does not speak TLS at this address: leave out --tls-ca and https://, or \
                 start it with --tls-cert"
            }
        })
    }

    fn refused(&self, f: &mut fmt::Formatter<'_>, alert: AlertDescription) -> fmt::Result {
        let other = match self.side {
            Side::Server => "client",
            Side::Client => "server",
        };
        match alert {
            AlertDescription::CertificateRequired | AlertDescription::NoCertificate => write!(
                f,
                "the {other} asks for a certificate and none was shown: give --tls-cert and --tls-key"
            ),
            AlertDescription::CertificateExpired => write!(
                f,
                "the {other} finds this side's certificate expired, or not valid yet: renew the file of \
                 --tls-cert, or set the clocks"
            ),
            // Another authority of the same name has another key, with which the signature is none.
            AlertDescription::UnknownCA | AlertDescription::DecryptError => write!(
                f,
                "the {other} does not know the authority of this side's certificate: add it to the \
                 --tls-ca there, or use a certificate of that authority"
            ),
            AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate => write!(
                f,
                "the {other} does not accept this side's certificate ({alert:?}): its name and its use \
                 must be those that it is shown for"
            ),
            other_alert => write!(f, "the {other} ended the TLS handshake: {other_alert:?}"),
        }
    }
}
