//! Real S3 clients against a real server: `make test` installs them.

mod common;

use common::{
    ACCESS_KEY, Client, SECRET_KEY, Server,
    cluster::Cluster,
    noise,
    suites::{order, run, suites},
};
use std::{path::Path, process::Command};

#[test]
fn boto3_finds_what_applications_rely_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&dir.path().join("data"), &[]);
    let mut python = Command::new("python3");
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/boto3_suite.py"));
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    python.args([&format!("http://{}", server.s3), ACCESS_KEY, SECRET_KEY]);
    println!("{}", run(python));
    // A secret that was used in every request is in no log.
    assert!(!server.log().contains(SECRET_KEY));
}

#[test]
fn versions_locks_and_grants_hold_in_a_cluster() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let cluster = Cluster::up(&dir.path().join("c"), &["--gateways", "1", "--lifecycle-day", "1"]);
    let operator = cluster.operator().display().to_string();
    let (access, secret) = cluster.keys();
    suites(&["--operator", &operator], &cluster.gateways[0], (access, secret));
}

#[test]
fn versions_locks_and_grants_hold_between_users() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let server = Server::start(&data, &["--lifecycle-day", "1"]);
    let way = ["--data", &data.display().to_string()];
    let [alice, bob] = suites(&way, &server.s3, (ACCESS_KEY, SECRET_KEY));
    for secret in [SECRET_KEY, &alice.1, &bob.1] {
        assert!(!server.log().contains(secret));
    }
    // A key that is taken away opens nothing from that moment on; nor do those of who is disabled.
    let order = |args: &[&str]| order(&way, args);
    let status = |(access, secret): &(String, String)| {
        Client::with_keys(&server.s3, access, secret).request("GET", "/", &[], b"").status
    };
    assert_eq!((status(&alice), status(&bob)), (200, 200));
    order(&["key", "delete", &alice.0]);
    order(&["user", "disable", "bob"]);
    assert_eq!((status(&alice), status(&bob)), (403, 403));
    order(&["user", "enable", "bob"]);
    assert_eq!(status(&bob), 200);
    // What a user's own policy denies, it may not even do with what is its own.
    let policy = dir.path().join("policy.json");
    let text = r#"{"Statement":{"Effect":"Deny","Action":"s3:ListAllMyBuckets","Resource":"*"}}"#;
    std::fs::write(&policy, text).expect("a file");
    order(&["policy", "put", "no-list", &policy.display().to_string()]);
    order(&["policy", "attach", "no-list", "--user", "bob"]);
    assert_eq!(status(&bob), 403);
    order(&["policy", "detach", "no-list", "--user", "bob"]);
    // Who has policies may do what they allow, and nothing else.
    std::fs::write(&policy, r#"{"Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"*"}}"#)
        .expect("a file");
    order(&["policy", "put", "reader", &policy.display().to_string(), "--user", "bob"]);
    assert_eq!(status(&bob), 403);
    assert_eq!(
        Client::with_keys(&server.s3, &bob.0, &bob.1).request("PUT", "/bobs-new", &[], b"").status,
        403
    );
    order(&["policy", "delete", "reader", "--user", "bob"]);
    assert_eq!(status(&bob), 200);
    // All of it outlives the process.
    server.kill();
    let server = Server::start(&data, &[]);
    assert_eq!(Client::with_keys(&server.s3, &bob.0, &bob.1).request("GET", "/", &[], b"").status, 200);
}

#[test]
fn aws_cli_stores_and_reads_back_a_directory() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&dir.path().join("data"), &[]);
    let aws = |args: &[&str]| {
        let mut command = Command::new("aws");
        command.args(["--endpoint-url", &format!("http://{}", server.s3)]).args(args);
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command.env("AWS_DEFAULT_REGION", "us-east-1").env("AWS_EC2_METADATA_DISABLED", "true");
        run(command)
    };
    let source = dir.path().join("source");
    tree(&source);
    let (from, back) = (source.display().to_string(), dir.path().join("back").display().to_string());
    aws(&["s3", "mb", "s3://shelf"]);
    aws(&["s3", "sync", &from, "s3://shelf/dir"]);
    assert!(aws(&["s3", "ls", "s3://shelf/dir/"]).contains("PRE deep/"));
    aws(&["s3", "cp", "--recursive", "s3://shelf/dir", "s3://shelf/other"]);
    aws(&["s3", "sync", "s3://shelf/other", &back]);
    same(&source, Path::new(&back));
    aws(&["s3", "rb", "--force", "s3://shelf"]);
    assert!(!aws(&["s3", "ls"]).contains("shelf"));
}

fn installed(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        println!("SKIPPED: {program} is not installed");
    }
    found
}

/// A directory with files of many sizes.
fn tree(root: &Path) {
    std::fs::create_dir_all(root.join("deep/er")).expect("directories");
    for (name, len) in [("a", 10), ("deep/b c", 100_000), ("deep/er/d.bin", 20 << 20), ("empty", 0)] {
        std::fs::write(root.join(name), noise(len as u64, len)).expect("a file");
    }
}

fn same(one: &Path, other: &Path) {
    assert!(Command::new("diff").arg("-r").args([one, other]).status().expect("diff runs").success());
}

#[test]
fn rclone_copies_and_checks_a_directory() {
    if !installed("rclone") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&dir.path().join("data"), &[]);
    let (source, back) = (dir.path().join("source"), dir.path().join("back"));
    tree(&source);
    let rclone = |args: &[&str]| {
        let remote = format!(
            ":s3,provider=Other,access_key_id={ACCESS_KEY},secret_access_key={SECRET_KEY},endpoint='http://{}':shelf",
            server.s3
        );
        let mut command = Command::new("rclone");
        command.args(args.iter().map(|arg| arg.replace("REMOTE", &remote)));
        command.env("RCLONE_CONFIG", "/dev/null").env_remove("AWS_CA_BUNDLE");
        run(command)
    };
    let (from, to) = (source.display().to_string(), back.display().to_string());
    rclone(&["mkdir", "REMOTE"]);
    rclone(&["copy", &from, "REMOTE/dir"]);
    rclone(&["check", "--download", &from, "REMOTE/dir"]);
    rclone(&["sync", "REMOTE/dir", &to]);
    same(&source, &back);
    rclone(&["purge", "REMOTE/dir"]);
    assert_eq!(server.client().list("shelf", "").len(), 0);
}

#[test]
fn s3cmd_puts_and_gets() {
    if !installed("s3cmd") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&dir.path().join("data"), &[]);
    let (source, back) = (dir.path().join("source"), dir.path().join("back"));
    tree(&source);
    std::fs::create_dir_all(&back).expect("a directory");
    let s3cmd = |args: &[&str]| {
        let mut command = Command::new("s3cmd");
        command.args(["--config", "/dev/null", "--no-ssl", "--no-check-certificate"]);
        command.args([&format!("--host={}", server.s3), &format!("--host-bucket={}", server.s3)]);
        command.args([&format!("--access_key={ACCESS_KEY}"), &format!("--secret_key={SECRET_KEY}")]);
        command.args(args);
        run(command)
    };
    s3cmd(&["mb", "s3://shelf"]);
    s3cmd(&["sync", &format!("{}/", source.display()), "s3://shelf/dir/"]);
    s3cmd(&["sync", "s3://shelf/dir/", &format!("{}/", back.display())]);
    same(&source, &back);
    s3cmd(&["rb", "--recursive", "--force", "s3://shelf"]);
    assert!(!s3cmd(&["ls"]).contains("shelf"));
}

#[test]
fn restic_backs_up_and_restores() {
    if !installed("restic") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&dir.path().join("data"), &[]);
    let (source, back) = (dir.path().join("source"), dir.path().join("back"));
    tree(&source);
    let restic = |args: &[&str]| {
        let mut command = Command::new("restic");
        command.args(["--no-cache", "-r", &format!("s3:http://{}/backups", server.s3)]).args(args);
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command.env("RESTIC_PASSWORD", "a password").env_remove("AWS_CA_BUNDLE");
        run(command)
    };
    restic(&["init"]);
    restic(&["backup", &source.display().to_string()]);
    restic(&["check", "--read-data"]);
    restic(&["restore", "latest", "--target", &back.display().to_string()]);
    same(&source, &back.join(source.strip_prefix("/").expect("an absolute path")));
}

/// Whether an interpreter finds a library.
fn has_library(program: &str, args: &[&str]) -> bool {
    let found = Command::new(program).args(args).output().is_ok_and(|output| output.status.success());
    if !found {
        println!("SKIPPED: {program} has no library for {args:?}");
    }
    found
}

#[test]
fn minios_libraries_for_python_and_javascript_work() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&dir.path().join("data"), &[]);
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    if has_library("python3", &["-c", "import minio"]) {
        let mut python = Command::new("python3");
        python.arg(clients.join("minio_client.py")).args([&server.s3, ACCESS_KEY, SECRET_KEY]);
        run(python);
    }
    if has_library("node", &["-e", "require('minio')"]) {
        let (host, port) = server.s3.split_once(':').expect("a port");
        let mut node = Command::new("node");
        node.arg(clients.join("minio_client.js")).args([host, port, ACCESS_KEY, SECRET_KEY]);
        run(node);
    }
    assert_eq!(server.client().request("GET", "/", &[], b"").elements("Bucket").len(), 0);
}

#[test]
fn s3fs_mounts_a_bucket() {
    if !installed("s3fs") || !common::can("/dev/fuse", || Path::new("/dev/fuse").exists()) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&dir.path().join("data"), &[]);
    server.client().create_bucket("shelf");
    let (mount, keys) = (dir.path().join("mount"), dir.path().join("keys"));
    std::fs::create_dir(&mount).expect("a directory");
    std::fs::write(&keys, format!("{ACCESS_KEY}:{SECRET_KEY}")).expect("a file");
    std::fs::set_permissions(&keys, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("permissions");
    let mut s3fs = Command::new("s3fs");
    s3fs.arg("shelf").arg(&mount).args(["-o", &format!("passwd_file={}", keys.display())]);
    s3fs.args(["-o", &format!("url=http://{}", server.s3), "-o", "use_path_request_style"]);
    run(s3fs);
    let mounted = || {
        let mounts = std::fs::read_to_string("/proc/mounts").expect("Linux says it");
        mounts.contains(&mount.display().to_string())
    };
    common::eventually("the bucket is mounted", mounted);
    let used = std::panic::catch_unwind(|| {
        let (source, target) = (dir.path().join("source"), mount.join("dir"));
        tree(&source);
        let mut copy = Command::new("cp");
        copy.arg("-r").arg(&source).arg(&target);
        run(copy);
        same(&source, &target);
        std::fs::rename(target.join("a"), target.join("moved")).expect("a rename");
        assert_eq!(server.client().get("/shelf/dir/moved").len(), 10);
        std::fs::remove_dir_all(&target).expect("it is removed");
        assert_eq!(server.client().list("shelf", "").len(), 0);
    });
    let mut unmount = Command::new("umount");
    unmount.arg(&mount);
    run(unmount);
    used.expect("the mounted bucket is a file system");
}
