//! What was acknowledged is there, whatever happens to the process, the machine or the disks.

mod common;

use common::{Client, Server, can, command, log_of, noise};
use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Rounds of killing; more with `HOLDFAST_CRASH_ROUNDS`.
fn rounds() -> u64 {
    std::env::var("HOLDFAST_CRASH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(6)
}

fn size(n: u64) -> usize {
    [300, 5_000, 70_000, 400_000, 3_000_000][n as usize % 5]
}

/// Objects by number: what the server acknowledged for each.
type Acknowledged = Mutex<BTreeMap<u64, bool>>;

/// Puts and deletes until the server is gone. Every acknowledgement is noted when it has come, and no sooner.
fn write_until_dead(client: &Client, next: &AtomicU64, acknowledged: &Acknowledged, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let path = format!("/box/{n:06}");
        match client.try_request("PUT", &path, &[], &[], &noise(n, size(n))) {
            Ok(response) if response.status == 200 => {
                acknowledged.lock().expect("no panic").insert(n, true);
            }
            Ok(_) | Err(_) => continue,
        }
        if n % 7 == 3 {
            // Until the answer comes, it is unknown whether the object is there.
            acknowledged.lock().expect("no panic").remove(&n);
            if let Ok(response) = client.try_request("DELETE", &path, &[], &[], b"")
                && response.status == 204
            {
                acknowledged.lock().expect("no panic").insert(n, false);
            }
        }
    }
}

fn check(client: &Client, acknowledged: &Acknowledged) {
    let listed: std::collections::BTreeSet<String> = client.list("box", "").into_iter().collect();
    for (&n, &there) in acknowledged.lock().expect("no panic").iter() {
        let (path, name) = (format!("/box/{n:06}"), format!("{n:06}"));
        assert_eq!(listed.contains(&name), there, "object {n} in the listing");
        let response = client.request("GET", &path, &[], b"");
        if there {
            assert_eq!(response.status, 200, "acknowledged object {n} is lost: {}", response.text());
            assert!(response.body == noise(n, size(n)), "object {n} has wrong bytes");
        } else {
            assert_eq!(response.status, 404, "deleted object {n} is back");
        }
    }
}

#[test]
fn kill_9_under_load_loses_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let (next, acknowledged) = (AtomicU64::new(0), Acknowledged::default());
    Server::start(&data, &["--gc-grace", "3s"]).client().create_bucket("box");
    for round in 0..rounds() {
        let server = Server::start(&data, &["--gc-grace", "3s"]);
        check(&server.client(), &acknowledged);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                let client = server.client();
                scope.spawn(|| {
                    let client = client;
                    write_until_dead(&client, &next, &acknowledged, &stop);
                });
            }
            // The moment of the kill is the test's random choice.
            std::thread::park_timeout(Duration::from_millis(300 + 137 * (round * 7 % 11)));
            server.kill();
            stop.store(true, Ordering::Relaxed);
        });
    }
    let server = Server::start(&data, &["--gc-grace", "3s"]);
    check(&server.client(), &acknowledged);
    assert!(acknowledged.lock().expect("no panic").len() > 50, "too little traffic got through");
    assert_eq!(server.metric("holdfast_collection_stopped"), 0.0, "{}", server.log());
}

fn run(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// A file system of its own on a loop device, unmounted when dropped.
struct Disk<'a> {
    mount: &'a Path,
}

impl<'a> Disk<'a> {
    fn make(image: &Path, mount: &'a Path, bytes: u64) -> Option<Self> {
        std::fs::create_dir_all(mount).ok()?;
        std::fs::File::create(image).and_then(|file| file.set_len(bytes)).ok()?;
        run("mkfs.ext4", &["-q", "-F", image.to_str()?]).then_some(())?;
        Self::mount(image, mount)
    }

    fn mount(image: &Path, mount: &'a Path) -> Option<Self> {
        let (image, at) = (image.to_str()?, mount.to_str()?);
        // Another test may take the loop device that was just found free.
        let mut tries = 0..50;
        let mounted = tries.any(|_| {
            let mounted = run("mount", &["-o", "loop", image, at]);
            if !mounted {
                std::thread::park_timeout(Duration::from_millis(50));
            }
            mounted
        });
        mounted.then_some(Self { mount })
    }

    /// Cuts the power: what was not written to the disk and its journal is gone.
    fn cut(&self) -> bool {
        // EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH.
        let script = "import fcntl, os, struct, sys\n\
            fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
        run("python3", &["-c", script, &self.mount.display().to_string()])
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        run("umount", &[&self.mount.display().to_string()]);
    }
}

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (image, mount) = (dir.path().join("image"), dir.path().join("mount"));
    let mut disk = Disk::make(&image, &mount, 3 << 30);
    if !can("a power cut by EXT4_IOC_SHUTDOWN on a loop device", || disk.is_some()) {
        return;
    }
    let data = mount.join("data");
    let (next, acknowledged) = (AtomicU64::new(0), Acknowledged::default());
    for round in 0..rounds().div_ceil(2) {
        let server = Server::spawn(command(&data, &[]), &dir.path().join("server"));
        if round == 0 {
            server.client().create_bucket("box");
        }
        check(&server.client(), &acknowledged);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                let client = server.client();
                scope.spawn(|| {
                    let client = client;
                    write_until_dead(&client, &next, &acknowledged, &stop);
                });
            }
            std::thread::park_timeout(Duration::from_millis(700 + 211 * (round * 5 % 7)));
            assert!(disk.as_ref().expect("a disk").cut(), "the power cannot be cut");
            stop.store(true, Ordering::Relaxed);
        });
        server.kill();
        drop(disk.take());
        disk = Disk::mount(&image, &mount);
        assert!(disk.is_some(), "the disk cannot be mounted again");
    }
    let server = Server::spawn(command(&data, &[]), &dir.path().join("server"));
    check(&server.client(), &acknowledged);
    assert!(acknowledged.lock().expect("no panic").len() > 20, "too little traffic got through");
    drop(server);
}

#[test]
fn after_a_failed_sync_the_process_stops_and_forgets_nothing() {
    if !can("injecting errors with strace", || run("strace", &["-qq", "true"])) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    Server::start(&data, &[]).client().create_bucket("box");
    let dev = command(&data, &[]);
    let mut traced = Command::new("strace");
    traced.args([
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=fdatasync",
        "-e",
        "inject=fdatasync:error=EIO:when=60+",
    ]);
    traced.arg(dev.get_program()).args(dev.get_args());
    traced.envs(dev.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let server = Server::spawn(traced, &data);
    let (next, acknowledged) = (AtomicU64::new(0), Acknowledged::default());
    let client = server.client();
    for n in 0..1000 {
        next.store(n, Ordering::Relaxed);
        match client.try_request("PUT", &format!("/box/{n:06}"), &[], &[], &noise(n, size(n))) {
            Ok(response) if response.status == 200 => {
                acknowledged.lock().expect("no panic").insert(n, true);
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    assert!(!server.wait().success(), "the process went on after a failed sync");
    assert!(log_of(&data).contains("holdfast stops"), "{}", log_of(&data));
    let count = acknowledged.lock().expect("no panic").len();
    assert!((1..1000).contains(&count), "{count} writes were acknowledged");
    check(&Server::start(&data, &[]).client(), &acknowledged);
}

#[test]
fn a_full_disk_refuses_new_data_and_can_be_emptied_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (image, mount) = (dir.path().join("image"), dir.path().join("mount"));
    let disk = Disk::make(&image, &mount, 700 << 20);
    if !can("a small disk on a loop device", || disk.is_some()) {
        return;
    }
    let server =
        Server::spawn(command(&mount.join("data"), &["--gc-grace", "1s"]), &dir.path().join("server"));
    let client = server.client();
    client.create_bucket("box");
    let body = |n: u64| noise(n, 4 << 20);
    let mut stored = 0;
    let refused = loop {
        let response = client.request("PUT", &format!("/box/{stored}"), &[], &body(stored));
        if response.status != 200 {
            break response;
        }
        stored += 1;
        assert!(stored < 200, "the disk never fills");
    };
    assert_eq!(refused.status, 507, "{}", refused.text());
    assert!(stored > 40, "only {stored} objects fit");
    (0..stored).for_each(|n| assert!(client.get(&format!("/box/{n}")) == body(n), "object {n} differs"));
    (0..stored).for_each(|n| client.delete(&format!("/box/{n}")));
    common::eventually("there is room again", || {
        client.request("PUT", "/box/again", &[], &body(1000)).status == 200
    });
    assert!(client.get("/box/again") == body(1000));
    drop(server);
    drop(disk);
}
