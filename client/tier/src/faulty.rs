//! A store in memory that fails as told, for tests: it refuses, is slow, cuts bodies off, loses replies, or never answers.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UploadPart,
};
use parking_lot::Mutex;

/// What is asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// An object in one request.
    Put,
    /// One in parts is begun.
    Begin,
    /// A part of one.
    Part,
    /// All parts are there.
    Complete,
    /// Bytes, or only whether it is there.
    Get,
    /// The removal of one; refused, too, where the object is locked.
    Delete,
    /// A listing. A fault of one meets what follows its first object.
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
    /// The body arrives, and one byte of it is another than was sent. Of reads; others are done.
    Garble(Byte),
    /// No answer, ever.
    Hang,
    /// It is done, so much later.
    Slow(Duration),
    /// From this call on an empty store is in the place of this one, as a mount point whose directory is not mounted any more, until
    /// [`Faulty::mount`].
    Unmount,
}

/// Which byte of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Byte {
    /// Its first.
    First,
    /// The one in its middle.
    Middle,
    /// Its last.
    Last,
}

#[derive(Debug, Default)]
struct Plan {
    /// So many calls that are well, so many that are not, and how.
    faults: HashMap<Call, (usize, usize, Fault)>,
    calls: HashMap<Call, usize>,
    locked: HashSet<String>,
    /// Puts go over what is there, whatever was asked for.
    overwrites: bool,
    /// What is in its place.
    away: Option<Arc<InMemory>>,
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
        self.fail_after(call, 0, fault, times);
    }

    /// The same after `well` that do not.
    pub fn fail_after(&self, call: Call, well: usize, fault: Fault, times: usize) {
        self.plan.lock().faults.insert(call, (well, times, fault));
    }

    /// From now on it does not know what *where there is none* means, as some do not.
    pub fn overwrite(&self) {
        self.plan.lock().overwrites = true;
    }

    /// It is in its place again.
    pub fn mount(&self) {
        self.plan.lock().away = None;
    }

    /// The same objects, reached by another way that fails on its own.
    pub fn beside(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), plan: Arc::default() }
    }

    /// How many calls of a kind there were.
    pub fn calls(&self, call: Call) -> usize {
        self.plan.lock().calls.get(&call).copied().unwrap_or(0)
    }

    /// Whether calls of a kind are to fail yet: that what was to fail did not come.
    pub fn is_to_fail(&self, call: Call) -> bool {
        self.plan.lock().faults.get(&call).is_some_and(|(_, left, _)| *left > 0)
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
        self.store_of("memory://")
    }

    /// The same under another name, such as of one that is marked.
    pub fn store_of(&self, bucket: &str) -> crate::Store {
        crate::Store::of(Arc::new(self.clone()), bucket)
    }

    fn next(&self, call: Call) -> Option<Fault> {
        let mut plan = self.plan.lock();
        *plan.calls.entry(call).or_default() += 1;
        let (well, left, fault) = plan.faults.get_mut(&call)?;
        if *well > 0 {
            *well -= 1;
            return None;
        }
        *left = left.checked_sub(1)?;
        let fault = *fault;
        if fault == Fault::Unmount {
            plan.away = Some(Arc::default());
        }
        Some(fault)
    }

    /// Whether the next call of a kind is to be said done; leaves any other fault for it.
    fn pretends(&self, call: Call) -> bool {
        let mut plan = self.plan.lock();
        let Some((0, left, Fault::Pretend)) = plan.faults.get_mut(&call) else { return false };
        let pretends = *left > 0;
        *left = left.saturating_sub(1);
        pretends
    }

    /// Where objects are now.
    fn objects(&self) -> Arc<InMemory> {
        self.plan.lock().away.clone().unwrap_or_else(|| Arc::clone(&self.inner))
    }

    /// Whether the call is done, and its answer is told.
    async fn begin(&self, call: Call) -> Result<Reply> {
        match self.next(call) {
            Some(Fault::LoseReply) => Ok(Reply::Lost),
            fault => fails(fault).await.map(|()| Reply::Told),
        }
    }
}

/// What becomes of the answer of a call that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Told,
    Lost,
}

impl Reply {
    fn of<T>(self, done: Result<T>) -> Result<T> {
        if self == Self::Lost { done.and(Err(refused())) } else { done }
    }
}

/// What becomes of a call before anything is done. A body that is cut off or garbled is seen to elsewhere.
async fn fails(fault: Option<Fault>) -> Result<()> {
    match fault {
        None | Some(Fault::Truncate | Fault::Garble(_) | Fault::Unmount) => Ok(()),
        Some(Fault::Slow(by)) => {
            tokio::time::sleep(by).await;
            Ok(())
        }
        Some(Fault::Refuse | Fault::Pretend | Fault::LoseReply) => Err(refused()),
        Some(Fault::Hang) => std::future::pending().await,
    }
}

fn garble(bytes: bytes::Bytes, byte: Byte) -> bytes::Bytes {
    let mut bytes = Vec::from(bytes);
    let at = match byte {
        Byte::First => 0,
        Byte::Middle => bytes.len() / 2,
        Byte::Last => bytes.len().saturating_sub(1),
    };
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 0x55;
    }
    bytes.into()
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
        let mode = if self.plan.lock().overwrites { PutMode::Overwrite } else { opts.mode.clone() };
        if self.pretends(Call::Put) {
            return Ok(PutResult { e_tag: None, version: None, extensions: Default::default() });
        }
        let reply = self.begin(Call::Put).await?;
        reply.of(self.objects().put_opts(at, bytes, PutOptions { mode, ..opts }).await)
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let reply = self.begin(Call::Begin).await?;
        let inner = reply.of(self.objects().put_multipart_opts(at, opts).await)?;
        Ok(Box::new(Parts { store: self.clone(), inner }))
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.next(Call::Get);
        fails(fault).await?;
        let mut found = self.objects().get_opts(at, options).await?;
        if fault == Some(Fault::Truncate) && found.range.end > found.range.start {
            let GetResultPayload::Stream(body) = found.payload else { return Err(refused()) };
            let cut = body.map(|part| part.map(|bytes| bytes.slice(..bytes.len() / 2)));
            found.payload = GetResultPayload::Stream(cut.boxed());
        }
        if let Some(Fault::Garble(byte)) = fault {
            let GetResultPayload::Stream(body) = found.payload else { return Err(refused()) };
            let garbled = body.map(move |part| part.map(|bytes| garble(bytes, byte)));
            found.payload = GetResultPayload::Stream(garbled.boxed());
        }
        Ok(found)
    }

    fn delete_stream(
        &self,
        at: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let one = move |path: Result<Path>| {
            let store = store.clone();
            async move {
                let path = path?;
                let locked = store.plan.lock().locked.contains(path.as_ref());
                let reply = store.begin(Call::Delete).await?;
                if locked {
                    return Err(refused());
                }
                reply.of(store.objects().delete(&path).await.map(|()| path))
            }
        };
        at.then(one).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let mut fault = Some(self.next(Call::List));
        let next = move |(at, meta)| {
            let fault = if at == 1 { fault.take().flatten() } else { None };
            async move { fails(fault).await.and(meta) }
        };
        self.objects().list(prefix).enumerate().then(next).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects().list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects().copy_opts(from, to, options).await
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
        Box::pin(async move { store.begin(Call::Part).await?.of(part.await) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.store.begin(Call::Complete).await?.of(self.inner.complete().await)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
