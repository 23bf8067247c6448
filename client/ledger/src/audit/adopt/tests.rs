//! Copies that moved, and what becomes of them while they are named.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use geminga_metastore::record::{LedgerState, LiveBookie, Under};
use geminga_metastore::{MemoryStore, MetaStore};
use geminga_proto::bookie::{Code, QueryOp, QueryReply, QueryRequest, WriteReply, WriteRequest};
use geminga_proto::ids::{BookieId, EntryId};
use tokio::sync::watch;

use super::*;
use crate::audit::apply::tests::{LEDGER, holder, member, open, with};
use crate::connection::{BookieConnection, Bookies, ConnectionLost};

/// Bookies that hold so much of the ledger. They are asked while its lock is held.
#[derive(Debug, Clone)]
struct Holding {
    held: Vec<Holder>,
    store: MemoryStore,
}

#[derive(Debug)]
struct One(Holding, BookieId);

impl BookieConnection for One {
    fn write(&self, _: WriteRequest) -> BoxFuture<'static, Result<WriteReply, ConnectionLost>> {
        panic!("nobody writes");
    }

    fn query(
        &self,
        request: QueryRequest,
    ) -> BoxFuture<'static, Result<QueryReply, ConnectionLost>> {
        let QueryOp::Inventory { .. } = request.op else { panic!("only what it holds") };
        let lock = self.0.store.get(&keys::under_lock(LEDGER)).now_or_never();
        assert!(lock.expect("it is in memory").unwrap().is_some(), "asked without the lock");
        let own = self.0.held.iter().filter(|holder| holder.member.bookie == self.1);
        let entries = own.map(|holder| holder.local.encode()).collect();
        let reply = QueryReply { entries, ..QueryReply::refusal(Code::Ok, "") };
        std::future::ready(Ok(reply)).boxed()
    }
}

impl Bookies for Holding {
    fn connection(&self, bookie: &BookieId) -> Result<Arc<dyn BookieConnection>, ConnectionLost> {
        Ok(Arc::new(One(self.clone(), bookie.clone())))
    }

    fn live(&self) -> Vec<LiveBookie> {
        Vec::new()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }
}

/// Ten entries, of which members 1 to 3 are named.
fn closed() -> LedgerMeta {
    LedgerMeta { state: LedgerState::Closed, last_entry: Some(EntryId(9)), ..open() }
}

async fn client(held: &[Holder]) -> LedgerClient {
    let store = MemoryStore::new();
    let bookies = Holding { held: held.to_vec(), store: store.clone() };
    with(&closed(), Arc::new(store), Arc::new(bookies)).await
}

async fn ensemble(client: &LedgerClient) -> Vec<geminga_proto::ids::Member> {
    client.metadata(LEDGER).await.unwrap().unwrap().0.fragments[0].ensemble.clone()
}

#[tokio::test(start_paused = true)]
async fn whoever_holds_what_moved_is_named_and_the_rest_is_repaired() {
    let held = [holder(2, 0, 0, 3), holder(7, 0, 0, 9)];
    let client = client(&held).await;
    for _ in 0..2 {
        let moved = client.adopt_moved(LEDGER, &held).await.unwrap().unwrap();
        assert_eq!(moved.fragments[0].ensemble, [member(7), member(2), member(3)]);
        assert_eq!(ensemble(&client).await, moved.fragments[0].ensemble);
    }
    let store = &client.parts.store;
    let mark = store.get(&keys::under(LEDGER)).await.unwrap().unwrap();
    let mark = Under::decode(LEDGER, &mark.value).unwrap();
    assert_eq!(mark.members, [member(2), member(3)]);
    assert_eq!(store.get(&keys::under_lock(LEDGER)).await.unwrap(), None, "given back");
}

/// 5.6: a bookie may have given its copy up since all disks were asked, for nobody named it then.
#[tokio::test(start_paused = true)]
async fn who_gave_its_copy_up_since_is_not_named() {
    let client = client(&[holder(2, 0, 0, 3)]).await;
    let held = [holder(2, 0, 0, 3), holder(7, 0, 0, 9)];
    assert_eq!(client.adopt_moved(LEDGER, &held).await, Err(AdoptError::Gone));
    assert_eq!(ensemble(&client).await, [member(1), member(2), member(3)]);
}

/// Whoever has the lock may be about to give up what would be named.
#[tokio::test(start_paused = true)]
async fn nobody_is_named_while_another_has_the_lock() {
    let held = [holder(7, 0, 0, 9)];
    let client = client(&held).await;
    let key = keys::under_lock(LEDGER);
    client.parts.store.put_if(&key, None, "x".into()).await.unwrap().unwrap();
    assert_eq!(client.adopt_moved(LEDGER, &held).await, Err(AdoptError::Busy));
    assert_eq!(ensemble(&client).await, [member(1), member(2), member(3)]);
    assert!(client.parts.store.get(&key).await.unwrap().is_some(), "it is another's");
}
