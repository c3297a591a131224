//! Hosts in network namespaces: an address, a disk and a process each.

use crate::Client;
use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long anything that must come about by itself may take.
const SOON: Duration = Duration::from_secs(180);

const RPC: u16 = 7400;
const S3: u16 = 9000;

/// Bytes of a storage node's disk.
const DISK_BYTES: u64 = 2 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Meta,
    Storage,
    Gateway,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Storage => "storage",
            Self::Gateway => "gateway",
        }
    }
}

/// A host.
pub struct Host {
    pub name: String,
    pub role: Role,
    pub rack: usize,
    pub address: String,
    namespace: String,
    dir: PathBuf,
    /// What it runs.
    program: PathBuf,
    process: Option<Child>,
}

/// All hosts, and the way to them. Everything is taken down when it is dropped.
pub struct Lab {
    dir: PathBuf,
    /// The current version's binary, which operators use too.
    program: PathBuf,
    tag: String,
    subnet: String,
    pub hosts: Vec<Host>,
    access: String,
    secret: String,
}

/// Whether this machine can have network namespaces, and says what is missing where it cannot.
///
/// # Errors
/// What is missing.
pub fn can_run() -> Result<(), String> {
    let name = format!("hfprobe{}", std::process::id());
    let made = run("ip", &["netns", "add", &name])
        .and_then(|_| run("ip", &["netns", "exec", &name, "nft", "add", "table", "inet", "probe"]));
    let _removed = run("ip", &["netns", "del", &name]);
    made.map_err(|error| format!("network namespaces need root, iproute2 and nftables: {error}"))?;
    run("mkfs.ext4", &["-V"]).map_err(|error| format!("disks need e2fsprogs: {error}"))?;
    if Path::new("/dev/loop-control").exists() { Ok(()) } else { Err("disks need loop devices".to_owned()) }
}

/// How nsenter names a namespace's network.
fn network_of(namespace: &str) -> String {
    format!("--net=/var/run/netns/{namespace}")
}

/// A program, found where administrators' programs are too.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// Runs a program; what it printed.
fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let output = command(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!("{program} {args:?}: {}{text}", String::from_utf8_lossy(&output.stderr)))
}

/// Waits for something that comes about by itself.
fn until(what: &str, mut check: impl FnMut() -> bool) -> Result<(), String> {
    let start = Instant::now();
    while !check() {
        if start.elapsed() > SOON {
            return Err(format!("{what} does not come about"));
        }
        thread::park_timeout(Duration::from_millis(100));
    }
    Ok(())
}

impl Lab {
    /// Makes and starts a cluster in `dir`, of the server `program`; or of a `previous` version's, from which hosts are
    /// upgraded later.
    ///
    /// # Errors
    /// Where the machine cannot carry it, or it does not become whole.
    pub fn up(dir: &Path, program: &Path, previous: Option<&Path>) -> Result<Self, String> {
        let number = std::process::id() % 200;
        let mut lab = Self {
            dir: dir.to_owned(),
            program: program.to_owned(),
            tag: format!("hf{number}"),
            subnet: format!("10.77.{number}"),
            hosts: Vec::new(),
            access: String::new(),
            secret: String::new(),
        };
        lab.build(previous.unwrap_or(program))?;
        Ok(lab)
    }

    fn build(&mut self, program: &Path) -> Result<(), String> {
        fs::create_dir_all(&self.dir).map_err(|error| error.to_string())?;
        let (bridge, gate) = (self.tag.clone(), format!("{}.254/24", self.subnet));
        run("ip", &["link", "add", &bridge, "type", "bridge"])?;
        run("ip", &["addr", "add", &gate, "dev", &bridge])?;
        run("ip", &["link", "set", &bridge, "up"])?;
        for (role, count) in [(Role::Meta, 3), (Role::Storage, 6), (Role::Gateway, 2)] {
            for number in 1..=count {
                let host = self.wire(role, number, program)?;
                self.hosts.push(host);
            }
        }
        self.found()
    }

    /// A namespace with a cable to the bridge, and a disk where the host keeps shards.
    fn wire(&self, role: Role, number: usize, program: &Path) -> Result<Host, String> {
        let at = self.hosts.len() + 1;
        let (namespace, cable) = (format!("{}-{at}", self.tag), format!("{}v{at}", self.tag));
        let address = format!("{}.{at}", self.subnet);
        let inside = format!("{address}/24");
        run("ip", &["netns", "add", &namespace])?;
        run("ip", &["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
        run("ip", &["link", "set", &cable, "master", &self.tag, "up"])?;
        run("ip", &["-n", &namespace, "addr", "add", &inside, "dev", "eth0"])?;
        run("ip", &["-n", &namespace, "link", "set", "eth0", "up"])?;
        run("ip", &["-n", &namespace, "link", "set", "lo", "up"])?;
        let name = format!("{}-{number}", role.name());
        let dir = self.dir.join(&name);
        let disk = dir.join("disk");
        fs::create_dir_all(&disk).map_err(|error| error.to_string())?;
        if role == Role::Storage {
            let image = dir.join("disk.img");
            let file = fs::File::create(&image).map_err(|error| error.to_string())?;
            file.set_len(DISK_BYTES).map_err(|error| error.to_string())?;
            let (image, disk) = (image.display().to_string(), disk.display().to_string());
            run("mkfs.ext4", &["-q", "-m", "0", &image])?;
            // Another process may take the loop device that was just found free.
            let mut mounted = run("mount", &["-o", "loop", &image, &disk]);
            for _ in 0..50 {
                if mounted.is_ok() {
                    break;
                }
                thread::park_timeout(Duration::from_millis(50));
                mounted = run("mount", &["-o", "loop", &image, &disk]);
            }
            mounted?;
            let _none = fs::remove_dir(Path::new(&disk).join("lost+found"));
        }
        let (rack, program) = ((number - 1) % 3 + 1, program.to_owned());
        Ok(Host { name, role, rack, address, namespace, dir, program, process: None })
    }

    fn configure(&self, host: &Host) -> Result<(), String> {
        let Host { name, role, rack, address, dir, .. } = host;
        let shown = dir.display();
        let mut text = format!(
            "data = \"{shown}/data\"\nname = \"{name}\"\nroles = [\"{}\"]\nplace = \"lab/rack-{rack}/{name}\"\n\
             listen = \"{address}:{RPC}\"\nmetrics = \"{address}:9001\"\nout_after = \"15s\"\n",
            role.name()
        );
        match role {
            Role::Storage => text.push_str(&format!("[[device]]\ndir = \"{shown}/disk\"\n")),
            Role::Gateway => text.push_str(&format!("s3 = \"{address}:{S3}\"\n")),
            Role::Meta => {}
        }
        fs::write(dir.join("config.toml"), text).map_err(|error| error.to_string())
    }

    fn found(&mut self) -> Result<(), String> {
        for host in &self.hosts {
            self.configure(host)?;
        }
        let operator = self.operator();
        let config = self.hosts[0].dir.join("config.toml").display().to_string();
        let program = self.hosts[0].program.display().to_string();
        let said = run(&program, &["cluster", "init", "--config", &config, "--operator", &operator])?;
        let key = |name: &str| {
            let line = said.lines().find_map(|line| line.trim().strip_prefix(&format!("export {name}=")));
            line.map(str::to_owned).ok_or_else(|| format!("{name} is missing in {said}"))
        };
        (self.access, self.secret) = (key("AWS_ACCESS_KEY_ID")?, key("AWS_SECRET_ACCESS_KEY")?);
        self.start(0)?;
        let seed = format!("{}:{RPC}", self.hosts[0].address);
        for at in 1..self.hosts.len() {
            let (role, first_gateway) = (self.hosts[at].role, self.hosts[at - 1].role == Role::Storage);
            if role == Role::Gateway && first_gateway {
                let devices = || self.order(&["device", "list", "--json"]).unwrap_or_default();
                until("six devices", || devices().matches("\"device\"").count() == 6)?;
                self.order(&["pool", "create", "--profile", "4+2", "--domain", "rack"])?;
            }
            let mut token = String::new();
            until("a token", || {
                let made = self.order(&["cluster", "token", "create", "--role", role.name()]);
                made.map(|text| token = text.trim().to_owned()).is_ok()
            })?;
            self.launch(at, &["--join", &seed, "--token", &token])?;
            let identity = self.hosts[at].dir.join("data/identity.toml");
            until("a host joins", || identity.exists())?;
        }
        self.until_healthy()?;
        (0..self.hosts.len()).try_for_each(|at| self.until_serving(at))
    }

    fn operator(&self) -> String {
        self.dir.join("operator").display().to_string()
    }

    /// An operator's command.
    ///
    /// # Errors
    /// Where it fails.
    pub fn order(&self, args: &[&str]) -> Result<String, String> {
        let operator = self.operator();
        run(&self.program.display().to_string(), &[args, &["--operator", &operator]].concat())
    }

    /// Where S3 is served.
    pub fn gateways(&self) -> Vec<String> {
        let gateways = self.hosts.iter().filter(|host| host.role == Role::Gateway);
        gateways.map(|host| format!("{}:{S3}", host.address)).collect()
    }

    pub fn client(&self, gateway: usize) -> Client {
        let gateways = self.gateways();
        Client::with_keys(&gateways[gateway % gateways.len()], &self.access, &self.secret)
    }

    fn launch(&mut self, at: usize, extra: &[&str]) -> Result<(), String> {
        let host = &mut self.hosts[at];
        let log = fs::OpenOptions::new().create(true).append(true).open(host.dir.join("log"));
        let log = log.map_err(|error| error.to_string())?;
        // Into its network alone: "ip netns exec" would also keep every file system mounted that is mounted now.
        let child = command("nsenter")
            .arg(network_of(&host.namespace))
            .arg(&host.program)
            .args(["server", "--config"])
            .arg(host.dir.join("config.toml"))
            .args(extra)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        host.process = Some(child.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// Starts a host's process, where it does not run.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(&mut self, at: usize) -> Result<(), String> {
        if self.hosts[at].process.is_some() { Ok(()) } else { self.launch(at, &[]) }
    }

    /// Stops a host, starts it again, and waits until it serves and all is well.
    ///
    /// # Errors
    /// Where it cannot be started, or the cluster does not become well.
    pub fn restart(&mut self, at: usize) -> Result<(), String> {
        self.stop(at);
        self.start(at)?;
        self.until_serving(at)?;
        self.until_healthy()
    }

    /// Waits until a host's clients can reach it.
    fn until_serving(&self, at: usize) -> Result<(), String> {
        let host = &self.hosts[at];
        let port = if host.role == Role::Gateway { S3 } else { RPC };
        let address: SocketAddr = format!("{}:{port}", host.address)
            .parse()
            .map_err(|error: std::net::AddrParseError| error.to_string())?;
        until("a host serves", || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
    }

    /// Ends a host's process without a chance to do anything.
    pub fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.hosts[at].process.take() {
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }

    /// Whether a host runs an older version.
    pub fn is_old(&self, at: usize) -> bool {
        self.hosts[at].program != self.program
    }

    /// Stops a host, and starts it with the current version.
    ///
    /// # Errors
    /// Where it cannot be started, or the cluster does not become well.
    pub fn upgrade(&mut self, at: usize) -> Result<(), String> {
        self.hosts[at].program = self.program.clone();
        self.restart(at)
    }

    /// SIGTERM, and waits.
    pub fn stop(&mut self, at: usize) {
        self.signal(at, "TERM");
        if let Some(mut child) = self.hosts[at].process.take() {
            let _gone = child.wait();
        }
    }

    /// Sends a signal to a host's process.
    pub fn signal(&self, at: usize, signal: &str) {
        if let Some(child) = &self.hosts[at].process {
            let _gone = run("kill", &[&format!("-{signal}"), &child.id().to_string()]);
        }
    }

    fn nft(&self, at: usize, rule: &[&str]) -> Result<(), String> {
        let namespace = &self.hosts[at].namespace;
        run("nsenter", &[&[network_of(namespace).as_str(), "nft"], rule].concat()).map(|_| ())
    }

    /// Drops what comes in at a host, as `rule` says.
    ///
    /// # Errors
    /// Where nftables refuse.
    pub fn drop_incoming(&self, at: usize, rule: &[&str]) -> Result<(), String> {
        self.nft(at, &["add", "table", "inet", "chaos"])?;
        self.nft(at, &["add", "chain", "inet", "chaos", "input", "{ type filter hook input priority 0; }"])?;
        self.nft(at, &[&["add", "rule", "inet", "chaos", "input"], rule].concat())
    }

    /// Lets everything in again.
    pub fn heal_network(&self) {
        for at in 0..self.hosts.len() {
            let _none = self.nft(at, &["delete", "table", "inet", "chaos"]);
        }
    }

    /// A storage node's disk.
    pub fn disk(&self, at: usize) -> PathBuf {
        self.hosts[at].dir.join("disk")
    }

    /// The device that a storage node has, as operators name it.
    pub fn device_of(&self, at: usize) -> Option<String> {
        let text = self.order(&["device", "list", "--json"]).ok()?;
        let devices: serde_json::Value = serde_json::from_str(&text).ok()?;
        let mine =
            devices.as_array()?.iter().find(|device| device["host"] == self.hosts[at].name.as_str())?;
        Some(mine["device"].to_string())
    }

    pub fn status(&self) -> Option<serde_json::Value> {
        serde_json::from_str(&self.order(&["status", "--json"]).ok()?).ok()
    }

    pub fn is_healthy(&self) -> bool {
        self.status().is_some_and(|status| status["healthy"] == true)
    }

    /// Waits until the cluster is well.
    ///
    /// # Errors
    /// With what is wrong, where it is not well in time.
    pub fn until_healthy(&self) -> Result<(), String> {
        until("health", || self.is_healthy()).map_err(|error| {
            let problems = self.status().map(|status| status["problems"].to_string());
            format!("{error}: {}", problems.unwrap_or_default())
        })
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        let tail = |host: &Host| {
            let text = fs::read_to_string(host.dir.join("log")).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("== {}\n{}\n", host.name, lines[lines.len().saturating_sub(10)..].join("\n"))
        };
        self.hosts.iter().map(tail).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for at in 0..self.hosts.len() {
            self.kill(at);
            let disk = self.disk(at).display().to_string();
            if self.hosts[at].role == Role::Storage {
                let _gone = run("umount", &["-l", &disk]);
            }
            let _gone = run("ip", &["netns", "del", &self.hosts[at].namespace]);
        }
        let _gone = run("ip", &["link", "del", &self.tag]);
    }
}
