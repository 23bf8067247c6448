//! Room for the bytes of a request on its way to a shard. The shard gives it back when it has taken the request in; from
//! then on the limits of a group count what is kept of it, however long the answer takes.

use tokio::sync::OwnedSemaphorePermit;

/// Bytes that are charged until this is dropped.
#[derive(Debug, Default)]
pub struct Room(Option<OwnedSemaphorePermit>);

impl From<OwnedSemaphorePermit> for Room {
    fn from(permit: OwnedSemaphorePermit) -> Self {
        Self(Some(permit))
    }
}

impl Room {
    /// Gives the room back.
    pub fn leave(self) {
        drop(self.0);
    }
}
