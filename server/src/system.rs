//! A whole system in one process: metadata, devices, gateway, maintenance.

use crate::{
    admin::local,
    config::Config,
    credentials,
    identity::{Identity, IdentityError},
};
use holdfast_client_link::{Bound, Fingerprint, LinkError, Listener};
use holdfast_core::{
    ids::{DeviceId, HostId, Incarnation, PgId, PoolId},
    profile::Profile,
    topology::FailureDomain,
};
use holdfast_gateway_server::{
    Archivist, DeviceSlots, Engine, EngineConfig, EngineError, GatewayMetrics, Lifecycle, Maintenance,
    MaintenanceConfig, OpenDevice, ServeError, identity::Credentials, journal::Journals, notify::Notifier,
    replicate::Replicator, s3::S3Door, serve, serve_metrics, sync::SyncDoor,
};
use holdfast_kv::durable::{self, DirLock};
use holdfast_meta_raft_machine::{
    CLUSTER_VERSION,
    ask::{KeyringNow, TopologyNow},
    command::{Command, Outcome, Rejection, Request},
    records::{ClassPool, Device as DeviceRecord, DeviceSpec, PgSpec, Pool, PoolSpec},
};
use holdfast_meta_raft_planner::{first_table, lint};
use holdfast_meta_raft_server::{
    Collector, CollectorConfig, MemberId, Meta, MetaConfig, MetaError, MetaMetrics, MetaNode, NoPeers,
};
use holdfast_storage_node_server::{Device, DeviceSeries};
use prometheus::Registry;
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Placement groups of the pool. Few, so that few sets of devices can lose data together; enough to spread load.
const PG_COUNT: u32 = 32;

const RECONCILE_EVERY: Duration = Duration::from_secs(10 * 60);
const AUDIT_EVERY: Duration = Duration::from_secs(60 * 60);

/// Why the system does not run.
#[derive(Debug, Error)]
pub enum SystemError {
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
    #[error("{0} holds no system")]
    NoSystem(String),
    #[error("the pool of {class} was made with the erasure profile {have}, which cannot be changed")]
    OtherProfile { class: String, have: Profile },
    #[error("{0} is in use by another process")]
    InUse(String),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Meta(#[from] MetaError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    #[error("the devices cannot carry the profile: {0}")]
    Plan(String),
    #[error("{in_service} of {total} devices can be used, and reading needs {need}")]
    TooFewDevices { in_service: usize, total: usize, need: usize },
    #[error("the system could not be set up: {0:?}")]
    SetUp(Outcome),
    #[error("{0}")]
    Cluster(String),
    #[error(transparent)]
    HostIdentity(#[from] crate::cluster::identity::IdentityError),
    #[error(transparent)]
    Tls(#[from] holdfast_net::TlsError),
    #[error("webhooks: {0}")]
    Webhooks(#[from] holdfast_gateway_server::notify::ClientError),
    #[error("TLS of S3: {0}")]
    DoorTls(#[from] holdfast_gateway_server::TlsError),
    #[error("the sync door: {0}")]
    Sync(#[from] LinkError),
    #[error("the sync door: {0}")]
    SyncIdentity(#[from] holdfast_gateway_server::identity::IdentityError),
    #[error(transparent)]
    Device(#[from] holdfast_storage_node_server::DeviceError),
}

/// An answer to an operator that is no.
///
/// # Errors
/// Always.
pub fn refuse<T>(text: impl Into<String>) -> Result<T, SystemError> {
    Err(SystemError::Cluster(text.into()))
}

pub fn io_at(path: impl AsRef<std::path::Path>) -> impl FnOnce(io::Error) -> SystemError {
    move |error| SystemError::Io(path.as_ref().display().to_string(), error)
}

/// Takes a data directory for this process, and makes it where it is not there.
///
/// # Errors
/// Where another process has it.
pub fn lock(data: &Path) -> Result<DirLock, SystemError> {
    durable::create_dir(data).map_err(io_at(data))?;
    let lock = DirLock::acquire(data).map_err(io_at(data))?;
    lock.ok_or_else(|| SystemError::InUse(data.display().to_string()))
}

/// The only member of a system in one process.
fn lone_member(dir: PathBuf) -> MetaConfig {
    MetaConfig::new(dir, MemberId(HostId::LOCAL.0), true, rand::random())
}

/// Lets garbage collection go on in a system that is not running.
///
/// # Errors
/// Where there is no such system, or it runs.
pub fn resume_collection(data: &Path) -> Result<(), SystemError> {
    let dir = data.join("meta");
    if !dir.join("db").join("CURRENT").exists() {
        return Err(SystemError::NoSystem(data.display().to_string()));
    }
    let _lock = lock(data)?;
    let node = MetaNode::start(&lone_member(dir), Arc::new(NoPeers), MetaMetrics::new(&Registry::new())?)?;
    let resume = node.handle().submit(vec![Request::idempotent(Command::ResumeCollection)]);
    futures::executor::block_on(resume)?;
    println!("garbage collection goes on when the system starts");
    Ok(())
}

/// Runs the system until it is told to stop.
///
/// # Errors
/// Where it cannot start, or metadata or listeners fail while it runs.
pub async fn run(config: Config) -> Result<(), SystemError> {
    let _lock = lock(&config.data)?;
    // Ports are taken before anything is made: a clash changes nothing.
    let s3 = TcpListener::bind(config.s3).await.map_err(io_at(format!("listening on {}", config.s3)))?;
    let metrics_listener =
        TcpListener::bind(config.metrics).await.map_err(io_at(format!("listening on {}", config.metrics)))?;
    let sync_bound = Bound::to(config.sync).map_err(io_at(format!("listening on {}", config.sync)))?;
    let doorway = config.door.open()?;
    let addresses = (s3.local_addr(), metrics_listener.local_addr());
    let addresses = (addresses.0.map_err(io_at("S3"))?, addresses.1.map_err(io_at("metrics"))?);

    let mut identity = Identity::read_or_make(&config)?;
    let registry = Registry::new();
    let meta_metrics = MetaMetrics::new(&registry)?;
    let node = MetaNode::start(&lone_member(config.data.join("meta")), Arc::new(NoPeers), meta_metrics)?;
    let local = node.handle();
    let meta = Meta::Local(local.clone());
    raise_version(&meta).await?;
    if meta.ask(KeyringNow {}).await?.is_none() {
        let keyring = credentials::make_recovery(&config.data.join(credentials::RECOVERY_FILE))
            .map_err(io_at(&config.data))?;
        let set = Command::SetKeyring { keyring };
        meta.request(Request::idempotent(set)).await?.accepted().map_err(rejected)?;
    }
    let (slots, open_device) = open_devices(&config, &identity, &registry)?;
    if !identity.ready {
        set_up(&config, &meta, &slots).await?;
        identity.ready = true;
        identity.write(&config.data).map_err(io_at(&config.data))?;
    }
    make_class_pools(&config, &meta).await?;
    let (keys, made) = keys(&config)?;

    let engine_config = EngineConfig::new(config.gc_grace);
    let gateway_metrics = GatewayMetrics::new(&registry)?;
    let engine = Engine::new(engine_config, meta.clone(), slots, gateway_metrics.clone()).await?;
    let maintenance_config = MaintenanceConfig {
        open_device,
        scrub_period: config.scrub_period,
        reconcile_every: RECONCILE_EVERY,
    };
    let maintenance = Maintenance::new(engine.clone(), maintenance_config);
    maintenance.admit_all().await?;
    let collector_config = CollectorConfig { grace: config.gc_grace, audit_every: AUDIT_EVERY };
    let archivist = Archivist::new(local.clone(), engine.clone(), identity.cluster.clone());
    let lifecycle = Lifecycle::new(local.clone(), engine.clone(), config.lifecycle_day);
    let collector = Collector::new(local.clone(), collector_config);

    let owner = Credentials::new(keys.access_key.clone(), keys.secret_key.clone());
    let door = S3Door::new(engine, owner);
    let notifier = Notifier::new(local.clone())?;
    let replicator = Replicator::new(local.clone(), door.clone(), identity.cluster.clone());
    let journals = Journals::new(local, vec![Box::new(notifier), Box::new(replicator)]);
    let (sync, identity) = SyncDoor::new(door.clone(), config.door.url(addresses.0)).await?;
    let sync_listener = Listener::over(sync_bound, &identity)?;
    let sync_address = sync_listener.address().map_err(io_at("sync"))?;
    let socket = local::bind(&config.data).map_err(io_at(&config.data))?;
    let admin = tokio::spawn(local::serve(socket, local::router(meta)));
    let stopping = told_to_stop();
    announce(&config, addresses, (sync_address, identity.fingerprint()), &keys, made);
    let (stop, stopped) = watch::channel(false);
    let until = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, which is as good.
        let _either = stopped.wait_for(|stop| *stop).await;
    };
    let mut serving = tokio::spawn(serve(s3, door, doorway, gateway_metrics, until(stopped.clone())));
    let syncing = tokio::spawn(sync.serve(sync_listener, until(stopped.clone())));
    let metrics_page = tokio::spawn(serve_metrics(metrics_listener, registry, until(stopped)));
    let mut background = tokio::spawn(async move {
        tokio::try_join!(
            async { maintenance.run().await.map_err(SystemError::from) },
            async { archivist.run().await.map_err(SystemError::from) },
            async { collector.run().await.map_err(SystemError::from) },
            async { lifecycle.run().await.map_err(SystemError::from) },
            async { journals.run().await.map_err(SystemError::from) },
        )
        .map(|((), (), (), (), ())| ())
    });
    let result = tokio::select! {
        () = stopping => Ok(()),
        result = &mut serving => flatten(result),
        result = &mut background => flatten(result),
    };
    tracing::info!("stopping");
    stop.send_replace(true);
    let drained = if serving.is_finished() { Ok(()) } else { flatten::<ServeError>(serving.await) };
    background.abort();
    syncing.abort();
    metrics_page.abort();
    admin.abort();
    drop(node);
    result.and(drained)
}

fn rejected(rejection: Rejection) -> SystemError {
    SystemError::SetUp(Outcome::Rejected(rejection))
}

pub fn flatten<E: Into<SystemError>>(
    result: Result<Result<(), E>, tokio::task::JoinError>,
) -> Result<(), SystemError> {
    match result {
        Ok(result) => result.map_err(Into::into),
        Err(error) => Err(SystemError::Io("a task panicked".to_owned(), io::Error::other(error))),
    }
}

/// Ends when the process is told to stop. Signals are received from the call on, not from the first wait: whoever reads
/// "ready" may stop the process at once.
pub fn told_to_stop() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
            tracing::error!("signals cannot be received: stopping");
            return;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

/// Opens what can be opened; a device that cannot is left out, loudly, and tried again while the system runs.
fn open_devices(
    config: &Config,
    identity: &Identity,
    registry: &Registry,
) -> Result<(DeviceSlots, OpenDevice), SystemError> {
    let ids: Vec<DeviceId> = (0..config.devices.len() as u32).map(DeviceId).collect();
    let series = DeviceSeries::new(registry)?;
    let dirs: BTreeMap<DeviceId, PathBuf> =
        ids.iter().copied().zip(config.devices.iter().map(|device| device.dir.clone())).collect();
    let cluster = identity.cluster.clone();
    let open: OpenDevice = Arc::new(move |slot: DeviceId| {
        let (device, recovered) =
            Device::open(&dirs[&slot], &cluster, slot, Incarnation(rand::random()), series.of(slot))?;
        tracing::info!(device = %slot, shards = recovered.shards, reindexed = recovered.reindexed, "device opened");
        Ok(device)
    });
    let mut slots = Vec::new();
    for slot in ids {
        let device = open(slot)
            .inspect_err(|error| tracing::error!(device = %slot, %error, "the device is out of service"));
        slots.push((slot, device.ok()));
    }
    let in_service = slots.iter().filter(|(_, device)| device.is_some()).count();
    let (total, need) = (slots.len(), config.profile.data());
    if in_service < need {
        return Err(SystemError::TooFewDevices { in_service, total, need });
    }
    Ok((DeviceSlots::new(slots), open))
}

/// One process is one version: nobody else has to understand it.
async fn raise_version(meta: &Meta) -> Result<(), SystemError> {
    let command = Command::RaiseClusterVersion { version: CLUSTER_VERSION };
    let outcome = meta.request(Request::idempotent(command)).await?;
    if outcome == Outcome::Done { Ok(()) } else { Err(SystemError::SetUp(outcome)) }
}

/// Makes the pool: devices, placement groups.
async fn set_up(config: &Config, meta: &Meta, slots: &DeviceSlots) -> Result<(), SystemError> {
    let mut devices = BTreeMap::new();
    for (slot, device) in slots.ids().into_iter().zip(&config.devices) {
        let Some(opened) = slots.local(slot) else {
            let (in_service, total) = (slots.in_service().len(), config.devices.len());
            return Err(SystemError::TooFewDevices { in_service, total, need: total });
        };
        // Devices of one process share its disk: none is larger than another.
        let spec = DeviceSpec { incarnation: opened.incarnation(), place: device.place.clone(), weight: 1 };
        devices.insert(slot, spec);
    }
    if meta.ask(TopologyNow {}).await?.pool.is_some() {
        return Ok(());
    }
    let records = devices.iter().map(|(id, spec)| (*id, spec.clone().on(HostId::LOCAL))).collect();
    let pgs = groups_of(PoolId::FIRST, &pool_of(config.profile), &records)?;
    let put = |(id, device)| Request::idempotent(Command::PutDevice { id, device });
    let mut requests: Vec<Request> = devices.into_iter().map(put).collect();
    let pool = PoolSpec { profile: config.profile, pg_count: PG_COUNT };
    requests.push(Request::idempotent(Command::CreatePool { pool, pgs }));
    order(meta, requests).await
}

async fn order(meta: &Meta, requests: Vec<Request>) -> Result<(), SystemError> {
    let outcomes = meta.submit(requests).await?;
    match outcomes.into_iter().find(|outcome| *outcome != Outcome::Done) {
        None => Ok(()),
        Some(refused) => Err(SystemError::SetUp(refused)),
    }
}

/// Makes the pools of storage classes that are new in the configuration.
async fn make_class_pools(config: &Config, meta: &Meta) -> Result<(), SystemError> {
    let topology = meta.ask(TopologyNow {}).await?;
    let devices = topology.devices_of(None);
    let mut requests = Vec::new();
    let mut next = topology.next_pool();
    for (class, profile) in &config.pools {
        if let Some((_, known)) = topology.class_pools.iter().find(|(_, known)| known.class == *class) {
            if known.pool.profile != *profile {
                return Err(SystemError::OtherProfile { class: class.clone(), have: known.pool.profile });
            }
            continue;
        }
        let id = next.ok_or_else(|| SystemError::Plan("there can be no more pools".to_owned()))?;
        next = id.0.checked_add(1).map(PoolId);
        let pool = pool_of(*profile);
        let pgs = groups_of(id, &pool, &devices)?;
        let pool = ClassPool { class: class.clone(), pool, devices: None };
        requests.push(Request::idempotent(Command::FoundClassPool { id, pool, pgs }));
    }
    order(meta, requests).await
}

/// A pool of one process, whose devices may be lost one by one.
fn pool_of(profile: Profile) -> Pool {
    Pool { profile, pg_count: PG_COUNT, domain: FailureDomain::Device }
}

/// The placement groups of a new pool, held against the rules.
///
/// # Errors
/// Where the devices cannot carry it.
pub fn groups_of(
    id: PoolId,
    pool: &Pool,
    devices: &BTreeMap<DeviceId, DeviceRecord>,
) -> Result<Vec<(PgId, PgSpec)>, SystemError> {
    let Pool { profile, pg_count, domain } = *pool;
    let table = first_table(profile, domain, devices, pg_count);
    let table = table.map_err(|error| SystemError::Plan(error.to_string()))?;
    let breaches = lint(profile, domain, devices, &table);
    if !breaches.is_empty() {
        return Err(SystemError::Plan(breaches.join("; ")));
    }
    Ok(table.into_iter().map(|(pg, record)| (id.group(pg.0), record.spec())).collect())
}

fn keys(config: &Config) -> Result<(credentials::Keys, bool), SystemError> {
    match &config.keys {
        Some((access_key, secret_key)) => {
            Ok((credentials::Keys { access_key: access_key.clone(), secret_key: secret_key.clone() }, false))
        }
        None => credentials::load_or_make(&config.data).map_err(io_at(config.data.join("credentials.toml"))),
    }
}

/// Says where to find the system, and with which keys where they were just made.
fn announce(
    config: &Config,
    (s3, metrics): (SocketAddr, SocketAddr),
    (sync, fingerprint): (SocketAddr, Fingerprint),
    keys: &credentials::Keys,
    made: bool,
) {
    let kept = config.data.join("credentials.toml");
    let scheme = config.door.scheme();
    println!("Holdfast serves S3 at {scheme}://{s3}, metrics at http://{metrics}/metrics");
    println!("Devices sync with {sync} (UDP and TCP), whose fingerprint is {fingerprint}");
    if made {
        println!(
            "\nThese keys were just made. They are not shown again, and are kept in {}:",
            kept.display()
        );
        println!("  export AWS_ACCESS_KEY_ID={}", keys.access_key);
        println!("  export AWS_SECRET_ACCESS_KEY={}", keys.secret_key);
        println!("  export AWS_DEFAULT_REGION=us-east-1");
        println!(
            "\nKeep a copy of {} elsewhere: with it the metadata can be brought back",
            config.data.join(credentials::RECOVERY_FILE).display()
        );
        println!("from the devices, should its disk fail.");
        println!("\nThen try:");
        println!("  aws --endpoint-url {scheme}://{s3} s3 mb s3://first");
        println!("  aws --endpoint-url {scheme}://{s3} s3 sync . s3://first/here");
        println!("  aws --endpoint-url {scheme}://{s3} s3 ls s3://first/here/\n");
    } else if config.keys.is_none() {
        println!("The keys are in {}", kept.display());
    }
    println!("ready s3={scheme}://{s3} metrics=http://{metrics} sync={sync}");
}
