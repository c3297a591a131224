//! What was before: which versions are kept, how they are named, and going back to a moment.

mod common;

use common::{
    devices::{Device, World, agree},
    eventually,
};
use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

/// A device that syncs a space with some policy, on a server whose days are seconds.
fn a_space(policy: &[&str]) -> (World, Device) {
    let world = World::with(&["--lifecycle-day", "1"]);
    let mut device = world.device("laptop");
    device.run(&[&["spaces", "create", "docs"], policy].concat());
    device.run(&["sync", "add", "docs", &device.root.display().to_string()]);
    device.start();
    (world, device)
}

fn save(device: &Device, texts: &[&str]) {
    for text in texts {
        device.write("file", text);
        device.wait();
    }
}

/// The numbers of the versions that there are, from the newest to the oldest.
fn versions(device: &Device) -> Vec<String> {
    let listed = device.run(&["versions", "docs/file"]);
    listed.lines().filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

fn text_of(device: &Device, version: &str) -> String {
    device.run(&["restore", "docs/file", "--version", version]);
    device.wait();
    device.read("file")
}

#[test]
fn so_many_versions_are_kept_as_the_space_wants() {
    let (_world, a) = a_space(&["--versions", "3", "--spacing", "0"]);
    save(&a, &["1", "2", "3", "4", "5", "6"]);
    eventually("three are left", || versions(&a).len() == 3);
    let oldest = versions(&a).pop().expect("a version");
    assert_eq!(text_of(&a, &oldest), "4");
}

#[test]
fn versions_that_crowd_each_other_are_thinned_and_named_ones_stay() {
    let (_world, a) = a_space(&["--spacing", "3600"]);
    save(&a, &["1", "2", "3", "4", "5"]);
    let all = versions(&a);
    assert_eq!(all.len(), 5);
    a.run(&["versions", "docs/file", "--version", &all[2], "--name", "as sent to Bob"]);
    assert!(a.run(&["versions", "docs/file"]).contains("\"as sent to Bob\""));
    eventually("the first, the named and the newest are left", || versions(&a).len() == 3);
    assert_eq!(versions(&a), [&all[0][..], &all[2], &all[4]]);
    // As any other again.
    a.run(&["versions", "docs/file", "--version", &all[2], "--name", ""]);
    eventually("the first and the newest are left", || versions(&a).len() == 2);
    assert!(a.refused(&["versions", "docs/file", "--version", &all[1], "--name", "x"]).contains("no such"));
}

#[test]
fn versions_go_by_their_age_where_the_space_says_so() {
    let (_world, a) = a_space(&["--spacing", "0", "--days", "1"]);
    save(&a, &["1", "2", "3"]);
    eventually("the newest is left", || versions(&a).len() == 1);
    assert_eq!(a.read("file"), "3");
}

/// Now, as people write moments.
fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// Until the next millisecond: moments are no finer.
fn tick() {
    let ms = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let begun = ms();
    while ms() <= begun + 1 {
        std::hint::spin_loop();
    }
}

#[test]
fn a_directory_and_a_space_become_what_they_were() {
    let world = World::new();
    let [a, b] = world.devices(["laptop", "desk"]);
    a.write("team/plan", "good");
    a.write("team/gone", "to be deleted");
    a.write("team/deep/er", "deep");
    a.write("team/moved", "moved");
    a.write("other", "good");
    for n in 0..250 {
        a.write(&format!("many/{n}"), "good");
    }
    agree(&[&a, &b]);
    let then = a.tree();
    tick();
    let moment = now();
    tick();
    a.write("team/plan", "bad");
    fs::remove_file(a.root.join("team/gone")).expect("it is deleted");
    a.write("team/new", "was not there");
    a.write("other", "bad");
    for n in 0..250 {
        a.write(&format!("many/{n}"), "bad");
    }
    agree(&[&a, &b]);
    // A directory alone.
    assert!(a.run(&["restore", "docs/team", "--at", &moment]).starts_with("3 files are as they were"));
    agree(&[&a, &b]);
    assert_eq!((b.read("team/plan"), b.read("other")), ("good".into(), "bad".into()));
    assert!(b.has("team/gone") && !b.has("team/new"));
    // What was there meanwhile is a version, and can be had again.
    assert!(a.run(&["trash", "docs"]).contains("team/new"));
    assert!(a.run(&["restore", "docs", "--at", &moment]).starts_with("251 files"));
    agree(&[&a, &b]);
    assert_eq!(b.tree(), then);
    assert!(a.run(&["restore", "docs", "--at", &moment]).starts_with("0 files"), "they are");
    // A single file, and a time before there was anything.
    assert!(a.run(&["restore", "docs/other", "--at", "1d"]).starts_with("1 files"));
    agree(&[&a, &b]);
    assert!(!b.has("other") && b.has("team/plan"));
    assert!(a.refused(&["restore", "docs", "--at", "yesterday"]).contains("no moment"));
}
