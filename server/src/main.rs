//! `holdfast`: the server's binary. Parses, validates, runs, and answers with an exit code.

mod admin;
mod args;
mod cluster;
mod config;
mod credentials;
mod identity;
mod operator;
mod recover;
mod system;

use args::{
    Args, ClusterCommand, Command, FoundCommand, OperatorArgs, OperatorCommand, ServerArgs, TokenCommand,
};
use clap::Parser;
use cluster::config::HostConfig;
use config::Config;
use std::{io::IsTerminal, process::ExitCode, time::Duration};
use tracing_subscriber::EnvFilter;

/// Buffers of a megabyte are filled on one thread and freed on another, by RocksDB too: an allocator that gives them back
/// keeps the process small.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Threads for blocking disk reads. More only wait for the same disks.
const BLOCKING_THREADS: usize = 64;

/// What writes down whole requests and frames, with all that is secret in them.
const QUIET: &str = "s3s=off,tungstenite=info,tokio_tungstenite=info";

fn main() -> ExitCode {
    // What is kept here is nobody else's: keys are in files, and in the metadata too.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let args = Args::parse();
    // s3s writes down whole requests, with signatures and with keys that clients bring: who asks for more of everything does not ask for that.
    let wanted = std::env::var("HOLDFAST_LOG")
        .ok()
        .filter(|text| !text.is_empty() && EnvFilter::try_new(text).is_ok());
    let filter = EnvFilter::new(format!("{},{QUIET}", wanted.as_deref().unwrap_or("info")));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .with_target(false)
        .init();
    let OperatorArgs { operator, json } = args.operator;
    match args.command {
        Command::Dev(dev) => with(Config::from_dev(dev), system::run),
        Command::Server(server) if !is_host(&server.config) => {
            with(Config::from_file(&server.config), system::run)
        }
        Command::Server(ServerArgs { config, join, token }) => {
            with(HostConfig::from_file(&config), async |config| {
                if let (Some(seed), Some(token)) = (join, token) {
                    cluster::found::join(&config, &seed, &token).await?;
                }
                cluster::run(config).await
            })
        }
        Command::Cluster(FoundCommand::Init { config }) => {
            with(HostConfig::from_file(&config), async |config| {
                cluster::found::init(&config, &operator).await
            })
        }
        Command::Cluster(FoundCommand::RecoveryKey) => {
            let command = OperatorCommand::Cluster(ClusterCommand::RecoveryKey);
            with(Ok(()), async |()| operator::run(&operator, json, command).await)
        }
        Command::Cluster(FoundCommand::Token(TokenCommand::Create(token))) => {
            let command = OperatorCommand::Cluster(ClusterCommand::Token(token));
            with(Ok(()), async |()| operator::run(&operator, json, command).await)
        }
        Command::Operator(command) => with(Ok(()), async |()| operator::run(&operator, json, command).await),
        Command::Users(command) => {
            with(Ok(()), async |()| operator::users::run(&operator, json, command).await)
        }
        Command::Recover(recover) => with(Ok(()), async |()| recover::run(recover, &operator).await),
        Command::ResumeCollection(resume) => finish(system::resume_collection(&resume.data)),
    }
}

/// Whether a configuration is a cluster host's: it names roles.
fn is_host(path: &std::path::Path) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    toml::from_str::<toml::Table>(&text).is_ok_and(|table| table.contains_key("roles"))
}

/// Does something with a valid configuration, on a runtime.
fn with<C>(
    config: Result<C, config::ConfigError>,
    work: impl AsyncFnOnce(C) -> Result<(), system::SystemError>,
) -> ExitCode {
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            eprintln!("holdfast: {error}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("holdfast: the runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(work(config));
    // Reads that block on a disk that does not answer are not waited for.
    runtime.shutdown_timeout(Duration::from_secs(5));
    finish(result)
}

fn finish(result: Result<(), system::SystemError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holdfast: {error}");
            ExitCode::FAILURE
        }
    }
}
