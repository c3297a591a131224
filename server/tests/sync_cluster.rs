//! Devices against a cluster of several hosts, some of which are killed in the middle of what they do.

mod common;

use common::{
    cluster::Cluster,
    devices::{Device, PASSWORD, agree, feed},
    eventually, noise,
};
use std::{fs, path::Path, process::Command};

fn pair(cluster: &Cluster, dir: &Path, name: &str, gateway: &str) -> Device {
    let device = Device {
        home: dir.join(format!("home-{name}")),
        root: dir.join(name),
        daemon: None,
        transport: None,
    };
    device.login(&cluster.sync(gateway), "alice", name);
    device
}

/// What a device has sent since its daemon was started.
fn sent(device: &Device) -> u64 {
    let shown: serde_json::Value =
        serde_json::from_str(&device.run(&["sync", "status", "--json"])).expect("status is JSON");
    shown[0]["sent"].as_u64().expect("a number")
}

#[test]
fn whichever_host_dies_in_the_middle_of_an_upload_all_of_it_arrives() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut cluster = Cluster::up(&dir.path().join("cluster"), &["--storage", "4", "--profile", "2+2"]);
    let mut create = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    create.args(["user", "create", "alice", "--password-stdin", "--operator"]).arg(cluster.operator());
    let created = feed(create, PASSWORD);
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let mut laptop = pair(&cluster, dir.path(), "laptop", "gateway-1");
    let mut desk = pair(&cluster, dir.path(), "desk", "gateway-2");
    laptop.run(&["spaces", "create", "docs"]);
    for device in [&mut laptop, &mut desk] {
        device.run(&["sync", "add", "docs", &device.root.display().to_string()]);
        device.start();
    }
    // So that there is a middle.
    laptop.run(&["sync", "limit", "--up", "8MiB"]);
    let leader = cluster.leader();
    for (number, node) in [leader.as_str(), "storage-1", "gateway-1"].into_iter().enumerate() {
        let before = sent(&laptop);
        fs::write(laptop.root.join(format!("large-{number}")), noise(number as u64, 24 << 20))
            .expect("it is written");
        for small in 0..50 {
            laptop.write(&format!("{node}/{small}"), &format!("{small} while {node} dies"));
        }
        eventually("a part is sent", || sent(&laptop) > before + (4 << 20));
        cluster.script("kill", &[node]);
        assert!(sent(&laptop) < before + (22 << 20), "{node} died too late");
        if node == "gateway-1" {
            // Nobody else is where the device looks for it.
            cluster.script("start", &[node]);
        }
        agree(&[&laptop, &desk]);
        cluster.restart(&[]);
        cluster.until_healthy();
    }
    let client = cluster.client(1);
    for number in 0..3 {
        let name = format!("large-{number}");
        let expected = noise(number, 24 << 20);
        assert!(fs::read(desk.root.join(&name)).is_ok_and(|bytes| bytes == expected), "{name}");
        let response = client.request("GET", &format!("/docs/{name}"), &[], b"");
        assert!(response.status == 200 && response.body == expected, "{name} by S3: {}", response.status);
    }
}
