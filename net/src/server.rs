//! Answering calls.

use crate::{
    Caller, Tls,
    client::write_frames,
    frame::{self, Frame, Kind, Limits},
    transport::{Acceptor, HANDSHAKE, Sink, Source},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use holdfast_core::buffer::BufferPool;
use holdfast_proto::{Call, Failure, Message, Reply, call::Method, failure::Code, reply};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::BufReader,
    net::TcpStream,
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
    time::timeout,
};

/// Connections that are served at once.
const CONNECTIONS_MAX: usize = 1024;

/// Connections without a certificate that are served at once, and how long each may last.
const STRANGERS_MAX: usize = 32;
const STRANGER_LIFE: Duration = Duration::from_secs(30);

/// The longest that a call may be carried out.
const PATIENCE_MAX: Duration = Duration::from_secs(120);

/// Calls of one connection that are carried out at once; more wait in the connection.
const CALLS_MAX: usize = 512;

/// Answers that wait for a connection.
const QUEUE: usize = 64;

/// How long a listener waits after it could not take a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a call came to: a message, and bytes beside it.
pub type Answer = Result<(reply::Result, Bytes), Failure>;

/// What a process does when it is called.
pub trait Handler: Send + Sync + 'static {
    /// Takes a call. Calls of one connection come here in their order; what is returned runs beside others, and is
    /// dropped where the caller cancels, goes away, or waits no longer.
    fn call(&self, from: Caller, method: Method, payload: Bytes) -> BoxFuture<'static, Answer>;
}

/// A bound listener.
pub struct Listener {
    acceptor: Box<dyn Acceptor>,
}

impl Listener {
    /// # Errors
    /// Where the address cannot be bound.
    pub async fn bind(address: std::net::SocketAddr, tls: Tls) -> io::Result<Self> {
        Ok(Self { acceptor: tls.transport.listen(address, &tls).await? })
    }

    /// # Errors
    /// Where the system does not tell.
    pub fn address(&self) -> io::Result<std::net::SocketAddr> {
        self.acceptor.address()
    }
}

/// Serves until the future is dropped: what keeps a listener from taking connections passes.
pub async fn serve(listener: Listener, handler: Arc<dyn Handler>, pool: BufferPool) {
    let Listener { acceptor } = listener;
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let arrival = match acceptor.accept().await {
            Ok(arrival) => arrival,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            // Out of descriptors or memory, or the network's own trouble: it passes.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken: others wait");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (handler, pool, strangers) = (handler.clone(), pool.clone(), strangers.clone());
        tasks.spawn(async move {
            let served = async {
                let (source, sink, caller) = arrival.await?;
                if caller != Caller::Stranger {
                    return connection((source, sink), caller, handler, pool).await;
                }
                // Few, and not for long: hosts must not wait for them.
                let Ok(_few) = strangers.try_acquire() else { return Ok(()) };
                let served = connection((source, sink), caller, handler, pool);
                timeout(STRANGER_LIFE, served).await.unwrap_or(Ok(()))
            };
            if let Err(error) = served.await {
                tracing::debug!(%error, "a peer's connection ended");
            }
            drop(permit);
        });
    }
}

/// Takes a connection as this host, whoever calls, and without asking who it is.
///
/// # Errors
/// Where the handshake fails or takes too long.
pub async fn accept_anybody(stream: TcpStream, tls: &Tls) -> io::Result<Stream> {
    stream.set_nodelay(true)?;
    let acceptor = tokio_rustls::TlsAcceptor::from(tls.anybody.clone());
    timeout(HANDSHAKE, acceptor.accept(stream)).await.map_err(io::Error::other)?
}

/// An encrypted connection.
pub type Stream = tokio_rustls::server::TlsStream<TcpStream>;

async fn connection(
    (source, sink): (Source, Sink),
    caller: Caller,
    handler: Arc<dyn Handler>,
    pool: BufferPool,
) -> io::Result<()> {
    let mut source = BufReader::with_capacity(64 << 10, source);
    let (answers, outgoing) = mpsc::channel(QUEUE);
    let mut tasks = JoinSet::new();
    tasks.spawn(write_frames(sink, outgoing));
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    let running: Arc<Mutex<HashMap<u64, AbortHandle>>> = Arc::default();
    let limits = if caller == Caller::Stranger { Limits::STRANGER } else { Limits::HOST };
    while let Some(frame) = frame::read(&mut source, &pool, limits).await? {
        while tasks.try_join_next().is_some() {}
        match frame.kind {
            Kind::Call => {}
            Kind::Cancel => {
                let aborted = running.lock().unwrap_or_else(PoisonError::into_inner).remove(&frame.call);
                aborted.iter().for_each(AbortHandle::abort);
                continue;
            }
            Kind::Reply => return Err(io::Error::other("a caller sent a reply")),
        }
        let Ok(permit) = calls.clone().acquire_owned().await else { return Ok(()) };
        let call = Call::decode(frame.head).map_err(io::Error::other)?;
        let (id, answers, done) = (frame.call, answers.clone(), running.clone());
        let work = match call.method {
            Some(Method::Join(join)) => handler.call(caller, Method::Join(join), frame.payload),
            // Checked here, so that no handler can forget it.
            Some(_) if caller == Caller::Stranger => refuse(Code::Denied, "a certificate is needed"),
            Some(method) => handler.call(caller, method, frame.payload),
            None => refuse(Code::Unimplemented, "this process does not know the method: upgrade it"),
        };
        let patience = Duration::from_millis(u64::from(call.timeout_ms)).min(PATIENCE_MAX);
        let task = async move {
            let answer = if patience.is_zero() {
                // Nobody waits; it may still take no more than a moment.
                let _unheard = timeout(HANDSHAKE, work).await;
                None
            } else {
                let late = Err(Failure::new(Code::Deadline, "the call took too long"));
                Some(timeout(patience, work).await.unwrap_or(late))
            };
            done.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            if let Some(answer) = answer {
                let (result, payload) = match answer {
                    Ok((result, payload)) => (Ok(result), payload),
                    Err(failure) => (Err(failure), Bytes::new()),
                };
                let head = Reply::from(result).encode_to_vec().into();
                // The connection may be gone.
                let _gone = answers.send(Frame { kind: Kind::Reply, call: id, head, payload }).await;
            }
            drop(permit);
        };
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(id, tasks.spawn(task));
    }
    Ok(())
}

/// An answer that needs no work.
pub fn at_once(answer: Answer) -> BoxFuture<'static, Answer> {
    Box::pin(std::future::ready(answer))
}

fn refuse(code: Code, message: &str) -> BoxFuture<'static, Answer> {
    at_once(Err(Failure::new(code, message)))
}
