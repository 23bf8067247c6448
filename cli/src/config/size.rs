//! Sizes as people write them.

use std::fmt;
use std::str::FromStr;

use geminga_serving::broker::memory;
use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// Units, largest first.
const UNITS: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// More than this is a mistake.
const MOST: usize = 1 << 50;

/// A number of bytes such as `512MiB`, `2GiB` or `1048576`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub(crate) struct Size(pub(crate) usize);

/// How it may stand in a file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(usize),
    Text(String),
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let with_unit =
            UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)));
        let (number, unit) = with_unit.unwrap_or((text, 1));
        let number: usize = number
            .trim()
            .parse()
            .map_err(|_| format!("`{text}` is no size: write it like 512MiB, 2GiB or 1048576"))?;
        let bytes = number.checked_mul(unit).filter(|bytes| *bytes <= MOST);
        bytes.map(Self).ok_or_else(|| format!("`{text}` is more than there can be"))
    }
}

impl TryFrom<Written> for Size {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Number(bytes) => bytes.to_string().parse(),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => self.0.fmt(f),
        }
    }
}

/// A broker's memory, as an argument.
pub(crate) fn memory(text: &str) -> Result<Size, String> {
    let size: Size = text.parse()?;
    check_memory(size).map(|()| size)
}

/// What readers of old records get a second by default, and at least: as much as is read at once.
const CATCH_UP_FLOOR: usize = 32 * 1024 * 1024;
const LEAST_FLOOR: Size = Size(1024 * 1024);

/// What readers of old records get a second, as an argument.
pub(crate) fn catch_up_floor(text: &str) -> Result<Size, String> {
    let size: Size = text.parse()?;
    check_floor(size).map(|()| size)
}

/// What was asked for, or the default.
pub(crate) fn settle_floor(asked: Option<Size>) -> Result<Size, Failure> {
    let size = asked.unwrap_or(Size(CATCH_UP_FLOOR));
    check_floor(size).map_err(|why| Failure::usage(format!("catch-up-floor: {why}")))?;
    Ok(size)
}

fn check_floor(size: Size) -> Result<(), String> {
    if size.0 < LEAST_FLOOR.0 {
        return Err(format!(
            "readers that are behind need {LEAST_FLOOR} a second at least, not {size}"
        ));
    }
    Ok(())
}

/// The memory that was asked for, or the default.
pub(crate) fn settle_memory(asked: Option<Size>) -> Result<Size, Failure> {
    let size = asked.unwrap_or(Size(memory::DEFAULT_BYTES));
    check_memory(size).map_err(|why| Failure::usage(format!("memory: {why}")))?;
    Ok(size)
}

fn check_memory(size: Size) -> Result<(), String> {
    let least = Size(memory::LEAST_BYTES);
    if size.0 < least.0 {
        return Err(format!("a broker needs {least} at least, not {size}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_they_are_read() {
        for (text, bytes) in
            [("2GiB", 2 << 30), ("1536MiB", 3 << 29), ("1KiB", 1024), ("1000", 1000)]
        {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, text));
        }
        assert_eq!("1024MiB".parse::<Size>().unwrap().to_string(), "1GiB");
        for wrong in ["", "GiB", "-1", "1.5GiB", "1GB", "99999999999GiB", "8589934592GiB"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn whoever_is_behind_has_a_mebibyte_a_second() {
        assert_eq!(settle_floor(None).unwrap(), Size(CATCH_UP_FLOOR));
        assert_eq!(catch_up_floor("1MiB"), Ok(LEAST_FLOOR));
        for wrong in ["0", "32", "1023KiB"] {
            assert!(catch_up_floor(wrong).unwrap_err().contains("1MiB"), "{wrong}");
        }
    }
}
