//! What operators order besides devices coming and going: jobs, scrubs, disks, members, and the HTTP API.

mod common;

use common::{cluster::Cluster, eventually, noise};
use serde_json::Value;
use std::process::Command;

/// The admin API of a member, as curl sees it: status and body.
fn curl(
    cluster: &Cluster,
    token: Option<&str>,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> (u16, Value) {
    let config = std::fs::read_to_string(cluster.dir("meta-1").join("config.toml")).expect("a configuration");
    let address = config.lines().find_map(|line| line.strip_prefix("admin = \"")).expect("an address");
    let mut command = Command::new("curl");
    command.args(["-sS", "-X", method, "-w", "\n%{http_code}", "--cacert"]);
    command.arg(cluster.operator().join("ca.pem"));
    command.args(["--connect-to", &format!("meta.role.holdfast:443:{}", address.trim_end_matches('"'))]);
    if let Some(token) = token {
        command.args(["-H", &format!("Authorization: Bearer {token}")]);
    }
    if let Some(body) = body {
        command.args(["-H", "Content-Type: application/json", "-d", body]);
    }
    let output = command.arg(format!("https://meta.role.holdfast{path}")).output().expect("curl runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{output:?}"));
    (status.parse().unwrap_or(0), serde_json::from_str(body).unwrap_or(Value::Null))
}

fn json(cluster: &Cluster, args: &[&str]) -> Value {
    serde_json::from_str(&cluster.order(&[args, &["--json"]].concat())).expect("JSON")
}

fn job(cluster: &Cluster, name: &str) -> Value {
    let jobs = json(cluster, &["job", "list"]);
    let found = jobs.as_array().and_then(|jobs| jobs.iter().find(|job| job["job"] == name).cloned());
    found.unwrap_or_else(|| panic!("no {name} in {jobs}"))
}

#[test]
fn programs_see_and_order_over_https_with_tokens() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cluster = Cluster::up(
        &dir.path().join("c"),
        &["--meta", "1", "--storage", "3", "--gateways", "1", "--profile", "2+1"],
    );
    let token = cluster.order(&["admin", "create", "a robot"]).trim().to_owned();
    let looker = cluster.order(&["admin", "create", "a dashboard", "--read-only"]).trim().to_owned();

    let (status, api) = curl(&cluster, None, "GET", "/v1/openapi.json", None);
    assert_eq!((status, api["paths"]["/v1/status"]["get"].is_object()), (200, true), "{api}");
    for wrong in [None, Some("hfa1.00"), Some("")] {
        assert_eq!(curl(&cluster, wrong, "GET", "/v1/status", None).0, 401, "{wrong:?}");
        assert_eq!(curl(&cluster, wrong, "POST", "/v1/jobs/scrub/pause", None).0, 401, "{wrong:?}");
    }
    let (status, health) = curl(&cluster, Some(&looker), "GET", "/v1/status", None);
    assert_eq!((status, health["profile"].as_str()), (200, Some("2+1")), "{health}");
    let (status, refused) = curl(&cluster, Some(&looker), "POST", "/v1/jobs/rebuild/pause", None);
    assert_eq!(status, 403, "{refused}");
    for path in [
        "/v1/devices",
        "/v1/nodes",
        "/v1/pools",
        "/v1/groups",
        "/v1/groups/0",
        "/v1/jobs",
        "/v1/members",
        "/v1/plan",
    ] {
        let (status, body) = curl(&cluster, Some(&looker), "GET", path, None);
        assert_eq!((status, body.is_null()), (200, false), "{path}: {body}");
    }

    let (status, said) = curl(&cluster, Some(&token), "POST", "/v1/jobs/rebuild/pause", None);
    assert_eq!((status, said["message"].as_str()), (200, Some("rebuild is paused")));
    assert_eq!(job(&cluster, "rebuild")["state"], "paused");
    assert_eq!(curl(&cluster, Some(&token), "POST", "/v1/jobs/nonsense/pause", None).0, 404);
    let device = health["devices"][0]["device"].as_u64().expect("a device");
    let path = format!("/v1/devices/{device}");
    let (status, said) = curl(&cluster, Some(&token), "PATCH", &path, Some("{\"duty\":\"removed\"}"));
    assert_eq!(status, 409, "{said}");
    assert!(said["error"].as_str().is_some_and(|text| text.contains("drain it first")), "{said}");
    let (status, _) = curl(&cluster, Some(&token), "PATCH", &path, Some("{\"colour\":\"red\"}"));
    assert_eq!(status, 422);
    let (status, said) = curl(&cluster, Some(&token), "PATCH", &path, Some("{\"weight\":77}"));
    assert_eq!(status, 200, "{said}");
    let devices = json(&cluster, &["device", "list"]);
    assert_eq!(devices[0]["weight"], 77, "{devices}");

    let (status, said) = curl(&cluster, Some(&token), "POST", "/v1/members/meta-1/lead", None);
    assert_eq!(status, 200, "{said}");
    let tokens = json(&cluster, &["admin", "list"]);
    let robot = tokens.as_array().and_then(|all| all.iter().find(|token| token["name"] == "a robot"));
    let id = robot.and_then(|token| token["id"].as_str()).expect("an id");
    cluster.order(&["admin", "revoke", id]);
    assert_eq!(curl(&cluster, Some(&token), "GET", "/v1/status", None).0, 401);
    assert_eq!(curl(&cluster, Some(&looker), "GET", "/v1/status", None).0, 200);
}

#[test]
fn jobs_pause_a_scrub_finds_damage_and_disks_and_members_come_and_go() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cluster = Cluster::up(&dir.path().join("c"), &["--storage", "6", "--gateways", "1"]);
    let client = cluster.client(0);
    client.create_bucket("kept");
    for seed in 0..12 {
        client.put(&format!("/kept/{seed}"), &noise(seed, 400_000));
    }

    // A bit of one shard rots. Nobody reads it, and the scrub that is asked for finds it.
    cluster.order(&["job", "pause", "rebuild"]);
    let disk = cluster.dir("storage-3").join("disk-1/segments");
    let segment =
        common::files(&disk).into_iter().max_by_key(|file| common::disk_usage_of(file)).expect("a segment");
    let mut bytes = std::fs::read(&segment).expect("a segment");
    let at = 4096 + 100;
    bytes[at] ^= 1;
    std::fs::write(&segment, &bytes).expect("a write");
    cluster.order(&["scrub", "start"]);
    cluster.until("the damage is found", |status| status["degraded_packs"].as_u64() >= Some(1));
    assert_eq!(job(&cluster, "rebuild")["state"], "paused");
    let status = cluster.status();
    assert!(status["problems"].to_string().contains("packs lack shards"), "{status}");
    cluster.order(&["job", "resume", "rebuild"]);
    cluster.until_healthy();

    let group = json(&cluster, &["pg", "show", "0"]);
    assert_eq!(group["shards"].as_array().map(Vec::len), Some(6), "{group}");
    assert!(cluster.refused(&["pg", "show", "9999"]).contains("no placement group"));

    // A disk is added to a node that runs, and stays after a restart.
    let fresh = dir.path().join("another-disk");
    std::fs::create_dir(&fresh).expect("a directory");
    let fresh = fresh.display().to_string();
    let said = cluster.order(&["device", "add", "storage-2", &fresh]);
    assert!(said.contains("is device"), "{said}");
    assert!(cluster.refused(&["device", "add", "storage-2", &fresh]).contains("already"));
    assert!(cluster.refused(&["device", "add", "storage-2", "not/absolute"]).contains("whole path"));
    cluster.until("seven devices share the groups", |status| {
        let devices = status["devices"].as_array().cloned().unwrap_or_default();
        devices.len() == 7 && devices.iter().all(|device| device["groups"].as_u64() > Some(0))
    });
    cluster.until_healthy();
    cluster.script("kill", &["storage-2"]);
    cluster.script("start", &["storage-2"]);
    cluster.until_healthy();
    assert_eq!(cluster.status()["devices"].as_array().map(Vec::len), Some(7));

    // A member goes, and a new one comes.
    let text = cluster.order(&["meta", "add"]);
    assert!(text.contains("--token hf1."), "{text}");
    cluster.order(&["meta", "remove", "meta-3"]);
    cluster.until("two members", |status| status["voters"].as_array().map(Vec::len) == Some(2));
    eventually("objects are read", || client.get("/kept/3") == noise(3, 400_000));
    for seed in 0..12 {
        assert_eq!(client.get(&format!("/kept/{seed}")), noise(seed, 400_000));
    }
}
