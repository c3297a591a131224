//! WebSocket over TLS and TCP, for networks that let no UDP through: the same frames. A connection carries one call after
//! another, and there are as many connections as calls go on at once.
//!
//! A call's bytes go in binary messages, however they are cut; an empty one says that a side has said all.

use crate::{LinkError, Stream, TRANSIT};
use bytes::{Buf, Bytes};
use futures::{Sink, SinkExt, StreamExt, ready};
use socket2::{SockRef, TcpKeepalive};
use std::{
    io,
    pin::Pin,
    sync::Mutex,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, protocol::WebSocketConfig},
};

/// Bytes in one message. Nobody has us hold more before it is known what they are.
const MESSAGE: usize = 16 << 10;

/// Bytes that are gathered until they are written.
const BUFFERED: usize = 32 << 10;

/// How long a connection may be idle until another call; clients let go of one sooner.
const IDLE: Duration = Duration::from_secs(120);
const IDLE_CLIENT: Duration = Duration::from_secs(60);

/// What a side still sends that is told no already: it is read, so that the other hears why.
const DRAINED: usize = 160 << 20;

/// How long the end of an answer may take that nobody reads on.
const END: Duration = Duration::from_secs(1);

pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

type Socket = WebSocketStream<Box<dyn Duplex>>;

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MESSAGE))
        .max_frame_size(Some(MESSAGE))
        .read_buffer_size(MESSAGE)
        .write_buffer_size(BUFFERED)
        .max_write_buffer_size(BUFFERED + 2 * MESSAGE)
}

fn failed(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        other @ tungstenite::Error::ConnectionClosed
        | other @ tungstenite::Error::AlreadyClosed
        | other @ tungstenite::Error::Tls(_)
        | other @ tungstenite::Error::Capacity(_)
        | other @ tungstenite::Error::Protocol(_)
        | other @ tungstenite::Error::WriteBufferFull(_)
        | other @ tungstenite::Error::Utf8(_)
        | other @ tungstenite::Error::AttackAttempt
        | other @ tungstenite::Error::Url(_)
        | other @ tungstenite::Error::Http(_)
        | other @ tungstenite::Error::HttpFormat(_) => io::Error::other(other),
    }
}

/// Has the system notice soon that the other side is gone.
pub(crate) fn prepare(socket: &TcpStream) -> io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(TRANSIT).with_interval(TRANSIT).with_retries(2);
    let known = SockRef::from(socket);
    known.set_tcp_keepalive(&keepalive)?;
    known.set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    known.set_tcp_user_timeout(Some(3 * TRANSIT))?;
    Ok(())
}

/// A connection between two calls.
struct Between {
    socket: Socket,
    /// Whether the other side's end of the last call was read.
    heard_all: bool,
    since: Instant,
}

impl Between {
    /// Reads what is left of the last call. Whether that was little, and soon.
    async fn clear(&mut self, most: usize, patience: Duration) -> bool {
        let until = async {
            let mut read = 0;
            while !self.heard_all && read <= most {
                match self.socket.next().await {
                    Some(Ok(Message::Binary(bytes))) => {
                        read += bytes.len();
                        self.heard_all = bytes.is_empty();
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Text(_) | Message::Close(_) | Message::Frame(_)) | Err(_)) | None => {
                        return;
                    }
                }
            }
        };
        timeout(patience, until).await.is_ok() && self.heard_all
    }
}

/// One call on a connection, which is given back when it is over.
struct Call {
    socket: Option<Socket>,
    rest: Bytes,
    heard_all: bool,
    said_all: bool,
    home: mpsc::UnboundedSender<Option<Between>>,
}

impl Call {
    fn socket(&mut self) -> io::Result<&mut Socket> {
        self.socket.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn start(&mut self, context: &mut Context<'_>, message: Message) -> Poll<io::Result<()>> {
        let socket = self.socket()?;
        ready!(socket.poll_ready_unpin(context)).map_err(failed)?;
        Poll::Ready(socket.start_send_unpin(message).map_err(failed))
    }
}

impl AsyncRead for Call {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() && !self.heard_all {
            match ready!(self.socket()?.poll_next_unpin(context)) {
                Some(Ok(Message::Binary(bytes))) => {
                    self.heard_all = bytes.is_empty();
                    self.rest = bytes;
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
                Some(Ok(Message::Close(_))) | None => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
            }
        }
        let some = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..some]);
        self.rest.advance(some);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Call {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let some = bytes.len().min(MESSAGE);
        if some == 0 {
            return Poll::Ready(Ok(0));
        }
        let socket = self.socket()?;
        ready!(socket.poll_ready_unpin(context)).map_err(failed)?;
        let message = Message::Binary(Bytes::copy_from_slice(&bytes[..some]));
        socket.start_send_unpin(message).map_err(failed)?;
        Poll::Ready(Ok(some))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.socket()?).poll_flush(context).map_err(failed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.said_all {
            ready!(self.start(context, Message::Binary(Bytes::new())))?;
            self.said_all = true;
        }
        self.poll_flush(context)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let heard_all = self.heard_all && self.rest.is_empty();
        let socket = self.socket.take().filter(|_| self.said_all);
        // Where nobody takes it back it is closed; whoever waits for it hears of it.
        let back = socket.map(|socket| Between { socket, heard_all, since: Instant::now() });
        let _closed = self.home.send(back);
    }
}

/// A gateway's end of one connection.
pub(crate) struct Served {
    home: mpsc::UnboundedSender<Option<Between>>,
    back: tokio::sync::Mutex<mpsc::UnboundedReceiver<Option<Between>>>,
}

impl Served {
    /// # Errors
    /// Where the client does not speak WebSocket.
    pub async fn over(stream: impl Duplex + 'static) -> Result<Self, LinkError> {
        let stream: Box<dyn Duplex> = Box::new(stream);
        let socket =
            tokio_tungstenite::accept_async_with_config(stream, Some(config())).await.map_err(failed)?;
        let (home, back) = mpsc::unbounded_channel();
        let _ours = home.send(Some(Between { socket, heard_all: true, since: Instant::now() }));
        Ok(Self { home, back: tokio::sync::Mutex::new(back) })
    }

    /// The next call, when the one before is over.
    pub async fn stream(&self) -> Option<Stream> {
        let mut between = self.back.lock().await.recv().await??;
        if !between.clear(DRAINED, crate::PATIENCE).await {
            return None;
        }
        loop {
            return match timeout(IDLE, between.socket.next()).await.ok()?? {
                Ok(Message::Binary(bytes)) if !bytes.is_empty() => {
                    let (socket, home) = (Some(between.socket), self.home.clone());
                    let call = Call { socket, rest: bytes, heard_all: false, said_all: false, home };
                    Some(Stream::new(call))
                }
                Ok(Message::Ping(_) | Message::Pong(_)) => continue,
                Ok(_) | Err(_) => None,
            };
        }
    }
}

/// Connections of a client that wait for calls.
pub(crate) struct Idle {
    home: mpsc::UnboundedSender<Option<Between>>,
    back: Mutex<mpsc::UnboundedReceiver<Option<Between>>>,
}

/// Where a connection comes back to that is being greeted.
pub(crate) struct Greeted {
    back: mpsc::UnboundedReceiver<Option<Between>>,
}

impl Default for Idle {
    fn default() -> Self {
        let (home, back) = mpsc::unbounded_channel();
        Self { home, back: Mutex::new(back) }
    }
}

impl Idle {
    /// A call on a connection that is there.
    pub async fn stream(&self) -> Option<Stream> {
        let until = Instant::now() + END;
        loop {
            let next = self.back.lock().unwrap_or_else(std::sync::PoisonError::into_inner).try_recv();
            let Some(mut between) = next.ok()? else { continue };
            if Instant::now() > until {
                return None;
            }
            if between.since.elapsed() < IDLE_CLIENT && between.clear(MESSAGE, END).await {
                return Some(self.call(between.socket));
            }
        }
    }

    fn call(&self, socket: Socket) -> Stream {
        let home = self.home.clone();
        Stream::new(Call {
            socket: Some(socket),
            rest: Bytes::new(),
            heard_all: false,
            said_all: false,
            home,
        })
    }

    /// A call on a connection that has just been greeted, by another call on it, of which `greeted` is the home.
    pub async fn after(&self, mut greeted: Greeted) -> Option<Stream> {
        let mut between = greeted.back.recv().await??;
        between.clear(MESSAGE, TRANSIT).await.then(|| self.call(between.socket))
    }

    /// A call on a new connection by which it is greeted.
    ///
    /// # Errors
    /// Where the other side does not speak WebSocket.
    pub async fn greet(stream: impl Duplex + 'static) -> Result<(Stream, Greeted), LinkError> {
        let alone = Self::default();
        let call = alone.over(stream).await?;
        let back = alone.back.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok((call, Greeted { back }))
    }

    /// A call on a new connection.
    ///
    /// # Errors
    /// Where the other side does not speak WebSocket.
    pub async fn over(&self, stream: impl Duplex + 'static) -> Result<Stream, LinkError> {
        let stream: Box<dyn Duplex> = Box::new(stream);
        let shaken =
            tokio_tungstenite::client_async_with_config("wss://holdfast/sync", stream, Some(config()));
        let (socket, _) = shaken.await.map_err(failed)?;
        Ok(self.call(socket))
    }
}
