//! A real server process, and a small S3 client over a real socket.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod cluster;
pub mod devices;
pub mod forger;
pub mod random;
pub mod suites;

pub use holdfast_chaos_tests_cluster::client::{self, Client};

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub const ACCESS_KEY: &str = "test-access-key";
pub const SECRET_KEY: &str = "test-secret-key";

/// Ports that the system gives to nobody who asks for "any" (its own begin at 32768).
const OWN_PORTS: std::ops::Range<u32> = 20_000..32_768;

/// An address of this machine that is free for UDP and TCP, and stays so while nobody listens there: whoever
/// is killed and started again finds it. A port of the system's choice would be given to the next connection that
/// anybody makes meanwhile.
pub fn free_address() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    loop {
        // Processes that run beside each other have numbers beside each other.
        let turn = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let place = std::process::id().wrapping_mul(16).wrapping_add(turn);
        let port = OWN_PORTS.start + place % (OWN_PORTS.end - OWN_PORTS.start);
        let address = format!("127.0.0.1:{port}");
        if std::net::TcpListener::bind(&address).is_ok() && std::net::UdpSocket::bind(&address).is_ok() {
            return address;
        }
    }
}

/// How long anything that must come about by itself may take on a slow machine.
pub const SOON: Duration = Duration::from_secs(240);

/// Lines of a log that a failed test shows.
const LOG_TAIL: usize = 60;

/// A `holdfast dev` process; killed when dropped.
pub struct Server {
    child: Child,
    pub s3: String,
    pub metrics: String,
    pub data: PathBuf,
}

/// `holdfast dev` on ports of the system's choice.
pub fn command(data: &Path, extra: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(["dev", "--s3", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--data"]).arg(data).args(extra);
    command.env("HOLDFAST_ACCESS_KEY", ACCESS_KEY).env("HOLDFAST_SECRET_KEY", SECRET_KEY);
    command
}

impl Server {
    pub fn start(data: &Path, extra: &[&str]) -> Self {
        Self::spawn(command(data, extra), data)
    }

    /// Waits until the process says that it serves.
    pub fn spawn(mut command: Command, data: &Path) -> Self {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(data.with_extension("log"));
        command.stdout(Stdio::piped()).stderr(log.expect("a log file"));
        let mut child = command.spawn().expect("the server starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let ready = stdout.lines().map_while(Result::ok).find(|line| line.starts_with("ready "));
        let ready = ready.unwrap_or_else(|| panic!("the server is not ready: {}", log_of(data)));
        let address = |name: &str| {
            let part = ready.split(' ').find_map(|part| part.strip_prefix(name)).expect("an address");
            part.split_once("://").expect("a scheme").1.to_owned()
        };
        Self { child, s3: address("s3="), metrics: address("metrics="), data: data.to_owned() }
    }

    pub fn client(&self) -> Client {
        Client::with_keys(&self.s3, ACCESS_KEY, SECRET_KEY)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the process without a chance to do anything.
    pub fn kill(mut self) {
        self.child.kill().expect("the process is there");
        self.child.wait().expect("the process ends");
    }

    /// SIGTERM; the exit code.
    pub fn stop(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        self.child.wait().expect("the process ends").code()
    }

    /// Waits for the process to end by itself.
    pub fn wait(mut self) -> std::process::ExitStatus {
        self.child.wait().expect("the process ends")
    }

    /// The sum of a metric's series.
    pub fn metric(&self, name: &str) -> f64 {
        let text = client::fetch(&self.metrics, "/metrics");
        let series = text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
        let exact = series.filter(|line| matches!(line.as_bytes().get(name.len()), Some(b' ' | b'{')));
        exact.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// The most bytes of memory that the process has held.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    pub fn log(&self) -> String {
        log_of(&self.data)
    }
}

/// A server with one object, which attackers want: `secret` in the bucket `box`.
pub fn with_secret() -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&dir.path().join("data"), &[]);
    server.client().create_bucket("box");
    server.client().put("/box/secret", b"secret");
    (dir, server)
}

/// The object is there as it was, and nothing beside it.
pub fn is_unharmed(server: &Server) {
    assert_eq!(server.client().list("box", ""), ["secret"]);
    assert_eq!(server.client().get("/box/secret"), b"secret");
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL)..];
            println!("the server's last words:\n{}", tail.join("\n"));
        }
    }
}

pub fn log_of(data: &Path) -> String {
    std::fs::read_to_string(data.with_extension("log")).unwrap_or_default()
}

/// Asks until the answer is yes; panics with `what` where it never is.
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < SOON, "it did not come about: {what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// Bytes that no compressor shrinks and that differ for every seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let (mut rng, mut bytes) = (random::Rng::new(seed), Vec::with_capacity(len + 8));
    while bytes.len() < len {
        bytes.extend_from_slice(&rng.bits().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Bytes that the files below `dir` occupy, as `du` counts them.
pub fn disk_usage(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries =
        std::fs::read_dir(dir).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    entries
        .iter()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_usage(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Bytes that a file occupies.
pub fn disk_usage_of(file: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(file).map_or(0, |metadata| metadata.blocks() * 512)
}

/// Regular files below `dir`.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(dir).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Whether something that needs root and this kernel can be tested. Where CI is set, it must be.
pub fn can(what: &str, check: impl FnOnce() -> bool) -> bool {
    if check() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{what} is required where CI is set");
    eprintln!(
        "SKIPPED: {what} is not possible on this machine (it needs root, loop devices and Debian's e2fsprogs)"
    );
    false
}
