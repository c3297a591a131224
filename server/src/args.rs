//! The command line.

use clap::{Args as ClapArgs, Parser, Subcommand};
use holdfast_core::profile::Profile;
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Holdfast: a durable, deduplicating, erasure-coded object store.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, propagate_version = true, arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs a whole system in one process, for trying it out and for a single host
    Dev(DevArgs),
    /// Runs the roles that a configuration file names
    Server(ServerArgs),
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
