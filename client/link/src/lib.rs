//! The connection between sync clients and gateways: frames on streams, a stream for each call.
//!
//! A frame is the length of a message in four bytes, little-endian, and the message. See docs/formats/sync-protocol.md.

mod connection;
mod listener;
mod quic;
mod tcp;
mod tls;
mod websocket;

pub use connection::{Connection, Transport};
pub use listener::{Arriving, Bound, Listener, Peer};
pub use tls::{Fingerprint, Identity};

use bytes::{BufMut, Bytes, BytesMut};
use holdfast_proto::{
    Message,
    sync::{Failure, Reply, failure::Code, reply},
};
use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout, timeout_at},
};
use websocket::Duplex;

/// A frame's message at most: a chunk, and what is said of it; or a thousand names.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// How long the other side may take to send a frame that it has begun, or to take one.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a connection may take to be made.
const TRANSIT: Duration = Duration::from_secs(10);

static SENT: AtomicU64 = AtomicU64::new(0);
static RECEIVED: AtomicU64 = AtomicU64::new(0);

/// Bytes of all frames that this process has sent and received, without what carries them.
pub fn traffic() -> (u64, u64) {
    (SENT.load(Ordering::Relaxed), RECEIVED.load(Ordering::Relaxed))
}

/// Why a call came to nothing.
#[derive(Debug, Error)]
pub enum LinkError {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the other side does not speak this protocol: {0}")]
    Malformed(&'static str),
    #[error("the server's certificate is another one than {0}: somebody may be in between")]
    OtherServer(Fingerprint),
    #[error("{}", .0.message)]
    Refused(Failure),
    #[error("{0} is no address: write HOST:PORT")]
    BadAddress(String),
    #[error("the certificate: {0}")]
    Tls(String),
}

impl LinkError {
    /// What the server says it is about, where it is the server that refuses.
    pub fn code(&self) -> Option<Code> {
        if let Self::Refused(failure) = self { Some(failure.code()) } else { None }
    }
}

/// One call: frames that go and frames that come.
pub struct Stream {
    wire: Box<dyn Duplex>,
}

fn stalled() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the other side says nothing")
}

impl Stream {
    fn new(wire: impl Duplex + 'static) -> Self {
        Self { wire: Box::new(wire) }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// Where the connection fails.
    pub async fn send(&mut self, message: &impl Message) -> Result<(), LinkError> {
        let mut frame = BytesMut::with_capacity(4 + message.encoded_len());
        frame.put_u32_le(message.encoded_len() as u32);
        message.encode(&mut frame).map_err(|_| LinkError::Malformed("a message that cannot be written"))?;
        let sent = async {
            self.wire.write_all(&frame).await?;
            self.wire.flush().await
        };
        timeout(PATIENCE, sent).await.map_err(|_| stalled())??;
        SENT.fetch_add(frame.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Sends bytes as they are, which are a part of a frame.
    ///
    /// # Errors
    /// Where the connection fails.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        self.wire.write_all(bytes).await?;
        Ok(self.wire.flush().await?)
    }

    /// Says that nothing more comes.
    ///
    /// # Errors
    /// Where the connection fails.
    pub async fn finish(&mut self) -> Result<(), LinkError> {
        Ok(timeout(PATIENCE, self.wire.shutdown()).await.map_err(|_| stalled())??)
    }

    /// The next frame; `None` where the other side has said all. It may take `patience` to begin.
    ///
    /// # Errors
    /// Where the connection fails, and what is no frame.
    pub async fn receive_within<M: Message + Default>(
        &mut self,
        patience: Duration,
    ) -> Result<Option<M>, LinkError> {
        match self.length(patience, FRAME_BYTES_MAX).await? {
            Some(length) => self.body(length).await.map(Some),
            None => Ok(None),
        }
    }

    /// The length of the next frame's message, which is at most `max` bytes and comes next; `None` where the other side
    /// has said all. It may take `patience` to begin.
    ///
    /// # Errors
    /// Where the connection fails, and what is no frame.
    pub async fn length(&mut self, patience: Duration, max: usize) -> Result<Option<usize>, LinkError> {
        let mut head = [0; 4];
        let begun = timeout(patience, self.wire.read(&mut head)).await.map_err(|_| stalled())??;
        if begun == 0 {
            return Ok(None);
        }
        timeout(PATIENCE, self.wire.read_exact(&mut head[begun..])).await.map_err(|_| stalled())??;
        let length = u32::from_le_bytes(head) as usize;
        if length <= max { Ok(Some(length)) } else { Err(LinkError::Malformed("a frame that is too large")) }
    }

    /// The message of a frame whose length is known. All of it comes in time, however slowly it does.
    ///
    /// # Errors
    /// As [`Stream::length`].
    pub async fn body<M: Message + Default>(&mut self, length: usize) -> Result<M, LinkError> {
        decode(self.bytes(length).await?)
    }

    /// The bytes of a frame whose length is known, for [`decode`].
    ///
    /// # Errors
    /// As [`Stream::length`].
    pub async fn bytes(&mut self, length: usize) -> Result<Bytes, LinkError> {
        let mut body = BytesMut::with_capacity(length).limit(length);
        let until = Instant::now() + PATIENCE;
        while body.has_remaining_mut() {
            let read = timeout_at(until, self.wire.read_buf(&mut body)).await.map_err(|_| stalled())??;
            if read == 0 {
                return Err(LinkError::Malformed("a frame that ends early"));
            }
        }
        RECEIVED.fetch_add(length as u64 + 4, Ordering::Relaxed);
        Ok(body.into_inner().freeze())
    }

    /// [`Stream::receive_within`] the usual patience.
    ///
    /// # Errors
    /// As there.
    pub async fn receive<M: Message + Default>(&mut self) -> Result<Option<M>, LinkError> {
        self.receive_within(PATIENCE).await
    }

    /// The next reply, which is no failure; `None` at the end.
    ///
    /// # Errors
    /// A failure, and as [`Stream::receive`].
    pub async fn reply(&mut self, patience: Duration) -> Result<Option<reply::Reply>, LinkError> {
        match self.receive_within::<Reply>(patience).await?.map(|reply| reply.reply) {
            None => Ok(None),
            Some(None) => Err(LinkError::Malformed("an empty reply")),
            Some(Some(reply::Reply::Failure(failure))) => Err(LinkError::Refused(failure)),
            Some(reply) => Ok(reply),
        }
    }
}

/// The message that a frame is.
///
/// # Errors
/// Where it is none.
pub fn decode<M: Message + Default>(body: Bytes) -> Result<M, LinkError> {
    M::decode(body).map_err(|_| LinkError::Malformed("a frame that is no message"))
}

/// A failure in words.
pub fn failure(code: Code, message: impl Into<String>) -> Failure {
    Failure { code: code.into(), message: message.into(), at: 0 }
}
