//! What travels: of a file that was changed no more than the change, and of one that was not, nothing.

mod common;

use common::devices::{Device, World, agree};
use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    os::unix::fs::PermissionsExt,
};

const MIB: usize = 1 << 20;

/// Bytes that a device has sent and received since its daemon began.
fn traffic(device: &Device) -> (u64, u64) {
    let status: serde_json::Value =
        serde_json::from_str(&device.run(&["sync", "status", "--json"])).expect("JSON");
    let of = |name: &str| status[0][name].as_u64().expect("a number");
    (of("sent"), of("received"))
}

/// What a change costs: bytes that the one sends, and the other receives.
fn cost(from: &Device, to: &Device, change: impl FnOnce()) -> (u64, u64) {
    agree(&[from, to]);
    let before = (traffic(from).0, traffic(to).1);
    change();
    agree(&[from, to]);
    (traffic(from).0 - before.0, traffic(to).1 - before.1)
}

fn large(device: &Device) -> std::path::PathBuf {
    device.root.join("large")
}

fn at(device: &Device, offset: usize, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(large(device)).expect("it is there");
    file.seek(SeekFrom::Start(offset as u64)).expect("it is a file");
    file.write_all(bytes).expect("it is written");
}

#[test]
fn of_a_large_file_what_has_changed_is_sent() {
    let world = World::new();
    let [a, b] = world.devices(["laptop", "desk"]);
    let data = common::noise(7, 64 * MIB);
    fs::write(large(&a), &data).expect("it is written");
    agree(&[&a, &b]);
    // A page, as databases write them.
    let page = cost(&a, &b, || at(&a, 23 * MIB, &common::noise(8, 4096)));
    assert!(page.0 < 64 << 10, "{page:?}");
    // Pages here and there.
    let pages =
        cost(&a, &b, || (0..8).for_each(|n| at(&a, n * 8 * MIB + 5000, &common::noise(n as u64, 4096))));
    assert!(pages.0 < 8 * (16 << 10) + (32 << 10), "{pages:?}");
    // A byte at the front, which moves all the others.
    let mut now = fs::read(large(&a)).expect("it is read");
    now.insert(0, b'!');
    let front = cost(&a, &b, || fs::write(large(&a), &now).expect("it is written"));
    assert!(front.0 < 64 << 10, "{front:?}");
    // Some at the end.
    let end = cost(&a, &b, || at(&a, now.len(), &common::noise(9, 10_000)));
    assert!(end.0 < 64 << 10, "{end:?}");
    // And another file of the same bytes, of which the server may know by its name alone.
    let copied = cost(&a, &b, || fs::rename(large(&a), a.root.join("renamed")).expect("it is renamed"));
    assert!(copied.0 < 16 << 10 && copied.1 < 16 << 10, "{copied:?}");
}

#[test]
fn what_was_not_changed_is_not_sent() {
    let world = World::new();
    let [mut a, b] = world.devices(["laptop", "desk"]);
    for n in 0..200 {
        a.write(&format!("files/{n}"), &format!("number {n}"));
    }
    fs::write(large(&a), common::noise(7, 5 * MIB)).expect("it is written");
    agree(&[&a, &b]);
    // Looking at it all again.
    let again = cost(&a, &b, || a.wait());
    assert!(again.0 < 2 << 10 && again.1 < 2 << 10, "{again:?}");
    let touched = cost(&a, &b, || {
        let file = fs::File::options().write(true).open(large(&a)).expect("it is there");
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("it is ours");
    });
    assert!(touched.0 < 4 << 10 && touched.1 < 4 << 10, "{touched:?}");
    let marked = cost(&a, &b, || {
        fs::set_permissions(large(&a), fs::Permissions::from_mode(0o755)).expect("it is ours");
    });
    assert!(marked.0 < 4 << 10 && marked.1 < 4 << 10, "{marked:?}");
    let renamed =
        cost(&a, &b, || fs::rename(a.root.join("files"), a.root.join("moved")).expect("it is moved"));
    assert!(renamed.0 < 4 << 10 && renamed.1 < 4 << 10, "{renamed:?}");
    // A daemon that is started again knows what it knew.
    a.kill();
    a.start();
    a.wait();
    let begun = traffic(&a);
    assert!(begun.0 < 4 << 10 && begun.1 < 4 << 10, "{begun:?}");
}

/// What a device has received of a file that is on its way: the pieces on its disk, and how long they are.
fn on_the_way(device: &Device) -> (Vec<std::path::PathBuf>, u64) {
    let files = fs::read_dir(device.root.join(".holdfast/tmp")).expect("it is there").flatten();
    let partial = files.filter(|file| file.file_name().to_string_lossy().starts_with("partial-"));
    let mut paths: Vec<_> = partial.map(|file| file.path()).collect();
    paths.sort();
    let bytes = paths.iter().filter_map(|path| path.metadata().ok()).map(|file| file.len()).sum();
    (paths, bytes)
}

#[test]
fn a_download_that_broke_goes_on_from_there() {
    // What comes waits in the stream's window, of 8 MiB, as long as a limit has it wait: that is lost at each break.
    const WINDOW: u64 = 9 << 20;
    let mut world = World::new();
    let [a, mut b] = world.devices(["laptop", "desk"]);
    agree(&[&a, &b]);
    b.run(&["sync", "limit", "--down", "16M"]);
    let data = common::noise(7, 96 * MIB);
    fs::write(large(&a), &data).expect("it is written");
    a.wait();
    let comes = |bytes: u64| common::eventually("it comes", || on_the_way(&b).1 >= bytes);
    // The server is killed while it comes.
    comes(24 << 20);
    world.server = None;
    world.start();
    comes(48 << 20);
    let (_, there) = on_the_way(&b);
    let received = traffic(&b).1;
    assert!(received < there + 2 * WINDOW, "{received} were received for {there}");
    // The device is killed, and its disk flips a bit.
    b.run(&["sync", "limit", "--down", "none"]);
    b.kill();
    let (paths, there) = on_the_way(&b);
    assert!(paths.len() > 1, "what came before the server died is used");
    let mut file = fs::OpenOptions::new().write(true).open(&paths[0]).expect("it is there");
    let damaged = paths[0].metadata().expect("it is there").len() - (5 << 20);
    file.seek(SeekFrom::Start(damaged)).expect("it is a file");
    file.write_all(&common::noise(9, 64)).expect("it is written");
    b.start();
    agree(&[&a, &b]);
    assert!(fs::read(large(&b)).expect("it is read") == data);
    let received = traffic(&b).1;
    assert!(received < data.len() as u64 - there + WINDOW, "{received} were received, {there} were there");
    assert_eq!(on_the_way(&b).0, Vec::<std::path::PathBuf>::new(), "nothing is left");
}

#[test]
fn a_delta_of_something_else_is_refused_and_all_is_sent() {
    let world = World::new();
    let [a, b] = world.devices(["laptop", "desk"]);
    let data = common::noise(7, 20 * MIB);
    fs::write(large(&a), &data).expect("it is written");
    agree(&[&a, &b]);
    // Nothing of it is what it was: neither runs nor deltas are of use.
    let other = common::noise(17, 20 * MIB);
    fs::write(large(&a), &other).expect("it is written");
    agree(&[&a, &b]);
    assert!(fs::read(large(&b)).expect("it is read") == other);
    // What was put together of runs and deltas is what it is by S3, too.
    at(&a, 10 * MIB, b"changed");
    agree(&[&a, &b]);
    let by_s3 = world.client().request("GET", "/docs/large", &[], b"").body;
    assert!(by_s3 == fs::read(large(&a)).expect("it is read"));
}
