//! Each figure of a whole server beside its budget and its aim: CPU a byte and a request, device bytes, flushes, memory.
//!
//! The load comes from this process over kept connections; every body is different. Absolute figures belong to the machine
//! and the hour: the first line is the speed of a known computation, to compare runs by.

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Client, Server, client::Connection, cluster::Cluster, noise};
use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// What a figure must reach, and would like to.
struct Goal {
    what: &'static str,
    budget: f64,
    aim: f64,
}

fn show(goal: &Goal, measured: f64) {
    let verdict = if measured <= goal.aim {
        "aim"
    } else if measured <= goal.budget {
        "budget"
    } else {
        "OVER"
    };
    println!("{:<58} {measured:>10.3} {:>9} {:>9}  {verdict}", goal.what, goal.budget, goal.aim);
}

/// User and system time of a process, in seconds.
fn cpu_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks: f64 = [11, 12].iter().filter_map(|&at| fields.get(at)?.parse::<f64>().ok()).sum();
    ticks / 100.0
}

/// A figure of `/proc/PID/status`, in MiB.
fn memory_mib(pid: u32, name: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim_matches([':', '\t', ' ', 'k', 'B']).trim().parse::<f64>().ok())
        .unwrap_or(0.0)
        / 1024.0
}

/// Bytes written towards the disk by a process.
fn written(pid: u32) -> f64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0.0)
}

/// Flushes that all disks of the machine were sent.
fn flushes() -> f64 {
    let stats = std::fs::read_to_string("/proc/diskstats").unwrap_or_default();
    stats.lines().filter_map(|line| line.split_whitespace().nth(18)?.parse::<f64>().ok()).fold(0.0, f64::max)
}

/// What is loaded: the processes that are accounted for, and a way in.
struct System {
    pids: Vec<u32>,
    client: Client,
}

impl System {
    fn sum(&self, figure: impl Fn(u32) -> f64) -> f64 {
        self.pids.iter().map(|pid| figure(*pid)).sum()
    }
}

/// One load: what it cost.
struct Cost {
    operations: f64,
    cpu_s: f64,
    written: f64,
    flushes: f64,
    p99_ms: f64,
    seconds: f64,
}

/// Runs `operation` on `connections` connections for some seconds.
fn load(
    system: &System,
    connections: u64,
    seconds: u64,
    operation: impl Fn(&mut Connection, u64) + Sync,
) -> Cost {
    let next = AtomicU64::new(0);
    let (cpu, bytes, flushed, start) = (system.sum(cpu_s), system.sum(written), flushes(), Instant::now());
    let until = start + Duration::from_secs(seconds);
    let mut times: Vec<f64> = std::thread::scope(|scope| {
        let worker = || {
            let mut connection = system.client.connect().expect("a connection");
            let mut times = Vec::new();
            while Instant::now() < until {
                let begun = Instant::now();
                operation(&mut connection, next.fetch_add(1, Ordering::Relaxed));
                times.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            times
        };
        let workers: Vec<_> = (0..connections).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    times.sort_by(f64::total_cmp);
    Cost {
        operations: times.len() as f64,
        cpu_s: system.sum(cpu_s) - cpu,
        written: system.sum(written) - bytes,
        flushes: flushes() - flushed,
        p99_ms: times.get(times.len() * 99 / 100).copied().unwrap_or(0.0),
        seconds: start.elapsed().as_secs_f64(),
    }
}

fn put(size: usize, prefix: &'static str) -> impl Fn(&mut Connection, u64) + Sync {
    move |connection, n| {
        let response =
            connection.request("PUT", &format!("/bench/{prefix}{n}"), &[], &noise(n * 7 + size as u64, size));
        assert_eq!(response.expect("an answer").status, 200);
    }
}

fn get(size: usize, prefix: &'static str, objects: u64) -> impl Fn(&mut Connection, u64) + Sync {
    move |connection, n| {
        let response = connection
            .request("GET", &format!("/bench/{prefix}{}", n % objects), &[], b"")
            .expect("an answer");
        assert_eq!((response.status, response.body.len()), (200, size));
    }
}

fn reference() -> f64 {
    let begun = Instant::now();
    let mut bytes = noise(1, 64 << 20);
    bytes.sort_unstable();
    begun.elapsed().as_secs_f64()
}

fn main() {
    println!("reference computation: {:.3} s", reference());
    println!("{:<58} {:>10} {:>9} {:>9}", "", "measured", "budget", "aim");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(&dir.path().join("data"), &[]);
    let goal = |what, budget, aim| Goal { what, budget, aim };
    show(&goal("resident memory, idle: MiB", 150.0, 60.0), memory_mib(server.pid(), "VmRSS"));
    let system = System { pids: vec![server.pid()], client: server.client() };
    system.client.create_bucket("bench");

    let large = 16 << 20;
    let cost = load(&system, 8, 8, put(large, "l"));
    let gb = cost.operations * large as f64 / 1e9;
    println!("PUT 16 MiB, 8 at once: {:.0} MB/s", gb * 1e3 / cost.seconds);
    let alone_put = cost.cpu_s / gb;
    show(&goal("PUT 16 MiB, 8 at once: CPU s/GB", 3.0, 1.8), alone_put);
    show(&goal("PUT 16 MiB: device bytes a user byte", 1.6, 1.53), cost.written / gb / 1e9);
    let objects = cost.operations as u64;
    let cost = load(&system, 8, 5, get(large, "l", objects.min(32)));
    let gb = cost.operations * large as f64 / 1e9;
    println!("GET 16 MiB, 8 at once: {:.0} MB/s", gb * 1e3 / cost.seconds);
    let alone_get = cost.cpu_s / gb;
    show(&goal("GET 16 MiB, 8 at once: CPU s/GB", 1.0, 0.6), alone_get);

    let cost = load(&system, 32, 5, put(4 << 10, "s"));
    let objects = cost.operations as u64;
    println!("PUT 4 KiB, 32 at once: {:.0} a second", cost.operations / cost.seconds);
    show(&goal("PUT 4 KiB, 32 at once: CPU us a request", 200.0, 100.0), cost.cpu_s * 1e6 / cost.operations);
    show(&goal("PUT 4 KiB, 32 at once: flushes an object", 1.0, 0.3), cost.flushes / cost.operations);
    show(&goal("PUT 4 KiB, 32 at once: p99 ms", 50.0, 10.0), cost.p99_ms);
    let cost = load(&system, 32, 4, get(4 << 10, "s", objects));
    show(&goal("GET 4 KiB, 32 at once: CPU us a request", 100.0, 60.0), cost.cpu_s * 1e6 / cost.operations);
    let head = |connection: &mut Connection, n: u64| {
        let response =
            connection.request("HEAD", &format!("/bench/s{}", n % objects), &[], b"").expect("an answer");
        assert_eq!(response.status, 200);
    };
    let cost = load(&system, 32, 3, head);
    println!("HEAD, 32 at once: {:.0} a second", cost.operations / cost.seconds);
    show(&goal("HEAD, 32 at once: CPU us a request", 100.0, 50.0), cost.cpu_s * 1e6 / cost.operations);
    show(&goal("HEAD, 32 at once: p99 ms", 50.0, 10.0), cost.p99_ms);
    let list = |connection: &mut Connection, n: u64| {
        let after = format!("s{}", n % objects);
        let query = [("list-type", "2"), ("max-keys", "1000"), ("start-after", after.as_str())];
        assert_eq!(connection.request("GET", "/bench", &query, b"").expect("an answer").status, 200);
    };
    let cost = load(&system, 1, 3, list);
    println!("LIST: {:.0} keys a second", 1e3 * cost.operations / cost.seconds);
    show(&goal("LIST 1000 keys: ms a page", 10.0, 4.0), cost.seconds * 1e3 / cost.operations);
    // All small objects are behind one common prefix: it is skipped, not walked.
    let fold = |connection: &mut Connection, _: u64| {
        let query = [("delimiter", "s"), ("list-type", "2")];
        let page = connection.request("GET", "/bench", &query, b"").expect("an answer");
        assert!(page.text().contains("<CommonPrefixes><Prefix>s</Prefix>"), "{}", page.text());
    };
    let cost = load(&system, 1, 3, fold);
    show(
        &goal("LIST with a delimiter that folds them: ms a page", 10.0, 2.0),
        cost.seconds * 1e3 / cost.operations,
    );

    let cost = load(&system, 32, 5, put(64 << 10, "m"));
    show(&goal("PUT 64 KiB, 32 at once: CPU us a request", 500.0, 250.0), cost.cpu_s * 1e6 / cost.operations);
    show(&goal("PUT 64 KiB, 32 at once: flushes an object", 1.0, 0.3), cost.flushes / cost.operations);
    println!("resident memory, highest so far: {:.0} MiB", memory_mib(server.pid(), "VmHWM"));

    let stopped = dir.path().join("data");
    restart(server, &stopped);
    cluster(&dir.path().join("cluster"), large, alone_put, alone_get);
}

/// What a cluster of separate processes costs over one process.
fn cluster(dir: &Path, large: usize, alone_put: f64, alone_get: f64) {
    let cluster = Cluster::up(dir, &["--gateways", "1"]);
    let pids = cluster.nodes().iter().filter_map(|node| cluster.pid(node).parse().ok()).collect();
    let system = System { pids, client: cluster.client(0) };
    system.client.create_bucket("bench");
    let goal = |what, budget, aim| Goal { what, budget, aim };
    let cost = load(&system, 8, 8, put(large, "l"));
    let gb = cost.operations * large as f64 / 1e9;
    println!("cluster, PUT 16 MiB, 8 at once: {:.0} MB/s", gb * 1e3 / cost.seconds);
    show(&goal("cluster, PUT 16 MiB: CPU s/GB over one process", 1.5, 1.5), cost.cpu_s / gb - alone_put);
    let objects = cost.operations as u64;
    let cost = load(&system, 8, 5, get(large, "l", objects.min(32)));
    let gb = cost.operations * large as f64 / 1e9;
    println!("cluster, GET 16 MiB, 8 at once: {:.0} MB/s", gb * 1e3 / cost.seconds);
    show(&goal("cluster, GET 16 MiB: CPU s/GB over one process", 0.8, 0.8), cost.cpu_s / gb - alone_get);
    let cost = load(&system, 32, 5, put(4 << 10, "s"));
    println!(
        "cluster, PUT 4 KiB, 32 at once: {:.0} a second, p99 {:.1} ms",
        cost.operations / cost.seconds,
        cost.p99_ms
    );
    let objects = cost.operations as u64;
    let cost = load(&system, 32, 4, get(4 << 10, "s", objects));
    println!("cluster, GET 4 KiB, 32 at once: {:.0} a second", cost.operations / cost.seconds);
}

/// Kills the server and times its way back.
fn restart(server: Server, data: &Path) {
    server.kill();
    let begun = Instant::now();
    let server = Server::start(data, &[]);
    let goal = Goal { what: "kill -9, start to ready, all of the above: s", budget: 10.0, aim: 2.0 };
    show(&goal, begun.elapsed().as_secs_f64());
    drop(server);
}
