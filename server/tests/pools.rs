//! Pools of storage classes: where objects are written, and how rules move them.

mod common;

use common::{Client, Server, client::Response, cluster::Cluster, eventually, noise, suites::order};
use std::{io::Read, path::Path};

/// 2+1 for all, and five devices of which any three may be lost for GLACIER.
const POOLS: [&str; 6] = ["--ec", "2+1", "--pool", "GLACIER=2+3", "--lifecycle-day", "1"];

fn put(client: &Client, path: &str, class: &str, body: &[u8]) {
    let answer = client.with_headers("PUT", path, &[("x-amz-storage-class", class)], body);
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
}

fn rules(client: &Client, bucket: &str, rules: &str) -> Response {
    let xml = format!("<LifecycleConfiguration>{rules}</LifecycleConfiguration>");
    client.request("PUT", &format!("/{bucket}"), &[("lifecycle", "")], xml.as_bytes())
}

fn to_glacier(client: &Client, bucket: &str) {
    let rule = "<Rule><ID>cold</ID><Status>Enabled</Status><Filter><Prefix></Prefix></Filter>\
                <Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition>\
                <NoncurrentVersionTransition><NoncurrentDays>1</NoncurrentDays><StorageClass>GLACIER</StorageClass>\
                </NoncurrentVersionTransition></Rule>";
    let answer = rules(client, bucket, rule);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The storage classes of all versions, as a listing shows them.
fn classes(client: &Client, bucket: &str) -> Vec<String> {
    client.request("GET", &format!("/{bucket}"), &[("versions", "")], b"").elements("StorageClass")
}

fn class(client: &Client, path: &str) -> Option<String> {
    let answer = client.request("HEAD", path, &[], b"");
    assert_eq!(answer.status, 200, "{path}");
    answer.headers.get("x-amz-storage-class").cloned()
}

/// Loses what is on these devices, as if their disks were gone.
fn lose(data: &Path, devices: std::ops::Range<usize>) {
    for device in devices {
        let dir = data.join(format!("devices/dev-{device}"));
        std::fs::rename(&dir, dir.with_extension("gone")).expect("a device is there");
    }
}

#[test]
fn a_classs_objects_survive_what_its_pool_promises_and_others_do_not() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let server = Server::start(&data, &POOLS);
    let client = server.client();
    client.create_bucket("box");
    for at in 0..20 {
        let body = noise(at, 200_000);
        put(&client, &format!("/box/cold/{at}"), "GLACIER", &body);
        // Of the same bytes, and yet another pool's.
        client.put(&format!("/box/warm/{at}"), &body);
    }
    // A class without a pool of its own is with all the others.
    put(&client, "/box/plain", "STANDARD_IA", &noise(99, 200_000));
    assert_eq!(class(&client, "/box/cold/0").as_deref(), Some("GLACIER"));
    assert_eq!(class(&client, "/box/warm/0"), None);
    server.kill();
    lose(&data, 0..3);
    let server = Server::start(&data, &POOLS);
    let client = server.client();
    for at in 0..20 {
        assert!(client.get(&format!("/box/cold/{at}")) == noise(at, 200_000), "{at}");
    }
    let lost = |at: &u64| {
        let answer = client.try_request("GET", &format!("/box/warm/{at}"), &[], &[], b"");
        answer.is_err() || answer.is_ok_and(|answer| answer.status >= 500)
    };
    assert!((0..20).any(|at| lost(&at)), "2+1 does not survive the loss of three devices");
    // A pool is what it was made as.
    server.kill();
    let mut other = common::command(&data, &["--ec", "2+1", "--pool", "GLACIER=2+2"]);
    let refused = other.output().expect("the process ends");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("made with the erasure profile 2+3"), "{said}");
}

#[test]
fn rules_move_every_kind_of_object_and_it_is_the_same_afterwards() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let server = Server::start(&data, &[&POOLS[..], &["--gc-grace", "2s"]].concat());
    let client = server.client();
    order(&["--data", &data.display().to_string()], &["kms", "key", "create", "ledger"]);
    client.create_bucket("box");
    let on = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    assert_eq!(client.request("PUT", "/box", &[("versioning", "")], on).status, 200);

    let large = noise(1, 9 << 20);
    client.put("/box/twice", &noise(2, 300_000));
    client.put("/box/twice", &noise(3, 300_000));
    client.put("/box/tiny", b"in the metadata");
    client.put("/box/empty", b"");
    let sealed = [
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-aws-kms-key-id", "ledger"),
    ];
    assert_eq!(client.with_headers("PUT", "/box/sealed", &sealed, &large).status, 200);
    let begun = client.request("POST", "/box/parts", &[("uploads", "")], b"");
    let id = begun.elements("UploadId").remove(0);
    let mut list = String::new();
    for (number, part) in [("1", &large[..5 << 20]), ("2", &large[5 << 20..])] {
        let sent = client.request("PUT", "/box/parts", &[("partNumber", number), ("uploadId", &id)], part);
        list +=
            &format!("<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>", sent.headers["etag"]);
    }
    let list = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
    assert_eq!(client.request("POST", "/box/parts", &[("uploadId", &id)], list.as_bytes()).status, 200);
    client.put("/box/gone", &noise(4, 300_000));
    client.delete("/box/gone");

    let page = || client.request("GET", "/box", &[("versions", "")], b"");
    let told = |page: &Response| {
        ["Key", "VersionId", "ETag", "LastModified", "Size"].map(|name| page.elements(name))
    };
    let before = told(&page());
    to_glacier(&client, "box");
    eventually("all versions are moved", || classes(&client, "box").iter().all(|class| class == "GLACIER"));
    assert_eq!(told(&page()), before, "nothing but the class has changed");
    let listed = client.request("GET", "/box", &[("list-type", "2")], b"").elements("StorageClass");
    assert_eq!(listed, ["GLACIER"; 5]);
    assert_eq!(class(&client, "/box/tiny").as_deref(), Some("GLACIER"));

    server.kill();
    // What the first pool can no longer give is not needed.
    lose(&data, 0..3);
    let server = Server::start(&data, &POOLS);
    let client = server.client();
    assert!(client.get("/box/sealed") == large);
    assert!(client.get("/box/parts") == large);
    let second = client.request("GET", "/box/parts", &[("partNumber", "2")], b"");
    assert!(second.status == 206 && second.body == large[5 << 20..]);
    assert!(client.get("/box/twice") == noise(3, 300_000));
    assert_eq!(client.get("/box/tiny"), b"in the metadata");
    let names = before[0].iter().zip(&before[1]);
    for (key, version) in names.filter(|(key, _)| ["twice", "gone"].contains(&key.as_str())) {
        let found = client.request("GET", &format!("/box/{key}"), &[("versionId", version)], b"");
        assert!([200, 405].contains(&found.status), "{key} {version}: {}", found.text());
    }
}

#[test]
fn what_is_moved_gives_its_room_back_and_copies_go_where_they_are_told() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&dir.path().join("data"), &[&POOLS[..], &["--gc-grace", "1s"]].concat());
    let client = server.client();
    client.create_bucket("box");
    let body = noise(7, 6 << 20);
    client.put("/box/a", &body);
    let copy = |to: &str, class: &str| {
        let headers = [("x-amz-copy-source", "/box/a"), ("x-amz-storage-class", class)];
        let answer = client.with_headers("PUT", to, &headers, b"");
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let stored = || server.metric("holdfast_pack_stored_bytes_total");
    let first = stored();
    copy("/box/b", "STANDARD_IA");
    assert_eq!(stored(), first, "a copy within a pool moves nothing");
    copy("/box/c", "GLACIER");
    assert!(stored() - first > 5e6, "a copy to another pool is written there");
    assert!(client.get("/box/c") == body);
    to_glacier(&client, "box");
    eventually("all are moved", || classes(&client, "box") == ["GLACIER"; 3]);
    assert!(stored() - first < 12e6, "what the pool has is not written again");
    eventually("the first pool's packs go", || server.metric("holdfast_deleted_packs_total") > 0.0);
    for key in ["a", "b", "c"] {
        assert!(client.get(&format!("/box/{key}")) == body, "{key}");
    }
    for wrong in [
        "<Transition><Days>1</Days><StorageClass>STANDARD</StorageClass></Transition>",
        "<Transition><Days>-1</Days><StorageClass>GLACIER</StorageClass></Transition>",
        "<Transition><StorageClass>GLACIER</StorageClass></Transition>",
        "<Expiration><Days>1</Days></Expiration><Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition>",
    ] {
        let rule = format!("<Rule><ID>a</ID><Status>Enabled</Status><Filter></Filter>{wrong}</Rule>");
        assert_eq!(rules(&client, "box", &rule).status, 400, "{wrong}");
    }
}

#[test]
fn a_slow_reader_goes_on_over_a_move() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&dir.path().join("data"), &[&POOLS[..], &["--gc-grace", "1s"]].concat());
    let client = server.client();
    client.create_bucket("box");
    let body = noise(8, 48 << 20);
    client.put("/box/a", &body);
    let mut reader = client.open("/box/a").expect("the server is there");
    let mut first = [0; 1];
    reader.read_exact(&mut first).expect("it answers");
    to_glacier(&client, "box");
    eventually("it is moved", || classes(&client, "box") == ["GLACIER"]);
    // 48 MiB are twelve packs and more, of which the connection holds a few.
    eventually("the first pool's packs go", || server.metric("holdfast_deleted_packs_total") >= 10.0);
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).expect("it goes on");
    let got = rest.len().checked_sub(body.len()).map(|head| &rest[head..]);
    assert!(got == Some(&body), "{} bytes of {}", rest.len(), body.len());
}

#[test]
fn a_cluster_keeps_classes_on_devices_of_their_own() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = ["--meta", "1", "--storage", "6", "--gateways", "1", "--racks", "6", "--profile", "2+1"];
    let cluster = Cluster::up(&dir.path().join("c"), &[&options[..], &["--lifecycle-day", "1"]].concat());
    let devices: Vec<String> = cluster.status()["devices"]
        .as_array()
        .expect("devices")
        .iter()
        .map(|device| device["device"].to_string())
        .collect();
    for device in &devices[..3] {
        cluster.order(&["device", "class", device, "hdd"]);
    }
    let order = ["pool", "create", "--class", "GLACIER", "--on", "hdd", "--profile", "2+1"];
    assert!(cluster.order(&order).contains("for the storage class GLACIER"));
    assert!(cluster.refused(&order).contains("exists"));
    assert!(cluster.refused(&["pool", "create"]).contains("--class"));
    assert!(cluster.refused(&["pool", "create", "--class", "STANDARD"]).contains("STANDARD_IA"));
    let pools: serde_json::Value =
        serde_json::from_str(&cluster.order(&["pool", "list", "--json"])).expect("JSON");
    assert_eq!((&pools[1]["class"], &pools[1]["devices"]), (&"GLACIER".into(), &3.into()), "{pools}");
    cluster.until_healthy();

    let client = cluster.client(0);
    client.create_bucket("box");
    for at in 0..10 {
        client.put(&format!("/box/{at}"), &noise(at, 150_000));
    }
    eventually("the gateway knows of the pool", || {
        put(&client, "/box/cold", "GLACIER", &noise(50, 150_000));
        class(&client, "/box/cold").as_deref() == Some("GLACIER")
    });
    to_glacier(&client, "box");
    eventually("all are moved", || classes(&client, "box") == ["GLACIER"; 11]);
    // With the devices of the first pool gone, all that was moved is there.
    let status = cluster.status();
    let hosts: Vec<String> = status["devices"]
        .as_array()
        .expect("devices")
        .iter()
        .filter(|device| devices[3..].contains(&device["device"].to_string()))
        .map(|device| device["host"].as_str().expect("a host").to_owned())
        .collect();
    assert_eq!(hosts.len(), 3);
    hosts.iter().for_each(|host| drop(cluster.script("kill", &[host])));
    for at in 0..10 {
        assert!(client.get(&format!("/box/{at}")) == noise(at, 150_000), "{at}");
    }
}
