//! Metadata that is lost, and what brings it back.

mod common;

use common::{Client, Server, cluster::Cluster, eventually, noise};
use std::{
    path::Path,
    process::{Command, Output},
    time::{SystemTime, UNIX_EPOCH},
};

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis() as u64
}

fn holdfast(args: &[&str]) -> (bool, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_holdfast")).args(args).output().expect("the program runs");
    (status.success(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

fn recover(args: &[&str]) -> String {
    let (good, text) = holdfast(&[&["recover"], args].concat());
    assert!(good, "{args:?}: {text}");
    text
}

fn put_all(client: &Client, range: std::ops::Range<u64>) {
    for seed in range {
        let body = noise(seed, [300, 9_000, 700_000][seed as usize % 3]);
        client.put(&format!("/kept/{seed}"), &body);
    }
}

fn check_all(client: &Client, range: std::ops::Range<u64>) {
    for seed in range {
        let body = noise(seed, [300, 9_000, 700_000][seed as usize % 3]);
        let found = client.request("GET", &format!("/kept/{seed}"), &[], b"");
        assert_eq!((found.status, found.body == body), (200, true), "object {seed}");
    }
}

/// Waits until what was written before is in the archive.
fn until_archived(server: &Server) {
    let now = (now_ms() / 1000) as f64;
    eventually("the metadata is archived", || server.metric("holdfast_archived_until_seconds") > now);
}

fn wipe(dir: &Path) {
    std::fs::remove_dir_all(dir).expect("it is there");
}

#[test]
fn a_system_whose_metadata_disk_is_lost_comes_back_from_its_devices() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("d");
    let shown = data.display().to_string();
    let server = Server::start(&data, &[]);
    server.client().create_bucket("kept");
    put_all(&server.client(), 0..12);
    server.client().delete("/kept/3");
    until_archived(&server);
    server.kill();
    wipe(&data.join("meta"));
    // Two devices are lost too, as many as the profile allows.
    wipe(&data.join("devices/dev-1"));
    wipe(&data.join("devices/dev-4"));
    let other = dir.path().join("other.key");
    std::fs::write(&other, "hfr1.00").expect("a file");
    let (good, text) =
        holdfast(&["recover", "--from-devices", "--data", &shown, "--key", &other.display().to_string()]);
    assert!(!good && text.contains("a recovery key is written as"), "{text}");
    let text = recover(&["--from-devices", "--data", &shown]);
    assert!(text.contains("restored the metadata up to entry"), "{text}");
    let (good, text) = holdfast(&["recover", "--from-devices", "--data", &shown]);
    assert!(!good && text.contains("there is metadata already"), "{text}");

    let server = Server::start(&data, &[]);
    let client = server.client();
    check_all(&client, 0..3);
    check_all(&client, 4..12);
    assert_eq!(client.request("GET", "/kept/3", &[], b"").status, 404);
    put_all(&client, 12..16);
    check_all(&client, 12..16);
    // What has come back archives itself again, and is recovered again.
    until_archived(&server);
    server.kill();
    wipe(&data.join("meta"));
    recover(&["--from-devices", "--data", &shown]);
    let server = Server::start(&data, &[]);
    check_all(&server.client(), 4..16);
}

/// The metadata that is recovered is older than the devices: chunks have moved to packs that it does not know, and the packs
/// that it names are deleted.
#[test]
fn what_compaction_moved_after_the_archives_end_is_found_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("d");
    let shown = data.display().to_string();
    let server = Server::start(&data, &["--gc-grace", "1s"]);
    let client = server.client();
    client.create_bucket("kept");
    // Small objects that arrive together share packs.
    let writers: Vec<_> = (0..8u64)
        .map(|writer| {
            let client = server.client();
            std::thread::spawn(move || {
                for number in 0..40 {
                    let seed = writer * 100 + number;
                    client.put(&format!("/kept/{seed}"), &noise(seed, 30_000));
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
    until_archived(&server);
    server.kill();
    // The archive as it is now.
    let saved = dir.path().join("roots");
    std::fs::create_dir(&saved).expect("a directory");
    for device in 0..6 {
        let root = data.join(format!("devices/dev-{device}/root"));
        std::fs::copy(root, saved.join(device.to_string())).expect("a copy");
    }
    // From here on nothing is archived: another key seals what is written.
    let server = Server::start(&data, &["--gc-grace", "1s"]);
    let client = server.client();
    let (kept, gone): (Vec<u64>, Vec<u64>) = (0..8)
        .flat_map(|writer| (0..40).map(move |number| writer * 100 + number))
        .partition(|seed| seed % 8 == 0);
    for seed in &gone {
        client.delete(&format!("/kept/{seed}"));
    }
    eventually("packs are compacted and deleted", || server.metric("holdfast_compacted_packs_total") >= 3.0);
    server.kill();
    wipe(&data.join("meta"));
    for device in 0..6 {
        let root = data.join(format!("devices/dev-{device}/root"));
        std::fs::copy(saved.join(device.to_string()), root).expect("a copy");
    }
    let text = recover(&["--from-devices", "--data", &shown]);
    let server = Server::start(&data, &[]);
    let client = server.client();
    for seed in kept {
        let found = client.request("GET", &format!("/kept/{seed}"), &[], b"");
        assert_eq!((found.status, found.body == noise(seed, 30_000)), (200, true), "object {seed}: {text}");
    }
}

fn until_cluster_archived(cluster: &Cluster) {
    let now = now_ms();
    cluster.until("archived metadata", |status| status["archived_until_ms"].as_u64() > Some(now));
}

fn address(cluster: &Cluster, node: &str) -> String {
    let text = std::fs::read_to_string(cluster.dir(node).join("config.toml")).expect("a configuration");
    let line = text.lines().find_map(|line| line.strip_prefix("listen = \"")).expect("an address");
    line.trim_end_matches('"').to_owned()
}

#[test]
fn a_cluster_whose_members_are_all_wiped_comes_back_from_its_devices() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cluster = Cluster::up(&dir.path().join("c"), &[]);
    cluster.client(0).create_bucket("kept");
    put_all(&cluster.client(0), 0..12);
    until_cluster_archived(&cluster);
    for member in ["meta-1", "meta-2", "meta-3"] {
        cluster.script("kill", &[member]);
        wipe(&cluster.dir(member).join("data"));
    }
    // One storage node is down, one has just been started and knows no metadata.
    cluster.script("kill", &["storage-2"]);
    cluster.script("kill", &["storage-5"]);
    cluster.script("start", &["storage-5", "--no-wait"]);
    common::eventually("a storage node listens", || {
        std::net::TcpStream::connect(address(&cluster, "storage-5")).is_ok()
    });
    let config = cluster.dir("meta-1").join("config.toml").display().to_string();
    let operator = cluster.operator().display().to_string();
    let (first, last) = (address(&cluster, "storage-1"), address(&cluster, "storage-5"));
    let text = recover(&[
        "--from-devices",
        "--config",
        &config,
        "--operator",
        &operator,
        "--storage",
        &first,
        "--storage",
        &last,
    ]);
    assert!(text.contains("recovered as host"), "{text}");
    cluster.script("start", &["meta-1"]);
    cluster.script("start", &["storage-2"]);
    cluster.until("the recovered member leads", |status| {
        status["voters"].as_array().is_some_and(|all| all.len() == 1)
    });
    cluster.until_healthy();
    check_all(&cluster.client(0), 0..12);
    put_all(&cluster.client(1), 12..15);
    check_all(&cluster.client(0), 12..15);
    until_cluster_archived(&cluster);
}

#[test]
fn one_member_that_is_left_goes_on_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cluster = Cluster::up(&dir.path().join("c"), &[]);
    cluster.client(0).create_bucket("kept");
    put_all(&cluster.client(0), 0..9);
    for member in ["meta-1", "meta-2", "meta-3"] {
        cluster.script("kill", &[member]);
    }
    for member in ["meta-1", "meta-3"] {
        wipe(&cluster.dir(member).join("data"));
    }
    let config = cluster.dir("meta-2").join("config.toml").display().to_string();
    let text = recover(&["--force-survivor", "--config", &config]);
    assert!(text.contains("meta-2 goes on alone, without meta-1, meta-3"), "{text}");
    cluster.script("start", &["meta-2"]);
    cluster.until_healthy();
    check_all(&cluster.client(1), 0..9);
    put_all(&cluster.client(0), 9..12);
    check_all(&cluster.client(1), 9..12);
    let status = cluster.status();
    assert_eq!(status["voters"].as_array().map(Vec::len), Some(1), "{status}");
}
