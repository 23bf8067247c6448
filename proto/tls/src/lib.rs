//! TLS on every listener and every hop, in one place: who a process is, whom it believes, and how it says what is wrong.
//!
//! ```text
//!   files ─► Credentials (read again when they change) ─┬─► Security of a listener ─► Incoming ─► Connection
//!                                                       └─► Dial of a client ─► channel
//! ```
//!
//! * One authority signs all components; each shows its certificate as a server and as a client, and checks the other's.
//! * Every connection is checked in full, with what the files say when it is made: there is no resumption, so that a
//!   certificate that expired or was replaced opens nothing any more. Connections that stand go on.
//! * A handshake has ten seconds. Those that go on have a bound of their own: only the connection that comes of one takes a
//!   place of the listener.
//! * What cannot be loaded changes nothing: the former files stay in force, and log and metrics say so.

mod accept;
mod cause;
mod credentials;
mod delegate;
mod dial;
mod files;
mod incoming;
mod metrics;
mod peer;
mod socket;
#[cfg(test)]
mod tests;
mod trouble;

pub use accept::Security;
pub use cause::{cause, status_cause};
pub use credentials::Credentials;
pub use dial::{Dial, Stream};
pub use files::{ClientAuth, Files, LoadError, Protocol};
pub use incoming::{Connection, Incoming};
pub use peer::{Caller, Cut, Peer, component_only};
pub use socket::Socket;
pub use trouble::{Side, Trouble};
