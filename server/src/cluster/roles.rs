//! Running a host's roles: metadata member, storage node, gateway, in any mixture.

use super::{
    config::HostConfig,
    identity::{HostIdentity, members_of, now},
    storage::{self, Seen},
    watch::{Hosts, Watch, revoked_in},
};
use crate::system::{SystemError, flatten, io_at, lock, told_to_stop};
use bytes::Bytes;
use futures::future::BoxFuture;
use holdfast_core::{buffer::BufferPool, ids::DeviceId, roles::Role};
use holdfast_gateway_server::{
    DeviceSlots, Engine, EngineConfig, GatewayMetrics, Maintenance, MaintenanceConfig,
    s3::{Credentials, S3Door},
    serve, serve_metrics,
};
use holdfast_kv::durable::DirLock;
use holdfast_meta_raft_machine::{
    ask::{AccessKeys, Topology},
    command::{Command, Request},
    records::Pool,
};
use holdfast_meta_raft_server::{
    Collector, CollectorConfig, MemberId, Meta, MetaConfig, MetaMetrics, MetaNode, MetaService, NetPeers,
    RemoteMeta, Steward, StewardConfig,
};
use holdfast_net::{Answer, Caller, Handler, Listener, Tls, at_once, authority};
use holdfast_proto::{self as proto, Failure, call::Method, failure::Code, reply};
use holdfast_storage_node_server::{Revoked, ShardService};
use prometheus::Registry;
use std::{sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

/// Buffers for payloads that are kept for the next ones.
const IDLE_BUFFERS: usize = 32;

const RECONCILE_EVERY: Duration = Duration::from_secs(10 * 60);
const AUDIT_EVERY: Duration = Duration::from_secs(60 * 60);

/// How often a host looks at the age of its certificate, and at its record.
const RENEW_PACE: Duration = Duration::from_secs(60 * 60);

/// Calls go to the role that they are for.
struct Roles {
    meta: Option<MetaService>,
    shards: Option<ShardService>,
}

impl Handler for Roles {
    fn call(&self, from: Caller, method: Method, payload: Bytes) -> BoxFuture<'static, Answer> {
        let for_shards =
            matches!(method, Method::PutShard(_) | Method::ReadShard(_) | Method::DeleteShards(_));
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

/// What a running host is made of. Dropped in order.
struct Running {
    duties: JoinSet<Result<(), SystemError>>,
    node: Option<MetaNode>,
    _lock: DirLock,
}

/// Runs the host until it is told to stop.
///
/// # Errors
/// Where it cannot start, or a role fails while it runs.
pub async fn run(config: HostConfig) -> Result<(), SystemError> {
    let identity = HostIdentity::read(&config.data)?;
    let mut identity = identity.ok_or_else(|| {
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
    let metrics_listener = TcpListener::bind(config.metrics).await;
    let metrics_listener = metrics_listener.map_err(io_at(format!("listening on {}", config.metrics)))?;
    let s3 = if config.roles.has(Role::Gateway) {
        let bound = TcpListener::bind(config.s3).await;
        Some(bound.map_err(io_at(format!("listening on {}", config.s3)))?)
    } else {
        None
    };
    let registry = Registry::new();
    let (stop, stopped) = watch::channel(false);
    let until = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, which is as good.
        let _either = stopped.wait_for(|stop| *stop).await;
    };

    let mut running = Running { duties: JoinSet::new(), node: None, _lock: lock };
    let duties = &mut running.duties;
    let metrics_page = serve_metrics(metrics_listener, registry.clone(), until(stopped.clone()));
    duties.spawn(async move { metrics_page.await.map_err(SystemError::from) });

    // Members must be able to speak with each other before anybody can be asked anything.
    let meta_service = config.roles.has(Role::Meta).then(MetaService::new);
    let revoked: Revoked = Revoked::default();
    let slots: Arc<std::sync::OnceLock<DeviceSlots>> = Arc::default();
    let shards = config.roles.has(Role::Storage).then(|| {
        let slots = slots.clone();
        let find = Arc::new(move |id: DeviceId| slots.get()?.local(id));
        ShardService::new(find, revoked.clone())
    });
    let handler = Arc::new(Roles { meta: meta_service.clone(), shards });
    let served = holdfast_net::serve(listener, handler, pool.clone());
    duties.spawn(async move {
        served.await;
        Ok(())
    });
    let mut members = None;
    if let Some(service) = meta_service {
        let peers = Arc::new(NetPeers::new(tls.clone(), pool.clone()));
        if identity.started && !config.data.join("meta/db/CURRENT").exists() {
            return Err(SystemError::Cluster(format!(
                "the metadata of this member is gone from {}: it must not vote without what it has promised. Mount its disk; or \
                 remove this host with \"holdfast node remove {}\", and let it join again with an empty data directory",
                config.data.display(),
                config.name
            )));
        }
        let node = start_member(&config, &identity, peers.clone(), service, &registry, duties)?;
        if !identity.started {
            identity.started = true;
            identity.write(&config.data)?;
        }
        members = Some(peers);
        running.node = Some(node);
    }

    let remote = RemoteMeta::start(tls.clone(), &identity.members, pool.clone());
    let seen: Seen = Seen::default();
    let mut starting =
        Starting { config: &config, identity: &identity, remote: &remote, seen: &seen, members };
    let host = identity.host();
    let mut ready = format!("ready host={} name={} rpc={}", host.0, config.name, config.listen);
    let stopping = told_to_stop();
    tokio::pin!(stopping);
    let serves_data = config.roles.has(Role::Gateway) || config.roles.has(Role::Storage);
    let watch_with = |engine| Watch {
        host,
        tls: tls.clone(),
        pool: pool.clone(),
        meta: remote.clone(),
        seen: seen.clone(),
        revoked: revoked.clone(),
        own: slots.get().cloned().unwrap_or_else(|| DeviceSlots::new([])),
        engine,
    };
    let assembled = async {
        starting.introduce().await?;
        revoked.store(Arc::new(revoked_in(&seen.load())));
        if !serves_data {
            return Ok(None);
        }
        let open = if config.roles.has(Role::Storage) {
            let opened = storage::open(&config, &identity.cluster, host, &remote, &seen, &registry).await?;
            let _set_once = slots.set(opened.0.clone());
            Some(opened)
        } else {
            None
        };
        // A storage node is alive before there is a pool: the pool is made over its devices.
        let waiting = watch_with(None);
        let mut alone = Hosts::new();
        let pool_record = tokio::select! {
            pool = starting.pool() => pool?,
            () = waiting.run(&mut alone) => return Ok(None),
        };
        Ok::<_, SystemError>(Some((open, pool_record)))
    };
    if running.node.is_some() && !serves_data {
        // A member is of use before there is a leader.
        println!("{ready}");
    }
    let assembled = tokio::select! {
        () = &mut stopping => return Ok(()),
        result = assembled => result?,
        Some(result) = running.duties.join_next() => return flatten(result),
    };
    let mut engine = None;
    let mut maintained = None;
    let mut serving = None;
    if let Some((open, pool_record)) = assembled {
        let gateway_metrics = GatewayMetrics::new(&registry)?;
        let (own, opener) = open.map_or((DeviceSlots::new([]), None), |(slots, open)| (slots, Some(open)));
        let engine_config = EngineConfig::new(pool_record.profile, config.gc_grace);
        let built =
            Engine::new(engine_config, Meta::Remote(remote.clone()), own, gateway_metrics.clone()).await?;
        maintained = opener.map(|open_device| {
            let maintenance_config = MaintenanceConfig {
                open_device,
                scrub_period: config.scrub_period,
                reconcile_every: RECONCILE_EVERY,
            };
            Maintenance::new(built.clone(), maintenance_config)
        });
        if let Some(listener) = s3 {
            let keys = remote.ask(AccessKeys {}).await?;
            let key = keys.into_iter().next();
            let key = key.ok_or_else(|| SystemError::Cluster("the cluster has no S3 keys".to_owned()))?;
            let service = S3Door::new(built.clone()).into_service(Credentials::new(key.access, key.secret));
            let address = listener.local_addr().map_err(io_at("S3"))?;
            ready.push_str(&format!(" s3=http://{address}"));
            serving = Some(tokio::spawn(serve(listener, service, gateway_metrics, until(stopped.clone()))));
        }
        engine = Some(built);
    }
    let watch = watch_with(engine);
    // The other devices are known before anything is made of their absence.
    let mut hosts = watch.start(&seen.load());
    if let Some(maintenance) = maintained {
        running.duties.spawn(async move {
            while let Err(error) = maintenance.admit_all().await {
                tracing::warn!(%error, "the devices are admitted later");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            maintenance.run().await.map_err(SystemError::from)
        });
    }
    running.duties.spawn(async move {
        watch.run(&mut hosts).await;
        Ok(())
    });
    running.duties.spawn(renew_for_ever(config.clone(), identity, tls, remote, seen));
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
    stop.send_replace(true);
    let drained = match serving {
        Some(serving) if !serving.is_finished() => flatten(serving.await),
        Some(_) | None => Ok(()),
    };
    running.duties.shutdown().await;
    drop(running.node.take());
    result.and(drained)
}

/// Starts the metadata member and what its leader does.
fn start_member(
    config: &HostConfig,
    identity: &HostIdentity,
    peers: Arc<NetPeers>,
    service: MetaService,
    registry: &Registry,
    duties: &mut JoinSet<Result<(), SystemError>>,
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

/// What a host does before it can serve.
struct Starting<'a> {
    config: &'a HostConfig,
    identity: &'a HostIdentity,
    remote: &'a RemoteMeta,
    seen: &'a Seen,
    /// A member's way to the others, which it does not know by itself when it is new.
    members: Option<Arc<NetPeers>>,
}

impl Starting<'_> {
    async fn look(&self) -> Topology {
        loop {
            match self.remote.refresh().await {
                Ok(topology) => {
                    self.members.iter().for_each(|members| members.set_from(&topology, &[]));
                    return topology;
                }
                Err(error) => tracing::warn!(%error, "waiting for the cluster's metadata"),
            }
        }
    }

    /// Says where this host is, if that has changed.
    async fn introduce(&mut self) -> Result<(), SystemError> {
        let host = self.identity.host();
        loop {
            let topology = self.look().await;
            let record = topology.host(host).cloned();
            self.seen.store(Arc::new(topology));
            let Some(record) = record else {
                return Err(SystemError::Cluster("the cluster does not know this host".to_owned()));
            };
            if record.revoked {
                return Err(SystemError::Cluster("this host was revoked".to_owned()));
            }
            if record.address == self.config.advertise && record.place == self.config.place {
                return Ok(());
            }
            let (address, place) = (self.config.advertise.clone(), self.config.place.clone());
            let moved = Command::MoveHost { id: host, address, place };
            self.remote.submit(vec![Request::idempotent(moved)]).await?;
        }
    }

    /// Waits until there is a pool.
    async fn pool(&self) -> Result<Pool, SystemError> {
        let mut ticks = interval(Duration::from_millis(500));
        let mut said = false;
        loop {
            ticks.tick().await;
            if let Some(pool) = self.look().await.pool {
                return Ok(pool);
            }
            if !std::mem::replace(&mut said, true) {
                tracing::warn!("there is no pool yet: make one with \"holdfast pool create\"");
            }
        }
    }
}

/// Renews the certificate in time, and keeps the addresses of members.
async fn renew_for_ever(
    config: HostConfig,
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
                    // Made again in an hour; connections use the new one already.
                    Err(error) => tracing::warn!(%error, "the renewed certificate cannot be kept yet"),
                }
            }
            Ok(_) => tracing::warn!("the certificate could not be renewed yet: a strange answer"),
            Err(error) => tracing::warn!(%error, "the certificate could not be renewed yet"),
        }
    }
}
