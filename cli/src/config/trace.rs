//! Where traces of requests go, and of how many.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use geminga_runtime::SystemRandom;
use geminga_runtime::requests::{Requests, RequestsConfig};
use geminga_tls::{Credentials, Dial, Files};
use serde::{Deserialize, Serialize};

use super::LogOptions;
use super::tls::unusable;
use crate::exit::Failure;
use crate::traces;

/// What flags, variables and the file can say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct TraceOptions {
    /// Send traces of requests to the OpenTelemetry collector there, by OTLP over gRPC: http://HOST:4317, or https://HOST:4317
    /// [default: none are made].
    #[arg(
        id = "otlp_endpoint",
        long = "otlp-endpoint",
        value_name = "URL",
        env = "GEMINGA_OTLP_ENDPOINT",
        help_heading = "Tracing"
    )]
    pub(crate) endpoint: Option<String>,
    /// The share of requests that are traced, 0 to 1; the same at all servers, so that traces are whole [default: 0.01].
    #[arg(
        id = "otlp_sampling",
        long = "otlp-sampling",
        value_name = "SHARE",
        env = "GEMINGA_OTLP_SAMPLING",
        help_heading = "Tracing"
    )]
    pub(crate) sampling: Option<Share>,
    /// The authorities of an https collector's certificate, in PEM, read at the start [default: those of the system].
    #[arg(
        id = "otlp_ca",
        long = "otlp-ca",
        value_name = "FILE",
        env = "GEMINGA_OTLP_CA",
        help_heading = "Tracing"
    )]
    pub(crate) ca: Option<PathBuf>,
}

/// What goes before the address of a collector that speaks TLS.
const ENCRYPTED: &str = "https://";

impl TraceOptions {
    /// These options where they are set, those of `file` elsewhere, the defaults last.
    ///
    /// # Errors
    /// For an address that is none.
    pub(crate) fn over(self, file: Self) -> Result<Self, Failure> {
        let endpoint = self.endpoint.or(file.endpoint);
        if let Some(endpoint) = &endpoint
            && !endpoint.starts_with("http://")
            && !endpoint.starts_with(ENCRYPTED)
        {
            return Err(Failure::usage(format!(
                "--otlp-endpoint `{endpoint}` is neither http://HOST:PORT nor https://HOST:PORT"
            )));
        }
        // What is missing would be the port of something else.
        if let Some(address) = endpoint.as_ref().and_then(|to| to.strip_prefix(ENCRYPTED))
            && address.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err())
        {
            return Err(Failure::usage(format!(
                "--otlp-endpoint {ENCRYPTED}{address} names no port, such as :4317"
            )));
        }
        let ca = self.ca.or(file.ca);
        if ca.is_some() && !endpoint.as_ref().is_some_and(|to| to.starts_with(ENCRYPTED)) {
            return Err(Failure::usage(
                "--otlp-ca is for an --otlp-endpoint that begins with https://",
            ));
        }
        let sampling = self.sampling.or(file.sampling).unwrap_or_default();
        Ok(Self { endpoint, sampling: Some(sampling), ca })
    }

    /// Where the collector is, as `http://HOST:PORT`, and how it is connected to; `None` when there is none.
    ///
    /// # Errors
    /// For a file that holds no authorities.
    pub(crate) fn collector(&self) -> Result<Option<(String, Dial)>, Failure> {
        let Some(endpoint) = &self.endpoint else { return Ok(None) };
        let Some(address) = endpoint.strip_prefix(ENCRYPTED) else {
            return Ok(Some((endpoint.clone(), Dial::Plain)));
        };
        let files = Files { ca: self.ca.clone(), ..Files::default() };
        let credentials = Credentials::of_client(files).map_err(unusable)?;
        Ok(Some((format!("http://{address}"), Dial::Tls(credentials))))
    }

    /// The requests of a server: named, logged and traced as configured.
    pub(crate) fn requests(&self, log: &LogOptions) -> Requests {
        let traced = match &self.endpoint {
            Some(_) => self.sampling.unwrap_or_default().into(),
            None => 0.0,
        };
        let slow = log.slow_requests.unwrap_or_default().0;
        let adopt: Option<fn(&tracing::Span, u128)> = Some(traces::adopt);
        Requests::new(RequestsConfig { slow, traced, adopt }, &SystemRandom)
    }
}

/// A share of a whole, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub(crate) struct Share(u32);

const WHOLE: f64 = 1_000_000.0;

impl Default for Share {
    /// One in a hundred.
    fn default() -> Self {
        Self(10_000)
    }
}

impl TryFrom<f64> for Share {
    type Error = String;

    fn try_from(share: f64) -> Result<Self, String> {
        if !(0.0..=1.0).contains(&share) {
            return Err(format!("`{share}` is not between 0 and 1"));
        }
        Ok(Self((share * WHOLE).round() as u32))
    }
}

impl From<Share> for f64 {
    fn from(share: Share) -> Self {
        Self::from(share.0) / WHOLE
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share: f64 = text.parse().map_err(|_| format!("`{text}` is no number such as 0.01"))?;
        share.try_into()
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f64::from(*self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(endpoint: Option<&str>, sampling: Option<&str>) -> TraceOptions {
        let sampling = sampling.map(|share| share.parse().expect("a share"));
        TraceOptions { endpoint: endpoint.map(str::to_owned), sampling, ca: None }
    }

    #[test]
    fn shares_are_between_nothing_and_all() {
        for share in ["0", "1", "0.01", "0.000001"] {
            assert_eq!(share.parse::<Share>().expect(share).to_string(), share);
        }
        for share in ["-0.1", "1.1", "NaN", "half", ""] {
            assert!(share.parse::<Share>().is_err(), "{share}");
        }
    }

    #[test]
    fn nothing_is_traced_where_nobody_takes_it() {
        let settle = |endpoint, sampling| {
            options(endpoint, sampling).over(TraceOptions::default()).expect("valid")
        };
        let traced = |settled: TraceOptions| {
            let requests = settled.requests(&LogOptions::default());
            (0..1_000).filter(|_| requests.traces(&requests.make())).count()
        };
        assert_eq!(traced(settle(None, Some("1"))), 0);
        assert_eq!(traced(settle(Some("http://c:4317"), Some("1"))), 1_000);
        assert!(traced(settle(Some("http://c:4317"), None)) < 100, "one in a hundred");
        assert_eq!(traced(settle(Some("https://c:4317"), Some("1"))), 1_000);
        for bad in ["c:4317", "grpc://c:4317", "https://c", "https://c/", ""] {
            assert!(options(Some(bad), None).over(TraceOptions::default()).is_err(), "{bad}");
        }
    }

    #[test]
    fn authorities_are_for_a_collector_that_shows_a_certificate() {
        let with = |endpoint| TraceOptions { ca: Some("ca.pem".into()), ..options(endpoint, None) };
        assert!(with(Some("https://c:4317")).over(TraceOptions::default()).is_ok());
        for plain in [None, Some("http://c:4317")] {
            assert!(with(plain).over(TraceOptions::default()).is_err(), "{plain:?}");
        }
        let said = with(Some("https://c:4317")).collector().expect_err("no such file");
        assert!(said.message().contains("ca.pem cannot be read"), "{}", said.message());
    }
}
