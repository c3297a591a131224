//! A short run of what "make chaos" does for longer.

mod common;

use holdfast_chaos_tests_cluster::{can_run, run};
use std::{path::Path, time::Duration};

#[test]
fn a_tormented_cluster_keeps_its_promises() {
    if !common::can("a cluster in network namespaces", || {
        can_run().inspect_err(|missing| eprintln!("{missing}")).is_ok()
    }) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let program = Path::new(env!("CARGO_BIN_EXE_holdfast"));
    // Every kind of fault once.
    let report = run(&dir.path().join("lab"), program, None, 7, 12, Duration::ZERO);
    let report = report.unwrap_or_else(|error| panic!("{error}"));
    println!("{}", report.text(7));
    assert_eq!(report.violations, Vec::<String>::new(), "{}", report.text(7));
    assert!(report.registers > 10 && report.objects > 50 && report.faults.len() >= 12, "{}", report.text(7));
}
