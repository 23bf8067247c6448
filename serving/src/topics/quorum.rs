//! How many copies a topic's entries get: the request, the server's defaults, and what makes a combination a promise that
//! cannot be kept.

use geminga_proto::caps;
use geminga_proto::reason::{ApiError, Reason};

/// Copies of each entry, and how many must be durable before an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quorum {
    /// Write quorum.
    pub write: u8,
    /// Ack quorum; `1 <= ack <= write`.
    pub ack: u8,
}

impl Quorum {
    /// The default of a cluster: survives the loss of any one copy.
    pub const CLUSTER: Self = Self { write: 3, ack: 2 };
    /// The default of a standalone server, which has one bookie.
    pub const STANDALONE: Self = Self { write: 1, ack: 1 };

    /// Whether the loss of one disk loses data.
    pub fn is_single_copy(self) -> bool {
        self.write == 1
    }
}

/// What stands against the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bookies {
    /// Bookies that belong to the cluster, live or not.
    pub registered: usize,
    /// Bookies that live and accept writes.
    pub live: usize,
}

fn invalid(why: String) -> ApiError {
    ApiError::new(Reason::InvalidQuorum, why)
}

/// Completes a request; 0 = not said. `single_copy_allowed`: by the request, or because the server is standalone.
///
/// # Errors
/// [`Reason::InvalidQuorum`].
pub fn settle(
    write: u32,
    ack: u32,
    default: Quorum,
    single_copy_allowed: bool,
) -> Result<Quorum, ApiError> {
    let max = u32::from(caps::MAX_WRITE_QUORUM);
    let write = if write == 0 { u32::from(default.write) } else { write };
    if write > max {
        return Err(invalid(format!("write quorum {write}: ask for 1 to {max}")));
    }
    let ack = match ack {
        0 if write == u32::from(default.write) => u32::from(default.ack),
        0 => write / 2 + 1,
        said => said,
    };
    if ack > write {
        return Err(invalid(format!(
            "ack quorum {ack} is above write quorum {write}: lower it or raise the write quorum"
        )));
    }
    if ack == 1 && write > 1 {
        return Err(invalid(format!(
            "ack quorum 1 of {write} loses acknowledged records with one disk: use at least 2"
        )));
    }
    if write == 1 && !single_copy_allowed {
        return Err(invalid(
            "write quorum 1 keeps a single copy, which one lost disk loses: raise it, or allow a single copy"
                .to_owned(),
        ));
    }
    let number = |n: u32| u8::try_from(n).expect("at most the largest write quorum");
    Ok(Quorum { write: number(write), ack: number(ack) })
}

/// Checks that the cluster can keep the promise: the copies have where to go in principle, and enough of
/// them now (fewer than the write quorum start degraded, protocol 2.2).
///
/// # Errors
/// [`Reason::NotEnoughBookies`], [`Reason::NotEnoughLiveBookies`].
pub fn check_bookies(quorum: Quorum, bookies: Bookies) -> Result<(), ApiError> {
    let Quorum { write, ack } = quorum;
    let Bookies { registered, live } = bookies;
    if usize::from(write) > registered {
        return Err(ApiError::new(
            Reason::NotEnoughBookies,
            format!(
                "write quorum {write} needs {write} bookies and {registered} are registered: start more, or ask for fewer copies"
            ),
        ));
    }
    if live < usize::from(ack) {
        return Err(ApiError::new(
            Reason::NotEnoughLiveBookies,
            format!(
                "ack quorum {ack} needs {ack} bookies that take new data and {live} of {registered} do (`geminga cluster doctor` tells why): start those that are down, make room where disks are full, give each a --zone where some have one, then try again"
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
