//! Who this bookie is (protocol 5.7): decided once, at boot, before anything is served.
//!
//! ```text
//!   lock every directory ─► read disk cookies ─► read etcd's cookie ─► decide ─► first boot: provisional, create, final
//!                                                                         │  └► normal boot: raise the boot counter
//!                                                                         ├───► refuse, and say what to do
//!                                                                         └───► loss boot, where that is allowed
//! ```
//!
//! * [`cookie`]: the file that names a disk.
//! * [`dir`]: a locked data directory.
//! * [`decide`]: the boot decision table, pure.
//! * [`heal`]: what was lost, where going on after a loss is allowed.
//! * [`boot`]: carries the decision out.

mod boot;
mod cookie;
mod decide;
#[cfg(feature = "simulation")]
pub mod decoders;
mod dir;
mod heal;

pub use boot::BootError;
pub(crate) use boot::{Booted, BootedDisk, boot};
pub use decide::Refusal;
pub use dir::DirError;
