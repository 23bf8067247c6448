//! The object store of a server. Servers work without it, so they are ready, and say so: `/readyz` names why it did not answer.
//! While it does not it is asked again, so that what is said is not older than that.

use std::time::Duration;

use geminga_runtime::Tasks;
use geminga_tier::{Marker, Store};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::http::Readiness;

/// How often one that does not answer is asked again.
const AGAIN: Duration = Duration::from_secs(5);

/// Says what becomes of `objects`, until `tasks` stops.
pub(super) fn look_after(objects: Store, readiness: &Readiness, tasks: &Tasks) {
    let told = objects.clone();
    readiness
        .lacking(Box::new(move || told.trouble().map(|why| format!("the object store {why}"))));
    let stop = tasks.cancelled();
    tasks.spawn("object store", async move {
        let mut ticks = interval(AGAIN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let asking = async {
            loop {
                ticks.tick().await;
                if objects.trouble().is_some() {
                    // What comes of it is noted by the store.
                    let _ = timeout(AGAIN, Marker::read(&objects)).await;
                }
            }
        };
        tokio::select! {
            () = stop => {}
            () = asking => {}
        }
    });
}
