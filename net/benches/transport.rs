//! TLS over TCP against QUIC, on this project's own messages: shards of 1 MiB written and read, and small calls, between two
//! sides on loopback. The figures are both sides' together. docs/adr/0005 says what follows from them.

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture, stream};
use holdfast_core::{
    buffer::BufferPool,
    ids::HostId,
    roles::{Role, Roles},
};
use holdfast_net::{
    Answer, Caller, Handler, Listener, Remote, Target, Tls, at_once, authority, serve, transport::named,
};
use holdfast_proto::{Ask, Done, PutShard, ReadShard, call::Method, reply};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const SHARD: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes shards and gives them, without a disk.
struct Store(Bytes);

impl Handler for Store {
    fn call(&self, _: Caller, method: Method, _: Bytes) -> BoxFuture<'static, Answer> {
        let payload = if matches!(method, Method::ReadShard(_)) { self.0.clone() } else { Bytes::new() };
        at_once(Ok((reply::Result::Done(Done {}), payload)))
    }
}

/// Seconds of CPU that the process has used.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").expect("Linux says it");
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / 100.0
}

fn identity(signer: &authority::Signed, host: u64, role: Role) -> Tls {
    let (key, request) = authority::request().expect("a request");
    let roles = Roles::NONE.with(role);
    let certificate = authority::sign(signer, &request, HostId(host), roles, authority::HOST_LIFE);
    Tls::new(&key, &certificate.expect("a certificate"), &signer.certificate).expect("an identity")
}

async fn measure(name: &str, what: &str, count: usize, at_once: usize, call: impl Fn() -> (Method, Bytes)) {
    let signer = authority::make("bench").expect("an authority");
    let transport = named(name).expect("a transport");
    let there = identity(&signer, 1, Role::Storage).over(transport.clone());
    let here = identity(&signer, 2, Role::Gateway).over(transport);
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), there).await.expect("a listener");
    let address = listener.address().expect("an address").to_string();
    let store = Arc::new(Store(Bytes::from(vec![7; SHARD])));
    tokio::spawn(serve(listener, store, BufferPool::new(32)));
    let remote = Remote::new(here, Target::Host(HostId(1)), address, BufferPool::new(32));
    let run = async |count: usize| {
        let calls = stream::iter(0..count).map(|_| {
            let (method, payload) = call();
            remote.call(method, payload, PATIENCE)
        });
        calls
            .buffer_unordered(at_once)
            .for_each(async |answer| {
                answer.expect("an answer");
            })
            .await;
    };
    run(count / 10).await;
    let (began, used) = (Instant::now(), cpu());
    run(count).await;
    let (seconds, used) = (began.elapsed().as_secs_f64(), cpu() - used);
    let each = 1e6 * used / count as f64;
    if what == "calls" {
        println!("{name:5} {what:7} {:9.0} a second, {each:6.1} us of CPU each", count as f64 / seconds);
    } else {
        let gigabytes = (count * SHARD) as f64 / 1e9;
        println!(
            "{name:5} {what:7} {:9.2} GB/s, {:5.2} CPU s/GB, {each:6.1} us of CPU each",
            gigabytes / seconds,
            used / gigabytes
        );
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for name in ["tcp", "quic"] {
            let shard = Bytes::from(vec![9; SHARD]);
            measure(name, "writes", 4000, 16, || (Method::PutShard(PutShard::default()), shard.clone()))
                .await;
            measure(name, "reads", 4000, 16, || (Method::ReadShard(ReadShard::default()), Bytes::new()))
                .await;
            measure(name, "calls", 40_000, 32, || (Method::Ask(Ask {}), Bytes::new())).await;
        }
    });
}
