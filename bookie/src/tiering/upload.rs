//! Steps 3 to 5 of an upload: reads a ledger's entries, mostly of this bookie, sends them, and reads back what is there. Holds a few
//! parts at a time, whatever the ledger's size.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use geminga_ledger::{Bookies, Reader};
use geminga_metastore::record::{LedgerMeta, TierObject};
use geminga_proto::ids::ClusterUuid;
use geminga_tier::format::Header;
use geminga_tier::{Object, PART_BYTES, SegmentWriter, Store, Summary, Upload};
use tokio::time::{Instant, sleep_until};

use super::core::Seen;

/// Bytes of entries asked for at a time.
const READ_BYTES: usize = 1 << 20;

/// What was sent, and not published yet.
#[derive(Debug)]
pub(super) struct Sent {
    upload: Upload,
    rest: Bytes,
    pub(super) summary: Summary,
}

/// Why an upload, or a look at it, came to nothing; for people.
pub(super) type Why = Box<dyn std::error::Error + Send + Sync>;

/// Sends all entries of a closed ledger; nobody sees them yet. What cannot be read makes an error, never a shorter object (T3). `hurries`:
/// whether the pace is of no account now; asked all the while, since a disk may fill up meanwhile.
pub(super) async fn send(
    cluster: ClusterUuid,
    bookies: &Arc<dyn Bookies>,
    objects: &Store,
    attempt: u128,
    meta: &LedgerMeta,
    rate: Option<u64>,
    hurries: &(dyn Fn() -> bool + Sync),
) -> Result<Sent, Why> {
    let header = Header::of(cluster, attempt, meta).ok_or("the ledger is not closed")?;
    let last = header.last_entry;
    let mut writer = SegmentWriter::new(&header);
    let mut upload = objects.upload(&objects.key(cluster, &meta.custom, meta.id, attempt));
    let limits = geminga_ledger::Config::default();
    let reader = Reader::open(cluster, Arc::clone(bookies), Arc::new(meta.clone()), &limits);
    let mut pace = Pace::new(rate);
    let sent = async {
        while writer.next() <= last {
            let read = reader.read_stored(writer.next(), last, READ_BYTES);
            let entries = beside(&mut upload, read).await??;
            for entry in &entries {
                writer.push(entry)?;
            }
            let bytes = entries.iter().map(Bytes::len).sum();
            beside(&mut upload, pace.spend(bytes, hurries())).await?;
            while let Some(part) = writer.take(PART_BYTES) {
                upload.part(part).await?;
            }
        }
        Ok::<_, Why>(writer.finish()?)
    };
    match sent.await {
        Ok((rest, summary)) => Ok(Sent { upload, rest, summary }),
        Err(why) => {
            upload.abort().await;
            Err(why)
        }
    }
}

/// Waits for something while parts go on.
async fn beside<T>(
    upload: &mut Upload,
    work: impl Future<Output = T>,
) -> Result<T, geminga_tier::ObjectError> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            sent = upload.progress() => sent?,
        }
    }
}

impl Sent {
    /// Publishes the object.
    pub(super) async fn complete(&mut self) -> Result<(), Why> {
        Ok(self.upload.complete(std::mem::take(&mut self.rest)).await?)
    }

    /// Gives it up.
    pub(super) async fn abort(&mut self) {
        self.upload.abort().await;
    }
}

/// Reads the footer, the index, and one block, named by `random`, of what was published.
pub(super) async fn read_back(
    cluster: ClusterUuid,
    objects: &Store,
    meta: &LedgerMeta,
    object: &TierObject,
    summary: &Summary,
    random: u64,
) -> Result<Seen, Why> {
    let seen = objects.head(&object.key).await?.ok_or("it is not there")?;
    let opened = Object::open(objects, meta.id, Arc::new(object.clone())).await?;
    let footer = opened.footer();
    if footer.length != summary.length || footer.entries_crc != summary.entries_crc {
        return Err("its footer is not what was sent".into());
    }
    let blocks = opened.index().blocks().len() as u64;
    let number = usize::try_from(random % blocks.max(1))?;
    let block = opened.block(objects, number).await?;
    block.entry(cluster, meta.id, block.first(), None)?;
    Ok(Seen { size: seen.size, etag: seen.etag })
}

/// Bytes a second.
#[derive(Debug)]
struct Pace {
    rate: Option<u64>,
    /// When what was spent so far is paid for.
    due: Instant,
}

impl Pace {
    fn new(rate: Option<u64>) -> Self {
        Self { rate, due: Instant::now() }
    }

    /// Waits until so many bytes more may be sent; not in a hurry.
    async fn spend(&mut self, bytes: usize, hurries: bool) {
        let Some(rate) = self.rate.filter(|_| !hurries) else { return };
        let took = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        // What was not used while something else was slow is not made up for.
        self.due = self.due.max(Instant::now()) + took;
        sleep_until(self.due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pace is for those who read and write meanwhile, and a full disk serves nobody.
    #[tokio::test(start_paused = true)]
    async fn a_disk_that_fills_up_meanwhile_ends_the_pace() {
        let (begun, mut pace) = (Instant::now(), Pace::new(Some(10)));
        pace.spend(20, false).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
        pace.spend(1_000, true).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
        pace.spend(10, false).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
        Pace::new(None).spend(1_000, false).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
    }
}
