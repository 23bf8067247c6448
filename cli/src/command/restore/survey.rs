//! Reads what a store says of itself: every object's ends, or all of it. An object that is damaged is told and stops nothing; a store
//! that does not answer stops everything, for what it did not say would look missing.

use futures::{StreamExt, TryStreamExt, stream};
use geminga_proto::ids::{ClusterUuid, LedgerId};
use geminga_tier::{Listed, ObjectError, ObjectName, Store, Surveyed};

use crate::exit::{Exit, Failure};

/// Objects that are read at a time.
const AT_ONCE: usize = 8;

/// How much of each object is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Its ends, which tell what it is.
    Ends,
    /// All of it.
    All,
}

/// An object that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) key: String,
    /// Whose it is, as its key says.
    pub(super) cluster: ClusterUuid,
    pub(super) ledger: LedgerId,
    pub(super) why: String,
}

/// All objects of a store that are, or should be, segments.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) objects: Vec<Surveyed>,
    pub(super) broken: Vec<Broken>,
    /// Objects by whose keys they are no segments.
    pub(super) others: u64,
    pub(super) verified: bool,
}

/// Reads them.
pub(super) async fn survey(
    store: &Store,
    only: Option<ClusterUuid>,
    depth: Depth,
) -> Result<Survey, Failure> {
    let (mut found, mut survey) = (Vec::new(), Survey::default());
    survey.verified = depth == Depth::All;
    let mut listing = store.list_all();
    while let Some(listed) = listing.try_next().await.map_err(unreachable)? {
        match store.parse_any_key(&listed.key) {
            None if store.is_marker(&listed.key) => {}
            None => survey.others += 1,
            Some((cluster, _)) if only.is_some_and(|only| only != cluster) => {}
            Some((cluster, name)) => found.push((cluster, name, listed)),
        }
    }
    let mut read = stream::iter(found)
        .map(|(cluster, name, listed)| async move {
            let read = one(store, cluster, &name, &listed, depth).await;
            (listed.key, cluster, name.ledger, read)
        })
        .buffer_unordered(AT_ONCE);
    while let Some((key, cluster, ledger, read)) = read.next().await {
        match read {
            Ok(object) => survey.objects.push(object),
            Err(error) if error.is_permanent() => {
                survey.broken.push(Broken { key, cluster, ledger, why: error.to_string() });
            }
            Err(error) => return Err(unreachable(error)),
        }
    }
    survey.broken.sort_unstable_by(|one, two| one.key.cmp(&two.key));
    Ok(survey)
}

impl Survey {
    /// All ledgers of a cluster of which there is an object, whether or not it can be read.
    pub(super) fn ledgers(&self, of: ClusterUuid) -> impl Iterator<Item = LedgerId> + '_ {
        let read = self.objects.iter().map(|object| &object.header);
        let read = read.map(|header| (header.cluster, header.ledger));
        let broken = self.broken.iter().map(|broken| (broken.cluster, broken.ledger));
        read.chain(broken).filter(move |(cluster, _)| *cluster == of).map(|(_, ledger)| ledger)
    }
}

async fn one(
    store: &Store,
    cluster: ClusterUuid,
    name: &ObjectName,
    listed: &Listed,
    depth: Depth,
) -> Result<Surveyed, ObjectError> {
    let object = Surveyed::read(store, cluster, name, listed).await?;
    if depth == Depth::All {
        object.verify(store).await?;
    }
    Ok(object)
}

fn unreachable(error: ObjectError) -> Failure {
    Failure::with(Exit::Unreachable, error).because("OBJECT_STORE_UNAVAILABLE")
}
