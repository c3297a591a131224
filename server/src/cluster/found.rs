//! Making a cluster, and joining one.

use super::{
    config::HostConfig,
    identity::{HostIdentity, Parts},
};
use crate::{
    credentials,
    system::{SystemError, io_at, lock},
};
use holdfast_core::{
    buffer::BufferPool,
    ids::HostId,
    roles::{Role, Roles},
};
use holdfast_kv::durable;
use holdfast_meta_raft_machine::{
    CLUSTER_VERSION,
    command::{Command, Outcome, Request},
    records::{AccessKey, Authority},
};
use holdfast_meta_raft_server::{MemberId, MetaConfig, MetaMetrics, MetaNode, NoPeers};
use holdfast_net::{NetError, Remote, Secret, Target, authority, join_client, transport};
use holdfast_proto::{Join, call::Method, failure::Code, reply};
use prometheus::Registry;
use std::{path::Path, sync::Arc, time::Duration};

/// How long an operator's certificate is valid: as long as the cluster is run by the same people.
const OPERATOR_LIFE: Duration = Duration::from_secs(5 * 365 * 24 * 60 * 60);

/// The authority's certificate, for who speaks HTTPS with the cluster.
const AUTHORITY_FILE: &str = "ca.pem";

/// An operator is no host.
const OPERATOR: HostId = HostId(0);

/// How long a member may take over letting a host in.
const JOIN_PATIENCE: Duration = Duration::from_secs(20);

/// Makes a cluster whose first host is configured by `config`; its operator's identity is kept in `operator`.
///
/// # Errors
/// Where the host has an identity already, or its files cannot be written.
pub async fn init(config: &HostConfig, operator: &Path) -> Result<(), SystemError> {
    let refuse = |text: &str| Err(SystemError::Cluster(text.to_owned()));
    if !config.roles.has(Role::Meta) {
        return refuse("the first host of a cluster keeps its metadata: give it the role meta");
    }
    let _lock = lock(&config.data)?;
    if HostIdentity::read(&config.data)?.is_some() {
        return refuse("this host belongs to a cluster already");
    }
    if HostIdentity::read(operator)?.is_some() {
        return refuse("there is an operator's identity already: choose another directory with --operator");
    }
    let cluster = hex::encode(rand::random::<[u8; 16]>());
    let signer = authority::make(&cluster)?;
    let members = vec![config.advertise.clone()];
    let identity = |host: HostId, roles: Roles, life| -> Result<HostIdentity, SystemError> {
        let (key, request) = authority::request()?;
        let certificate = authority::sign(&signer, &request, host, roles, life)?;
        Ok(HostIdentity::new(Parts {
            cluster: cluster.clone(),
            host,
            roles,
            transport: config.transport.clone(),
            members: members.clone(),
            authority: signer.certificate.clone(),
            certificate,
            key,
        }))
    };
    let first = identity(HostId::LOCAL, config.roles, authority::HOST_LIFE)?;
    let boss = identity(OPERATOR, Roles::NONE.with(Role::Operator), OPERATOR_LIFE)?;
    let keys = credentials::make();
    let host = config.record();
    let authority = Authority {
        cluster: cluster.clone(),
        certificate: signer.certificate.clone(),
        key: signer.key.clone(),
    };
    let key = AccessKey { access: keys.access_key.clone(), secret: keys.secret_key.clone() };
    durable::create_dir(operator).map_err(io_at(operator))?;
    let keyring =
        credentials::make_recovery(&operator.join(credentials::RECOVERY_FILE)).map_err(io_at(operator))?;
    let meta = MetaConfig::new(config.data.join("meta"), MemberId(HostId::LOCAL.0), true, rand::random());
    let node = MetaNode::start(&meta, Arc::new(NoPeers), MetaMetrics::new(&Registry::new())?)?;
    // By itself: what follows is known from then on.
    let raise = Command::RaiseClusterVersion { version: CLUSTER_VERSION };
    node.handle().submit(vec![Request::idempotent(raise)]).await?;
    let commands = [Command::FoundCluster { authority, host, key }, Command::SetKeyring { keyring }];
    let outcomes = node.handle().submit(commands.map(Request::idempotent).to_vec()).await?;
    if let Some(Outcome::Rejected(rejection)) =
        outcomes.iter().find(|outcome| matches!(outcome, Outcome::Rejected(_)))
    {
        return refuse(&format!("the metadata in {} refuses: {rejection}", config.data.display()));
    }
    drop(node);
    // Written last: what has an identity is whole.
    boss.write(operator)?;
    let pem = authority::to_pem(&signer.certificate);
    durable::replace(&operator.join(AUTHORITY_FILE), pem.as_bytes(), 0o644).map_err(io_at(operator))?;
    first.write(&config.data)?;
    println!("made cluster {cluster}, with {} as its first host", config.name);
    println!("the operator's identity is in {}: keep it safe", operator.display());
    println!(
        "the recovery key is {}: keep copies of it elsewhere. With it, and only with it, the metadata can be brought \
         back from the devices",
        operator.join(credentials::RECOVERY_FILE).display()
    );
    println!("\nThese S3 keys were just made. They are not shown again:");
    println!("  export AWS_ACCESS_KEY_ID={}", keys.access_key);
    println!("  export AWS_SECRET_ACCESS_KEY={}", keys.secret_key);
    println!("\nStart it with: holdfast server --config FILE");
    Ok(())
}

/// Lets this host join the cluster that `seed` belongs to.
///
/// # Errors
/// Where the token is refused, or nobody can be reached.
pub async fn join(config: &HostConfig, seed: &str, token: &str) -> Result<(), SystemError> {
    durable::create_dir(&config.data).map_err(io_at(&config.data))?;
    if let Some(known) = HostIdentity::read(&config.data)? {
        tracing::info!(host = known.host, "this host has joined before: the token is not needed");
        return Ok(());
    }
    let secret: Secret = token.parse()?;
    let transport = transport::named(&config.transport).map_err(SystemError::Cluster)?;
    let tls = join_client(&secret)?.over(transport);
    let (key, request) = authority::request()?;
    let call = Join {
        secret: secret.secret.clone(),
        request,
        name: config.name.clone(),
        roles: config.roles.bits(),
        address: config.advertise.clone(),
        place: config.place.to_string(),
    };
    let mut address = seed.to_owned();
    let pool = BufferPool::new(0);
    // The seed may name another member as the leader, and an election may be under way.
    for _ in 0..20 {
        let remote = Remote::new(tls.clone(), Target::Any(Role::Meta), address.clone(), pool.clone());
        let joined = remote.call(Method::Join(call.clone()), bytes::Bytes::new(), JOIN_PATIENCE).await;
        match joined {
            Ok((reply::Result::Joined(joined), _)) => {
                let identity = HostIdentity::new(Parts {
                    cluster: joined.cluster,
                    host: HostId(joined.host),
                    roles: config.roles,
                    transport: config.transport.clone(),
                    members: vec![address, seed.to_owned()],
                    authority: joined.authority,
                    certificate: joined.certificate,
                    key,
                });
                identity.write(&config.data)?;
                println!("joined as host {}", joined.host);
                return Ok(());
            }
            Ok(_) => return Err(SystemError::Cluster(format!("{address} answered with something else"))),
            Err(NetError::Failed(failure)) if failure.code() == Code::NotLeader => {
                if failure.message.is_empty() {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                } else {
                    address = failure.message;
                }
            }
            Err(error) => {
                return Err(SystemError::Cluster(format!("the cluster did not let this host in: {error}")));
            }
        }
    }
    Err(SystemError::Cluster("the cluster has no leader: try again when it has".to_owned()))
}
