//! Devices that lose, damage or misrepresent what they hold: reads stay right, and what is missing is rebuilt.

mod common;

use common::{Server, eventually, files, noise};
use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

const OBJECTS: u64 = 60;

/// How often every kind of harm is done; more with `HOLDFAST_DAMAGE_LAPS`.
fn laps() -> usize {
    std::env::var("HOLDFAST_DAMAGE_LAPS").ok().and_then(|laps| laps.parse().ok()).unwrap_or(1)
}

fn size(n: u64) -> usize {
    [2_000, 20_000, 90_000, 700_000, 5_000_000][n as usize % 5]
}

fn filled(data: &Path) -> Server {
    let server = Server::start(data, &[]);
    let client = server.client();
    client.create_bucket("box");
    (0..OBJECTS).for_each(|n| client.put(&format!("/box/{n}"), &noise(n, size(n))));
    server
}

fn check_all(server: &Server) {
    let client = server.client();
    for n in 0..OBJECTS {
        assert!(client.get(&format!("/box/{n}")) == noise(n, size(n)), "object {n} has wrong bytes");
    }
}

#[derive(Debug, Clone, Copy)]
enum Harm {
    Flip,
    Zero,
    Truncate,
    Delete,
}

/// Harms a file somewhere that `seed` decides.
fn harm(path: &Path, how: Harm, seed: u64) {
    let Ok(len) = std::fs::metadata(path).map(|metadata| metadata.len()) else { return };
    let at = if len == 0 { 0 } else { seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) % len };
    let file = OpenOptions::new().read(true).write(true).open(path).expect("a file that can be written");
    match how {
        Harm::Flip => {
            let mut byte = [0];
            if file.read_at(&mut byte, at).expect("a read") == 1 {
                file.write_all_at(&[byte[0] ^ 0x40], at).expect("a write");
            }
        }
        Harm::Zero => file.write_all_at(&vec![0; (len - at).min(5000) as usize], at).expect("a write"),
        Harm::Truncate => file.set_len(at).expect("a truncation"),
        Harm::Delete => std::fs::remove_file(path).expect("a removal"),
    }
}

#[test]
fn any_harm_to_any_two_devices_under_load_leaves_every_read_right() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let server = filled(&data);
    let (stop, reads, next) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(1000));
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let client = server.client();
            let (stop, reads, next) = (&stop, &reads, &next);
            scope.spawn(move || {
                let mut n = worker;
                while !stop.load(Ordering::Relaxed) {
                    n = (n + 7) % OBJECTS;
                    assert!(
                        client.get(&format!("/box/{n}")) == noise(n, size(n)),
                        "object {n} has wrong bytes"
                    );
                    reads.fetch_add(1, Ordering::Relaxed);
                    let fresh = next.fetch_add(1, Ordering::Relaxed);
                    client.put(&format!("/box/{fresh}"), &noise(fresh, 30_000));
                }
            });
        }
        // Every file of two devices, each in another way.
        let mut seed = 1;
        for device in [1, 4] {
            for path in files(&data.join(format!("devices/dev-{device}"))) {
                let how = [Harm::Flip, Harm::Zero, Harm::Truncate, Harm::Delete][seed as usize % 4];
                harm(&path, how, seed);
                seed += 1;
                let before = reads.load(Ordering::Relaxed);
                eventually("reads go on", || reads.load(Ordering::Relaxed) > before);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    check_all(&server);
    // A restart finds what the running process did not have to look at.
    server.kill();
    let server = Server::start(&data, &[]);
    check_all(&server);
    let client = server.client();
    for n in 1000..next.load(Ordering::Relaxed) {
        assert!(
            client.get(&format!("/box/{n}")) == noise(n, 30_000),
            "object {n}, written under harm, differs"
        );
    }
}

/// Waits until every shard has been verified twice over since now, and nothing is missing.
fn whole_again(server: &Server) {
    let shards = server.metric("holdfast_device_shards");
    let scrubbed = || server.metric("holdfast_scrubbed_shards_total");
    let from = scrubbed();
    eventually("all devices are in service", || server.metric("holdfast_devices_out") == 0.0);
    eventually("everything is verified", || scrubbed() > from + 3.0 * shards);
    eventually("everything is whole", || {
        let before = scrubbed();
        eventually("everything is verified again", || scrubbed() > before + 2.0 * shards);
        server.metric("holdfast_degraded_packs") == 0.0
    });
}

#[test]
fn each_kind_of_harm_while_the_system_is_off_is_survived_and_repaired() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    drop(filled(&data));
    let kinds = [Harm::Flip, Harm::Zero, Harm::Truncate, Harm::Delete];
    for (round, how) in kinds.into_iter().cycle().take(laps() * kinds.len()).enumerate() {
        for device in [round % 6, (round + 3) % 6] {
            // One copy of the superblock stays: without any, a directory that holds files is nobody's device.
            let harmed = files(&data.join(format!("devices/dev-{device}")));
            for (i, path) in harmed.iter().filter(|path| !path.ends_with("segments/device.toml")).enumerate()
            {
                harm(path, how, (round * 1000 + i) as u64 + 1);
            }
        }
        let server = Server::start(&data, &["--scrub-period", "1s"]);
        check_all(&server);
        whole_again(&server);
        check_all(&server);
        assert_eq!(server.stop(), Some(0));
    }
}

#[test]
fn an_emptied_device_counts_as_a_replaced_disk_and_is_rebuilt() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let server = filled(&data);
    // While it runs.
    for entry in std::fs::read_dir(data.join("devices/dev-2")).expect("a listing").flatten() {
        let path = entry.path();
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
            .expect("a removal");
    }
    check_all(&server);
    // How many shards there are is no measure: small packs are merged meanwhile, and have none to be rebuilt then.
    let rebuilt = |server: &Server, devices: usize| {
        eventually("the shards are rebuilt", || {
            let noticed = server.log().matches("counts as a replaced disk").count() == devices;
            noticed
                && server.metric("holdfast_repaired_shards_total") > 0.0
                && server.metric("holdfast_degraded_packs") == 0.0
        });
    };
    rebuilt(&server, 1);
    // Now any two others may go.
    assert_eq!(server.stop(), Some(0));
    for device in [0, 5] {
        std::fs::remove_dir_all(data.join(format!("devices/dev-{device}"))).expect("a removal");
    }
    let server = Server::start(&data, &[]);
    check_all(&server);
    rebuilt(&server, 3);
    check_all(&server);
}

#[test]
fn with_one_device_missing_writes_go_on_and_with_two_they_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    assert_eq!(filled(&data).stop(), Some(0));
    let away = |device: u32| data.join(format!("devices/dev-{device}"));
    // Something stands where the devices were, so that they are not taken for replaced ones.
    let take = |device: u32| {
        std::fs::rename(away(device), dir.path().join(format!("away-{device}"))).expect("a move");
        std::fs::create_dir(away(device)).expect("a directory");
        std::fs::File::create(away(device).join("not-a-device"))
            .expect("a file")
            .write_all(b"x")
            .expect("a write");
    };
    let bring_back = |device: u32| {
        std::fs::remove_dir_all(away(device)).expect("a removal");
        std::fs::rename(dir.path().join(format!("away-{device}")), away(device)).expect("a move");
    };
    take(3);
    let server = Server::start(&data, &[]);
    check_all(&server);
    server.client().put("/box/while-one-is-away", &noise(77, 3_000_000));
    assert_eq!(server.stop(), Some(0));
    take(1);
    let server = Server::start(&data, &[]);
    check_all(&server);
    let refused = server.client().request("PUT", "/box/while-two-are-away", &[], &noise(78, 3_000_000));
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(server.client().get("/box/while-one-is-away") == noise(77, 3_000_000));
    bring_back(3);
    bring_back(1);
    eventually("the devices are back and whole", || {
        server.metric("holdfast_devices_out") == 0.0 && server.metric("holdfast_degraded_packs") == 0.0
    });
    server.client().put("/box/while-two-are-away", &noise(78, 3_000_000));
    check_all(&server);
}
