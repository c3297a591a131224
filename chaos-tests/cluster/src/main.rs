//! `holdfast-chaos`: torments a cluster in network namespaces, and says what came of it.

use clap::Parser;
use holdfast_chaos_tests_cluster::{can_run, run};
use std::{path::PathBuf, process::ExitCode, time::Duration};

/// Runs a cluster in network namespaces under faults, and checks that nothing acknowledged is lost and no read is stale.
#[derive(Debug, Parser)]
struct Args {
    /// The server's binary
    #[arg(long, default_value = "target/release/holdfast")]
    program: PathBuf,
    /// An older version's binary, with which the cluster begins
    #[arg(long)]
    previous: Option<PathBuf>,
    /// Where the cluster is; made, and not removed
    #[arg(long, default_value = "chaos-data")]
    dir: PathBuf,
    /// Decides which faults strike where
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long faults go on
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Where the report is written
    #[arg(long, default_value = "chaos-report.md")]
    report: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(missing) = can_run() {
        eprintln!("holdfast-chaos: {missing}");
        return ExitCode::from(2);
    }
    let program = std::fs::canonicalize(&args.program).unwrap_or(args.program);
    let _begins_anew = std::fs::remove_dir_all(&args.dir);
    let dir = std::path::absolute(&args.dir).unwrap_or(args.dir);
    let previous = args.previous.map(|path| std::fs::canonicalize(&path).unwrap_or(path));
    match run(&dir, &program, previous.as_deref(), args.seed, 1, Duration::from_secs(args.seconds)) {
        Ok(report) => {
            let text = report.text(args.seed);
            print!("{text}");
            if let Err(error) = std::fs::write(&args.report, text) {
                eprintln!("holdfast-chaos: {}: {error}", args.report.display());
            }
            if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("holdfast-chaos: {error}");
            ExitCode::FAILURE
        }
    }
}
