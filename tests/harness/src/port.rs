//! Ports that stay ours: a process that is killed and started again must find its port free. Ports of the ephemeral
//! range would be taken by outgoing connections meanwhile, so these come from below it.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

const FIRST: u32 = 15_000;
const COUNT: u32 = 15_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A port on 127.0.0.1 that nobody listens on, handed out once in this process.
///
/// # Panics
/// When there is none.
pub fn free() -> u16 {
    // Other test processes start elsewhere in the range.
    let offset = std::process::id().wrapping_mul(211);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + offset.wrapping_add(step) % COUNT;
        let port = u16::try_from(port).expect("the range is below 65536");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {FIRST}..{}", FIRST + COUNT);
}

/// A free port as an address on 127.0.0.1.
pub fn free_address() -> String {
    format!("127.0.0.1:{}", free())
}
