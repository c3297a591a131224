//! Two processes' sides over real sockets: who is let in, and what becomes of calls.

use bytes::Bytes;
use futures::future::BoxFuture;
use holdfast_core::{
    buffer::BufferPool,
    ids::HostId,
    roles::{Role, Roles},
};
use holdfast_net::{
    Answer, Caller, Handler, Listener, NetError, Remote, Secret, Target, Tls,
    authority::{self, Signed},
    join_client, serve, transport,
};
use holdfast_proto::{
    Ask, DeleteShards, Done, Failure, Join, Joined, ReadShard, Submit, call::Method, failure::Code, reply,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

const PATIENCE: Duration = Duration::from_secs(10);

/// Says who calls, echoes payloads, and can be made to wait.
#[derive(Default)]
struct Echo {
    waiting: Arc<AtomicUsize>,
    entered: Arc<Notify>,
}

/// Counts a call as long as it is being carried out.
struct Inside(Arc<AtomicUsize>, Arc<Notify>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
        self.1.notify_one();
    }
}

impl Handler for Echo {
    fn call(&self, from: Caller, method: Method, payload: Bytes) -> BoxFuture<'static, Answer> {
        let (waiting, entered) = (self.waiting.clone(), self.entered.clone());
        Box::pin(async move {
            match method {
                Method::Join(join) => Ok((
                    reply::Result::Joined(Joined { cluster: join.secret, ..Joined::default() }),
                    Bytes::new(),
                )),
                Method::Ask(_) => Ok((reply::Result::Done(Done {}), payload)),
                Method::DeleteShards(_) => {
                    waiting.fetch_add(1, Ordering::SeqCst);
                    let _inside = Inside(waiting, entered.clone());
                    entered.notify_one();
                    std::future::pending().await
                }
                Method::PutShard(_)
                | Method::ListDevices(_)
                | Method::ListShards(_)
                | Method::WriteRoot(_)
                | Method::ReadRoot(_)
                | Method::AddDisk(_)
                | Method::ReadShard(_)
                | Method::Submit(_)
                | Method::Raft(_)
                | Method::SnapshotPage(_)
                | Method::Renew(_)
                | Method::Beat(_)
                | Method::Health(_)
                | Method::TransferLeader(_) => Err(Failure::new(Code::Denied, format!("{from:?}"))),
            }
        })
    }
}

fn tls(authority: &Signed, host: u64, role: Role) -> Tls {
    let (key, request) = authority::request().expect("a request");
    let roles = Roles::NONE.with(role);
    let certificate = authority::sign(authority, &request, HostId(host), roles, authority::HOST_LIFE)
        .expect("a certificate");
    Tls::new(&key, &certificate, &authority.certificate).expect("an identity")
}

async fn start(authority: &Signed, host: u64, role: Role) -> (String, Arc<Echo>) {
    let listener =
        Listener::bind(([127, 0, 0, 1], 0).into(), tls(authority, host, role)).await.expect("a listener");
    let address = listener.address().expect("an address").to_string();
    let echo = Arc::new(Echo::default());
    tokio::spawn(serve(listener, echo.clone(), BufferPool::new(4)));
    (address, echo)
}

fn remote(tls: Tls, target: Target, address: &str) -> Remote {
    Remote::new(tls, target, address.to_owned(), BufferPool::new(4))
}

#[tokio::test]
async fn calls_carry_bytes_and_say_who_calls() {
    let authority = authority::make("c").expect("an authority");
    let (address, _) = start(&authority, 7, Role::Storage).await;
    for target in [Target::Host(HostId(7)), Target::Any(Role::Storage)] {
        let peer = remote(tls(&authority, 3, Role::Gateway), target, &address);
        let payload = Bytes::from(vec![9; 3 << 20]);
        let (result, back) =
            peer.call(Method::Ask(Ask {}), payload.clone(), PATIENCE).await.expect("an answer");
        assert_eq!((result, back), (reply::Result::Done(Done {}), payload));
        let failed =
            peer.call(Method::Submit(Submit {}), Bytes::new(), PATIENCE).await.expect_err("a failure");
        assert_eq!(failed.to_string(), "Host { host: HostId(3), roles: Roles(4) }");
    }
}

#[tokio::test]
async fn over_quic_it_is_the_same() {
    let (ours, theirs) = (authority::make("a").expect("one"), authority::make("b").expect("another"));
    let quic = || transport::named("quic").expect("a transport");
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), tls(&ours, 7, Role::Storage).over(quic()));
    let listener = listener.await.expect("a listener");
    let address = listener.address().expect("an address").to_string();
    tokio::spawn(serve(listener, Arc::new(Echo::default()), BufferPool::new(4)));
    let peer = remote(tls(&ours, 3, Role::Gateway).over(quic()), Target::Host(HostId(7)), &address);
    let payload = Bytes::from(vec![9; 3 << 20]);
    let (result, back) = peer.call(Method::Ask(Ask {}), payload.clone(), PATIENCE).await.expect("an answer");
    assert_eq!((result, back), (reply::Result::Done(Done {}), payload));
    let failed = peer.call(Method::Submit(Submit {}), Bytes::new(), PATIENCE).await.expect_err("a failure");
    assert_eq!(failed.to_string(), "Host { host: HostId(3), roles: Roles(4) }");
    for (tls, target) in [
        (tls(&theirs, 3, Role::Gateway), Target::Host(HostId(7))),
        (tls(&ours, 3, Role::Gateway), Target::Host(HostId(8))),
        (tls(&ours, 3, Role::Gateway), Target::Any(Role::Meta)),
    ] {
        let wrong = remote(tls.over(quic()), target, &address);
        let failed = wrong.call(Method::Ask(Ask {}), Bytes::new(), PATIENCE).await;
        assert!(matches!(failed, Err(NetError::Unreachable { .. } | NetError::Broken(_))), "{failed:?}");
    }
    let secret = Secret::new(&ours.certificate, [5; 32]);
    let joining = join_client(&secret).expect("TLS").over(quic());
    let joining = remote(joining, Target::Any(Role::Storage), &address);
    let join = Method::Join(Join { secret: "s".into(), ..Join::default() });
    let (joined, _) = joining.call(join, Bytes::new(), PATIENCE).await.expect("an answer");
    assert!(matches!(joined, reply::Result::Joined(joined) if joined.cluster == "s"));
    let refused = joining.call(Method::Ask(Ask {}), Bytes::new(), PATIENCE).await.expect_err("a refusal");
    assert_eq!(refused.code(), Some(Code::Denied));
    assert!(transport::named("pigeon").is_err());
}

#[tokio::test]
async fn nobody_is_taken_for_somebody_else() {
    let (ours, theirs) = (authority::make("a").expect("one"), authority::make("b").expect("another"));
    let (address, _) = start(&ours, 7, Role::Storage).await;
    for (tls, target) in [
        // Another cluster's host; another host than is wanted; a host without the wanted role.
        (tls(&theirs, 3, Role::Gateway), Target::Host(HostId(7))),
        (tls(&ours, 3, Role::Gateway), Target::Host(HostId(8))),
        (tls(&ours, 3, Role::Gateway), Target::Any(Role::Meta)),
    ] {
        let failed = remote(tls, target, &address).call(Method::Ask(Ask {}), Bytes::new(), PATIENCE).await;
        assert!(matches!(failed, Err(NetError::Unreachable { .. } | NetError::Broken(_))), "{failed:?}");
    }
    // A certificate of this cluster's authority, shown to a host of another.
    let stranger =
        remote(tls(&ours, 3, Role::Gateway), Target::Host(HostId(9)), &start(&theirs, 9, Role::Meta).await.0);
    let failed = stranger.call(Method::Ask(Ask {}), Bytes::new(), PATIENCE).await;
    assert!(matches!(failed, Err(NetError::Unreachable { .. } | NetError::Broken(_))), "{failed:?}");
}

#[tokio::test]
async fn who_has_no_certificate_may_only_join_and_knows_whom() {
    let (ours, theirs) = (authority::make("a").expect("one"), authority::make("b").expect("another"));
    let (address, _) = start(&ours, 1, Role::Meta).await;
    let secret = Secret::new(&ours.certificate, [5; 32]);
    assert!(secret.to_string().parse::<Secret>().expect("it was written so") == secret);
    let joining = remote(join_client(&secret).expect("TLS"), Target::Any(Role::Meta), &address);
    let join = Method::Join(Join { secret: "s".into(), ..Join::default() });
    let (joined, _) = joining.call(join.clone(), Bytes::new(), PATIENCE).await.expect("an answer");
    assert!(matches!(joined, reply::Result::Joined(joined) if joined.cluster == "s"));
    let refused = joining.call(Method::Ask(Ask {}), Bytes::new(), PATIENCE).await.expect_err("a refusal");
    assert_eq!(refused.code(), Some(Code::Denied));
    let elsewhere = Secret::new(&theirs.certificate, [5; 32]);
    let joining = remote(join_client(&elsewhere).expect("TLS"), Target::Any(Role::Meta), &address);
    let refused = joining.call(join, Bytes::new(), PATIENCE).await;
    assert!(matches!(refused, Err(NetError::Unreachable { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_and_with_its_caller() {
    let authority = authority::make("c").expect("an authority");
    let (address, echo) = start(&authority, 7, Role::Storage).await;
    let peer = remote(tls(&authority, 3, Role::Gateway), Target::Host(HostId(7)), &address);
    let stuck = || Method::DeleteShards(DeleteShards::default());
    let late = peer.call(stuck(), Bytes::new(), Duration::from_millis(50)).await;
    assert!(
        matches!(&late, Err(NetError::Deadline(_)))
            || late.as_ref().err().and_then(NetError::code) == Some(Code::Deadline)
    );
    while echo.waiting.load(Ordering::SeqCst) != 0 {
        echo.entered.notified().await;
    }
    let pending = peer.start(stuck(), Bytes::new(), PATIENCE).await.expect("it is sent");
    while echo.waiting.load(Ordering::SeqCst) != 1 {
        echo.entered.notified().await;
    }
    drop(pending);
    while echo.waiting.load(Ordering::SeqCst) != 0 {
        echo.entered.notified().await;
    }
}

#[tokio::test]
async fn what_cannot_be_reached_fails_at_once_and_is_tried_again_later() {
    let authority = authority::make("c").expect("an authority");
    // Below the ports that the system gives to anybody: nobody else's connection comes from there meanwhile.
    let address = (20_000..32_768)
        .map(|port| std::net::SocketAddr::from(([127, 0, 0, 1], port)))
        .find(|address| std::net::TcpListener::bind(address).is_ok())
        .expect("a port");
    let peer = remote(tls(&authority, 3, Role::Gateway), Target::Host(HostId(7)), &address.to_string());
    let call = || peer.call(Method::ReadShard(ReadShard::default()), Bytes::new(), PATIENCE);
    assert!(matches!(call().await, Err(NetError::Unreachable { .. })));
    assert!(peer.is_down());
    let listener =
        Listener::bind(address, tls(&authority, 7, Role::Storage)).await.expect("the port is free");
    tokio::spawn(serve(listener, Arc::new(Echo::default()), BufferPool::new(4)));
    while matches!(call().await, Err(NetError::Unreachable { .. })) {
        tokio::task::yield_now().await;
    }
    assert!(!peer.is_down());
}
