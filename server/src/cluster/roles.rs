//! Running a host's roles: metadata member, storage node, gateway, in any mixture.

use super::{
    config::HostConfig,
    identity::{HostIdentity, members_of, now},
    storage::{Disks, Seen, Shelf},
    watch::Watch,
};
use crate::{
    admin::http as admin,
    system::{SystemError, flatten, io_at, lock, told_to_stop},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use holdfast_client_link::{Bound, Listener as SyncListener};
use holdfast_core::{buffer::BufferPool, ids::HostId, roles::Role};
use holdfast_gateway_server::{
    Archivist, DeviceSlots, Engine, EngineConfig, GatewayMetrics, Lifecycle, Maintenance, MaintenanceConfig,
    OpenDevice, identity::Credentials, journal::Journals, notify::Notifier, replicate::Replicator,
    s3::S3Door, serve, serve_metrics, sync::SyncDoor,
};
use holdfast_kv::durable::DirLock;
use holdfast_meta_raft_machine::{
    ask::{AccessKeys, Topology},
    command::{Command, Request},
};
use holdfast_meta_raft_server::{
    Collector, CollectorConfig, MemberId, Meta, MetaConfig, MetaMetrics, MetaNode, MetaService, NetPeers,
    RemoteMeta, Steward, StewardConfig,
};
use holdfast_net::{Answer, Caller, Handler, Listener, Tls, at_once, authority};
use holdfast_proto::{self as proto, Failure, call::Method, failure::Code, reply};
use holdfast_storage_node_server::{Foreground, Revoked, ShardService};
use prometheus::Registry;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, atomic::AtomicBool},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval},
};

/// Buffers for payloads that are kept for the next ones.
const IDLE_BUFFERS: usize = 32;

const RECONCILE_EVERY: Duration = Duration::from_secs(10 * 60);
const AUDIT_EVERY: Duration = Duration::from_secs(60 * 60);

/// How often a host looks at the age of its certificate, and at its record.
const RENEW_PACE: Duration = Duration::from_secs(10);

/// Calls go to the role that they are for.
struct Services {
    meta: Option<MetaService>,
    shards: Option<ShardService>,
    shelf: Arc<Shelf>,
}

impl Handler for Services {
    fn call(&self, from: Caller, method: Method, payload: Bytes) -> BoxFuture<'static, Answer> {
        let for_shards = matches!(
            method,
            Method::PutShard(_)
                | Method::ReadShard(_)
                | Method::DeleteShards(_)
                | Method::ListDevices(_)
                | Method::ListShards(_)
                | Method::WriteRoot(_)
                | Method::ReadRoot(_)
        );
        if let (Method::AddDisk(wanted), Some(_)) = (&method, &self.shards) {
            return Box::pin(add_disk(self.shelf.clone(), from, wanted.dir.clone()));
        }
        match (&self.meta, &self.shards) {
            (_, Some(shards)) if for_shards => shards.call(from, method, payload),
            (Some(meta), _) if !for_shards => meta.call(from, method, payload),
            _ => {
                let other = Failure::new(Code::Unimplemented, "this host does not have the role");
                at_once(Err(other))
            }
        }
    }
}

async fn add_disk(shelf: Arc<Shelf>, from: Caller, dir: String) -> Answer {
    if !from.has(Role::Operator) {
        return Err(Failure::new(Code::Denied, "only operators may do that"));
    }
    let added = shelf.add_disk(std::path::Path::new(&dir)).await;
    let id = added.map_err(|error| Failure::new(Code::BadRequest, error.to_string()))?;
    Ok((reply::Result::Devices(proto::DeviceList { devices: vec![id.0] }), Bytes::new()))
}

type Duties = JoinSet<Result<(), SystemError>>;

/// A running host. Dropped in order.
struct Running {
    duties: Duties,
    node: Option<MetaNode>,
    _lock: DirLock,
    host: Host,
}

/// What a host's roles share.
#[derive(Clone)]
struct Host {
    config: Arc<HostConfig>,
    id: HostId,
    cluster: String,
    registry: Registry,
    remote: RemoteMeta,
    /// A member's way to the others, which it does not know by itself when it is new.
    peers: Option<Arc<NetPeers>>,
    shelf: Arc<Shelf>,
    /// What this node does for clients.
    foreground: Foreground,
    watch: Arc<Watch>,
    stopped: watch::Receiver<bool>,
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is as good.
    let _either = stopped.wait_for(|stop| *stop).await;
}

/// Runs the host until it is told to stop.
///
/// # Errors
/// Where it cannot start, or a role fails while it runs.
pub async fn run(config: HostConfig) -> Result<(), SystemError> {
    let (stop, stopped) = watch::channel(false);
    let s3 = match config.roles.has(Role::Gateway) {
        true => Some(bind("S3", config.s3).await?),
        false => None,
    };
    let admin = match config.admin.filter(|_| config.roles.has(Role::Meta)) {
        Some(address) => Some(bind("the admin API", address).await?),
        None => None,
    };
    let mut running = start(config, stopped).await?;
    let host = running.host.clone();
    let stopping = told_to_stop();
    tokio::pin!(stopping);
    let serves_data = host.config.roles.has(Role::Gateway) || host.config.roles.has(Role::Storage);
    let ready = format!("ready host={} name={} rpc={}", host.id.0, host.config.name, host.config.listen);
    if running.node.is_some() && !serves_data {
        // A member is of use before there is a leader.
        println!("{ready}");
    }
    if let (Some(listener), Some(node)) = (admin, &running.node) {
        // Before there is a pool: it is how one is made.
        let (meta, member, cluster) = (host.remote.clone(), node.handle(), host.cluster.clone());
        let serving = admin::serve(listener, host.watch.tls.clone(), admin::Api { meta, member, cluster });
        running.duties.spawn(async move { serving.await.map_err(io_at("the admin API")) });
    }
    let assembled = tokio::select! {
        () = &mut stopping => return Ok(()),
        result = host.assemble() => result?,
        Some(result) = running.duties.join_next() => return flatten(result),
    };
    let Assembled { engine, opener } = assembled;
    if let Some(open_device) = opener {
        running.duties.spawn(host.clone().maintain(engine.clone(), open_device));
    }
    // Storage nodes have no part in the owner's keys.
    let door = match running.node.is_some() || s3.is_some() {
        true => Some(host.door(&engine).await?),
        false => None,
    };
    if let (Some(node), Some(door)) = (&running.node, &door) {
        let archivist = Archivist::new(node.handle(), engine.clone(), host.cluster.clone());
        running.duties.spawn(async move { archivist.run().await.map_err(SystemError::from) });
        let lifecycle = Lifecycle::new(node.handle(), engine.clone(), host.config.lifecycle_day);
        running.duties.spawn(async move { lifecycle.run().await.map_err(SystemError::from) });
        let notifier = Notifier::new(node.handle())?;
        let replicator = Replicator::new(node.handle(), door.clone(), host.cluster.clone());
        let journals = Journals::new(node.handle(), vec![Box::new(notifier), Box::new(replicator)]);
        running.duties.spawn(async move { journals.run().await.map_err(SystemError::from) });
    }
    let mut serving = None;
    let mut ready = ready;
    if let (Some(listener), Some(door)) = (s3, door) {
        let address = listener.local_addr().map_err(io_at("S3"))?;
        ready.push_str(&format!(" s3={}://{address}", host.config.door.scheme()));
        let url = host.config.door.url(address);
        if let Some(address) = host.config.sync {
            let bound = Bound::to(address).map_err(io_at(format!("listening on {address}")))?;
            let (sync, identity) = SyncDoor::new(door.clone(), url).await?;
            let listener = SyncListener::over(bound, &identity)?;
            ready.push_str(&format!(" sync={}", listener.address().map_err(io_at("sync"))?));
            let stop = until(host.stopped.clone());
            running.duties.spawn(async move {
                sync.serve(listener, stop).await;
                Ok(())
            });
        }
        serving = Some(host.serve_s3(door, listener)?);
    }
    if serves_data {
        println!("{ready}");
    }
    let served = async {
        match serving.as_mut() {
            Some(serving) => flatten(serving.await),
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        () = &mut stopping => Ok(()),
        Some(result) = running.duties.join_next() => flatten(result),
        result = served => result,
    };
    tracing::info!("stopping");
    host.watch.say_goodbye().await;
    stop.send_replace(true);
    let drained = match serving {
        Some(serving) if !serving.is_finished() => flatten(serving.await),
        Some(_) | None => Ok(()),
    };
    running.duties.shutdown().await;
    drop(running.node.take());
    result.and(drained)
}

async fn bind(what: &str, address: std::net::SocketAddr) -> Result<TcpListener, SystemError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(io_at(format!("{what}: listening on {address}")))
}

/// Starts what a host is before it can ask anybody anything.
async fn start(config: HostConfig, stopped: watch::Receiver<bool>) -> Result<Running, SystemError> {
    let identity = HostIdentity::read(&config.data)?.ok_or_else(|| {
        SystemError::Cluster(
            "this host belongs to no cluster: make one with \"holdfast cluster init\", or join one with --join and --token"
                .to_owned(),
        )
    })?;
    let lock = lock(&config.data)?;
    let tls = identity.tls()?;
    let pool = BufferPool::new(IDLE_BUFFERS);
    let listener = Listener::bind(config.listen, tls.clone()).await;
    let listener = listener.map_err(io_at(format!("listening on {}", config.listen)))?;
    let metrics_listener = bind("metrics", config.metrics).await?;
    let registry = Registry::new();
    let mut duties = Duties::new();
    let metrics_page = serve_metrics(metrics_listener, registry.clone(), until(stopped.clone()));
    duties.spawn(async move { metrics_page.await.map_err(SystemError::from) });

    // Members must be able to speak with each other, and who recovers a cluster with devices, before anybody can be asked
    // anything.
    let meta_service = config.roles.has(Role::Meta).then(MetaService::new);
    let revoked = Revoked::default();
    let shelf = Arc::new(Shelf::default());
    if config.roles.has(Role::Storage) {
        shelf.open_early(&config, &identity.cluster)?;
    }
    let foreground = Foreground::default();
    let shards = config
        .roles
        .has(Role::Storage)
        .then(|| ShardService::new(shelf.clone(), revoked.clone(), foreground.clone()));
    let handler = Arc::new(Services { meta: meta_service.clone(), shards, shelf: shelf.clone() });
    let served = holdfast_net::serve(listener, handler, pool.clone());
    duties.spawn(async move {
        served.await;
        Ok(())
    });
    let (mut peers, mut node) = (None, None);
    let mut identity = identity;
    if let Some(service) = meta_service {
        let known = Arc::new(NetPeers::new(tls.clone(), pool.clone()));
        check_metadata(&config, &identity)?;
        node = Some(start_member(&config, &identity, known.clone(), service, &registry, &mut duties)?);
        if !identity.started {
            identity.started = true;
            identity.write(&config.data)?;
        }
        peers = Some(known);
    }
    let mut members = [identity.members.clone(), config.members.clone()].concat();
    if config.roles.has(Role::Meta) {
        // It may be the only one that is left.
        members.push(config.advertise.clone());
    }
    let remote = RemoteMeta::start(tls.clone(), &members, pool.clone());
    let seen = Seen::default();
    let watch = Arc::new(Watch {
        host: identity.host(),
        tls: tls.clone(),
        pool,
        meta: remote.clone(),
        seen: seen.clone(),
        revoked,
        shelf: shelf.clone(),
        engine: OnceLock::new(),
        upkeep: OnceLock::new(),
        stopping: AtomicBool::new(false),
        hosts: Mutex::new(BTreeMap::new()),
    });
    let host = Host {
        config: Arc::new(config),
        id: identity.host(),
        cluster: identity.cluster.clone(),
        registry,
        remote: remote.clone(),
        peers,
        shelf,
        foreground,
        watch,
        stopped,
    };
    duties.spawn(renew_for_ever(host.config.clone(), identity, tls, remote, seen));
    Ok(Running { duties, node, _lock: lock, host })
}

/// A member whose metadata is gone is not a new one.
fn check_metadata(config: &HostConfig, identity: &HostIdentity) -> Result<(), SystemError> {
    if !identity.started || config.data.join("meta/db/CURRENT").exists() {
        return Ok(());
    }
    Err(SystemError::Cluster(format!(
        "the metadata of this member is gone from {}: it must not vote without what it has promised. Mount its disk; or \
         remove this host with \"holdfast node remove {}\", and let it join again with an empty data directory. If no member \
         is left, see \"holdfast recover\"",
        config.data.display(),
        config.name
    )))
}

/// Starts the metadata member and what its leader does.
fn start_member(
    config: &HostConfig,
    identity: &HostIdentity,
    peers: Arc<NetPeers>,
    service: MetaService,
    registry: &Registry,
    duties: &mut Duties,
) -> Result<MetaNode, SystemError> {
    let member = MemberId(identity.host().0);
    let meta_config = MetaConfig::new(config.data.join("meta"), member, false, rand::random());
    let node = MetaNode::start(&meta_config, peers.clone(), MetaMetrics::new(registry)?)?;
    let handle = node.handle();
    service.open(handle.clone());
    let steward_config = StewardConfig { out_after: config.out_after };
    let steward = Steward::new(handle.clone(), service.beats().clone(), peers, steward_config);
    duties.spawn(async move { steward.run().await.map_err(SystemError::from) });
    let collector_config = CollectorConfig { grace: config.gc_grace, audit_every: AUDIT_EVERY };
    let collector = Collector::new(handle, collector_config);
    duties.spawn(async move { collector.run().await.map_err(SystemError::from) });
    Ok(node)
}

/// What needs a pool.
struct Assembled {
    engine: Engine,
    /// Where the host keeps devices.
    opener: Option<OpenDevice>,
}

impl Host {
    /// Finds the cluster, opens the devices, and waits for a pool. The host watches, and is seen to be alive, as soon as it
    /// is known.
    async fn assemble(&self) -> Result<Assembled, SystemError> {
        self.introduce().await?;
        let mut opener = None;
        if self.config.roles.has(Role::Storage) {
            self.shelf.close_early();
            let (config, seen) = (self.config.clone(), self.watch.seen.clone());
            let (cluster, remote) = (self.cluster.clone(), self.remote.clone());
            let disks = Arc::new(Disks::new(config, cluster, self.id, remote, seen, &self.registry)?);
            self.shelf.serve(disks.open_all().await?, disks.clone());
            let open_device: OpenDevice = Arc::new(move |slot| disks.open(slot));
            opener = Some(open_device);
        }
        let watch = self.watch.clone();
        let watching = tokio::spawn(async move { watch.run().await });
        self.until_there_is_a_pool().await;
        let own = self.shelf.slots().cloned().unwrap_or_else(|| DeviceSlots::new([]));
        let config =
            EngineConfig { foreground: self.foreground.clone(), ..EngineConfig::new(self.config.gc_grace) };
        let metrics = GatewayMetrics::new(&self.registry)?;
        let engine = Engine::new(config, Meta::Remote(self.remote.clone()), own, metrics).await?;
        self.watch.attach(engine.clone());
        // It watches as long as the process runs.
        drop(watching);
        Ok(Assembled { engine, opener })
    }

    async fn look(&self) -> Topology {
        loop {
            match self.remote.refresh().await {
                Ok(topology) => {
                    self.peers.iter().for_each(|peers| peers.set_from(&topology, &[]));
                    return topology;
                }
                Err(error) => tracing::warn!(%error, "waiting for the cluster's metadata"),
            }
        }
    }

    /// Says where this host is, if that has changed.
    async fn introduce(&self) -> Result<(), SystemError> {
        loop {
            let topology = self.look().await;
            let record = topology.host(self.id).cloned();
            self.watch.take(topology);
            let Some(record) = record else {
                return Err(SystemError::Cluster("the cluster does not know this host".to_owned()));
            };
            if record.revoked {
                return Err(SystemError::Cluster("this host was revoked".to_owned()));
            }
            if self.config.roles.has(Role::Meta) && !record.roles.has(Role::Meta) {
                return Err(SystemError::Cluster(
                    "this host does not keep the metadata any more: take the role meta out of its configuration".to_owned(),
                ));
            }
            if record.address == self.config.advertise && record.place == self.config.place {
                return Ok(());
            }
            let (address, place) = (self.config.advertise.clone(), self.config.place.clone());
            let moved = Command::MoveHost { id: self.id, address, place };
            self.remote.submit(vec![Request::idempotent(moved)]).await?;
        }
    }

    /// Waits until there is a pool.
    async fn until_there_is_a_pool(&self) {
        let mut ticks = interval(Duration::from_millis(250));
        let mut said = false;
        loop {
            ticks.tick().await;
            if self.watch.seen.load().pool.is_some() {
                return;
            }
            if !std::mem::replace(&mut said, true) {
                tracing::warn!("there is no pool yet: make one with \"holdfast pool create\"");
            }
        }
    }

    /// Looks after the host's devices and their packs.
    async fn maintain(self, engine: Engine, open_device: OpenDevice) -> Result<(), SystemError> {
        let config = MaintenanceConfig {
            open_device,
            scrub_period: self.config.scrub_period,
            reconcile_every: RECONCILE_EVERY,
        };
        let maintenance = Maintenance::new(engine, config);
        let _set_before = self.watch.upkeep.set(maintenance.upkeep().clone());
        let mut ticks = interval(Duration::from_secs(1));
        while let Err(error) = maintenance.admit_all().await {
            tracing::warn!(%error, "the devices are admitted later");
            ticks.tick().await;
        }
        maintenance.run().await.map_err(SystemError::from)
    }

    /// The door of the cluster's owner.
    async fn door(&self, engine: &Engine) -> Result<S3Door, SystemError> {
        let keys = self.remote.ask(AccessKeys {}).await?;
        let key = keys.into_iter().next();
        let key = key.ok_or_else(|| SystemError::Cluster("the cluster has no S3 keys".to_owned()))?;
        Ok(S3Door::new(engine.clone(), Credentials::new(key.access, key.secret)))
    }

    /// Serves S3 through a door.
    fn serve_s3(
        &self,
        door: S3Door,
        listener: TcpListener,
    ) -> Result<JoinHandle<Result<(), holdfast_gateway_server::ServeError>>, SystemError> {
        let metrics = door.metrics().clone();
        let doorway = self.config.door.open()?;
        Ok(tokio::spawn(serve(listener, door, doorway, metrics, until(self.stopped.clone()))))
    }
}

/// Renews the certificate in time, and keeps the addresses of members.
async fn renew_for_ever(
    config: Arc<HostConfig>,
    mut identity: HostIdentity,
    tls: Tls,
    remote: RemoteMeta,
    seen: Seen,
) -> Result<(), SystemError> {
    let mut ticks = interval(RENEW_PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let members = members_of(&seen.load());
        if !members.is_empty() && identity.members != members {
            identity.members = members;
            if let Err(error) = identity.write(&config.data) {
                tracing::warn!(%error, "the members' addresses are kept later");
            }
        }
        if now().saturating_sub(identity.issued) < authority::HOST_LIFE.as_secs() * 2 / 3 {
            continue;
        }
        let (key, request) = authority::request()?;
        match remote.call(Method::Renew(proto::Renew { request }), Bytes::new()).await {
            Ok(reply::Result::Renewed(renewed)) => {
                identity.renew(&tls, &key, &renewed.certificate)?;
                match identity.write(&config.data) {
                    Ok(()) => tracing::info!("the host's certificate was renewed"),
                    // Made again in a moment; connections use the new one already.
                    Err(error) => tracing::warn!(%error, "the renewed certificate cannot be kept yet"),
                }
            }
            Ok(_) => tracing::warn!("the certificate could not be renewed yet: a strange answer"),
            Err(error) => tracing::warn!(%error, "the certificate could not be renewed yet"),
        }
    }
}
