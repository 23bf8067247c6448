//! The only place that spawns. A [`Tasks`] names what it starts, reports panics, and is shut down in three steps
//! that are the same everywhere: `cancel` says stop taking new work, each task drains what it accepted, `finish`
//! waits until all have left. Children inherit cancellation, never the other way round.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A group of tasks that stop together. Cloning gives another handle on the same group.
#[derive(Debug, Clone)]
pub struct Tasks {
    name: &'static str,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Tasks {
    /// An empty group; `name` appears in the log when one of its tasks panics.
    pub fn new(name: &'static str) -> Self {
        Self { name, tracker: TaskTracker::new(), cancel: CancellationToken::new() }
    }

    /// A group that is cancelled with this one but waited for on its own.
    pub fn child(&self, name: &'static str) -> Self {
        Self { name, tracker: TaskTracker::new(), cancel: self.cancel.child_token() }
    }

    /// Resolves when the group is told to stop. Cancel-safe.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + 'static {
        self.cancel.clone().cancelled_owned()
    }

    /// Whether the group was told to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Starts `future`. A panic is logged with the task's name and stops the whole group, since a part that
    /// died silently is worse than a process that restarts.
    pub fn spawn<F>(&self, task: &'static str, future: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        use futures_catch::CatchUnwind;
        let (group, cancel) = (self.name, self.cancel.clone());
        self.tracker.spawn(async move {
            match CatchUnwind(AssertUnwindSafe(Box::pin(future))).await {
                Ok(output) => Some(output),
                Err(_) => {
                    tracing::error!(group, task, "task panicked; stopping its group");
                    cancel.cancel();
                    None
                }
            }
        })
    }

    /// Tells every task to stop. Does not wait.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Tells every task to stop and waits until all have, or until `deadline` has passed.
    /// Returns false when some were still running at the deadline.
    pub async fn finish(&self, deadline: Duration) -> bool {
        self.cancel.cancel();
        self.tracker.close();
        let done = tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok();
        if !done {
            tracing::warn!(
                group = self.name,
                left = self.tracker.len(),
                "tasks still running at the deadline"
            );
        }
        done
    }
}

/// `catch_unwind` for a pinned future, without a dependency for ten lines.
mod futures_catch {
    use std::future::Future;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::pin::Pin;
    use std::task::{Context, Poll};

    pub(super) struct CatchUnwind<F>(pub(super) AssertUnwindSafe<Pin<Box<F>>>);

    impl<F: Future> Future for CatchUnwind<F> {
        type Output = Result<F::Output, Box<dyn std::any::Any + Send>>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            let inner = &mut self.0;
            match catch_unwind(AssertUnwindSafe(|| inner.as_mut().poll(cx))) {
                Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
                Ok(Poll::Pending) => Poll::Pending,
                Err(panic) => Poll::Ready(Err(panic)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn finish_waits_for_the_drain() {
        let tasks = Tasks::new("test");
        let cancelled = tasks.cancelled();
        let handle = tasks.spawn("drains", async move {
            cancelled.await;
            7
        });
        assert!(tasks.finish(Duration::from_secs(5)).await);
        assert_eq!(handle.await.unwrap(), Some(7));
    }

    #[tokio::test]
    async fn a_panic_stops_the_group() {
        let tasks = Tasks::new("test");
        let handle = tasks.spawn("dies", async { panic!("on purpose") });
        assert_eq!(handle.await.unwrap(), None::<()>);
        assert!(tasks.is_cancelled());
    }

    #[tokio::test]
    async fn children_stop_with_their_parent_only() {
        let parent = Tasks::new("parent");
        let child = parent.child("child");
        child.cancel();
        assert!(!parent.is_cancelled());
        let other = parent.child("other");
        parent.cancel();
        assert!(other.is_cancelled());
    }
}
