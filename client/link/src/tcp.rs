//! TCP with TLS below WebSocket: who connects, and who listens.

use crate::{
    Fingerprint, Identity, LinkError, Stream, TRANSIT,
    tls::Pinned,
    websocket::{Idle, Served, prepare},
};
use holdfast_proto::sync::Call;
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

/// A client's connections to a gateway, as many as calls go on at once.
pub(crate) struct Connections {
    to: SocketAddr,
    pinned: Arc<Pinned>,
    /// The first one, on which nothing was said yet.
    first: Mutex<Option<Stream>>,
    idle: Idle,
    /// What is said first on each, and answered by one reply.
    greeting: OnceLock<Call>,
}

impl Connections {
    /// Connects once, to see who is there.
    ///
    /// # Errors
    /// Where nobody answers there, or another than is known.
    pub async fn open(to: SocketAddr, known: Option<Fingerprint>) -> Result<(Self, Fingerprint), LinkError> {
        let (idle, greeting) = (Idle::default(), OnceLock::new());
        let mut opened = Self { to, pinned: Pinned::new(known), first: Mutex::default(), idle, greeting };
        let stream = opened.connect().await?;
        let shown =
            *opened.pinned.shown.get().ok_or(LinkError::Malformed("a server without a certificate"))?;
        // The others are to be the same one's.
        opened.pinned = Pinned::new(Some(shown));
        opened.first = Mutex::new(Some(stream));
        Ok((opened, shown))
    }

    async fn connect(&self) -> Result<Stream, LinkError> {
        self.in_time(async { self.idle.over(self.secured().await?).await }).await
    }

    async fn secured(&self) -> Result<TlsStream<TcpStream>, LinkError> {
        let socket = TcpStream::connect(self.to).await?;
        prepare(&socket)?;
        let connector = TlsConnector::from(Arc::new(self.pinned.client(b"http/1.1")?));
        let name = "holdfast".try_into().map_err(|_| LinkError::Malformed("a name"))?;
        connector.connect(name, socket).await.map_err(|error| self.pinned.explain(error))
    }

    async fn in_time<T>(
        &self,
        connecting: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, format!("nobody answers at {} (TCP)", self.to));
        timeout(TRANSIT, connecting).await.map_err(|_| late())?
    }

    /// What is said on each connection from now on before anything else.
    pub fn greet(&self, call: Call) {
        let _already = self.greeting.set(call);
    }

    pub async fn stream(&self) -> Result<Stream, LinkError> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(first) = first {
            return Ok(first);
        }
        if let Some(stream) = self.idle.stream().await {
            return Ok(stream);
        }
        let Some(greeting) = self.greeting.get() else { return self.connect().await };
        let connecting = async { Idle::greet(self.secured().await?).await };
        let (mut stream, greeted) = self.in_time(connecting).await?;
        stream.send(greeting).await?;
        stream.finish().await?;
        stream.reply(TRANSIT).await?;
        drop(stream);
        let ended = || io::Error::from(io::ErrorKind::ConnectionAborted);
        Ok(self.idle.after(greeted).await.ok_or_else(ended)?)
    }
}

/// Where a gateway listens.
pub(crate) struct Door {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Door {
    /// # Errors
    /// Where the identity is damaged, or the socket.
    pub fn over(socket: std::net::TcpListener, identity: &Identity) -> Result<Self, LinkError> {
        socket.set_nonblocking(true)?;
        let acceptor = TlsAcceptor::from(Arc::new(identity.server(b"http/1.1")?));
        Ok(Self { listener: TcpListener::from_std(socket)?, acceptor })
    }

    pub async fn accept(&self) -> io::Result<(TcpStream, TlsAcceptor, SocketAddr)> {
        let (socket, address) = self.listener.accept().await?;
        Ok((socket, self.acceptor.clone(), address))
    }
}

/// Shakes hands with a client.
///
/// # Errors
/// Where it does not come through with it.
pub(crate) async fn shake(socket: TcpStream, acceptor: TlsAcceptor) -> Result<Served, LinkError> {
    let shaking = async {
        prepare(&socket)?;
        Served::over(acceptor.accept(socket).await?).await
    };
    timeout(TRANSIT, shaking).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
