//! People's devices: `hf` and its daemon, each with a directory of its own, against a real server.

use super::{Client, Server, eventually};
use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

pub const PASSWORD: &str = "correct horse battery";

/// The client's program lies beside the server's.
pub fn hf() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_holdfast")).with_file_name("hf")
}

/// A system with the user alice.
pub struct World {
    pub dir: tempfile::TempDir,
    pub server: Option<Server>,
    pub sync: String,
    options: &'static [&'static str],
}

impl World {
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// The same of a server with more options.
    pub fn with(options: &'static [&'static str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // A port of its own, which it has again when it is started again.
        let sync = super::free_address();
        let mut world = Self { dir, server: None, sync, options };
        world.start();
        world.operate(&["user", "create", "alice", "--password-stdin"]);
        world
    }

    /// What an operator does.
    pub fn operate(&self, args: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(args).arg("--data").arg(self.data());
        let output = feed(command, PASSWORD);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn start(&mut self) {
        let options = [&["--ec", "2+1", "--devices", "3", "--sync", &self.sync], self.options].concat();
        self.server = Some(Server::start(&self.data(), &options));
    }

    pub fn client(&self) -> Client {
        self.server.as_ref().expect("it runs").client()
    }

    pub fn device(&self, name: &str) -> Device {
        self.device_of("alice", name)
    }

    pub fn device_of(&self, user: &str, name: &str) -> Device {
        let home = self.dir.path().join(format!("home-{name}"));
        let device = Device { home, root: self.dir.path().join(name), daemon: None, transport: None };
        device.login(&self.sync, user, name);
        device
    }

    /// Devices that sync the space docs, whose daemons run.
    pub fn devices<const N: usize>(&self, names: [&str; N]) -> [Device; N] {
        let mut first = true;
        names.map(|name| {
            let mut device = self.device(name);
            if std::mem::take(&mut first) {
                device.run(&["spaces", "create", "docs"]);
            }
            device.run(&["sync", "add", "docs", &device.root.display().to_string()]);
            device.start();
            device
        })
    }
}

pub fn feed(mut command: Command, line: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    writeln!(child.stdin.take().expect("it reads"), "{line}").expect("it reads");
    child.wait_with_output().expect("it ends")
}

/// A device, its directory and its daemon.
pub struct Device {
    pub home: PathBuf,
    pub root: PathBuf,
    pub daemon: Option<Child>,
    /// What it goes over, where that is not its choice.
    pub transport: Option<&'static str>,
}

impl Drop for Device {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Device {
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(hf());
        command.env("HF_HOME", &self.home).args(args);
        if let Some(transport) = self.transport {
            command.env("HF_TRANSPORT", transport);
        }
        command
    }

    pub fn login(&self, address: &str, user: &str, name: &str) {
        let login = ["login", address, "--user", user, "--device", name, "--password-stdin"];
        let output = feed(self.command(&login), PASSWORD);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("it ends")
    }

    pub fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "hf {args:?}: {said}{}", self.log());
        String::from_utf8(output.stdout).expect("text")
    }

    pub fn refused(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(!output.status.success(), "hf {args:?} succeeds");
        String::from_utf8(output.stderr).expect("text")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    pub fn start(&mut self) {
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.home.join("log")).expect("a log");
        let level = std::env::var("HOLDFAST_HF_LOG").unwrap_or_else(|_| "info".to_owned());
        let mut daemon = self.command(&["daemon"]);
        let daemon = daemon.env("HF_LOG", level).stdout(Stdio::null()).stderr(log).spawn();
        self.daemon = Some(daemon.expect("it starts"));
        eventually("the daemon answers", || self.home.join("daemon.sock").exists());
    }

    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().expect("it runs");
            daemon.wait().expect("it ends");
            let _gone = fs::remove_file(self.home.join("daemon.sock"));
        }
    }

    pub fn wait(&self) {
        let output = self.output(&["sync", "wait", "--timeout", "60"]);
        if !output.status.success() {
            let (said, status) = (String::from_utf8_lossy(&output.stderr), self.run(&["sync", "status"]));
            panic!("it is not synced: {said}{status}{}", self.log());
        }
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("it is made");
        fs::write(path, text).expect("it is written");
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn has(&self, path: &str) -> bool {
        self.root.join(path).symlink_metadata().is_ok()
    }

    /// All that is in the directory: each path with what is there.
    pub fn tree(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut open = vec![self.root.clone()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(&directory).expect("it is read") {
                let path = entry.expect("it is read").path();
                let name = path.strip_prefix(&self.root).expect("it is inside").display().to_string();
                let metadata = path.symlink_metadata().expect("it is there");
                if name == ".holdfast" {
                } else if metadata.is_dir() {
                    lines.push(format!("{name}/"));
                    open.push(path);
                } else if metadata.is_symlink() {
                    lines.push(format!("{name}>{}", fs::read_link(&path).expect("a link").display()));
                } else {
                    let run = if metadata.permissions().mode() & 0o100 != 0 { "*" } else { "" };
                    lines.push(format!("{name}={}{run}", blake(&path)));
                }
            }
        }
        lines.sort();
        lines
    }
}

pub fn blake(path: &Path) -> String {
    let bytes = fs::read(path).expect("it is read");
    match std::str::from_utf8(&bytes) {
        Ok(text) if text.len() < 40 => text.to_owned(),
        _ => holdfast_core::ids::ChunkId::of(&bytes).to_string(),
    }
}

/// Waits until all devices are in sync with the server, and so with each other.
pub fn agree(devices: &[&Device]) {
    devices.iter().for_each(|device| device.wait());
    devices.iter().for_each(|device| device.wait());
    let first = devices[0].tree();
    for device in devices {
        assert_eq!(device.tree(), first, "{}", device.log());
    }
}
