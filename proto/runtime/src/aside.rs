//! Work that keeps a processor busy for long, in the midst of a task that cannot be taken apart there.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Does it on this thread, while another one takes over the tasks that this thread serves. A runtime of one thread has no other, as in
/// simulations: there it is done as it is. It costs about as much as starting a task, so it is not for what is done in no time.
pub fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::Tasks;

    /// Longer than anything here takes on a busy machine.
    const LIMIT: Duration = Duration::from_secs(30);

    /// One thread serves both tasks, and the first one keeps it busy until the second has been served.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn others_are_served_meanwhile() {
        let tasks = Tasks::new("test");
        let (to, from) = mpsc::sync_channel(1);
        let (begun, begins) = tokio::sync::oneshot::channel();
        let (done, is_done) = tokio::sync::oneshot::channel();
        tasks.spawn("busy", async move {
            begun.send(()).expect("it is waited for");
            done.send(aside(|| from.recv_timeout(LIMIT))).expect("it is waited for");
        });
        tasks.spawn("other", async move {
            begins.await.expect("the first one runs");
            to.send(7).expect("the first one waits");
        });
        assert_eq!(is_done.await, Ok(Ok(7)));
    }

    #[tokio::test]
    async fn a_runtime_of_one_thread_does_it_at_once() {
        assert_eq!(aside(|| 7), 7);
    }

    #[test]
    fn so_does_what_is_no_task() {
        assert_eq!(aside(|| 7), 7);
    }
}
