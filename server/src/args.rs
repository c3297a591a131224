//! The command line.

mod users;

pub use users::{
    At, KeyCommand, KmsCommand, KmsKeyCommand, PolicyCommand, Quota, RemoteCommand, UserCommand,
    UsersCommand, Way, WebhookCommand,
};

use clap::{Args as ClapArgs, Parser, Subcommand};
use holdfast_core::{profile::Profile, roles::Role, topology::FailureDomain};
use holdfast_gateway_server::s3::{STANDARD, STORAGE_CLASSES};
use holdfast_meta_raft_machine::records::Job;
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// How long an admin token may be good: ten years.
const TOKEN_LIFE_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

fn token_life(text: &str) -> Result<Duration, String> {
    let life = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if life <= TOKEN_LIFE_MAX { Ok(life) } else { Err("a token is good for ten years at most".to_owned()) }
}

/// Holdfast: a durable, deduplicating, erasure-coded object store.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, propagate_version = true, arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub operator: OperatorArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs a whole system in one process, for trying it out and for a single host
    Dev(DevArgs),
    /// Runs the roles that a configuration file names
    Server(ServerArgs),
    /// Makes a cluster, and lets hosts into it
    #[command(subcommand)]
    Cluster(FoundCommand),
    #[command(flatten)]
    Operator(OperatorCommand),
    #[command(flatten)]
    Users(UsersCommand),
    /// Brings back a cluster whose metadata is lost, from its devices or from one member that is left
    Recover(RecoverArgs),
    /// Lets garbage collection go on after the auditor stopped it, and what it found was looked into
    ResumeCollection(ResumeArgs),
}

/// Runs metadata, devices and gateway in one process.
///
/// The first start makes the data directory, the devices in it and, unless given, a key pair, which is printed once and
/// kept in DIR/credentials.toml. When the system serves, one line "ready s3=http://..." is printed on standard output.
#[derive(Debug, ClapArgs)]
pub struct DevArgs {
    /// Where everything is kept
    #[arg(long, value_name = "DIR", default_value = "./data")]
    pub data: PathBuf,
    /// Where S3 is served
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9000")]
    pub s3: SocketAddr,
    /// Where devices sync, over QUIC [default: the port of S3 plus 2]
    #[arg(long, value_name = "ADDR:PORT")]
    pub sync: Option<SocketAddr>,
    /// A domain under which buckets are hosts, as BUCKET.NAME, and their websites, as BUCKET.s3-website.NAME
    #[arg(long = "domain", value_name = "NAME", default_value = "localhost")]
    pub domains: Vec<String>,
    /// Speaks TLS with this certificate, as PEM; it is read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// What addresses of links begin with, where others reach the door by another name [default: where S3 is served]
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Where Prometheus metrics are served, at /metrics
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9001")]
    pub metrics: SocketAddr,
    /// How many devices the data is spread over: directories DIR/devices/dev-0 and on
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub devices: u32,
    /// The erasure profile: K data and M parity shards, any M of which may be lost
    #[arg(long, value_name = "K+M", default_value = "4+2")]
    pub ec: Profile,
    /// The access key; with --secret-key
    #[arg(long, value_name = "A", env = "HOLDFAST_ACCESS_KEY", requires = "secret_key")]
    pub access_key: Option<String>,
    /// The secret key; with --access-key
    #[arg(
        long,
        value_name = "S",
        env = "HOLDFAST_SECRET_KEY",
        requires = "access_key",
        hide_env_values = true
    )]
    pub secret_key: Option<String>,
    /// How long the bytes of deleted objects are kept, as in 30s, 10m, 1h
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    pub gc_grace: Duration,
    /// In what time every shard is read from its disk and verified once
    #[arg(long, value_name = "DURATION", default_value = "14d", value_parser = humantime::parse_duration)]
    pub scrub_period: Duration,
    /// A pool for objects of a storage class, on the same devices with a profile of its own, as STANDARD_IA=2+1
    #[arg(long = "pool", value_name = "CLASS=K+M", value_parser = class_pool)]
    pub pools: Vec<(String, Profile)>,
    /// How many seconds lifecycle rules take a day to be, to try rules out
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(1..))]
    pub lifecycle_day: u64,
}

/// Brings back metadata that is lost.
///
/// From devices: the archive of the metadata in the pool is found and put together. What was committed in the last moments
/// before the loss may not be in it. From a survivor: one metadata member goes on alone; its host must not be running.
#[derive(Debug, ClapArgs)]
#[command(group = clap::ArgGroup::new("from").required(true).args(["from_devices", "force_survivor"]))]
pub struct RecoverArgs {
    /// All metadata members are gone: makes the metadata anew from the archive on the devices
    #[arg(long)]
    pub from_devices: bool,
    /// One metadata member is left: it goes on without the others, who must never run again
    #[arg(long)]
    pub force_survivor: bool,
    /// The configuration of the host that keeps the metadata from now on
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub config: Option<PathBuf>,
    /// The data directory of a system in one process
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The recovery key [default: recovery.key in the operator's or the data directory]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// A device's directory that can be read here; its storage node must not be running
    #[arg(long, value_name = "DIR")]
    pub device: Vec<PathBuf>,
    /// A storage node that is running
    #[arg(long, value_name = "HOST:PORT")]
    pub storage: Vec<String>,
}

/// Ends a stop of garbage collection. The system must not be running; the auditor looks again when it starts.
#[derive(Debug, ClapArgs)]
pub struct ResumeArgs {
    /// The system's data directory
    #[arg(long, value_name = "DIR", default_value = "./data")]
    pub data: PathBuf,
}

/// Runs the roles that a TOML file configures. Every mistake in the file is reported at once, with its place.
#[derive(Debug, ClapArgs)]
pub struct ServerArgs {
    /// The configuration; docs/operations.md describes each setting
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Joins the cluster that this metadata member belongs to, if this host has not joined before
    #[arg(long, value_name = "HOST:PORT", requires = "token")]
    pub join: Option<String>,
    /// The token that "holdfast cluster token create" printed
    #[arg(long, value_name = "T", env = "HOLDFAST_JOIN_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// How an operator reaches the cluster, and how answers look.
#[derive(Debug, ClapArgs)]
pub struct OperatorArgs {
    /// Where the operator's identity is, which "holdfast cluster init" made
    #[arg(long, global = true, value_name = "DIR", env = "HOLDFAST_OPERATOR", default_value = "./operator")]
    pub operator: PathBuf,
    /// Prints JSON instead of tables
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum FoundCommand {
    /// Makes a cluster: its certificate authority, its first host, the operator's identity and S3 keys
    Init {
        /// The configuration of the first host, which must have the role meta
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Makes another recovery key, for a cluster that has none or whose key was seen by others
    RecoveryKey,
    /// Tokens that let hosts join
    #[command(subcommand)]
    Token(TokenCommand),
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Makes a token that lets one host join, once
    Create(TokenArgs),
}

#[derive(Debug, ClapArgs)]
pub struct TokenArgs {
    /// The roles that the host may have
    #[arg(long, required = true, value_delimiter = ',', value_name = "ROLE")]
    pub role: Vec<Role>,
    /// How long the token is good
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    pub ttl: Duration,
}

/// What reaches the metadata with the operator's identity.
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Shows the cluster's health in one screen
    Status,
    #[command(skip)]
    Cluster(ClusterCommand),
    /// Lists, pauses and resumes what the cluster does by itself
    #[command(subcommand)]
    Job(JobCommand),
    /// Reads and verifies every shard
    #[command(subcommand)]
    Scrub(ScrubCommand),
    /// Tokens for the HTTP admin API
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Lists devices, and orders what becomes of them
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Lists hosts, and orders what becomes of them
    #[command(subcommand)]
    Node(NodeCommand),
    /// Lists and makes pools
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Lists placement groups
    #[command(subcommand)]
    Pg(PgCommand),
    /// Lists metadata members, and moves their leadership
    #[command(subcommand)]
    Meta(MetaCommand),
    /// Shows what the placement planner would do
    #[command(subcommand)]
    Repair(RepairCommand),
    /// Computes how durable the data is, from the cluster's figures
    Durability {
        /// Supposes another figure, as profile=8+4, voters=5, afr=0.02, rate=200 (MB/s), live=4 (TB), detect=10m, scrub=14d
        #[arg(long, value_delimiter = ',', value_name = "NAME=VALUE")]
        what_if: Vec<String>,
    },
}

#[derive(Debug)]
pub enum ClusterCommand {
    Token(TokenArgs),
    RecoveryKey,
}

#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Lists jobs with what is left, their rate, and an estimate
    List,
    /// Stops a job until it is resumed: rebuild, rebalance, scrub or compaction
    Pause { job: Job },
    /// Lets a job go on
    Resume { job: Job },
    /// Limits what jobs read and write on each node, in MB/s; 0 is the default
    Limit { megabytes_per_s: u64 },
}

#[derive(Debug, Subcommand)]
pub enum ScrubCommand {
    /// Begins a round now, on all devices
    Start,
}

#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Makes a token, which is shown once
    Create {
        /// What it is for
        name: String,
        /// It may look and not touch
        #[arg(long)]
        read_only: bool,
        /// How long it is good
        #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = token_life)]
        ttl: Duration,
    },
    /// Lists tokens
    List,
    /// Makes a token of no use
    Revoke { id: String },
}

#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// Lists devices with their load
    List,
    /// Gives a storage node another disk: an empty directory on it
    Add { node: String, dir: String },
    /// Moves a device's shards to others; it serves until they are there
    Drain { device: u32 },
    /// Lets a device hold its share again
    Serve { device: u32 },
    /// Takes a device out of the cluster for good
    Remove {
        device: u32,
        /// Though shards are on it: they are made anew elsewhere
        #[arg(long)]
        force: bool,
    },
    /// Lets an empty disk take a device's place
    Replace { device: u32 },
    /// Changes how much of the data a device should hold, beside others
    Reweigh { device: u32, weight: u64 },
    /// Gives a device a class, as hdd: pools that name it are on such devices, and the others on those without
    Class {
        device: u32,
        /// Without it, the device has none from then on
        class: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Lists hosts
    List,
    /// Drains all devices of a host
    Drain { node: String },
    /// Takes a host out of the cluster for good, and refuses it from then on
    Remove {
        node: String,
        /// Though shards are on its devices: they are made anew elsewhere
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// Lists pools
    List,
    /// Makes a pool, by default with the best profile that the devices carry
    Create(PoolArgs),
}

#[derive(Debug, ClapArgs)]
pub struct PoolArgs {
    /// The erasure profile
    #[arg(long, value_name = "K+M")]
    pub profile: Option<Profile>,
    /// The failure domain that it survives the loss of: device, node, rack or zone
    #[arg(long)]
    pub domain: Option<FailureDomain>,
    /// How many placement groups
    #[arg(long, value_name = "N")]
    pub groups: Option<u32>,
    /// The storage class whose objects it is for, as STANDARD_IA; the first pool takes all that have none of their own
    #[arg(long, value_name = "CLASS", value_parser = storage_class)]
    pub class: Option<String>,
    /// The class of the devices that it is on; by default those that have none
    #[arg(long, value_name = "CLASS", requires = "class")]
    pub on: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum RepairCommand {
    /// Prints what would be changed now, and why; the leader does it by itself
    Plan {
        /// Changes nothing, which is the only way there is
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum PgCommand {
    /// Lists placement groups with their devices
    List,
    /// Shows a placement group with its packs
    Show { group: u32 },
}

#[derive(Debug, Subcommand)]
pub enum MetaCommand {
    /// Lists members
    Members,
    /// Lets another member join: prints how
    Add,
    /// Takes the metadata off a host
    Remove { host: String },
    /// Hands leadership to another member
    TransferLeader { host: String },
}

/// Reads the name of a storage class that may have a pool of its own.
pub fn storage_class(text: &str) -> Result<String, String> {
    if STORAGE_CLASSES.contains(&text) && text != STANDARD {
        return Ok(text.to_owned());
    }
    let others: Vec<_> = STORAGE_CLASSES.into_iter().filter(|class| *class != STANDARD).collect();
    Err(format!("a pool is for one of {}", others.join(", ")))
}

pub fn class_pool(text: &str) -> Result<(String, Profile), String> {
    let (class, profile) = text.split_once('=').ok_or("a pool is written as CLASS=K+M")?;
    let profile = profile.parse::<Profile>().map_err(|error| error.to_string())?;
    Ok((storage_class(class)?, profile))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_defaults_are_those_that_are_documented() {
        let Command::Dev(dev) = Args::try_parse_from(["holdfast", "dev"]).expect("defaults").command else {
            panic!("dev was asked for");
        };
        assert_eq!(
            (dev.devices, dev.ec.to_string(), dev.gc_grace),
            (6, "4+2".to_owned(), Duration::from_secs(3600))
        );
        assert_eq!(
            (dev.s3.to_string(), dev.metrics.to_string()),
            ("127.0.0.1:9000".into(), "127.0.0.1:9001".into())
        );
    }
}
