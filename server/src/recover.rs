//! Bringing back a cluster whose metadata is lost: from the archive on its devices, or from one member that is left.

mod archive;
mod settle;

use crate::{
    args::RecoverArgs,
    cluster::{
        config::HostConfig,
        identity::{HostIdentity, Parts},
    },
    credentials,
    identity::Identity,
    system::{SystemError, io_at, lock, refuse},
};
use archive::{Found, Sources};
use holdfast_core::{
    ids::HostId,
    roles::{Role, Roles},
};
use holdfast_gateway_server::sync;
use holdfast_kv::durable::{self, DirLock};
use holdfast_meta_raft_archive::RecoveryKey;
use holdfast_meta_raft_machine::{
    CLUSTER_VERSION,
    command::{Command, Request},
    query,
    records::Host,
};
use holdfast_meta_raft_server::{MemberId, Meta, MetaConfig, MetaMetrics, MetaNode, NoPeers, survive};
use holdfast_net::authority;
use prometheus::Registry;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Numbers of hosts that are skipped.
const SKIPPED_HOSTS: u64 = 1000;

/// Epochs that placement groups skip: more than any group can have gone through unarchived.
const SKIPPED_EPOCHS: u64 = 1 << 20;

/// Removes a directory, if it is there.
fn remove(dir: &Path) -> Result<(), SystemError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_at(dir)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Carries out "holdfast recover".
///
/// # Errors
/// Where there is not enough to recover from. What is there is not changed then.
pub async fn run(args: RecoverArgs, operator: &Path) -> Result<(), SystemError> {
    match (&args.config, &args.data) {
        (Some(config), _) if args.force_survivor => {
            let config = HostConfig::from_file(config);
            force_survivor(&config.map_err(|error| SystemError::Cluster(error.to_string()))?).await
        }
        (_, Some(_)) if args.force_survivor => {
            refuse("a system in one process has no other members: there is nothing to survive")
        }
        (Some(config), _) => {
            let config = HostConfig::from_file(config);
            let config = config.map_err(|error| SystemError::Cluster(error.to_string()))?;
            recover_host(&config, &args, operator).await
        }
        (None, Some(data)) => recover_data(data, &args).await,
        (None, None) => {
            refuse("say what is to be recovered: --config FILE for a cluster's host, or --data DIR")
        }
    }
}

/// A member's directory while its metadata is put together: what is interrupted is begun anew.
struct Recovering {
    target: PathBuf,
    meta: MetaConfig,
}

impl Recovering {
    fn begin(data: &Path) -> Result<Self, SystemError> {
        let (target, dir) = (data.join("meta"), data.join("meta.recovering"));
        if target.join("db").exists() {
            return refuse(format!(
                "{}: there is metadata already. If it is of no use, move the directory away first",
                target.display()
            ));
        }
        remove(&dir)?;
        let meta = MetaConfig::new(dir, MemberId(HostId::LOCAL.0), false, rand::random());
        Ok(Self { target, meta })
    }

    /// All is well: from now on it is the metadata.
    fn finish(self) -> Result<(), SystemError> {
        // What a lost database leaves behind is nothing.
        remove(&self.target)?;
        std::fs::rename(&self.meta.dir, &self.target).map_err(io_at(&self.target))?;
        let parent = self.target.parent().unwrap_or(&self.target);
        durable::sync_dir(parent).map_err(io_at(parent))
    }
}

fn recovery_key(path: &Path) -> Result<RecoveryKey, SystemError> {
    let text = std::fs::read_to_string(path).map_err(io_at(path))?;
    text.parse().map_err(|error| SystemError::Cluster(format!("{}: {error}", path.display())))
}

/// A system in one process: its devices are below its data directory.
async fn recover_data(data: &Path, args: &RecoverArgs) -> Result<(), SystemError> {
    let key_path = args.key.clone().unwrap_or_else(|| data.join(credentials::RECOVERY_FILE));
    let key = recovery_key(&key_path)?;
    let _lock = lock(data)?;
    let dirs = if args.device.is_empty() { devices_below(data)? } else { args.device.clone() };
    let sources = Sources::open(&dirs, &[], operator_of(None)?).await?;
    let found = sources.find(&key).await?;
    let recovering = Recovering::begin(data)?;
    let restored = archive::restore(&found, &recovering.meta).await?;
    let profile = found.contents.pool.profile;
    restored.finish(recovering.meta.member)?;
    let node = start(&recovering.meta)?;
    let advance = Command::TakeOver {
        id: HostId::LOCAL,
        host: Host {
            name: "local".to_owned(),
            roles: Roles::NONE,
            address: String::new(),
            place: "local/local/local".parse().map_err(|_| SystemError::Cluster("a place".to_owned()))?,
            revoked: false,
        },
        skip_epochs: SKIPPED_EPOCHS,
    };
    take_over_with(&node, advance).await?;
    settle::compare(&node.handle(), &found).await?;
    drop(node);
    Identity::recovered(found.cluster.clone(), profile, found.contents.devices.len() as u32)
        .write(data)
        .map_err(io_at(data))?;
    recovering.finish()?;
    println!("recovered: start it with \"holdfast dev --data {}\"", data.display());
    Ok(())
}

fn devices_below(data: &Path) -> Result<Vec<PathBuf>, SystemError> {
    let dir = data.join("devices");
    let entries = std::fs::read_dir(&dir).map_err(io_at(&dir))?;
    let mut dirs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    dirs.sort();
    Ok(dirs)
}

fn operator_of(dir: Option<&Path>) -> Result<Option<HostIdentity>, SystemError> {
    Ok(dir.map(HostIdentity::read).transpose()?.flatten())
}

/// The lost members may not have agreed on the version that knows the command: this one is all that there is.
async fn take_over_with(node: &MetaNode, take_over: Command) -> Result<(), SystemError> {
    let raise = Command::RaiseClusterVersion { version: CLUSTER_VERSION };
    settle::submit(&node.handle(), vec![Request::idempotent(raise)]).await?;
    settle::submit(&node.handle(), vec![Request::idempotent(take_over)]).await?;
    // Devices that have seen more than there is now do not take what is missing for deleted.
    let renewed = sync::renew_epoch(&Meta::Local(node.handle())).await;
    renewed.map_err(|error| SystemError::Cluster(error.to_string()))
}

fn start(config: &MetaConfig) -> Result<MetaNode, SystemError> {
    Ok(MetaNode::start(config, Arc::new(NoPeers), MetaMetrics::new(&Registry::new())?)?)
}

/// The first metadata host of a cluster that has none left.
async fn recover_host(config: &HostConfig, args: &RecoverArgs, operator: &Path) -> Result<(), SystemError> {
    if !config.roles.has(Role::Meta) {
        return refuse("the host that is recovered keeps the metadata: give it the role meta");
    }
    let key_path = args.key.clone().unwrap_or_else(|| operator.join(credentials::RECOVERY_FILE));
    let key = recovery_key(&key_path)?;
    let _lock: DirLock = lock(&config.data)?;
    if HostIdentity::read(&config.data)?.is_some() {
        return refuse(format!(
            "{} is a host of a cluster: recover into an empty data directory, or, if its metadata is whole, use \
             --force-survivor",
            config.data.display()
        ));
    }
    let sources = Sources::open(&args.device, &args.storage, operator_of(Some(operator))?).await?;
    let found = sources.find(&key).await?;
    let Some(signer) = &found.contents.authority else {
        return refuse("these devices are a system's in one process: recover it with --data DIR");
    };
    // The member's number is known when the state is: it is a new one, since raft remembers the old.
    let mut recovering = Recovering::begin(&config.data)?;
    let restored = archive::restore(&found, &recovering.meta).await?;
    let hosts = query::hosts(restored.state()).map_err(holdfast_meta_raft_server::MetaError::from)?;
    // Hosts that joined behind the archive's end have certificates for the numbers that follow.
    let id = HostId(hosts.last().map_or(HostId::LOCAL.0, |(id, _)| id.0) + SKIPPED_HOSTS);
    restored.finish(MemberId(id.0))?;
    recovering.meta.member = MemberId(id.0);
    let node = start(&recovering.meta)?;
    let take_over = Command::TakeOver { id, host: config.record(), skip_epochs: SKIPPED_EPOCHS };
    take_over_with(&node, take_over).await?;
    settle::compare(&node.handle(), &found).await?;
    drop(node);
    let (key, request) = authority::request()?;
    let signed = authority::Signed { certificate: signer.certificate.clone(), key: signer.key.clone() };
    let certificate = authority::sign(&signed, &request, id, config.roles, authority::HOST_LIFE)?;
    let mut identity = HostIdentity::new(Parts {
        cluster: found.cluster.clone(),
        host: id,
        roles: config.roles,
        transport: config.transport.clone(),
        members: vec![config.advertise.clone()],
        authority: signer.certificate.clone(),
        certificate,
        key,
    });
    identity.started = true;
    recovering.finish()?;
    // Written last: what has an identity is whole.
    identity.write(&config.data)?;
    println!(
        "recovered as host {id}. Start it with \"holdfast server --config FILE\", then let new members join it."
    );
    println!(
        "Hosts that do not find it by themselves: set members = [\"{}\"] in their configuration.",
        config.advertise
    );
    Ok(())
}

/// Goes on with the one member that is left.
async fn force_survivor(config: &HostConfig) -> Result<(), SystemError> {
    let _lock = lock(&config.data)?;
    let identity = HostIdentity::read(&config.data)?;
    let Some(identity) = identity else { return refuse("this host belongs to no cluster") };
    let id = identity.host();
    let meta = MetaConfig::new(config.data.join("meta"), MemberId(id.0), false, rand::random());
    survive(&meta)?;
    let node = start(&meta)?;
    let hosts = node.handle().glance(&holdfast_meta_raft_machine::ask::HostOf { id })?;
    let Some(host) = hosts else { return refuse("the metadata does not know this host") };
    let gone = node.handle().glance(&holdfast_meta_raft_machine::ask::TopologyNow {})?;
    let gone: Vec<String> =
        gone.members().filter(|(other, _)| *other != id).map(|(_, host)| host.name.clone()).collect();
    let host = Host { revoked: false, roles: host.roles.with(Role::Meta), ..host };
    let take_over = Command::TakeOver { id, host, skip_epochs: SKIPPED_EPOCHS };
    take_over_with(&node, take_over).await?;
    drop(node);
    println!("{} goes on alone, without {}.", config.name, gone.join(", "));
    println!(
        "What only the others had acknowledged is lost. Never start them again: empty their data directories, and let"
    );
    println!("them join anew.");
    Ok(())
}

impl Found {
    /// What the operator should know of where this begins.
    fn announce(&self) {
        println!(
            "found the archive of cluster {}: {} devices, {} hosts",
            self.cluster,
            self.contents.devices.len(),
            self.contents.hosts.len()
        );
    }
}
