//! Many processes: what becomes of acknowledged objects while hosts die, disks are wiped, and devices come and go.

mod common;

use common::{client::Response, cluster::Cluster, noise};
use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

/// Clients that write and read while a test does its worst.
struct Load {
    acknowledged: Arc<Mutex<BTreeMap<String, u64>>>,
    refused: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

fn body(seed: u64) -> Vec<u8> {
    // From inline to several chunks.
    let len = [700, 20_000, 300_000, 1_500_000][seed as usize % 4];
    noise(seed, len)
}

impl Load {
    fn start(cluster: &Cluster, writers: u64) -> Self {
        let mut load = Self {
            acknowledged: Arc::default(),
            refused: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for writer in 0..writers {
            let client = cluster.client(writer as usize);
            let (acknowledged, refused, stop) =
                (load.acknowledged.clone(), load.refused.clone(), load.stop.clone());
            load.threads.push(std::thread::spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let seed = writer * 1_000_000 + number;
                    let key = format!("/load/{writer}/{number}");
                    match client.try_request("PUT", &key, &[], &[], &body(seed)) {
                        Ok(Response { status: 200, .. }) => {
                            acknowledged.lock().expect("no thread panics").insert(key, seed);
                        }
                        // Too few devices, or no leader yet: said, and nothing is promised.
                        Ok(Response { status: 503, .. }) => {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(other) => return Err(format!("{key}: {} {}", other.status, other.text())),
                        Err(error) => return Err(format!("{key}: {error}")),
                    }
                    let random = {
                        let all = acknowledged.lock().expect("no thread panics");
                        all.iter()
                            .nth(seed as usize * 7919 % all.len().max(1))
                            .map(|(key, seed)| (key.clone(), *seed))
                    };
                    if let Some((key, seed)) = random {
                        check(&client, &key, seed)?;
                    }
                }
                Ok(())
            }));
        }
        load
    }

    /// Goes on until so many more objects are acknowledged.
    fn more(&self, count: usize) {
        let before = self.acknowledged.lock().expect("no thread panics").len();
        common::eventually("writes go on", || {
            self.acknowledged.lock().expect("no thread panics").len() >= before + count
        });
    }

    /// Stops, and reads every object that was ever acknowledged back.
    fn finish(self, cluster: &Cluster) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            if let Err(error) = thread.join().expect("a client does not panic") {
                panic!("{error}\n{}", cluster.logs());
            }
        }
        let all = self.acknowledged.lock().expect("no thread panics");
        for (number, (key, seed)) in all.iter().enumerate() {
            if let Err(error) = check(&cluster.client(number), key, *seed) {
                panic!("{error}\n{}", cluster.logs());
            }
        }
        all.len()
    }
}

/// Reads must succeed, whatever happens.
fn check(client: &common::Client, key: &str, seed: u64) -> Result<(), String> {
    let response =
        client.try_request("GET", key, &[], &[], b"").map_err(|error| format!("{key}: {error}"))?;
    match response.status {
        200 if response.body == body(seed) => Ok(()),
        200 => Err(format!("{key} has other bytes than were written")),
        status => Err(format!("{key}: {status} {}", response.text())),
    }
}

fn devices(status: &serde_json::Value) -> &[serde_json::Value] {
    status["devices"].as_array().map_or(&[], Vec::as_slice)
}

/// The device of a host, as the status shows it.
fn device<'a>(status: &'a serde_json::Value, host: &str) -> Option<&'a serde_json::Value> {
    devices(status).iter().find(|device| device["host"] == host)
}

fn device_of(cluster: &Cluster, host: &str) -> String {
    device(&cluster.status(), host).expect("the host has a device")["device"].to_string()
}

#[test]
fn nothing_acknowledged_is_lost_while_hosts_die_and_devices_come_and_go() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = ["--out-after", "1h", "--gc-grace", "20s"];
    let mut cluster = Cluster::up(&dir.path().join("cluster"), &options);
    cluster.client(0).create_bucket("load");
    let load = Load::start(&cluster, 3);
    load.more(50);

    // Any metadata member, and the leader above all.
    let leads = cluster.leader();
    cluster.script("kill", &[&leads]);
    load.more(50);
    cluster.until("another leader", |status| status["members_down"] == 1);
    cluster.script("start", &[&leads]);
    cluster.until_healthy();

    // Any two storage nodes: reads go on; writes are refused below the quorum, and go on when one is back.
    for node in ["storage-1", "storage-5"] {
        cluster.script("kill", &[node]);
    }
    let refused = load.refused.load(Ordering::Relaxed);
    common::eventually("writes are refused below the quorum", || {
        load.refused.load(Ordering::Relaxed) > refused
    });
    cluster.until("the truth", |status| status["groups"]["at_risk"].as_u64() > Some(0));
    for node in ["storage-1", "storage-5"] {
        cluster.script("start", &[node]);
    }
    load.more(50);
    cluster.until_healthy();

    // A wiped disk is taken back only by an operator's word, and is filled again.
    let second = device_of(&cluster, "storage-2");
    cluster.script("wipe", &["storage-2"]);
    cluster.script("start", &["storage-2"]);
    load.more(20);
    cluster.until("a missing device", |status| status["healthy"] == false);
    cluster.order(&["device", "replace", &second]);
    cluster.until_healthy();

    // A seventh node takes its share, and the first gives all of its.
    assert_eq!(cluster.script("add-storage", &[]).trim(), "storage-7");
    let first = device_of(&cluster, "storage-1");
    cluster.until("the new device's share", |status| {
        device(status, "storage-7").is_some_and(|device| device["groups"].as_u64() > Some(10))
            && status["groups"]["moving"] == 0
    });
    assert!(cluster.refused(&["device", "remove", &first]).contains("drain it first"));
    cluster.order(&["node", "drain", "storage-1"]);
    cluster.until("an empty device", |status| {
        device(status, "storage-1").is_some_and(|device| device["groups"] == 0 && device["leaving"] == 0)
    });
    cluster.order(&["node", "remove", "storage-1"]);
    cluster.script("kill", &["storage-1"]);
    load.more(50);
    cluster.until_healthy();

    // A rolling restart of everything is not noticed, but for what is tried again.
    let acknowledged = load.finish(&cluster);
    cluster.script("down", &[]);
    std::fs::remove_dir_all(cluster.dir("storage-1")).expect("the removed node is gone");
    cluster.restart(&[]);
    cluster.until_healthy();
    let keys = cluster.client(1).list("load", "");
    assert_eq!(
        keys.len(),
        acknowledged,
        "a listing shows what was acknowledged, and what was refused left nothing"
    );
}

#[test]
fn a_device_that_stays_away_is_given_up_and_its_shards_are_made_anew() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = [
        "--meta",
        "1",
        "--storage",
        "7",
        "--gateways",
        "1",
        "--profile",
        "4+2",
        "--domain",
        "node",
        "--out-after",
        "3s",
    ];
    let cluster = Cluster::up(&dir.path().join("cluster"), &options);
    cluster.client(0).create_bucket("load");
    let load = Load::start(&cluster, 2);
    load.more(100);
    cluster.script("kill", &["storage-3"]);
    cluster.until("a device that is out", |status| {
        devices(status).iter().any(|device| device["duty"] == "out" && device["groups"] == 0)
    });
    // Whole again without it: two more may be lost.
    cluster.until("health without it", |status| {
        status["groups"]["clean"].as_u64() > Some(0) && status["healthy"] == true
    });
    for node in ["storage-1", "storage-2"] {
        cluster.script("kill", &[node]);
    }
    load.more(0);
    for node in ["storage-1", "storage-2", "storage-3"] {
        cluster.script("start", &[node]);
    }
    load.more(20);
    cluster.until("all devices in service", |status| {
        status["healthy"] == true
            && devices(status)
                .iter()
                .all(|device| device["duty"] == "serving" && device["groups"].as_u64() > Some(0))
    });
    load.finish(&cluster);
}

#[test]
fn the_loss_of_a_rack_of_three_costs_no_read_and_no_acknowledged_write() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options =
        ["--meta", "1", "--gateways", "1", "--profile", "4+2", "--domain", "rack", "--out-after", "1h"];
    let cluster = Cluster::up(&dir.path().join("cluster"), &options);
    cluster.client(0).create_bucket("load");
    let load = Load::start(&cluster, 2);
    load.more(60);
    for node in ["storage-1", "storage-4"] {
        cluster.script("kill", &[node]);
    }
    // Four devices are left, and a write needs five.
    let refused = load.refused.load(Ordering::Relaxed);
    common::eventually("writes are refused", || load.refused.load(Ordering::Relaxed) > refused + 20);
    for node in ["storage-1", "storage-4"] {
        cluster.script("start", &[node]);
    }
    load.more(30);
    cluster.until_healthy();
    load.finish(&cluster);
}

#[test]
fn with_four_racks_the_loss_of_one_stops_no_write_and_is_made_good_without_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = [
        "--meta",
        "1",
        "--storage",
        "8",
        "--racks",
        "4",
        "--gateways",
        "1",
        "--profile",
        "4+2",
        "--domain",
        "rack",
        "--out-after",
        "4s",
    ];
    let cluster = Cluster::up(&dir.path().join("cluster"), &options);
    cluster.client(0).create_bucket("load");
    let load = Load::start(&cluster, 2);
    load.more(60);
    for node in ["storage-1", "storage-5"] {
        cluster.script("kill", &[node]);
    }
    load.more(60);
    cluster.until("redundancy without the rack", |status| {
        let out =
            devices(status).iter().filter(|device| device["duty"] == "out" && device["groups"] == 0).count();
        out == 2 && status["degraded_packs"] == 0 && status["groups"]["moving"] == 0
    });
    assert_eq!(load.refused.load(Ordering::Relaxed), 0, "writes went on throughout");
    load.finish(&cluster);
}

fn holdfast(args: &[&str], dir: &Path, token: &str) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    let output =
        command.args(args).current_dir(dir).env("HOLDFAST_JOIN_TOKEN", token).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), text)
}

#[test]
fn only_hosts_with_a_good_token_join_and_revoked_ones_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options =
        ["--meta", "1", "--storage", "3", "--gateways", "1", "--profile", "1+1", "--domain", "node"];
    let cluster = Cluster::up(&dir.path().join("cluster"), &options);
    cluster.client(0).create_bucket("box");
    cluster.client(0).put("/box/x", b"x");
    let config = |name: &str, role: &str| {
        let text = format!(
            "data = \"{name}\"\nname = \"{name}\"\nroles = [\"{role}\"]\nplace = \"a/b/c\"\nlisten = \"127.0.0.1:0\"\n\
             advertise = \"127.0.0.1:1\"\nmetrics = \"127.0.0.1:0\"\ns3 = \"127.0.0.1:0\"\n"
        );
        std::fs::write(dir.path().join(format!("{name}.toml")), text).expect("a file");
    };
    let seed = std::fs::read_to_string(cluster.dir("meta-1").join("config.toml")).expect("a file");
    let seed = seed
        .lines()
        .find_map(|line| line.strip_prefix("listen = "))
        .expect("an address")
        .trim_matches('"')
        .to_owned();
    let join = |name: &str, token: &str| {
        holdfast(&["server", "--config", &format!("{name}.toml"), "--join", &seed], dir.path(), token)
    };
    config("thief", "gateway");
    // Another role than the token's, a secret that was never made, another cluster's authority, no token at all.
    let token = cluster.order(&["cluster", "token", "create", "--role", "storage"]);
    let (good, text) = join("thief", &token);
    assert!(!good && text.contains("does not allow these roles"), "{text}");
    let mut forged = token.trim().to_owned();
    forged.replace_range(forged.len() - 4.., "0000");
    let (good, text) = join("thief", &forged);
    assert!(!good && text.contains("the token is not known"), "{text}");
    let foreign = format!("hf1.{}.{}", "0".repeat(64), "1".repeat(64));
    let (good, text) = join("thief", &foreign);
    assert!(!good && text.contains("another cluster"), "{text}");
    let (good, text) = holdfast(&["server", "--config", "thief.toml"], dir.path(), "");
    assert!(!good && text.contains("belongs to no cluster"), "{text}");
    let expired = cluster.order(&["cluster", "token", "create", "--role", "gateway", "--ttl", "0s"]);
    let (good, text) = join("thief", &expired);
    assert!(!good && text.contains("expired"), "{text}");
    // Secrets are in no log and in no file that others can read.
    let log = std::fs::read_to_string(cluster.dir("meta-1").join("log")).expect("a log");
    assert!(!log.contains(token.trim()));
    let identity = std::fs::metadata(cluster.dir("meta-1").join("data/identity.toml")).expect("a file");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&identity.permissions()) & 0o077, 0);
    // A gateway that was revoked can do nothing any more, though it runs and has its certificate.
    assert_eq!(cluster.client(0).get("/box/x"), b"x");
    cluster.order(&["node", "remove", "gateway-1"]);
    common::eventually("the revoked gateway is refused", || {
        cluster.client(0).request("GET", "/box/x", &[], b"").status >= 500
    });
    assert!(cluster.client(0).request("PUT", "/box/y", &[], b"y").status >= 500);
}

/// A leader that was stopped, and goes on after another has led, must not answer from what it remembers.
#[test]
fn a_leader_that_was_paused_serves_no_stale_read() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cluster =
        Cluster::up(&dir.path().join("cluster"), &["--storage", "3", "--profile", "2+1", "--domain", "node"]);
    cluster.client(0).create_bucket("box");
    for round in 0..3 {
        cluster.client(0).put("/box/x", format!("old {round}").as_bytes());
        let paused = cluster.leader();
        let signal = |signal: &str| {
            let pid = cluster.pid(&paused);
            assert!(Command::new("kill").args([signal, &pid]).status().expect("kill runs").success());
        };
        signal("-STOP");
        let fresh = format!("new {round}");
        // Refused until another leads.
        common::eventually("another member leads", || {
            let put = cluster.client(1).try_request("PUT", "/box/x", &[], &[], fresh.as_bytes());
            put.is_ok_and(|answer| answer.status == 200)
        });
        signal("-CONT");
        for number in 0..40 {
            assert_eq!(
                cluster.client(number).get("/box/x"),
                fresh.as_bytes(),
                "read {number} of round {round}"
            );
        }
        cluster.until_healthy();
    }
}
