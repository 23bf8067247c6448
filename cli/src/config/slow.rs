//! From when on a request is slow.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A time such as `1s` or `250ms`; `0`: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Slow(pub(crate) Duration);

impl Default for Slow {
    fn default() -> Self {
        Self(Duration::from_secs(1))
    }
}

impl FromStr for Slow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let time = humantime::parse_duration(text)
            .map_err(|error| format!("`{text}` is no time such as 1s or 250ms, nor 0: {error}"))?;
        Ok(Self(time))
    }
}

impl TryFrom<String> for Slow {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Slow> for String {
    fn from(slow: Slow) -> Self {
        slow.to_string()
    }
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.is_zero() {
            true => f.write_str("0"),
            false => humantime::format_duration(self.0).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_as_they_were() {
        for text in ["0", "1s", "250ms", "1m 30s"] {
            assert_eq!(text.parse::<Slow>().unwrap().to_string(), text);
        }
        for text in ["", "1", "soon", "-1s"] {
            assert!(text.parse::<Slow>().is_err(), "{text}");
        }
    }
}
