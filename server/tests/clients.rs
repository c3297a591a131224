//! Real S3 clients against a real server: `make test` installs them.

mod common;

use common::{ACCESS_KEY, SECRET_KEY, Server, noise};
use std::{path::Path, process::Command};

fn run(mut command: Command) -> String {
    let output = command.output().expect("the client is installed: make test does that");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{text}");
    text
}

#[test]
fn boto3_finds_what_applications_rely_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&dir.path().join("data"), &[]);
    let mut python = Command::new("python3");
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/boto3_suite.py"));
    python.args([&format!("http://{}", server.s3), ACCESS_KEY, SECRET_KEY]);
    println!("{}", run(python));
    // A secret that was used in every request is in no log.
    assert!(!server.log().contains(SECRET_KEY));
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
    std::fs::create_dir_all(source.join("deep/er")).expect("directories");
    for (name, len) in [("a", 10), ("deep/b", 100_000), ("deep/er/c.bin", 20 << 20), ("empty", 0)] {
        std::fs::write(source.join(name), noise(len as u64, len)).expect("a file");
    }
    let (from, back) = (source.display().to_string(), dir.path().join("back").display().to_string());
    aws(&["s3", "mb", "s3://shelf"]);
    aws(&["s3", "sync", &from, "s3://shelf/dir"]);
    assert!(aws(&["s3", "ls", "s3://shelf/dir/"]).contains("PRE deep/"));
    aws(&["s3", "cp", "--recursive", "s3://shelf/dir", "s3://shelf/other"]);
    aws(&["s3", "sync", "s3://shelf/other", &back]);
    assert!(Command::new("diff").args(["-r", &from, &back]).status().expect("diff runs").success());
    aws(&["s3", "rb", "--force", "s3://shelf"]);
    assert!(!aws(&["s3", "ls"]).contains("shelf"));
}
