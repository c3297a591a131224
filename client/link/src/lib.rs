//! The connection between sync clients and gateways: frames on streams, a stream for each call.
//!
//! A frame is the length of a message in four bytes, little-endian, and the message. See docs/formats/sync-protocol.md.

mod quic;
mod tls;

pub use quic::{Arriving, Connection, Listener, Peer};
pub use tls::{Fingerprint, Identity};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_proto::{
    Message,
    sync::{Failure, Reply, failure::Code, reply},
};
use std::{io, time::Duration};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout, timeout_at},
};

/// A frame's message at most: a chunk, and what is said of it; or a thousand names.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// How long the other side may take to send a frame that it has begun, or to take one.
pub const PATIENCE: Duration = Duration::from_secs(60);

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
    source: Box<dyn AsyncRead + Send + Sync + Unpin>,
    sink: Box<dyn AsyncWrite + Send + Sync + Unpin>,
}

fn stalled() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the other side says nothing")
}

impl Stream {
    pub fn new(
        source: impl AsyncRead + Send + Sync + Unpin + 'static,
        sink: impl AsyncWrite + Send + Sync + Unpin + 'static,
    ) -> Self {
        Self { source: Box::new(source), sink: Box::new(sink) }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// Where the connection fails.
    pub async fn send(&mut self, message: &impl Message) -> Result<(), LinkError> {
        let mut frame = BytesMut::with_capacity(4 + message.encoded_len());
        frame.put_u32_le(message.encoded_len() as u32);
        message.encode(&mut frame).map_err(|_| LinkError::Malformed("a message that cannot be written"))?;
        timeout(PATIENCE, self.sink.write_all(&frame)).await.map_err(|_| stalled())??;
        Ok(())
    }

    /// Says that nothing more comes.
    ///
    /// # Errors
    /// Where the connection fails.
    pub async fn finish(&mut self) -> Result<(), LinkError> {
        Ok(self.sink.shutdown().await?)
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
        let begun = timeout(patience, self.source.read(&mut head)).await.map_err(|_| stalled())??;
        if begun == 0 {
            return Ok(None);
        }
        timeout(PATIENCE, self.source.read_exact(&mut head[begun..])).await.map_err(|_| stalled())??;
        let length = u32::from_le_bytes(head) as usize;
        if length <= max { Ok(Some(length)) } else { Err(LinkError::Malformed("a frame that is too large")) }
    }

    /// The message of a frame whose length is known. All of it comes in time, however slowly it does.
    ///
    /// # Errors
    /// As [`Stream::length`].
    pub async fn body<M: Message + Default>(&mut self, length: usize) -> Result<M, LinkError> {
        let mut body = BytesMut::with_capacity(length).limit(length);
        let until = Instant::now() + PATIENCE;
        while body.has_remaining_mut() {
            let read = timeout_at(until, self.source.read_buf(&mut body)).await.map_err(|_| stalled())??;
            if read == 0 {
                return Err(LinkError::Malformed("a frame that ends early"));
            }
        }
        let body: Bytes = body.into_inner().freeze();
        debug_assert_eq!(body.remaining(), length);
        M::decode(body).map_err(|_| LinkError::Malformed("a frame that is no message"))
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

/// A failure in words.
pub fn failure(code: Code, message: impl Into<String>) -> Failure {
    Failure { code: code.into(), message: message.into(), at: 0 }
}
