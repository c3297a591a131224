//! What all doors share: metadata, devices, budgets.

use crate::{
    clock::{MetaClock, Stopwatch},
    latency::{Latency, Stragglers},
    md5_lanes::Md5Lanes,
    metrics::GatewayMetrics,
    packer::Packer,
    placement::{DeviceSlots, Placement},
};
use holdfast_core::{
    buffer::BufferPool,
    ids::{LeaseId, PackId, PgId, PoolId, RequestId, SegmentId, UploadId},
    kv::KvError,
};
use holdfast_meta_raft_machine::{
    ask::{HeaderNow, SegmentOf, Topology},
    command::{Command, Outcome, Rejection, Request},
    records::Content,
};
use holdfast_meta_raft_server::{Meta, MetaError};
use holdfast_storage_node_server::Foreground;
use std::{sync::Arc, time::Duration};
use thiserror::Error;
use tokio::sync::Semaphore;

/// One MiB: the unit of the memory budgets.
pub const MIB: usize = 1 << 20;

/// How the pipeline behaves.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// How long what was deleted stays.
    pub gc_grace: Duration,
    /// Objects up to this size live in the metadata commit itself.
    pub inline_max: usize,
    /// Memory for bodies on their way to the disks. Past it uploads wait.
    pub upload_budget_mib: usize,
    /// Streaming uploads that are admitted at once; others wait.
    pub uploads_max: usize,
    /// Memory for bodies on their way to clients.
    pub download_budget_mib: usize,
    /// How long a pack waits for all of its shards before the write quorum is enough.
    pub write_patience: Duration,
    /// How long a pack waits for its write quorum.
    pub write_timeout: Duration,
    /// How long a shard may take, at most, before others are asked instead; less where reads usually are fast.
    pub hedge_after: Duration,
    /// Counts what is done for clients on this host.
    pub foreground: Foreground,
}

impl EngineConfig {
    /// Defaults. docs/adr/0001 has the measurements behind the inline limit.
    pub fn new(gc_grace: Duration) -> Self {
        Self {
            gc_grace,
            inline_max: 1 << 10,
            upload_budget_mib: 256,
            uploads_max: 128,
            download_budget_mib: 256,
            write_patience: Duration::from_secs(2),
            write_timeout: Duration::from_secs(30),
            hedge_after: Duration::from_millis(250),
            foreground: Foreground::default(),
        }
    }
}

/// Why the pipeline could not do its work.
#[derive(Debug, Error)]
pub enum EngineError {
    #[error("the body could not be read: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the client stopped sending")]
    Stalled,
    #[error("the object is larger than an object may be")]
    TooLarge,
    #[error("only {durable} shards of a pack could be made durable, and {quorum} are needed")]
    BelowQuorum { durable: usize, quorum: usize },
    #[error("the devices are full: delete data or add devices")]
    Full,
    #[error("pack {0} cannot be read: too many of its shards are missing or damaged")]
    Unreadable(PackId),
    #[error("what was to be read is gone")]
    Gone,
    #[error("an encrypted object does not open with its key")]
    OtherKey,
    #[error("the metadata's archive: {0}")]
    Archive(&'static str),
    #[error(transparent)]
    Rejected(#[from] Rejection),
    #[error(transparent)]
    Meta(#[from] MetaError),
    #[error(transparent)]
    Kv(#[from] KvError),
    #[error("a thread cannot be started: {0}")]
    Thread(#[source] std::io::Error),
    #[error("the process is shutting down")]
    ShuttingDown,
}

impl EngineError {
    /// The error itself, where it is one of a body that comes from here.
    pub fn of_body(self) -> Self {
        let Self::Body(source) = self else { return self };
        source.downcast::<Self>().map_or_else(Self::Body, |ours| *ours)
    }
}

/// The pipeline of one gateway. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
    pub(crate) packer: Packer,
}

pub(crate) struct Shared {
    pub config: EngineConfig,
    pub meta: Meta,
    pub placement: Placement,
    pub clock: MetaClock,
    pub latency: Latency,
    pub stragglers: Stragglers,
    pub started: Stopwatch,
    pub buffers: BufferPool,
    pub md5: Md5Lanes,
    pub metrics: GatewayMetrics,
    /// One permit a MiB of upload buffers.
    pub upload_memory: Arc<Semaphore>,
    /// One permit a streaming upload.
    pub upload_slots: Arc<Semaphore>,
    /// One permit a MiB of download buffers.
    pub download_memory: Arc<Semaphore>,
}

impl Engine {
    /// The pipeline over `meta` and `devices`. The pool exists already.
    ///
    /// # Errors
    /// Where the placement cannot be read.
    pub async fn new(
        config: EngineConfig,
        meta: Meta,
        devices: DeviceSlots,
        metrics: GatewayMetrics,
    ) -> Result<Self, EngineError> {
        let placement = Placement::new(meta.clone(), devices).await?;
        let shared = Arc::new(Shared {
            md5: Md5Lanes::start().map_err(EngineError::Thread)?,
            buffers: BufferPool::new(config.upload_budget_mib / 8),
            upload_memory: Arc::new(Semaphore::new(config.upload_budget_mib)),
            upload_slots: Arc::new(Semaphore::new(config.uploads_max)),
            download_memory: Arc::new(Semaphore::new(config.download_budget_mib)),
            config,
            clock: MetaClock::default(),
            latency: Latency::default(),
            stragglers: Stragglers::default(),
            started: Stopwatch::start(),
            meta,
            placement,
            metrics,
        });
        let packer = Packer::new(shared.clone());
        Ok(Self { shared, packer })
    }

    pub fn meta(&self) -> &Meta {
        &self.shared.meta
    }

    /// Has the metadata carry out a command once, and answers what it did.
    ///
    /// # Errors
    /// Its rejection, and what keeps it from being applied.
    pub async fn run(&self, command: Command) -> Result<Outcome, EngineError> {
        let request = Request { id: Some(self.new_request_id().await?), command };
        Ok(self.shared.meta.request(request).await?.accepted()?)
    }

    /// A name for a request of now, by the metadata's own clock: this host's may jump.
    pub(crate) async fn new_request_id(&self) -> Result<RequestId, EngineError> {
        let clock_ms = self.shared.clock_ms().await?;
        Ok(RequestId::new(clock_ms, rand::random()))
    }

    /// The devices that the engine reaches.
    pub fn devices(&self) -> &DeviceSlots {
        &self.shared.placement.devices
    }

    /// Reads the pools and the devices of their groups again.
    ///
    /// # Errors
    /// Where the metadata cannot be read.
    pub async fn refresh_placement(&self) -> Result<(), MetaError> {
        self.shared.placement.refresh().await
    }

    /// Takes note of a topology that was just read.
    pub fn take_topology(&self, topology: &Topology) {
        self.shared.placement.take(topology);
    }

    pub fn config(&self) -> &EngineConfig {
        &self.shared.config
    }

    /// Counts what the pipeline does for clients.
    pub fn foreground(&self) -> &Foreground {
        &self.shared.config.foreground
    }

    /// Whether a version's bytes are in a pool, or in no pool at all.
    ///
    /// # Errors
    /// Where the metadata cannot be read.
    pub async fn is_in(&self, content: &Content, pool: PoolId) -> Result<bool, EngineError> {
        let Content::Segments(segments) = content else { return Ok(true) };
        if !self.shared.placement.has_class_pools() {
            return Ok(true);
        }
        // Parts of a multipart upload may be of different pools, where one was made meanwhile.
        for segment in segments {
            let record = self.shared.meta.ask(SegmentOf { id: segment.id }).await?;
            if record.ok_or(EngineError::Gone)?.domain.pool() != pool {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Where objects of a storage class are written.
    pub fn pool_for(&self, class: Option<&str>) -> PoolId {
        class.map_or(PoolId::FIRST, |class| self.shared.placement.pool_for(class))
    }

    pub fn metrics(&self) -> &GatewayMetrics {
        &self.shared.metrics
    }
}

impl Shared {
    /// The metadata's own clock, in milliseconds, as of a moment ago.
    pub async fn clock_ms(&self) -> Result<u64, EngineError> {
        if let Some(clock_ms) = self.clock.now() {
            return Ok(clock_ms);
        }
        let clock_ms = self.meta.ask(HeaderNow {}).await?.map_or(0, |header| header.clock_ms);
        self.clock.set(clock_ms);
        Ok(clock_ms)
    }
}

pub(crate) fn new_pack_id(pg: PgId) -> PackId {
    PackId::new(pg, rand::random())
}

pub(crate) fn new_segment_id() -> SegmentId {
    SegmentId(rand::random())
}

pub(crate) fn new_lease_id() -> LeaseId {
    LeaseId(rand::random())
}

pub(crate) fn new_upload_id() -> UploadId {
    UploadId(rand::random())
}
