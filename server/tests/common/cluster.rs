//! A cluster of real processes on this machine, through the script that people use too.

use super::{Client, SOON};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

/// A cluster; its processes are killed when it is dropped.
pub struct Cluster {
    data: PathBuf,
    /// Its gateways' addresses.
    pub gateways: Vec<String>,
    access: String,
    secret: String,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/local/cluster")
}

impl Cluster {
    pub fn up(data: &Path, options: &[&str]) -> Self {
        let mut cluster = Self {
            data: data.to_owned(),
            gateways: Vec::new(),
            access: String::new(),
            secret: String::new(),
        };
        cluster.restart(options);
        cluster
    }

    /// Starts what is not running.
    pub fn restart(&mut self, options: &[&str]) {
        let text = self.script("up", options);
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{name} is missing in {text}")).to_owned()
        };
        self.gateways = value("S3_ENDPOINTS=").split(',').map(str::to_owned).collect();
        self.access = value("ACCESS_KEY=");
        self.secret = value("SECRET_KEY=");
    }

    fn run(&self, command: &str, args: &[&str]) -> (bool, String) {
        let mut process = Command::new(script());
        process.arg(command).args(args).arg("--data").arg(&self.data);
        process.env("HOLDFAST_BIN", env!("CARGO_BIN_EXE_holdfast"));
        let output = process.output().expect("the script runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), text + &String::from_utf8_lossy(&output.stderr))
    }

    /// What the script prints; it must succeed.
    pub fn script(&self, command: &str, args: &[&str]) -> String {
        let (good, text) = self.run(command, args);
        assert!(good, "{command} {args:?}: {text}\n{}", self.logs());
        text
    }

    /// An operator's command.
    pub fn order(&self, args: &[&str]) -> String {
        self.script("run", args)
    }

    /// An operator's command that must be refused; what is said then.
    pub fn refused(&self, args: &[&str]) -> String {
        let (good, text) = self.run("run", args);
        assert!(!good, "{args:?} was not refused: {text}");
        text
    }

    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.order(&["status", "--json"])).expect("status is JSON")
    }

    /// The metadata member that leads.
    pub fn leader(&self) -> String {
        let members: serde_json::Value =
            serde_json::from_str(&self.order(&["meta", "members", "--json"])).expect("members are JSON");
        let all = members.as_array().expect("a list");
        let leader = all.iter().find(|member| member["leads"] == true).expect("a leader");
        leader["name"].as_str().expect("a name").to_owned()
    }

    /// Where devices sync with a gateway.
    pub fn sync(&self, gateway: &str) -> String {
        let config = std::fs::read_to_string(self.dir(gateway).join("config.toml")).expect("it has one");
        let line = config.lines().find_map(|line| line.strip_prefix("sync = "));
        line.expect("devices sync there").trim_matches('"').to_owned()
    }

    /// Waits until the status is as `wanted`.
    pub fn until(&self, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) {
        let start = Instant::now();
        let mut last = String::new();
        while start.elapsed() < SOON {
            let (good, text) = self.run("run", &["status", "--json"]);
            if good && serde_json::from_str(&text).is_ok_and(|status| wanted(&status)) {
                return;
            }
            last = text;
        }
        panic!("{what} does not come about: {last}\n{}", self.logs());
    }

    pub fn until_healthy(&self) {
        self.until("health", |status| status["healthy"] == true);
    }

    pub fn client(&self, gateway: usize) -> Client {
        Client::with_keys(&self.gateways[gateway % self.gateways.len()], &self.access, &self.secret)
    }

    /// The system's owner's keys.
    pub fn keys(&self) -> (&str, &str) {
        (&self.access, &self.secret)
    }

    pub fn dir(&self, node: &str) -> PathBuf {
        self.data.join(node)
    }

    pub fn pid(&self, node: &str) -> String {
        std::fs::read_to_string(self.dir(node).join("pid")).expect("a pid").trim().to_owned()
    }

    pub fn operator(&self) -> PathBuf {
        self.data.join("operator")
    }

    pub fn nodes(&self) -> Vec<String> {
        let entries =
            std::fs::read_dir(&self.data).map(|dir| dir.flatten().collect::<Vec<_>>()).unwrap_or_default();
        let nodes = entries.iter().filter(|entry| entry.path().join("pid").exists());
        nodes.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        let tail = |node: &String| {
            let text = std::fs::read_to_string(self.dir(node).join("log")).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("== {node}\n{}\n", lines[lines.len().saturating_sub(8)..].join("\n"))
        };
        self.nodes().iter().map(tail).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes() {
            let _gone = Command::new("kill").args(["-9", &self.pid(&node)]).output();
        }
    }
}
