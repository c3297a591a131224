//! Calls to one other process.

use crate::{
    NetError, Target, Tls,
    frame::{self, Frame, Kind, Limits},
};
use bytes::Bytes;
use holdfast_core::buffer::BufferPool;
use holdfast_proto::{Call, Message, Reply, call::Method, reply};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncWriteExt, BufReader},
    runtime::Handle,
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(3);

/// After a failure nothing is tried for so long, and longer after each further one.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Frames that wait for the connection; more wait at their senders.
const QUEUE: usize = 256;

/// Bytes of payload on their way to one process, at most, in KiB.
const IN_FLIGHT_KIB: usize = 64 << 10;

type Waiting = HashMap<u64, oneshot::Sender<(Reply, Bytes)>>;

/// Another process, connected to when it is first called, and again when the connection breaks. Cheap to clone.
#[derive(Clone)]
pub struct Remote {
    inner: Arc<Inner>,
}

struct Inner {
    tls: Tls,
    target: Target,
    address: String,
    pool: BufferPool,
    connection: tokio::sync::Mutex<Slot>,
    in_flight: Arc<Semaphore>,
    /// The last attempt to reach it failed.
    down: AtomicBool,
    /// Threads outside of the runtime tell things too.
    runtime: Handle,
}

#[derive(Default)]
struct Slot {
    open: Option<Arc<Connection>>,
    failures: u32,
    retry_at: Option<Instant>,
}

struct Connection {
    frames: mpsc::Sender<Frame>,
    waiting: Mutex<Waiting>,
    next: AtomicU64,
    broken: AtomicBool,
}

impl Connection {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self) {
        self.broken.store(true, Ordering::Release);
        self.waiting().clear();
    }
}

/// A call that was sent. Dropping it cancels it.
pub struct Pending {
    connection: Arc<Connection>,
    call: u64,
    answer: oneshot::Receiver<(Reply, Bytes)>,
    patience: Duration,
    address: String,
    done: bool,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.done && self.connection.waiting().remove(&self.call).is_some() {
            let cancel =
                Frame { kind: Kind::Cancel, call: self.call, head: Bytes::new(), payload: Bytes::new() };
            // Where the queue is full the callee's own deadline ends the call.
            let _full = self.connection.frames.try_send(cancel);
        }
    }
}

impl Pending {
    /// The answer.
    ///
    /// # Errors
    /// The other side's failure, or why none came.
    pub async fn answer(mut self) -> Result<(reply::Result, Bytes), NetError> {
        let answer = timeout(self.patience, &mut self.answer).await;
        match answer {
            Err(_) => Err(NetError::Deadline(self.address.clone())),
            Ok(Err(_)) => {
                self.done = true;
                Err(NetError::Broken(self.address.clone()))
            }
            Ok(Ok((reply, payload))) => {
                self.done = true;
                match reply.result {
                    Some(reply::Result::Failure(failure)) => Err(failure.into()),
                    Some(result) => Ok((result, payload)),
                    None => Err(NetError::Protocol(self.address.clone())),
                }
            }
        }
    }
}

impl Remote {
    /// Must be called within a runtime.
    pub fn new(tls: Tls, target: Target, address: String, pool: BufferPool) -> Self {
        let inner = Inner {
            tls,
            target,
            address,
            pool,
            connection: tokio::sync::Mutex::default(),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_KIB)),
            down: AtomicBool::new(false),
            runtime: Handle::current(),
        };
        Self { inner: Arc::new(inner) }
    }

    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// Whether the last attempt to reach it failed.
    pub fn is_down(&self) -> bool {
        self.inner.down.load(Ordering::Acquire)
    }

    /// Calls, and waits for the answer.
    ///
    /// # Errors
    /// As [`Remote::start`] and [`Pending::answer`].
    pub async fn call(
        &self,
        method: Method,
        payload: Bytes,
        patience: Duration,
    ) -> Result<(reply::Result, Bytes), NetError> {
        self.start(method, payload, patience).await?.answer().await
    }

    /// Sends a call. Calls arrive in the order in which this returned.
    ///
    /// # Errors
    /// Where the process cannot be reached.
    pub async fn start(
        &self,
        method: Method,
        payload: Bytes,
        patience: Duration,
    ) -> Result<Pending, NetError> {
        let deadline = tokio::time::Instant::now() + patience;
        let late = |_| NetError::Deadline(self.inner.address.clone());
        let kib = payload.len().div_ceil(1024).clamp(1, IN_FLIGHT_KIB) as u32;
        let permit = self.inner.in_flight.clone().acquire_many_owned(kib);
        let permit = tokio::time::timeout_at(deadline, permit).await.map_err(late)?;
        let permit = permit.map_err(|_| NetError::Broken(self.inner.address.clone()))?;
        let connection = tokio::time::timeout_at(deadline, self.connection()).await.map_err(late)??;
        let call = connection.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        connection.waiting().insert(call, sender);
        let pending = Pending {
            connection: connection.clone(),
            call,
            answer,
            patience: deadline.saturating_duration_since(tokio::time::Instant::now()),
            address: self.inner.address.clone(),
            done: false,
            _permit: permit,
        };
        let timeout_ms = pending.patience.as_millis().clamp(1, u128::from(u32::MAX)) as u32;
        let head = Call { timeout_ms, method: Some(method) }.encode_to_vec().into();
        let frame = Frame { kind: Kind::Call, call, head, payload };
        let sent = tokio::time::timeout_at(deadline, connection.frames.send(frame)).await.map_err(late)?;
        if sent.is_err() || connection.broken.load(Ordering::Acquire) {
            connection.fail();
            return Err(NetError::Broken(self.inner.address.clone()));
        }
        Ok(pending)
    }

    /// Sends a message that nobody answers, if it can be sent at once; the connection is made in the background.
    pub fn tell(&self, method: Method, payload: Bytes) {
        let Ok(slot) = self.inner.connection.try_lock() else { return };
        match slot.open.as_ref().filter(|open| !open.broken.load(Ordering::Acquire)) {
            Some(connection) => {
                let call = connection.next.fetch_add(1, Ordering::Relaxed);
                let head = Call { timeout_ms: 0, method: Some(method) }.encode_to_vec().into();
                // What does not fit is lost, as on a network.
                let _lost = connection.frames.try_send(Frame { kind: Kind::Call, call, head, payload });
            }
            None => {
                drop(slot);
                let this = self.clone();
                self.inner.runtime.spawn(async move {
                    if this.connection().await.is_ok() {
                        this.tell(method, payload);
                    }
                });
            }
        }
    }

    async fn connection(&self) -> Result<Arc<Connection>, NetError> {
        let mut slot = self.inner.connection.lock().await;
        if let Some(open) = slot.open.as_ref().filter(|open| !open.broken.load(Ordering::Acquire)) {
            return Ok(open.clone());
        }
        slot.open = None;
        let unreachable =
            |reason: String| NetError::Unreachable { address: self.inner.address.clone(), reason };
        if slot.retry_at.is_some_and(|at| at > Instant::now()) {
            return Err(unreachable("it could not be reached a moment ago".to_owned()));
        }
        match timeout(CONNECT, self.connect()).await.unwrap_or_else(|_| Err("it does not answer".to_owned()))
        {
            Ok(connection) => {
                *slot = Slot { open: Some(connection.clone()), failures: 0, retry_at: None };
                self.inner.down.store(false, Ordering::Release);
                Ok(connection)
            }
            Err(reason) => {
                let pause = BACKOFF_MIN.saturating_mul(1 << slot.failures.min(10)).min(BACKOFF_MAX);
                slot.failures += 1;
                slot.retry_at = Some(Instant::now() + pause);
                self.inner.down.store(true, Ordering::Release);
                Err(unreachable(reason))
            }
        }
    }

    async fn connect(&self) -> Result<Arc<Connection>, String> {
        // In a task of its own, which ends with this future: what a transport awaits need not be shared between threads.
        let inner = self.inner.clone();
        let mut dialing = JoinSet::new();
        dialing
            .spawn(async move { inner.tls.transport.dial(&inner.tls, inner.target, &inner.address).await });
        let dialled = dialing.join_next().await.and_then(Result::ok);
        let (source, sink) = dialled.ok_or("connecting was given up")??;
        let (frames, outgoing) = mpsc::channel(QUEUE);
        let connection = Arc::new(Connection {
            frames,
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
            broken: AtomicBool::new(false),
        });
        // The tasks do not keep the connection: it owns the way to the writer, which ends when nobody can send any more.
        let (reading, writing) = (Arc::downgrade(&connection), Arc::downgrade(&connection));
        let pool = self.inner.pool.clone();
        let ended = Arc::new(Notify::new());
        let end = ended.clone();
        let reader = tokio::spawn(async move {
            let mut source = BufReader::with_capacity(64 << 10, source);
            while let Ok(Some(frame)) = frame::read(&mut source, &pool, Limits::HOST).await {
                let (Ok(reply), Some(connection)) = (Reply::decode(frame.head), reading.upgrade()) else {
                    break;
                };
                if let Some(waiting) = connection.waiting().remove(&frame.call) {
                    // Whoever asked may have gone.
                    let _gone = waiting.send((reply, frame.payload));
                }
            }
            reading.upgrade().iter().for_each(|connection| connection.fail());
            end.notify_one();
        });
        tokio::spawn(async move {
            tokio::select! {
                () = write_frames(sink, outgoing) => {}
                () = ended.notified() => {}
            }
            writing.upgrade().iter().for_each(|connection| connection.fail());
            reader.abort();
        });
        Ok(connection)
    }
}

/// Writes frames until there are no more senders or the connection fails.
pub(crate) async fn write_frames(
    mut sink: impl tokio::io::AsyncWrite + Unpin,
    mut frames: mpsc::Receiver<Frame>,
) {
    while let Some(frame) = frames.recv().await {
        if frame::write(&mut sink, &frame).await.is_err() {
            return;
        }
        // What waits goes out with the same flush.
        while let Ok(frame) = frames.try_recv() {
            if frame::write(&mut sink, &frame).await.is_err() {
                return;
            }
        }
        if sink.flush().await.is_err() {
            return;
        }
    }
    // The other side sees the end, whether or not it hears of it.
    let _gone = sink.shutdown().await;
}
