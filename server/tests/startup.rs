//! Starting, stopping, and refusing to start.

mod common;

use common::{Server, command, files, noise};
use std::{os::unix::fs::FileExt, path::Path, process::Output};

fn refused(data: &Path, extra: &[&str]) -> String {
    let Output { status, stderr, .. } = command(data, extra).output().expect("the program runs");
    assert!(!status.success(), "it should not have started");
    String::from_utf8_lossy(&stderr).into_owned()
}

#[test]
fn a_second_process_on_the_same_data_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let server = Server::start(&data, &[]);
    assert!(refused(&data, &[]).contains("in use by another process"));
    server.client().create_bucket("still-served");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn another_profile_or_number_of_devices_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    assert_eq!(Server::start(&data, &[]).stop(), Some(0));
    assert!(refused(&data, &["--ec", "3+3"]).contains("cannot be changed"));
    assert!(refused(&data, &["--devices", "7"]).contains("made with 6 devices"));
    assert!(refused(&dir.path().join("new"), &["--devices", "4"]).contains("needs 6 devices"));
    assert_eq!(Server::start(&data, &[]).stop(), Some(0));
}

#[test]
fn keys_are_made_once_printed_once_and_kept() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let start = || {
        let mut command = command(&data, &[]);
        command
            .env_remove("HOLDFAST_ACCESS_KEY")
            .env_remove("HOLDFAST_SECRET_KEY")
            .stdout(std::process::Stdio::piped());
        let mut child = command.spawn().expect("the program runs");
        let mut lines =
            std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("a pipe")));
        let mut printed = String::new();
        while let Some(Ok(line)) = lines.next() {
            printed += &line;
            if line.starts_with("ready ") {
                break;
            }
        }
        child.kill().expect("the process is there");
        child.wait().expect("the process ends");
        printed
    };
    let kept = |line: &str| -> String {
        let text = std::fs::read_to_string(data.join("credentials.toml")).expect("kept keys");
        text.lines()
            .find_map(|one| one.strip_prefix(line))
            .expect("a key")
            .trim_matches(['"', ' ', '='])
            .to_owned()
    };
    let first = start();
    let (access, secret) = (kept("access_key"), kept("secret_key"));
    assert!(first.contains(&access) && first.contains(&secret));
    let second = start();
    assert!(!second.contains(&secret), "the secret was printed again");
    assert_eq!(kept("secret_key"), secret);
    assert!(!std::fs::read_to_string(data.with_extension("log")).unwrap_or_default().contains(&secret));
}

/// Harms the metadata in each of several ways: the system must refuse to start and say what to do, or serve every byte
/// right because what was harmed did not matter.
#[test]
fn damaged_metadata_is_refused_and_never_served() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let original = dir.path().join("data");
    let server = Server::start(&original, &[]);
    let client = server.client();
    client.create_bucket("box");
    (0..40).for_each(|n| client.put(&format!("/box/{n}"), &noise(n, 500 + 3000 * n as usize)));
    // A clean stop writes the watermark of everything.
    assert_eq!(server.stop(), Some(0));
    let meta = files(&original.join("meta"));
    let harmed = meta.iter().filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.ends_with(".log")
            || name.ends_with(".sst")
            || name.starts_with("MANIFEST")
            || name == "watermark"
            || name == "CURRENT"
    });
    let (mut refusals, mut cases) = (0, 0);
    for path in harmed {
        let relative = path.strip_prefix(&original).expect("a path below");
        let len = std::fs::metadata(path).expect("a file").len();
        for at in [len / 2, len.saturating_sub(20)] {
            if len == 0 {
                continue;
            }
            cases += 1;
            let data = dir.path().join(format!("case-{cases}"));
            assert!(
                std::process::Command::new("cp")
                    .arg("-a")
                    .args([&original, &data])
                    .status()
                    .expect("cp")
                    .success()
            );
            let file = std::fs::OpenOptions::new().write(true).open(data.join(relative)).expect("a file");
            let garbage = vec![0xa5; (len - at).min(100) as usize];
            file.write_all_at(&garbage, at).expect("a write");
            let mut child = command(&data, &[]);
            child
                .stdout(std::process::Stdio::piped())
                .stderr(std::fs::File::create(data.with_extension("log")).expect("a log"));
            let mut child = child.spawn().expect("the program runs");
            let lines =
                std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("a pipe")));
            let ready = lines.map_while(Result::ok).find(|line| line.starts_with("ready "));
            match ready {
                None => {
                    refusals += 1;
                    let text = common::log_of(&data);
                    assert!(
                        text.contains("metadata") || text.contains("watermark"),
                        "{}: {text}",
                        relative.display()
                    );
                }
                Some(ready) => {
                    let address = ready
                        .split(' ')
                        .find_map(|part| part.strip_prefix("s3=http://"))
                        .expect("an address");
                    let client = common::Client::with_keys(address, common::ACCESS_KEY, common::SECRET_KEY);
                    for n in 0..40 {
                        let body = client.get(&format!("/box/{n}"));
                        assert!(
                            body == noise(n, 500 + 3000 * n as usize),
                            "{}: object {n}",
                            relative.display()
                        );
                    }
                }
            }
            child.kill().ok();
            child.wait().expect("the process ends");
        }
    }
    assert!(cases >= 6 && refusals >= 3, "{refusals} of {cases} cases were refused: {meta:?}");
    // All of it gone, devices still there.
    std::fs::remove_dir_all(original.join("meta")).expect("a removal");
    assert!(refused(&original, &[]).contains("metadata of this system is gone"));
    std::fs::remove_file(original.join("cluster.toml")).expect("a removal");
    assert!(refused(&original, &[]).contains("is a device with data"));
}

#[test]
fn collection_is_resumed_while_the_system_is_off() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let resume = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(["resume-collection", "--data"]).arg(&data).output().expect("the program runs")
    };
    assert!(!resume().status.success(), "there is no system yet");
    let server = Server::start(&data, &[]);
    assert!(String::from_utf8_lossy(&resume().stderr).contains("in use"));
    assert_eq!(server.stop(), Some(0));
    assert!(resume().status.success());
    assert_eq!(Server::start(&data, &[]).metric("holdfast_collection_stopped"), 0.0);
}

#[test]
fn a_configuration_file_runs_the_same_system() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut text = format!(
        "data = \"{0}/data\"\ns3 = \"127.0.0.1:0\"\nmetrics = \"127.0.0.1:0\"\nec = \"2+1\"\naccess_key = \"{1}\"\nsecret_key_file = \"{0}/secret\"\n",
        dir.path().display(),
        common::ACCESS_KEY
    );
    (0..3).for_each(|n| text += &format!("[[device]]\ndir = \"{}/disk-{n}\"\n", dir.path().display()));
    std::fs::write(dir.path().join("secret"), common::SECRET_KEY).expect("a write");
    let file = dir.path().join("holdfast.toml");
    std::fs::write(&file, text).expect("a write");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("server").arg("--config").arg(&file);
    let server = Server::spawn(command, &dir.path().join("server"));
    server.client().create_bucket("box");
    server.client().put("/box/a", &noise(1, 100_000));
    assert!(server.client().get("/box/a") == noise(1, 100_000));
    assert_eq!(server.stop(), Some(0));
    assert!(dir.path().join("disk-2/device.toml").exists());
}
