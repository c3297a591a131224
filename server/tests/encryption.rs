//! What is encrypted is nowhere in the clear, and opens as long as its key is there.

mod common;

use common::{ACCESS_KEY, Client, SECRET_KEY, Server, files, noise, suites::order};

const MARKER: &[u8] = b"the-marker-that-no-disk-may-hold";

/// A body of `len` bytes that says its marker all over, and compresses badly otherwise.
fn marked(seed: u64, len: usize) -> Vec<u8> {
    let mut body = noise(seed, len);
    for at in (0..len.saturating_sub(MARKER.len())).step_by(997) {
        body[at..at + MARKER.len()].copy_from_slice(MARKER);
    }
    body
}

fn put(client: &Client, path: &str, headers: &[(&str, &str)], body: &[u8]) -> u16 {
    client.with_headers("PUT", path, headers, body).status
}

const SYSTEM: [(&str, &str); 1] = [("x-amz-server-side-encryption", "AES256")];

fn with_key(id: &str) -> [(&'static str, &str); 2] {
    [("x-amz-server-side-encryption", "aws:kms"), ("x-amz-server-side-encryption-aws-kms-key-id", id)]
}

#[test]
fn a_marker_is_nowhere_on_the_disks() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let server = Server::start(&data, &[]);
    let way = ["--data", &data.display().to_string()];
    order(&way, &["kms", "key", "create", "k"]);
    let client = server.client();
    assert_eq!(put(&client, "/secret", &[], b""), 200);
    let customer = [
        ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
        ("x-amz-server-side-encryption-customer-key", "pO3upElrwuEXSoFwCfnZPdSsmt/xWeFa0N9KgDijwVs="),
        ("x-amz-server-side-encryption-customer-key-md5", "DWygnHRtgiJ77HCm+1rvHw=="),
    ];
    for (i, len) in [100, 1000, 5000, 500_000, 6 << 20].into_iter().enumerate() {
        let body = marked(i as u64, len);
        assert_eq!(put(&client, &format!("/secret/system-{i}"), &SYSTEM, &body), 200);
        assert_eq!(put(&client, &format!("/secret/kms-{i}"), &with_key("k"), &body), 200);
        assert_eq!(put(&client, &format!("/secret/customer-{i}"), &customer, &body), 200);
        assert_eq!(client.get(&format!("/secret/kms-{i}")), body);
    }
    // The search finds what there is: the same in the clear.
    let found = |data: &std::path::Path| {
        let holds = |file: &std::path::PathBuf| {
            let bytes = std::fs::read(file).expect("a file");
            memchr::memmem::find(&bytes, MARKER).is_some()
        };
        files(data).into_iter().filter(|file| file.is_file()).filter(holds).collect::<Vec<_>>()
    };
    common::eventually("the metadata is archived", || server.metric("holdfast_archived_until_seconds") > 0.0);
    assert_eq!(server.stop(), Some(0));
    assert_eq!(found(&data), Vec::<std::path::PathBuf>::new());
    let server = Server::start(&data, &[]);
    assert_eq!(put(&server.client(), "/secret/plain", &[], &marked(9, 500_000)), 200);
    assert_eq!(server.stop(), Some(0));
    assert!(!found(&data).is_empty());
}

#[test]
fn keys_rotate_are_disabled_and_outlive_the_process() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let server = Server::start(&data, &[]);
    let way = ["--data", &data.display().to_string()];
    let order = |args: &[&str]| order(&way, args);
    let made: serde_json::Value =
        serde_json::from_str(&order(&["kms", "key", "create", "k", "--json"])).expect("JSON");
    assert_eq!((&made["id"], &made["versions"]), (&"k".into(), &1.into()));
    let client = server.client();
    assert_eq!(put(&client, "/box", &[], b""), 200);
    let (old, new) = (marked(1, 700_000), marked(2, 800));
    assert_eq!(put(&client, "/box/old", &with_key("k"), &old), 200);
    assert_eq!(put(&client, "/box/old-system", &SYSTEM, &old), 200);
    for key in ["k", "holdfast/s3"] {
        order(&["kms", "key", "rotate", key]);
    }
    assert_eq!(put(&client, "/box/new", &with_key("k"), &new), 200);
    assert_eq!(put(&client, "/box/new-system", &SYSTEM, &new), 200);
    server.kill();
    let server = Server::start(&data, &[]);
    let client = server.client();
    for (path, body) in [("old", &old), ("old-system", &old), ("new", &new), ("new-system", &new)] {
        assert_eq!(&client.get(&format!("/box/{path}")), body, "{path}");
    }
    order(&["kms", "key", "disable", "k"]);
    let refused = client.request("GET", "/box/old", &[], b"");
    assert_eq!(refused.status, 400);
    assert!(String::from_utf8_lossy(&refused.body).contains("KMS.DisabledException"));
    assert_eq!(put(&client, "/box/more", &with_key("k"), b"x"), 400);
    assert_eq!(client.get("/box/old-system"), old);
    order(&["kms", "key", "enable", "k"]);
    assert_eq!(client.get("/box/old"), old);
    // Their material is shown to nobody, and is in no log.
    let listed = order(&["kms", "key", "list", "--json"]);
    assert!(listed.contains("holdfast/s3") && !listed.contains("wrapped"));
}

#[test]
fn chunks_are_shared_within_a_key_and_not_beyond() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let server = Server::start(&data, &[]);
    let way = ["--data", &data.display().to_string()];
    for key in ["one", "other"] {
        order(&way, &["kms", "key", "create", key]);
    }
    let client = Client::with_keys(&server.s3, ACCESS_KEY, SECRET_KEY);
    assert_eq!(put(&client, "/box", &[], b""), 200);
    let body = noise(1, 5 << 20);
    let mut shared = Vec::new();
    for (path, key) in [("a", "one"), ("b", "one"), ("c", "other"), ("d", "one")] {
        if path == "d" {
            order(&way, &["kms", "key", "rotate", "one"]);
        }
        let before = server.metric("holdfast_dedup_bytes_total");
        assert_eq!(put(&client, &format!("/box/{path}"), &with_key(key), &body), 200);
        shared.push((server.metric("holdfast_dedup_bytes_total") - before) as usize);
    }
    assert_eq!(shared, [0, body.len(), 0, 0]);
    for path in ["a", "b", "c", "d"] {
        assert_eq!(client.get(&format!("/box/{path}")), body);
    }
}
