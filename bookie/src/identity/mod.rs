//! Who this bookie is (protocol 5.7): decided once, at boot, before anything is served.
//!
//! ```text
//!   lock every directory ─► read disk cookies ─► read etcd's cookie ─► decide ─► first boot: provisional, create, final
//!                                                                         │  └► normal boot: raise the boot counter
//!                                                                         └───► refuse, and say what to do
//! ```
//!
//! * [`cookie`]: the file that names a disk.
//! * [`dir`]: a locked data directory.
//! * [`decide`]: the boot decision table, pure.
//! * [`boot`]: carries the decision out.

mod boot;
mod cookie;
mod decide;
mod dir;

pub use boot::BootError;
pub(crate) use boot::{BootedDisk, boot};
pub use decide::Refusal;
pub use dir::DirError;
