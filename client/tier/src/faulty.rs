//! A store in memory that fails as told, for tests: it refuses, cuts bodies off, loses replies, or never answers.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart,
};
use parking_lot::Mutex;

/// What is asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// An object in one request.
    Put,
    /// A part of one.
    Part,
    /// All parts are there.
    Complete,
    /// Bytes, or only whether it is there.
    Get,
    /// The removal of one; counted only, and refused where the object is locked.
    Delete,
    /// A listing; counted only.
    List,
}

/// How it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 503, and nothing was done.
    Refuse,
    /// It was done, and nobody hears of it.
    LoseReply,
    /// It is said to be done, and was not. Of puts; others are refused.
    Pretend,
    /// The body ends too early.
    Truncate,
    /// The body arrives, and is not what was sent. Of reads; others are done.
    Garble,
    /// No answer, ever.
    Hang,
}

#[derive(Debug, Default)]
struct Plan {
    faults: HashMap<Call, (Fault, usize)>,
    calls: HashMap<Call, usize>,
    locked: HashSet<String>,
}

/// The store. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Faulty {
    inner: Arc<InMemory>,
    plan: Arc<Mutex<Plan>>,
}

impl Faulty {
    /// The next `times` calls of a kind fail so.
    pub fn fail(&self, call: Call, fault: Fault, times: usize) {
        self.plan.lock().faults.insert(call, (fault, times));
    }

    /// How many calls of a kind there were.
    pub fn calls(&self, call: Call) -> usize {
        self.plan.lock().calls.get(&call).copied().unwrap_or(0)
    }

    /// From now on this object cannot be removed, or can again.
    pub fn lock(&self, key: &str, locked: bool) {
        let mut plan = self.plan.lock();
        match locked {
            true => plan.locked.insert(key.to_owned()),
            false => plan.locked.remove(key),
        };
    }

    /// As a store of objects.
    pub fn store(&self) -> crate::Store {
        crate::Store::of(Arc::new(self.clone()), "memory://")
    }

    fn next(&self, call: Call) -> Option<Fault> {
        let mut plan = self.plan.lock();
        *plan.calls.entry(call).or_default() += 1;
        let (fault, left) = plan.faults.get_mut(&call)?;
        *left = left.checked_sub(1)?;
        Some(*fault)
    }

    /// Whether the next call of a kind is to be said done; leaves any other fault for it.
    fn pretends(&self, call: Call) -> bool {
        let mut plan = self.plan.lock();
        let planned = plan.faults.get_mut(&call);
        let Some((Fault::Pretend, left)) = planned else { return false };
        let pretends = *left > 0;
        *left = left.saturating_sub(1);
        pretends
    }

    async fn run<T>(&self, call: Call, work: impl Future<Output = Result<T>>) -> Result<T> {
        match self.next(call) {
            None | Some(Fault::Truncate | Fault::Garble) => work.await,
            Some(Fault::Refuse | Fault::Pretend) => Err(refused()),
            Some(Fault::LoseReply) => {
                work.await?;
                Err(refused())
            }
            Some(Fault::Hang) => std::future::pending().await,
        }
    }
}

fn refused() -> Error {
    Error::Generic { store: "faulty", source: "503 Slow Down".into() }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, at: &Path, bytes: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if self.pretends(Call::Put) {
            return Ok(PutResult { e_tag: None, version: None, extensions: Default::default() });
        }
        self.run(Call::Put, self.inner.put_opts(at, bytes, opts)).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(at, opts).await?;
        Ok(Box::new(Parts { store: self.clone(), inner }))
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.next(Call::Get);
        match fault {
            Some(Fault::Refuse | Fault::LoseReply | Fault::Pretend) => return Err(refused()),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Truncate | Fault::Garble) | None => {}
        }
        let mut found = self.inner.get_opts(at, options).await?;
        if fault == Some(Fault::Truncate) && found.range.end > found.range.start {
            let GetResultPayload::Stream(body) = found.payload else { return Err(refused()) };
            let cut = body.map(|part| part.map(|bytes| bytes.slice(..bytes.len() / 2)));
            found.payload = GetResultPayload::Stream(cut.boxed());
        }
        if fault == Some(Fault::Garble) {
            let GetResultPayload::Stream(body) = found.payload else { return Err(refused()) };
            let flip = |bytes: bytes::Bytes| bytes.iter().map(|byte| byte ^ 0x55).collect();
            found.payload = GetResultPayload::Stream(body.map(move |part| part.map(flip)).boxed());
        }
        Ok(found)
    }

    fn delete_stream(
        &self,
        at: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let unlocked = at.map(move |path| {
            let path = path?;
            let mut plan = store.plan.lock();
            *plan.calls.entry(Call::Delete).or_default() += 1;
            if plan.locked.contains(path.as_ref()) { Err(refused()) } else { Ok(path) }
        });
        self.inner.delete_stream(unlocked.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        *self.plan.lock().calls.entry(Call::List).or_default() += 1;
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct Parts {
    store: Faulty,
    inner: Box<dyn MultipartUpload>,
}

#[async_trait]
impl MultipartUpload for Parts {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (store, part) = (self.store.clone(), self.inner.put_part(data));
        Box::pin(async move { store.run(Call::Part, part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.store.clone().run(Call::Complete, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
