//! Brokers in memory for tests of this package: real sockets, one log per partition, and faults on demand. Members of
//! groups are not judged here: the test itself is the group and answers on [`Fake::member`]. Brokers of one [`Fake`] share
//! its logs; each stands behind a [`Door`] that can be shut like the connections of a process that is killed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use geminga_proto::v1::cluster_server::{Cluster, ClusterServer};
use geminga_proto::v1::stream_server::{Stream, StreamServer};
use geminga_proto::v1::topics_server::{Topics, TopicsServer};
use geminga_records::{Batch, Record, decode, split};
use geminga_runtime::{Random, SeededRandom, Tasks};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

pub(crate) const PARTITIONS: u32 = 3;
pub(crate) const TOPIC: &str = "t";

type Log = Vec<Batch>;

/// Whether both have the same numbers of one idempotent producer.
fn is_same(one: &Batch, other: &Batch) -> bool {
    let sequence = one.header().sequence();
    sequence.is_some() && sequence == other.header().sequence()
}

/// What the server is made of.
#[derive(Debug)]
struct State {
    logs: Mutex<HashMap<u32, Log>>,
    /// Rises with every append.
    appended: watch::Sender<u64>,
    /// Of a hundred elements or answers, how many break their stream.
    faults: Mutex<u64>,
    random: SeededRandom,
    /// Elements are taken only while it is true.
    running: watch::Sender<bool>,
    members: mpsc::Sender<Member>,
    /// What is said of the cluster.
    cluster: Mutex<Listed>,
    /// Batches by the broker that took them, and whether it was asked directly.
    taken: Mutex<HashMap<(i32, bool), u64>>,
    /// Brokers that are cut off from the metadata store, and how often each said so.
    cut_off: Mutex<HashMap<i32, u64>>,
}

/// Brokers by address, and the owners of the partitions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listed {
    pub(crate) brokers: Vec<(i32, String)>,
    pub(crate) owners: Vec<i32>,
}

impl Listed {
    /// The refusal that a broker owes to whoever asks it directly for what it does not own.
    fn not_owner(&self, broker: i32, partition: u32) -> Option<ApiError> {
        let owner = self.owners.get(partition as usize).copied().unwrap_or(-1);
        let address = self.brokers.iter().find(|(id, _)| *id == owner).map(|(_, at)| at.clone());
        (owner != broker).then(|| ApiError::not_owner("ask there", address))
    }
}

/// A way into a broker, which breaks all its connections when it is shut.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) address: String,
    tasks: Tasks,
}

impl Door {
    async fn open(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let tasks = Tasks::new("door");
        let (within, cancelled) = (tasks.clone(), tasks.cancelled());
        let let_in = async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (to, cancelled) = (to.clone(), within.cancelled());
                within.spawn("connection", async move {
                    let carry = async {
                        let mut server = tokio::net::TcpStream::connect(to).await?;
                        tokio::io::copy_bidirectional(&mut client, &mut server).await
                    };
                    tokio::select! {
                        () = cancelled => {}
                        _ = carry => {}
                    }
                });
            }
        };
        tasks.spawn("accept", async move {
            tokio::select! {
                () = cancelled => {}
                () = let_in => {}
            }
        });
        Self { address, tasks }
    }

    /// Breaks what goes through, and lets nothing in any more.
    pub(crate) async fn shut(&self) {
        assert!(self.tasks.finish(std::time::Duration::from_secs(10)).await);
    }
}

/// One stream of a group's member, to be answered by the test.
#[derive(Debug)]
pub(crate) struct Member {
    requests: Streaming<v1::ConsumeRequest>,
    events: mpsc::Sender<Result<v1::ConsumeResponse, Status>>,
}

impl Member {
    /// The next request; `None` at the end.
    pub(crate) async fn hear(&mut self) -> Option<v1::consume_request::Op> {
        self.requests.message().await.ok().flatten().and_then(|request| request.op)
    }

    pub(crate) async fn say(&self, event: v1::consume_response::Event) {
        self.events
            .send(Ok(v1::ConsumeResponse { event: Some(event), throttle_ms: 0 }))
            .await
            .expect("it listens");
    }

    /// Ends the stream as a crash would.
    pub(crate) async fn crash(self) {
        drop(self.events.send(Err(Status::unavailable("crash"))).await);
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) address: String,
    state: Arc<State>,
    members: mpsc::Receiver<Member>,
    tasks: Tasks,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let (member_sender, members) = mpsc::channel(4);
        let state = Arc::new(State {
            logs: Mutex::default(),
            appended: watch::Sender::new(0),
            faults: Mutex::new(0),
            random: SeededRandom::new(7),
            running: watch::Sender::new(true),
            members: member_sender,
            cluster: Mutex::default(),
            taken: Mutex::default(),
            cut_off: Mutex::default(),
        });
        let tasks = Tasks::new("fake");
        serve(0, Arc::clone(&state), listener, &tasks);
        Self { address, state, members, tasks }
    }

    /// Starts one more broker on the same logs.
    pub(crate) async fn broker(&self, id: i32) -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        serve(id, Arc::clone(&self.state), listener, &self.tasks);
        Door::open(address).await
    }

    /// What the brokers say of their cluster from now on.
    pub(crate) fn list(&self, brokers: &[(i32, &str)], owners: &[i32]) {
        let brokers = brokers.iter().map(|(id, address)| (*id, (*address).to_owned())).collect();
        *self.state.cluster.lock() = Listed { brokers, owners: owners.to_vec() };
    }

    /// How many batches a broker took.
    pub(crate) fn taken(&self, broker: i32, direct: bool) -> u64 {
        self.state.taken.lock().get(&(broker, direct)).copied().unwrap_or(0)
    }

    /// Has a broker refuse reads and questions: it cannot reach the metadata store.
    pub(crate) fn cut_off(&self, broker: i32) {
        self.state.cut_off.lock().insert(broker, 0);
    }

    /// How often a broker that is cut off was asked.
    pub(crate) fn refused(&self, broker: i32) -> u64 {
        self.state.cut_off.lock().get(&broker).copied().unwrap_or(0)
    }

    pub(crate) fn client(&self) -> crate::Client {
        crate::Client::connect(&self.address).expect("an address")
    }

    pub(crate) fn set_faults(&self, percent: u64) {
        *self.state.faults.lock() = percent;
    }

    /// Whether elements are taken.
    pub(crate) fn set_running(&self, running: bool) {
        self.state.running.send_replace(running);
    }

    /// The next stream of a member.
    pub(crate) async fn member(&mut self) -> Member {
        self.members.recv().await.expect("the server lives")
    }

    /// All records of a partition.
    pub(crate) fn log(&self, partition: u32) -> Vec<Record> {
        let logs = self.state.logs.lock();
        let batches = logs.get(&partition).into_iter().flatten();
        batches.flat_map(|batch| decode(batch, 1 << 24).expect("ours")).collect()
    }

    /// Appends a batch of these values and returns the stored bytes.
    pub(crate) fn append(&self, partition: u32, values: &[&'static str]) -> Bytes {
        let record = |value: &&'static str| Record {
            value: Some(Bytes::from_static(value.as_bytes())),
            ..Record::default()
        };
        let records: Vec<Record> = values.iter().map(record).collect();
        let batch =
            geminga_records::encode(&records, geminga_records::Compression::Lz4).expect("small");
        self.state.append(partition, &batch);
        self.state.logs.lock()[&partition].last().expect("just appended").as_bytes().clone()
    }

    pub(crate) fn stop(&self) {
        self.tasks.cancel();
    }
}

impl State {
    fn append(&self, partition: u32, batch: &Batch) -> i64 {
        let mut logs = self.logs.lock();
        let log = logs.entry(partition).or_default();
        let base = log.last().map_or(0, |last| last.header().next_offset());
        let stamped = Bytes::from(batch.stamp(base, 1).concat());
        log.push(Batch::parse(stamped).expect("a stamp keeps it whole"));
        drop(logs);
        self.appended.send_modify(|count| *count += 1);
        base
    }

    fn end(&self, partition: u32) -> i64 {
        let logs = self.logs.lock();
        logs.get(&partition)
            .and_then(|log| log.last())
            .map_or(0, |last| last.header().next_offset())
    }

    fn refuse(&self, broker: i32) -> Result<(), ApiError> {
        match self.cut_off.lock().get_mut(&broker) {
            Some(count) => {
                *count += 1;
                Err(ApiError::new(Reason::MetadataUnavailable, "cut off"))
            }
            None => Ok(()),
        }
    }

    fn breaks(&self) -> bool {
        self.random.below(100) < *self.faults.lock()
    }

    /// One element: `None` when nobody will ever hear its answer.
    fn produce(
        &self,
        element: &v1::ProduceElement,
        not_owner: Option<ApiError>,
        failed: &mut HashSet<u32>,
    ) -> Option<v1::ProduceResult> {
        let partition = element.partition.expect("the client chooses");
        let result = |base_offset, error: Option<ApiError>| v1::ProduceResult {
            id: element.id,
            topic: element.topic.clone(),
            partition: Some(partition),
            base_offset,
            log_append_time_ms: 0,
            error: error.map(|error| error.to_proto()),
        };
        if element.restart {
            failed.remove(&partition);
        }
        let on_purpose = |reason| ApiError::new(reason, "on purpose");
        let refused = if failed.contains(&partition) {
            Some(on_purpose(Reason::PriorBatchFailed))
        } else if not_owner.is_some() {
            not_owner
        } else if self.breaks() {
            Some(on_purpose(Reason::NotReady))
        } else {
            None
        };
        if let Some(error) = refused {
            failed.insert(partition);
            return Some(result(-1, Some(error)));
        }
        let Some(v1::produce_element::Data::Batch(bytes)) = element.data.clone() else {
            panic!("the client sends batches")
        };
        let batch = Batch::parse(bytes).expect("the client's batches are whole");
        batch.check_produced().expect("the client's batches are a client's");
        geminga_records::look_through(&batch, 64 << 20, drop).expect("of whole records");
        // Forgets nothing, and trusts that numbers follow each other.
        let before = {
            let logs = self.logs.lock();
            let mut log = logs.get(&partition).into_iter().flatten();
            log.find(|stored| is_same(stored, &batch)).map(|stored| stored.header().base_offset)
        };
        let base = before.unwrap_or_else(|| self.append(partition, &batch));
        (!self.breaks()).then(|| result(base, None))
    }
}

/// The services of one broker.
fn serve(id: i32, state: Arc<State>, listener: TcpListener, tasks: &Tasks) {
    let service = Service(state, id);
    let server = tonic::transport::Server::builder()
        .add_service(StreamServer::new(service.clone()))
        .add_service(TopicsServer::new(service.clone()))
        .add_service(ClusterServer::new(service))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), tasks.cancelled());
    tasks.spawn("serve", server);
}

/// What the brokers share, and which of them this is.
#[derive(Debug, Clone)]
struct Service(Arc<State>, i32);

#[tonic::async_trait]
impl Stream for Service {
    type ProduceStream = ReceiverStream<Result<v1::ProduceResponse, Status>>;
    type FetchStream = BoxStream<'static, Result<v1::FetchResponse, Status>>;
    type ConsumeStream = ReceiverStream<Result<v1::ConsumeResponse, Status>>;

    async fn produce(
        &self,
        request: Request<Streaming<v1::ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStream>, Status> {
        let mut requests = request.into_inner();
        let (sender, answers) = mpsc::channel(16);
        let (state, id) = (Arc::clone(&self.0), self.1);
        Tasks::new("fake produce").spawn("produce", async move {
            let mut failed = HashSet::new();
            let mut running = state.running.subscribe();
            while let Ok(Some(request)) = requests.message().await {
                for element in request.elements {
                    drop(running.wait_for(|running| *running).await);
                    let acks = element.acks();
                    let asked = element.partition.expect("the client chooses");
                    let not_owner = state.cluster.lock().not_owner(id, asked);
                    let not_owner = not_owner.filter(|_| request.direct);
                    *state.taken.lock().entry((id, request.direct)).or_default() += 1;
                    let Some(result) = state.produce(&element, not_owner, &mut failed) else {
                        drop(sender.send(Err(Status::unavailable("crash"))).await);
                        return;
                    };
                    if acks == v1::Acks::All {
                        let response =
                            v1::ProduceResponse { results: vec![result], throttle_ms: 0 };
                        drop(sender.send(Ok(response)).await);
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn init_producer(
        &self,
        _: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        if self.0.breaks() {
            return Err(Status::unavailable("crash"));
        }
        let producer_id = i64::try_from(self.0.random.below(1 << 40)).expect("below");
        Ok(Response::new(v1::InitProducerResponse { producer_id, epoch: 0 }))
    }

    async fn fetch(
        &self,
        request: Request<v1::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        self.0.refuse(self.1)?;
        let request = request.into_inner();
        if request.topic != TOPIC {
            return Err(ApiError::new(Reason::UnknownTopic, "no such topic").into());
        }
        let (state, mut positions) = (Arc::clone(&self.0), HashMap::new());
        for at in request.partitions {
            let not_owner = state.cluster.lock().not_owner(self.1, at.partition);
            if let Some(error) = not_owner.filter(|_| request.direct) {
                return Err(error.into());
            }
            if at.offset > state.end(at.partition) {
                return Err(ApiError::new(Reason::OffsetOutOfRange, "beyond the end").into());
            }
            positions.insert(at.partition, at.offset);
        }
        let appended = state.appended.subscribe();
        let answers = futures::stream::unfold((state, positions, appended), |mut at| async move {
            loop {
                let (state, positions, appended) = &mut at;
                appended.mark_unchanged();
                for (&partition, position) in positions.iter_mut() {
                    let logs = state.logs.lock();
                    let mut log = logs.get(&partition).into_iter().flatten();
                    let Some(batch) = log.find(|b| b.header().next_offset() > *position) else {
                        continue;
                    };
                    *position = batch.header().next_offset();
                    let data = data(partition, batch.as_bytes().clone());
                    drop(logs);
                    let answer = match state.breaks() {
                        true => Err(ApiError::new(Reason::NotReady, "on purpose").to_status()),
                        false => Ok(v1::FetchResponse { partitions: vec![data], throttle_ms: 0 }),
                    };
                    return Some((answer, at));
                }
                appended.changed().await.ok()?;
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn consume(
        &self,
        request: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let (events, answers) = mpsc::channel(16);
        let member = Member { requests: request.into_inner(), events };
        self.0.members.send(member).await.map_err(|_| Status::unavailable("stopped"))?;
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

/// Stored batches as a broker sends them.
pub(crate) fn data(partition: u32, batches: Bytes) -> v1::PartitionData {
    let next_offset = split(batches.clone())
        .last()
        .map_or(0, |last| last.expect("whole batches").header().next_offset());
    v1::PartitionData {
        topic: TOPIC.to_owned(),
        partition,
        data: Some(v1::partition_data::Data::Batches(batches)),
        next_offset,
        high_watermark: next_offset,
        log_start_offset: 0,
        error: None,
    }
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        self.0.refuse(self.1)?;
        Ok(Response::new(v1::GetStatusResponse::default()))
    }

    async fn get_metadata(
        &self,
        request: Request<v1::GetMetadataRequest>,
    ) -> Result<Response<v1::GetMetadataResponse>, Status> {
        let Listed { brokers, owners } = self.0.cluster.lock().clone();
        // Without owners as from a cache that is behind: describing the topic tells the truth.
        let topic = |topic: String| v1::TopicOwners {
            topic,
            exists: !owners.is_empty(),
            owners: owners.clone(),
            ..Default::default()
        };
        let topics = request.into_inner().topics.into_iter().map(topic).collect();
        let broker =
            |(broker_id, address)| v1::BrokerStatus { broker_id, address, ..Default::default() };
        let brokers = brokers.into_iter().map(broker).collect();
        Ok(Response::new(v1::GetMetadataResponse { brokers, topics, answered_by: Some(self.1) }))
    }

    async fn drain_broker(
        &self,
        _: Request<v1::DrainBrokerRequest>,
    ) -> Result<Response<v1::DrainBrokerResponse>, Status> {
        Err(ApiError::new(Reason::NotSupported, "brokers here own what the test says").into())
    }

    async fn undrain_broker(
        &self,
        _: Request<v1::UndrainBrokerRequest>,
    ) -> Result<Response<v1::UndrainBrokerResponse>, Status> {
        Err(ApiError::new(Reason::NotSupported, "brokers here own what the test says").into())
    }

    async fn move_partition(
        &self,
        _: Request<v1::MovePartitionRequest>,
    ) -> Result<Response<v1::MovePartitionResponse>, Status> {
        Err(ApiError::new(Reason::NotSupported, "brokers here own what the test says").into())
    }

    async fn list_quotas(
        &self,
        _: Request<v1::ListQuotasRequest>,
    ) -> Result<Response<v1::ListQuotasResponse>, Status> {
        Err(ApiError::new(Reason::NotSupported, "nobody is held back here").into())
    }

    async fn set_quota(
        &self,
        _: Request<v1::SetQuotaRequest>,
    ) -> Result<Response<v1::SetQuotaResponse>, Status> {
        Err(ApiError::new(Reason::NotSupported, "nobody is held back here").into())
    }

    async fn remove_quota(
        &self,
        _: Request<v1::RemoveQuotaRequest>,
    ) -> Result<Response<v1::RemoveQuotaResponse>, Status> {
        Err(ApiError::new(Reason::NotSupported, "nobody is held back here").into())
    }
}

#[tonic::async_trait]
impl Topics for Service {
    async fn create_topic(
        &self,
        _: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        Err(ApiError::new(Reason::NotSupported, "there is one topic here").into())
    }

    async fn list_topics(
        &self,
        _: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        Ok(Response::new(v1::ListTopicsResponse::default()))
    }

    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> Result<Response<v1::DescribeTopicResponse>, Status> {
        let name = request.into_inner().name;
        if name != TOPIC {
            return Err(ApiError::new(Reason::UnknownTopic, "no such topic").into());
        }
        let topic = v1::TopicSummary { name, partitions: PARTITIONS, ..Default::default() };
        Ok(Response::new(v1::DescribeTopicResponse { topic: Some(topic), partitions: Vec::new() }))
    }

    async fn delete_topic(
        &self,
        _: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        Err(ApiError::new(Reason::UnknownTopic, "no such topic").into())
    }

    async fn alter_topic(
        &self,
        _: Request<v1::AlterTopicRequest>,
    ) -> Result<Response<v1::AlterTopicResponse>, Status> {
        Err(ApiError::new(Reason::NotSupported, "the topic here is what it is").into())
    }

    async fn delete_records(
        &self,
        _: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Response<v1::DeleteRecordsResponse>, Status> {
        Err(ApiError::new(Reason::NotSupported, "all records are kept here").into())
    }

    async fn offset_for_term(
        &self,
        _: Request<v1::OffsetForTermRequest>,
    ) -> Result<Response<v1::OffsetForTermResponse>, Status> {
        Err(ApiError::new(Reason::NotSupported, "there is one term here").into())
    }

    async fn list_offsets(
        &self,
        _: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        // One partition is not ready at first.
        let offset = |partition| v1::PartitionOffset {
            partition,
            offset: self.0.end(partition),
            error: (*self.0.appended.borrow() == 0 && partition == 1).then(|| {
                self.0.appended.send_modify(|count| *count += 1);
                ApiError::new(Reason::NotReady, "taking over").to_proto()
            }),
            ..Default::default()
        };
        let offsets = (0..PARTITIONS).rev().map(offset).collect();
        Ok(Response::new(v1::ListOffsetsResponse { offsets }))
    }
}
