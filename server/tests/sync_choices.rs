//! What people choose: what becomes of conflicts, which directories are kept on a device, how fast it goes.

mod common;

use common::devices::{Device, World, agree};
use std::fs;

/// Two devices on a space in which both have changed one file, and neither gives way.
fn a_conflict(world: &World) -> [Device; 2] {
    let mut devices = ["laptop", "desk"].map(|name| world.device(name));
    devices[0].run(&["spaces", "create", "docs"]);
    for device in &mut devices {
        let root = device.root.display().to_string();
        device.run(&["sync", "add", "docs", &root, "--conflicts", "manual"]);
        device.start();
    }
    let [a, b] = &mut devices;
    a.write("plan.txt", "base");
    agree(&[a, b]);
    b.kill();
    b.write("plan.txt", "from the desk");
    a.write("plan.txt", "from the laptop");
    a.wait();
    b.start();
    assert!(b.refused(&["sync", "wait", "--timeout", "60"]).contains("not synced"));
    assert_eq!(
        (a.read("plan.txt").as_str(), b.read("plan.txt").as_str()),
        ("from the laptop", "from the desk")
    );
    assert!(b.run(&["conflicts"]).contains("plan.txt: kept apart"));
    devices
}

fn resolve(device: &Device, keep: &str) {
    device.run(&[
        "conflicts",
        "resolve",
        &device.root.join("plan.txt").display().to_string(),
        "--keep",
        keep,
    ]);
}

#[test]
fn a_conflict_that_is_kept_apart_is_decided_for_mine() {
    let world = World::new();
    let [a, b] = a_conflict(&world);
    resolve(&b, "mine");
    agree(&[&a, &b]);
    assert_eq!(a.tree(), ["plan.txt=from the desk"]);
    assert_eq!(a.run(&["versions", "docs/plan.txt"]).lines().count(), 3, "the other is an older version");
    assert_eq!(b.run(&["conflicts"]), "");
    let none = b.root.join("plan.txt").display().to_string();
    assert!(b.refused(&["conflicts", "resolve", &none, "--keep", "both"]).contains("nobody has to decide"));
}

#[test]
fn a_conflict_that_is_kept_apart_is_decided_for_theirs() {
    let world = World::new();
    let [a, b] = a_conflict(&world);
    resolve(&b, "theirs");
    agree(&[&a, &b]);
    assert_eq!(b.tree(), ["plan.txt=from the laptop"]);
    let trash = fs::read_dir(b.root.join(".holdfast/trash")).expect("it is read").next().expect("a day");
    let kept = fs::read_dir(trash.expect("it is read").path()).expect("it is read").next().expect("a file");
    assert_eq!(fs::read_to_string(kept.expect("it is read").path()).ok().as_deref(), Some("from the desk"));
}

#[test]
fn a_conflict_that_is_kept_apart_is_decided_for_both() {
    let world = World::new();
    let [a, b] = a_conflict(&world);
    // A file that is held may be edited on.
    b.write("plan.txt", "from the desk, later");
    assert!(b.refused(&["sync", "wait", "--timeout", "60"]).contains("not synced"));
    resolve(&b, "both");
    agree(&[&a, &b]);
    assert_eq!(a.read("plan.txt"), "from the laptop");
    let copies = a.run(&["conflicts"]);
    assert!(copies.contains("plan (conflicted copy, desk, ") && copies.contains(": a copy"), "{copies}");
    assert!(a.tree()[0].ends_with("=from the desk, later"), "{:?}", a.tree());
    assert_eq!(a.tree().len(), 2);
}

fn select(device: &Device, command: &str, folder: &str) {
    device.run(&["sync", command, &device.root.join(folder).display().to_string()]);
}

#[test]
fn what_is_not_selected_leaves_the_device_and_nothing_else() {
    let world = World::new();
    let [a, mut b] = world.devices(["laptop", "desk"]);
    for n in 0..60 {
        a.write(&format!("films/{}/{n}", n % 7), &format!("film {n}"));
    }
    a.write("letters/one", "dear");
    agree(&[&a, &b]);
    select(&b, "unselect", "films");
    b.wait();
    assert_eq!(b.tree(), ["letters/", "letters/one=dear"]);
    assert!(b.run(&["sync", "status"]).contains("films/: not selected"));
    // What others do there does not come, wherever the directory goes, and nor after another start.
    a.write("films/new", "a new one");
    fs::rename(a.root.join("films"), a.root.join("cinema")).expect("it is moved");
    a.wait();
    b.kill();
    b.start();
    b.wait();
    assert_eq!(b.tree(), ["letters/", "letters/one=dear"]);
    assert_eq!(fs::read_dir(a.root.join("cinema")).expect("it is read").count(), 8, "nothing was deleted");
    // What leaves it comes, and what goes into it goes.
    fs::rename(a.root.join("cinema/0/0"), a.root.join("letters/film")).expect("it is moved");
    fs::rename(a.root.join("letters/one"), a.root.join("cinema/one")).expect("it is moved");
    a.wait();
    b.wait();
    assert_eq!(b.tree(), ["letters/", "letters/film=film 0"]);
    select(&b, "select", "cinema");
    agree(&[&a, &b]);
    assert!(b.has("cinema/new") && b.has("cinema/one") && b.has("cinema/6/6"));
    assert!(
        b.refused(&["sync", "unselect", &b.root.join("nothing").display().to_string()])
            .contains("no directory")
    );
}

#[test]
fn what_was_changed_stays_where_nothing_is_selected() {
    let world = World::new();
    let [a, b] = world.devices(["laptop", "desk"]);
    a.write("films/one", "synced");
    a.write("films/two", "synced too");
    agree(&[&a, &b]);
    // The server takes nothing any more.
    world.operate(&["user", "quota", "alice", "1"]);
    fs::write(b.root.join("films/one"), "the only copy").expect("it is written");
    b.write("films/three", "another only copy");
    assert!(b.refused(&["sync", "wait", "--timeout", "60"]).contains("not synced"));
    select(&b, "unselect", "films");
    assert!(b.refused(&["sync", "wait", "--timeout", "60"]).contains("not synced"));
    let status = b.run(&["sync", "status"]);
    let listed =
        |file: &str| status.contains(&format!("films/{file}: it was changed, and is in a directory that"));
    assert!(listed("one") && listed("three") && !listed("two"), "{status}");
    assert_eq!(b.tree(), ["films/", "films/one=the only copy", "films/three=another only copy"]);
    // It is synced as soon as it may be.
    world.operate(&["user", "quota", "alice", "none"]);
    select(&b, "select", "films");
    agree(&[&a, &b]);
    let all = ["films/", "films/one=the only copy", "films/three=another only copy", "films/two=synced too"];
    assert_eq!(a.tree(), all);
}

#[test]
fn what_is_made_where_nothing_is_selected_gets_another_name() {
    let world = World::new();
    let a = world.device("laptop");
    a.run(&["spaces", "create", "docs"]);
    let mut a = a;
    a.run(&["sync", "add", "docs", &a.root.display().to_string()]);
    a.start();
    a.write("films/one", "film");
    a.wait();
    let mut b = world.device("desk");
    // Chosen before anything was there.
    b.run(&["sync", "add", "docs", &b.root.display().to_string(), "--without", "films"]);
    b.start();
    b.wait();
    assert_eq!(b.tree(), [""; 0]);
    b.write("films/mine", "made here");
    agree_but_for_films(&a, &b);
    select(&b, "select", "films");
    agree(&[&a, &b]);
}

fn agree_but_for_films(a: &Device, b: &Device) {
    b.wait();
    a.wait();
    let name = "films (made here, not the one that is not selected)";
    assert_eq!(b.tree(), [format!("{name}/"), format!("{name}/mine=made here")]);
    assert_eq!(a.read(&format!("{name}/mine")), "made here");
    assert_eq!(a.read("films/one"), "film");
    assert!(!a.has("films/mine"));
}

#[test]
fn a_limit_is_kept_and_changed_while_it_goes() {
    let world = World::new();
    let [a, b] = world.devices(["laptop", "desk"]);
    a.run(&["sync", "limit", "--up", "2K"]);
    assert_eq!(a.run(&["sync", "limit"]), "up 2.0 kB/s, down none\n");
    fs::write(a.root.join("large"), common::noise(4, 3_000_000)).expect("it is written");
    // Some twenty minutes, as it is.
    assert!(a.refused(&["sync", "wait", "--timeout", "2"]).contains("not synced in time"));
    assert!(!b.has("large"));
    a.run(&["sync", "limit", "--up", "none"]);
    agree(&[&a, &b]);
    assert!(b.has("large"));
}
