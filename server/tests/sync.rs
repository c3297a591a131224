//! Devices that sync: real daemons on real directories, against a real server.

mod common;

use common::{
    Server,
    devices::{Device, PASSWORD, World, agree, feed},
    eventually,
    suites::order,
};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    process::Command,
};

#[test]
fn what_is_saved_on_one_device_is_on_the_other() {
    let world = World::new();
    let [a, b] = world.devices(["laptop", "desk"]);
    a.write("notes/today.txt", "one");
    a.write("big", &"0123456789".repeat(300_000));
    a.write("empty", "");
    fs::create_dir_all(a.root.join("no/thing/here")).expect("it is made");
    symlink("notes/today.txt", a.root.join("link")).expect("it is made");
    a.write("run.sh", "#!/bin/sh");
    fs::set_permissions(a.root.join("run.sh"), fs::Permissions::from_mode(0o755)).expect("it is ours");
    agree(&[&a, &b]);
    assert_eq!(b.read("notes/today.txt"), "one");
    let when = |device: &Device| fs::metadata(device.root.join("big")).expect("it is there").modified().ok();
    assert_eq!(when(&a), when(&b), "files keep their times");
    // And changed, moved, deleted, in both directions.
    b.write("notes/today.txt", "two");
    fs::rename(b.root.join("notes"), b.root.join("diary")).expect("it is moved");
    fs::remove_file(a.root.join("big")).expect("it is deleted");
    fs::remove_dir(a.root.join("no/thing/here")).expect("it is deleted");
    fs::set_permissions(a.root.join("run.sh"), fs::Permissions::from_mode(0o644)).expect("it is ours");
    agree(&[&a, &b]);
    assert_eq!(a.read("diary/today.txt"), "two");
    assert!(!b.has("big") && b.has("no/thing") && !b.has("no/thing/here") && !a.has("notes"));
}

#[test]
fn files_are_objects_and_objects_are_files() {
    let world = World::new();
    let [a] = world.devices(["laptop"]);
    let s3 = world.client();
    a.write("here/file.txt", "from the laptop");
    a.wait();
    assert_eq!(s3.get("/docs/here/file.txt"), b"from the laptop");
    s3.put("/docs/there/large", &common::noise(1, 3 << 20));
    s3.put("/docs/here/file.txt", b"from a program");
    a.wait();
    assert_eq!(a.read("here/file.txt"), "from a program");
    assert!(fs::read(a.root.join("there/large")).expect("it is there") == common::noise(1, 3 << 20));
    fs::rename(a.root.join("there"), a.root.join("elsewhere")).expect("it is moved");
    a.wait();
    assert_eq!(s3.list("docs", ""), ["elsewhere/large", "here/file.txt"]);
    let puts = |server: &Server| server.metric("holdfast_pack_stored_bytes_total");
    let before = puts(world.server.as_ref().expect("it runs"));
    fs::rename(a.root.join("elsewhere"), a.root.join("back")).expect("it is moved");
    a.wait();
    assert!(puts(world.server.as_ref().expect("it runs")) - before < 1e6, "a rename moves no data");
    s3.delete("/docs/back/large");
    a.wait();
    assert!(!a.has("back"), "a directory of S3's goes with the last object in it");
}

#[test]
fn both_edit_a_file() {
    let world = World::new();
    let [mut a, mut b] = world.devices(["laptop", "desk"]);
    a.write("report.odt", "base");
    agree(&[&a, &b]);
    a.kill();
    b.kill();
    a.write("report.odt", "from the laptop");
    b.write("report.odt", "from the desk");
    a.start();
    a.wait();
    b.start();
    agree(&[&a, &b]);
    let copies: Vec<String> =
        a.tree().into_iter().filter(|line| line.contains("conflicted copy, desk")).collect();
    assert_eq!((a.tree().len(), copies.len()), (2, 1), "{:?}", a.tree());
    assert!(copies[0].ends_with(".odt=from the desk"), "{copies:?}");
    assert_eq!(a.read("report.odt"), "from the laptop");
    assert_eq!(a.run(&["versions", "docs/report.odt"]).lines().count(), 2);
}

#[test]
fn a_folder_that_is_not_empty_is_linked() {
    let world = World::new();
    let [a] = world.devices(["laptop"]);
    a.write("same", "same");
    a.write("differs", "there");
    a.wait();
    let mut b = world.device("desk");
    for (name, text) in [("same", "same"), ("differs", "here"), ("mine/only", "mine")] {
        b.write(name, text);
    }
    b.run(&["sync", "add", "docs", &b.root.display().to_string()]);
    b.start();
    agree(&[&a, &b]);
    assert_eq!((a.read("differs"), a.read("mine/only")), ("there".to_owned(), "mine".to_owned()));
    assert_eq!(a.tree().iter().filter(|line| line.contains("conflicted copy")).count(), 1, "{:?}", a.tree());
}

#[test]
fn names_are_swapped_and_directories_turned_inside_out() {
    let world = World::new();
    let [mut a, b] = world.devices(["laptop", "desk"]);
    a.write("one", "1");
    a.write("two", "2");
    a.write("outer/inner/file", "deep");
    agree(&[&a, &b]);
    a.kill();
    fs::rename(a.root.join("one"), a.root.join("three")).expect("it is moved");
    fs::rename(a.root.join("two"), a.root.join("one")).expect("it is moved");
    fs::rename(a.root.join("three"), a.root.join("two")).expect("it is moved");
    fs::rename(a.root.join("outer/inner"), a.root.join("inner")).expect("it is moved");
    fs::rename(a.root.join("outer"), a.root.join("inner/outer")).expect("it is moved");
    a.start();
    agree(&[&a, &b]);
    assert_eq!((b.read("one"), b.read("two"), b.read("inner/file")), ("2".into(), "1".into(), "deep".into()));
    assert!(b.has("inner/outer") && !b.has("outer"));
    assert_eq!(
        b.run(&["versions", "docs/one"]).lines().count(),
        1,
        "a name that was moved is no new version"
    );
}

#[test]
fn a_daemon_that_is_killed_goes_on_where_it_was() {
    let world = World::new();
    let [mut a, mut b] = world.devices(["laptop", "desk"]);
    for round in 0..6 {
        for file in 0..40 {
            a.write(&format!("dir{}/file{file}", round % 3), &format!("{round} {file}"));
        }
        if round % 2 == 1 {
            let from = a.root.join(format!("dir{}", round % 3));
            fs::rename(from, a.root.join(format!("moved{round}"))).expect("it is moved");
        }
        // In the middle of whatever they are doing.
        a.kill();
        b.kill();
        b.start();
        a.start();
    }
    agree(&[&a, &b]);
    assert_eq!(b.tree().iter().filter(|line| line.contains("conflicted")).count(), 0, "{:?}", b.tree());
    assert_eq!(b.read("moved5/file39"), "5 39");
}

#[test]
fn a_server_that_is_killed_loses_nothing() {
    let mut world = World::new();
    let [a, b] = world.devices(["laptop", "desk"]);
    a.write("before", "1");
    agree(&[&a, &b]);
    world.server.take().expect("it runs").kill();
    a.write("meanwhile", "2");
    fs::remove_file(b.root.join("before")).expect("it is deleted");
    eventually("the state is told", || a.run(&["sync", "status"]).contains("offline"));
    world.start();
    agree(&[&a, &b]);
    assert_eq!(a.tree(), ["meanwhile=2"]);
}

#[test]
fn absence_is_not_deletion() {
    let world = World::new();
    let [mut a, b] = world.devices(["laptop", "desk"]);
    for file in 0..80 {
        a.write(&format!("file{file}"), "text");
    }
    agree(&[&a, &b]);
    // The disk is not mounted: an empty directory is there instead.
    a.kill();
    let away = a.root.with_extension("away");
    fs::rename(&a.root, &away).expect("it is moved");
    fs::create_dir(&a.root).expect("it is made");
    a.start();
    eventually("it says so", || a.run(&["sync", "status"]).contains("is its disk mounted?"));
    b.wait();
    assert_eq!(b.tree().len(), 80);
    a.kill();
    fs::remove_dir(&a.root).expect("nothing is in it");
    fs::rename(&away, &a.root).expect("it is moved back");
    // Somebody empties the directory: that is asked about.
    for file in 0..80 {
        fs::remove_file(a.root.join(format!("file{file}"))).expect("it is deleted");
    }
    a.start();
    eventually("it asks", || a.run(&["sync", "status"]).contains("hf sync confirm"));
    assert_eq!(b.tree().len(), 80);
    a.run(&["sync", "confirm"]);
    a.wait();
    eventually("the other asks too", || b.run(&["sync", "status"]).contains("hf sync confirm"));
    b.run(&["sync", "confirm"]);
    agree(&[&a, &b]);
    assert!(b.tree().is_empty());
    assert_eq!(a.run(&["trash", "docs"]).lines().count(), 80);
    a.run(&["restore", "docs/file7"]);
    agree(&[&a, &b]);
    assert_eq!(b.read("file7"), "text");
}

#[test]
fn a_lost_database_deletes_nothing_and_copies_nothing() {
    let world = World::new();
    let [mut a, b] = world.devices(["laptop", "desk"]);
    a.write("dir/kept", "kept");
    a.write("changed", "old");
    agree(&[&a, &b]);
    a.kill();
    for name in ["sync.db", "sync.db-wal", "sync.db-shm"] {
        let _absent = fs::remove_file(a.home.join(name));
    }
    b.write("changed", "new");
    b.write("more", "more");
    b.wait();
    a.run(&["sync", "add", "docs", &a.root.display().to_string()]);
    a.start();
    agree(&[&a, &b]);
    assert_eq!(
        (a.read("dir/kept"), a.read("more"), a.read("changed")),
        ("kept".into(), "more".into(), "new".into())
    );
}

#[test]
fn what_is_not_synced_is_listed_with_its_reason() {
    let world = World::new();
    let [a, b] = world.devices(["laptop", "desk"]);
    let fifo = Command::new("mkfifo").arg(a.root.join("pipe")).status().expect("mkfifo runs");
    assert!(fifo.success());
    a.write("good", "good");
    a.write("draft.tmp", "ignored");
    a.write(".hfignore", "*.tmp\n");
    let answer = a.refused(&["sync", "wait", "--timeout", "60"]);
    assert!(answer.contains("1 file is not synced"), "{answer}");
    assert!(a.run(&["sync", "status"]).contains("pipe: it is no file, directory or link"));
    b.wait();
    assert_eq!(b.tree(), [".hfignore=*.tmp\n", "good=good"]);
}

#[test]
fn files_are_kept_without_a_directory_too() {
    let world = World::new();
    let a = world.device("laptop");
    a.run(&["spaces", "create", "box"]);
    assert!(a.refused(&["spaces", "create", "box"]).contains("already"));
    let file = a.home.join("file");
    fs::write(&file, common::noise(5, 2 << 20)).expect("it is written");
    let file = file.display().to_string();
    a.run(&["cp", &file, "box:dir/file"]);
    assert!(a.output(&["cat", "box/dir/file"]).stdout == common::noise(5, 2 << 20));
    fs::write(&file, "second").expect("it is written");
    a.run(&["cp", &file, "box:dir/file"]);
    a.run(&["mv", "box/dir/file", "box/dir/moved"]);
    a.run(&["mv", "box/dir", "box/other"]);
    assert_eq!(a.run(&["cat", "box/other/moved"]), "second");
    assert_eq!(a.run(&["ls", "box/other"]).split_whitespace().collect::<Vec<_>>(), ["6", "moved"]);
    let versions = a.run(&["versions", "box/other/moved"]);
    assert_eq!(versions.lines().count(), 2, "history goes with the file: {versions}");
    let first =
        versions.lines().last().and_then(|line| line.split_whitespace().next()).expect("a number").to_owned();
    a.run(&["restore", "box/other/moved", "--version", &first]);
    assert!(a.output(&["cat", "box/other/moved"]).stdout == common::noise(5, 2 << 20));
    a.run(&["rm", "box/other/moved"]);
    assert!(a.refused(&["cat", "box/other/moved"]).contains("no such file"));
    assert!(a.refused(&["cat", "nowhere/file"]).contains("no space"));
}

#[test]
fn a_revoked_device_and_a_stranger_get_nothing() {
    let world = World::new();
    let [a, b] = world.devices(["laptop", "desk"]);
    a.write("file", "text");
    agree(&[&a, &b]);
    // Whoever has no password, and another user, who does not learn what there is.
    let mut login = a.command(&["login", &world.sync, "--user", "alice", "--password-stdin"]);
    login.env("HF_HOME", world.dir.path().join("stranger"));
    assert!(!feed(login, "wrong horse battery").status.success());
    let data = world.data().display().to_string();
    let mut create = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    create.args(["user", "create", "bob", "--password-stdin", "--data", &data]);
    assert!(feed(create, PASSWORD).status.success());
    let bob = Device {
        home: world.dir.path().join("bob"),
        root: world.dir.path().join("b"),
        daemon: None,
        transport: None,
    };
    assert!(
        feed(bob.command(&["login", &world.sync, "--user", "bob", "--password-stdin"]), PASSWORD)
            .status
            .success()
    );
    assert!(bob.run(&["spaces"]).is_empty());
    assert!(bob.refused(&["ls", "docs"]).contains("there is no space docs"));
    assert!(bob.refused(&["cat", "docs/file"]).contains("there is no space docs"));
    // A device that was lost.
    let devices = a.run(&["devices"]);
    let desk = devices.lines().find(|line| line.ends_with("desk")).and_then(|line| line.split(' ').next());
    a.run(&["devices", "revoke", desk.expect("it is listed")]);
    assert!(b.refused(&["ls", "docs"]).contains("revoked") || b.refused(&["ls", "docs"]).contains("login"));
    a.write("secret", "secret");
    a.wait();
    eventually("it is told", || b.run(&["sync", "status"]).contains("stopped"));
    assert!(!b.has("secret"));
    order(&["--data", &data], &["user", "disable", "alice"]);
    assert!(a.refused(&["ls", "docs"]).contains("disabled") || a.refused(&["ls", "docs"]).contains("login"));
    // No secret is in any log.
    let log = world.server.as_ref().expect("it runs").log();
    assert!(!log.contains(PASSWORD));
}

#[test]
fn two_daemons_on_one_state_are_refused() {
    let world = World::new();
    let [a] = world.devices(["laptop"]);
    assert!(a.refused(&["daemon"]).contains("another daemon runs already"));
}

#[test]
fn a_folder_is_shared_and_goes_where_its_owner_has_it() {
    let world = World::new();
    world.operate(&["user", "create", "bob", "--password-stdin"]);
    let [a] = world.devices(["laptop"]);
    a.write("team/plan", "first");
    a.write("team/deep/er", "deep");
    a.write("secret", "alice's");
    a.wait();
    let mut bob = world.device_of("bob", "desk");
    let root = bob.root.display().to_string();
    assert!(bob.refused(&["sync", "add", "docs/team", &root]).contains("not shared"));
    assert!(a.refused(&["share", "docs/none", "bob", "--role", "viewer"]).contains("no such directory"));
    assert!(a.refused(&["share", "docs/team", "nobody", "--role", "viewer"]).contains("no user"));
    a.run(&["share", "docs/team", "bob", "--role", "viewer"]);
    assert!(a.run(&["shares", "docs"]).contains("bob"));
    assert!(bob.run(&["spaces"]).contains("docs/team"));
    assert!(bob.refused(&["ls", "docs"]).contains("no space"));
    bob.run(&["sync", "add", "docs/team", &root]);
    bob.start();
    bob.wait();
    assert_eq!(bob.tree(), ["deep/", "deep/er=deep", "plan=first"]);
    // A viewer's edit stays with the viewer, and is said.
    bob.write("plan", "bob's");
    assert!(bob.refused(&["sync", "wait", "--timeout", "60"]).contains("not synced"));
    assert!(bob.run(&["sync", "status"]).contains("plan: you may not do that"));
    assert_eq!((bob.read("plan"), a.read("team/plan")), ("bob's".into(), "first".into()));
    a.run(&["share", "docs/team", "bob", "--role", "editor"]);
    bob.wait();
    a.wait();
    assert_eq!(a.read("team/plan"), "bob's");
    // Its owner moves it, and things into it and out of it.
    fs::rename(a.root.join("team"), a.root.join("crew")).expect("it is moved");
    a.write("crew/more", "more");
    fs::rename(a.root.join("crew/deep"), a.root.join("deep")).expect("it is moved");
    a.wait();
    bob.wait();
    assert_eq!(bob.tree(), ["more=more", "plan=bob's"]);
    fs::rename(a.root.join("deep"), a.root.join("crew/back")).expect("it is moved");
    a.wait();
    bob.write("back/er", "from bob");
    bob.wait();
    a.wait();
    assert_eq!(a.read("crew/back/er"), bob.read("back/er"));
    // What is revoked is so at once; what was synced stays on the disk.
    a.run(&["unshare", "docs/crew", "bob"]);
    a.write("crew/later", "not for bob");
    a.wait();
    let answer = bob.refused(&["sync", "wait", "--timeout", "1"]);
    assert!(answer.contains("or it is not yours"), "{answer}");
    assert!(!bob.has("later") && bob.has("plan"));
}

#[test]
fn what_goes_beyond_a_quota_waits_on_its_device() {
    let world = World::new();
    let [a, b] = world.devices(["laptop", "desk"]);
    world.operate(&["user", "quota", "alice", "1000000"]);
    a.write("small", "fits");
    fs::write(a.root.join("large"), common::noise(9, 2_000_000)).expect("it is written");
    assert!(a.refused(&["sync", "wait", "--timeout", "60"]).contains("not synced"));
    let status = a.run(&["sync", "status"]);
    assert!(status.contains("large: the owner of the bucket may not store more"), "{status}");
    assert!(a.run(&["spaces"]).contains("of 1000000 bytes"));
    b.wait();
    assert_eq!(b.tree(), ["small=fits"]);
    assert!(fs::read(a.root.join("large")).expect("it is there") == common::noise(9, 2_000_000));
    world.operate(&["user", "quota", "alice", "none"]);
    agree(&[&a, &b]);
    assert!(b.has("large"));
}

/// Has TCP go through to an address, and UDP nowhere, as some networks do.
fn without_udp(to: &str) -> (String, std::net::UdpSocket) {
    let address = common::free_address();
    let through = std::net::TcpListener::bind(&address).expect("it is free");
    let nowhere = std::net::UdpSocket::bind(&address).expect("it is free");
    let to = to.to_owned();
    std::thread::spawn(move || {
        for near in through.incoming().flatten() {
            let Ok(far) = std::net::TcpStream::connect(&to) else { continue };
            let pairs = [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))];
            for (from, into) in pairs {
                let (mut from, mut into) = (from.expect("a socket"), into.expect("a socket"));
                std::thread::spawn(move || {
                    let _ended = std::io::copy(&mut from, &mut into);
                    let _closed = into.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    (address, nowhere)
}

#[test]
fn where_udp_is_blocked_tcp_takes_over_by_itself() {
    let world = World::new();
    let [a] = world.devices(["laptop"]);
    let (address, _nowhere) = without_udp(&world.sync);
    let mut b = Device {
        home: world.dir.path().join("hotel"),
        root: world.dir.path().join("h"),
        daemon: None,
        transport: None,
    };
    b.login(&address, "alice", "hotel");
    b.run(&["sync", "add", "docs", &b.root.display().to_string()]);
    b.start();
    a.write("one", "over QUIC");
    fs::write(a.root.join("large"), common::noise(3, 5_000_000)).expect("it is written");
    b.write("two", "over TCP");
    agree(&[&a, &b]);
    assert!(b.has("large") && a.has("two"));
    assert!(a.log().contains("Quic") && b.log().contains("Tcp"), "{}{}", a.log(), b.log());
    // And what is saved is seen at once, not when somebody asks.
    a.write("one", "again");
    eventually("it is heard", || b.read("one") == "again");
    // What is told to go over the one takes that one.
    let mut c = world.device("office");
    c.transport = Some("tcp");
    c.run(&["sync", "add", "docs", &c.root.display().to_string()]);
    c.start();
    agree(&[&a, &c]);
    assert!(c.log().contains("Tcp"));
}

#[test]
fn a_directory_becomes_a_file_and_a_file_a_directory() {
    let world = World::new();
    let [mut a, b] = world.devices(["laptop", "desk"]);
    a.write("one/in/side", "deep");
    a.write("two", "a file");
    agree(&[&a, &b]);
    // While nobody looks, so that both are found at once.
    a.kill();
    fs::remove_dir_all(a.root.join("one")).expect("it is deleted");
    fs::remove_file(a.root.join("two")).expect("it is deleted");
    a.write("one", "a file now");
    a.write("two/in/side", "a directory now");
    a.start();
    agree(&[&a, &b]);
    let now = ["one=a file now", "two/", "two/in/", "two/in/side=a directory now"];
    assert_eq!(b.tree(), now);
    let keys: Vec<String> = world.client().list("docs", "");
    assert_eq!(keys, ["one", "two/in/side"], "nothing is left aside");
}

#[test]
fn what_is_made_anew_may_be_an_old_node_that_still_stands_elsewhere() {
    let world = World::new();
    let [a, mut b] = world.devices(["laptop", "desk"]);
    a.write("old place", "old");
    agree(&[&a, &b]);
    b.kill();
    fs::rename(a.root.join("old place"), a.root.join("name")).expect("it is moved");
    a.wait();
    fs::remove_file(a.root.join("name")).expect("it is deleted");
    a.wait();
    // The server has the history of the name, and goes on with it.
    b.write("name", "new");
    b.start();
    agree(&[&a, &b]);
    assert_eq!(a.tree(), ["name=new"]);
    assert!(!b.log().contains("database"), "{}", b.log());
}

#[test]
fn what_is_made_in_a_directory_that_has_just_come_is_seen_without_asking() {
    let world = World::new();
    let [a, b] = world.devices(["laptop", "desk"]);
    agree(&[&a, &b]);
    // Directories that come with much in them, while people go on working in them.
    let tree = world.dir.path().join("tree");
    for n in 0..2000 {
        fs::create_dir_all(tree.join(format!("{}/{n}", n % 40))).expect("it is made");
    }
    fs::rename(&tree, a.root.join("tree")).expect("it is moved");
    let files: Vec<String> = (0..400).map(|n| format!("tree/{}/{}/late", n * 5 % 40, n * 5)).collect();
    for (n, file) in files.iter().enumerate() {
        fs::write(a.root.join(file), "late").expect("it is written");
        a.write(&format!("new/{n}/deep/er/late"), "late");
        std::thread::park_timeout(std::time::Duration::from_micros(500));
    }
    // Nobody waits here: who waits has all of it be looked at.
    common::eventually("all of them come", || files.iter().all(|file| b.has(file)));
    common::eventually("new ones do", || (0..files.len()).all(|n| b.has(&format!("new/{n}/deep/er/late"))));
}
