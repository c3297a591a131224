//! `holdfast`: the server's binary. Parses, validates, runs, and answers with an exit code.

mod args;
mod config;
mod credentials;
mod identity;
mod system;

use args::{Args, Command};
use clap::Parser;
use config::Config;
use std::{io::IsTerminal, process::ExitCode, time::Duration};
use tracing_subscriber::EnvFilter;

/// Buffers of a megabyte are filled on one thread and freed on another, by RocksDB too: an allocator that gives them back
/// keeps the process small.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Threads for blocking disk reads. More only wait for the same disks.
const BLOCKING_THREADS: usize = 64;

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_env("HOLDFAST_LOG").unwrap_or_else(|_| EnvFilter::new("info,s3s=off"));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .with_target(false)
        .init();
    let config = match args.command {
        Command::Dev(dev) => Config::from_dev(dev),
        Command::Server(server) => Config::from_file(&server.config),
        Command::ResumeCollection(resume) => return finish(system::resume_collection(&resume.data)),
    };
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
    let result = runtime.block_on(system::run(config));
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
