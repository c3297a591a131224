//! What earlier versions wrote is read by this one.

mod common;

use common::Server;
use std::{path::Path, process::Command};

/// A system of one process, as the last version that knew cluster version 2 left it when it was stopped: 2+1 over three
/// devices, a bucket with an inline object, a small one that was deleted and brought again, a large one and its copy.
#[test]
fn data_of_cluster_version_2_is_served_and_goes_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data-of-cluster-version-2.tar.gz");
    let unpacked = Command::new("tar").arg("-xzf").arg(&kept).arg("-C").arg(dir.path()).status();
    assert!(unpacked.expect("tar runs").success());
    let data = dir.path().join("data");
    let options = ["--devices", "3", "--ec", "2+1"];
    let (small, large) = ("small ".repeat(2000), "large ".repeat(40_000));
    for round in 0..2 {
        let server = Server::start(&data, &options);
        let client = server.client();
        let mut keys = vec!["a/again", "a/inline", "copied", "large"];
        assert_eq!(client.get("/kept/a/inline"), b"inline");
        assert_eq!(client.get("/kept/a/again"), small.as_bytes());
        assert_eq!(client.get("/kept/large"), large.as_bytes());
        assert_eq!(client.get("/kept/copied"), large.as_bytes());
        if round == 1 {
            keys.push("new");
            assert_eq!(client.get("/kept/new"), b"of this version");
        }
        keys.sort_unstable();
        assert_eq!(client.list("kept", ""), keys);
        client.put("/kept/new", b"of this version");
        // It is archived from now on, though it was founded before there were archives.
        common::eventually("the metadata is archived", || {
            server.metric("holdfast_archived_until_seconds") > 0.0
        });
        assert_eq!(server.metric("holdfast_collection_stopped"), 0.0);
        assert_eq!(server.stop(), Some(0));
    }
}
