//! Rules of the workspace that no compiler checks: `cargo run -p xtask -- tidy`.

use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// Crates that decide and never do.
const PURE: [&str; 10] = [
    "holdfast-client-sync",
    "holdfast-core",
    "holdfast-erasure",
    "holdfast-gateway-md5",
    "holdfast-gateway-object",
    "holdfast-gateway-policy",
    "holdfast-meta-raft-archive",
    "holdfast-meta-raft-machine",
    "holdfast-meta-raft-planner",
    "holdfast-meta-raft-pump",
];

/// What pure crates must not depend on, directly.
const IMPURE: [&str; 12] = [
    "tokio",
    "quinn",
    "rocksdb",
    "hyper",
    "rustls",
    "rand",
    "rustix",
    "crossbeam-channel",
    "holdfast-kv",
    "prometheus",
    "tracing",
    "s3s",
];

/// The one crate that links RocksDB.
const ROCKSDB_OWNER: &str = "holdfast-kv";

/// Lines of a source file: one idea has room in fewer.
const LINES_MAX: usize = 700;

/// What is never left in the sources. Written in two parts, so that this list does not find itself.
const UNFINISHED: [(&str, &str); 6] = [
    ("todo", "!("),
    ("unimplemented", "!("),
    ("dbg", "!("),
    ("FIX", "ME"),
    ("XX", "X"),
    ("thread::sl", "eep"),
];

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() != Some("tidy") {
        eprintln!("usage: cargo run -p xtask -- tidy");
        return ExitCode::from(2);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is in the workspace").to_owned();
    let mut breaches = edges(&root);
    breaches.extend(sources(&root));
    breaches.iter().for_each(|breach| eprintln!("tidy: {breach}"));
    println!("tidy: {} breaches", breaches.len());
    if breaches.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Dependencies that the architecture forbids.
fn edges(root: &Path) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--locked"])
        .current_dir(root)
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let mut breaches = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let normal =
            package["dependencies"].as_array().into_iter().flatten().filter(|edge| edge["kind"].is_null());
        for edge in normal.filter_map(|edge| edge["name"].as_str()) {
            if PURE.contains(&name) && IMPURE.contains(&edge) {
                breaches.push(format!("{name} is pure and must not depend on {edge}"));
            }
            if edge == "rocksdb" && name != ROCKSDB_OWNER {
                breaches.push(format!("{name} links rocksdb, which is for {ROCKSDB_OWNER} alone"));
            }
        }
    }
    breaches
}

/// What is wrong in the sources themselves.
fn sources(root: &Path) -> Vec<String> {
    let mut breaches = Vec::new();
    for path in rust_files(root) {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let shown = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let is_test = shown.contains("tests");
        if !text.starts_with("//!") && !is_test {
            breaches.push(format!("{shown} does not say what it is for: begin it with //!"));
        }
        if text.lines().count() > LINES_MAX {
            breaches.push(format!("{shown} has more than {LINES_MAX} lines"));
        }
        for (head, tail) in UNFINISHED {
            if text.contains(&format!("{head}{tail}")) {
                breaches.push(format!("{shown} contains {head}{tail}"));
            }
        }
    }
    breaches
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            if name != "target" && name != ".git" && name != "data" {
                found.extend(rust_files(&path));
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
