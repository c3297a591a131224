//! QUIC: one connection, a stream for each call, and the connection goes on where a laptop changes networks.

use crate::{Fingerprint, Identity, LinkError, Stream, tls::Pinned};
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};
use tokio::{net::lookup_host, time::timeout};

/// Bytes on their way in one stream, and in one connection.
const STREAM_WINDOW: u32 = 8 << 20;
const WINDOW: u32 = 16 << 20;

/// Calls that a client has going on at once.
const CALLS_MAX: u32 = 64;

/// Bytes of the socket's buffers, as far as the system allows.
const SOCKET: usize = 4 << 20;

/// A connection that says nothing for so long is gone, and is asked at a third of it.
const IDLE: Duration = Duration::from_secs(10);

/// How long a connection may take to be made.
const HANDSHAKE: Duration = Duration::from_secs(10);

fn transport(calls: u32) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(u64::from(WINDOW))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(calls))
        .keep_alive_interval(Some(IDLE / 3))
        .max_idle_timeout(IDLE.try_into().ok());
    Arc::new(config)
}

fn endpoint(socket: UdpSocket, server: Option<ServerConfig>) -> io::Result<Endpoint> {
    let with_buffers = socket2::SockRef::from(&socket);
    // The system may give less: then more is lost, and sent again.
    let _less = with_buffers.set_recv_buffer_size(SOCKET);
    let _less = with_buffers.set_send_buffer_size(SOCKET);
    Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(quinn::TokioRuntime))
}

/// A client's connection to a gateway. Cheap to clone.
#[derive(Clone)]
pub struct Connection {
    connection: quinn::Connection,
    /// The certificate that the gateway showed.
    pub fingerprint: Fingerprint,
}

impl Connection {
    /// Connects to `address`, as HOST:PORT, whose certificate is `known`, or has never been seen.
    ///
    /// # Errors
    /// Where nobody answers there, or another than is known.
    pub async fn open(address: &str, known: Option<Fingerprint>) -> Result<Self, LinkError> {
        let bad = || LinkError::BadAddress(address.to_owned());
        let to = lookup_host(address).await.map_err(|_| bad())?.next().ok_or_else(bad)?;
        let any: SocketAddr = match to {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let pinned = Pinned::new(known);
        let crypto = QuicClientConfig::try_from(pinned.client()?);
        let mut config =
            ClientConfig::new(Arc::new(crypto.map_err(|error| LinkError::Tls(error.to_string()))?));
        config.transport_config(transport(0));
        let connecting = endpoint(UdpSocket::bind(any)?, None)?.connect_with(config, to, "holdfast");
        let connecting = connecting.map_err(io::Error::other)?;
        let connected = timeout(HANDSHAKE, connecting).await.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, format!("nobody answers at {address} (UDP)"))
        })?;
        let shown = pinned.shown.get().copied();
        match (connected, shown, known) {
            (Ok(connection), Some(fingerprint), _) => Ok(Self { connection, fingerprint }),
            (Err(_), Some(shown), Some(known)) if shown != known => Err(LinkError::OtherServer(known)),
            (Err(error), _, _) => Err(io::Error::from(error).into()),
            (Ok(_), None, _) => Err(LinkError::Malformed("a server without a certificate")),
        }
    }

    /// A stream for a call.
    ///
    /// # Errors
    /// Where the connection has ended.
    pub async fn stream(&self) -> Result<Stream, LinkError> {
        let (sink, source) = self.connection.open_bi().await.map_err(io::Error::from)?;
        Ok(Stream::new(source, sink))
    }

    /// Ends the connection, when all that was sent has arrived or been given up.
    pub fn close(&self) {
        self.connection.close(VarInt::from_u32(0), b"");
    }
}

/// A gateway's end.
pub struct Listener {
    endpoint: Endpoint,
}

impl Listener {
    /// Listens on a socket, which is bound.
    ///
    /// # Errors
    /// Where the identity is damaged.
    pub fn over(socket: UdpSocket, identity: &Identity) -> Result<Self, LinkError> {
        let crypto = QuicServerConfig::try_from(identity.server()?);
        let crypto = crypto.map_err(|error| LinkError::Tls(error.to_string()))?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(transport(CALLS_MAX)).migration(true);
        Ok(Self { endpoint: endpoint(socket, Some(config))? })
    }

    /// # Errors
    /// Where the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next client that knocks; `None` when the listener is closed.
    pub async fn accept(&self) -> Option<Arriving> {
        Some(Arriving(self.endpoint.accept().await?))
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// Ends all connections.
    pub fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
    }
}

/// A client whose hands are still to be shaken.
pub struct Arriving(quinn::Incoming);

impl Arriving {
    /// # Errors
    /// Where the client does not come through with it.
    pub async fn shake(self) -> Result<Peer, LinkError> {
        let connection = timeout(HANDSHAKE, self.0).await;
        let connection = connection.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        Ok(Peer { connection: connection.map_err(io::Error::from)? })
    }

    /// Sends it away: there are too many.
    pub fn refuse(self) {
        self.0.refuse();
    }
}

/// A client, as a gateway sees it.
pub struct Peer {
    connection: quinn::Connection,
}

impl Peer {
    pub fn address(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// The next call; `None` when the client has gone.
    pub async fn stream(&self) -> Option<Stream> {
        let (sink, source) = self.connection.accept_bi().await.ok()?;
        Some(Stream::new(source, sink))
    }
}
