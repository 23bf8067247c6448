//! The object store of a server. Servers work without it, so they are ready, and say so beside it: `/readyz` is answered to everybody, so
//! it names the kind of trouble in words of ours, and what the store said word for word is in the log alone.
//!
//! One small object is asked for every so often: the one that says whose the store is. What reads and uploads meet is in the metrics.

use std::sync::Arc;
use std::time::Duration;

use geminga_runtime::Tasks;
use geminga_tier::{Marker, ObjectError, Store};
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::http::Readiness;

/// First asked so long after the server has begun to start: whoever needs the store to start has asked it by then.
const FIRST: Duration = Duration::from_secs(5);
/// How often it is asked.
const EVERY: Duration = Duration::from_secs(15);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Says what becomes of `objects`, until `tasks` stops.
pub(super) fn look_after(objects: Store, readiness: &Readiness, tasks: &Tasks) {
    if objects.is_memory() {
        return;
    }
    let (trouble, place) = (Arc::<Mutex<Option<String>>>::default(), objects.place());
    let told = Arc::clone(&trouble);
    readiness.lacking(Box::new(move || {
        told.lock().as_ref().map(|why| format!("the object store {place} {why}"))
    }));
    let stop = tasks.cancelled();
    tasks.spawn("object store", async move {
        let mut ticks = interval_at(Instant::now() + FIRST, EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let looking = async {
            loop {
                ticks.tick().await;
                let now = ask(&objects).await;
                let before = std::mem::replace(&mut *trouble.lock(), now.clone());
                if before.is_some() && now.is_none() {
                    tracing::info!(place = objects.place(), "the object store answers again");
                }
            }
        };
        tokio::select! {
            () = stop => {}
            () = looking => {}
        }
    });
}

/// What is wrong with it, if anything is.
async fn ask(objects: &Store) -> Option<String> {
    match timeout(PATIENCE, Marker::read(objects)).await {
        Ok(Ok(Some(_))) => None,
        Ok(Ok(None) | Err(ObjectError::NotFound { .. })) => Some(
            "has nothing that says whose it is: bucket and prefix are others, or no bookie has used it yet"
                .to_owned(),
        ),
        Ok(Err(error)) => {
            tracing::warn!(place = objects.place(), %error, "the object store cannot be asked");
            Some(format!("cannot be asked{}: the log says more", status(&error.to_string())))
        }
        Err(_) => Some(format!("does not answer within {PATIENCE:?}")),
    }
}

/// The status of HTTP in what the library says, where there is one; nothing else of it is for everybody.
fn status(said: &str) -> String {
    let mut words = said.split(|c: char| !c.is_ascii_alphanumeric());
    let code = words.find(|word| word.eq_ignore_ascii_case("status")).and_then(|_| words.next());
    let is_code = |code: &&str| code.len() == 3 && code.bytes().all(|digit| digit.is_ascii_digit());
    code.filter(is_code).map(|code| format!(" (HTTP {code})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_the_store_said_only_the_status_is_told() {
        let said = "Generic S3 error: Server returned non-2xx status code: 403 Forbidden: <AWSAccessKeyId>AK</AWSAccessKeyId>";
        assert_eq!(status(said), "", "another word follows");
        let said = "Client error with status 403 Forbidden: <Code>AccessDenied</Code>";
        assert_eq!(status(said), " (HTTP 403)");
        assert_eq!(status("error sending request, status password"), "");
        assert_eq!(status("connection refused"), "");
    }
}
