//! The thread that computes the MD5 of all large bodies that are arriving, in the lanes of wide registers.
//!
//! Lanes take what is there and never wait to fill: one body alone is digested as it comes. Each body may have so many bytes
//! waiting, and then waits itself.

use bytes::{Buf, Bytes};
use crossbeam_channel::{Receiver, Sender, unbounded};
use holdfast_gateway_md5::{BLOCK, Kernel, LANES, Lane, Md5, advance};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// What one permit of a body's room stands for.
const ROOM_UNIT: usize = 64 << 10;

/// A body may have 1 MiB waiting.
const ROOM: usize = 16;

/// Blocks that lanes advance before new bodies are looked at.
const ROUND_BLOCKS: usize = 512;

enum Message {
    Bytes { stream: u64, bytes: Bytes, room: OwnedSemaphorePermit },
    Finish { stream: u64, answer: oneshot::Sender<[u8; 16]> },
    Forget { stream: u64 },
}

/// The way to the thread. Cheap to clone; the thread ends with the last clone. What is queued is bounded by each body's room.
#[derive(Clone)]
pub struct Md5Lanes {
    queue: Sender<Message>,
    next: Arc<AtomicU64>,
}

/// One body's digest.
pub struct Md5Stream {
    id: u64,
    queue: Sender<Message>,
    room: Arc<Semaphore>,
    finished: bool,
}

impl Md5Lanes {
    /// # Errors
    /// Where no thread can be had.
    pub fn start() -> std::io::Result<Self> {
        let (queue, messages) = unbounded();
        thread::Builder::new().name("md5".to_owned()).spawn(move || run(&messages))?;
        Ok(Self { queue, next: Arc::new(AtomicU64::new(0)) })
    }

    pub fn stream(&self) -> Md5Stream {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        Md5Stream { id, queue: self.queue.clone(), room: Arc::new(Semaphore::new(ROOM)), finished: false }
    }
}

impl Md5Stream {
    /// Hands bytes over; waits while too many wait already.
    pub async fn update(&mut self, bytes: Bytes) {
        let units = bytes.len().div_ceil(ROOM_UNIT).clamp(1, ROOM) as u32;
        // Neither the semaphore nor the thread ends before the stream.
        if let Ok(room) = self.room.clone().acquire_many_owned(units).await {
            let _thread_is_there = self.queue.send(Message::Bytes { stream: self.id, bytes, room });
        }
    }

    /// The digest of all bytes; `None` where the process is ending.
    pub async fn finish(mut self) -> Option<[u8; 16]> {
        self.finished = true;
        let (answer, digest) = oneshot::channel();
        self.queue.send(Message::Finish { stream: self.id, answer }).ok()?;
        digest.await.ok()
    }
}

impl Drop for Md5Stream {
    fn drop(&mut self) {
        if !self.finished {
            let _thread_is_there = self.queue.send(Message::Forget { stream: self.id });
        }
    }
}

#[derive(Default)]
struct Stream {
    md5: Md5,
    pending: VecDeque<(Bytes, OwnedSemaphorePermit)>,
    answer: Option<oneshot::Sender<[u8; 16]>>,
}

impl Stream {
    /// Brings whole blocks to the front of what is pending; how many there are.
    fn ready_blocks(&mut self) -> usize {
        while let Some((front, _)) = self.pending.front_mut() {
            let aligned = front.len() - self.md5.align(front).len();
            front.advance(aligned);
            if front.len() >= BLOCK {
                return front.len() / BLOCK;
            }
            self.md5.update(front);
            self.pending.pop_front();
        }
        0
    }
}

fn run(messages: &Receiver<Message>) {
    let kernel = Kernel::detect();
    let mut streams: BTreeMap<u64, Stream> = BTreeMap::new();
    loop {
        let idle = streams.values().all(|stream| stream.pending.is_empty());
        if idle {
            let Ok(message) = messages.recv() else { return };
            take(&mut streams, message);
        }
        messages.try_iter().for_each(|message| take(&mut streams, message));
        round(kernel, &mut streams);
        let done = |stream: &Stream| stream.pending.is_empty() && stream.answer.is_some();
        let finished: Vec<u64> =
            streams.iter().filter(|(_, stream)| done(stream)).map(|(id, _)| *id).collect();
        for id in finished {
            if let Some(Stream { md5, answer: Some(answer), .. }) = streams.remove(&id) {
                // Nobody may be waiting any more: the client went away.
                let _unheard = answer.send(md5.finish());
            }
        }
    }
}

fn take(streams: &mut BTreeMap<u64, Stream>, message: Message) {
    match message {
        Message::Bytes { stream, bytes, room } => {
            streams.entry(stream).or_default().pending.push_back((bytes, room));
        }
        Message::Finish { stream, answer } => streams.entry(stream).or_default().answer = Some(answer),
        Message::Forget { stream } => {
            streams.remove(&stream);
        }
    }
}

/// Advances the streams that have whole blocks, as many together as there are lanes.
fn round(kernel: Kernel, streams: &mut BTreeMap<u64, Stream>) {
    let mut ready: Vec<(usize, &mut Stream)> = streams
        .values_mut()
        .filter_map(|stream| Some((stream.ready_blocks(), stream)).filter(|(blocks, _)| *blocks > 0))
        .take(LANES)
        .collect();
    let blocks = ready.iter().map(|(blocks, _)| *blocks).min().unwrap_or(0).min(ROUND_BLOCKS);
    let mut lanes: Vec<Lane<'_>> = ready
        .iter_mut()
        .filter_map(|(_, stream)| {
            let Stream { md5, pending, .. } = &mut **stream;
            let (front, _) = pending.front()?;
            Some(Lane { state: md5.lend(blocks), blocks: &front[..blocks * BLOCK] })
        })
        .collect();
    advance(kernel, &mut lanes);
    for (_, stream) in ready {
        if let Some((front, _)) = stream.pending.front_mut() {
            front.advance(blocks * BLOCK);
            if front.is_empty() {
                stream.pending.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_bodies_at_once_have_their_own_digests() {
        let lanes = Md5Lanes::start().expect("a thread");
        let body = |n: usize| -> Vec<u8> { (0..n * 70_001).map(|i| (i * 31 + n) as u8).collect() };
        let digests = futures::future::join_all((0..20).map(|n| {
            let mut stream = lanes.stream();
            async move {
                for piece in body(n).chunks(1 + n * 777) {
                    stream.update(Bytes::copy_from_slice(piece)).await;
                }
                stream.finish().await
            }
        }))
        .await;
        // One that is given up takes nobody with it.
        lanes.stream().update(Bytes::from_static(b"abandoned")).await;
        for (n, digest) in digests.into_iter().enumerate() {
            let mut md5 = Md5::default();
            md5.update(&body(n));
            assert_eq!(digest, Some(md5.finish()), "body {n}");
        }
    }
}
