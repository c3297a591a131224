//! QUIC: one connection, a stream for each call, and the connection goes on where a laptop changes networks.

use crate::{Fingerprint, Identity, LinkError, Stream, TRANSIT, tls::Pinned};
use aws_lc_rs::hmac;
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
use tokio::time::timeout;

/// Bytes on their way in one stream, and in one connection.
const STREAM_WINDOW: u32 = 8 << 20;
const WINDOW: u32 = 16 << 20;

/// Bytes on their way from whoever has not said who it is.
const STRANGE_WINDOW: u32 = 64 << 10;

/// Calls that a client has going on at once.
const CALLS_MAX: u32 = 64;

/// Bytes of the socket's buffers, as far as the system allows.
const SOCKET: usize = 4 << 20;

/// A connection that says nothing for so long is gone, and is asked at a third of it.
const IDLE: Duration = Duration::from_secs(10);

fn transport(calls: u32, window: u32) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(window))
        .send_window(u64::from(WINDOW))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(calls))
        .keep_alive_interval(Some(IDLE / 3))
        .max_idle_timeout(IDLE.try_into().ok());
    Arc::new(config)
}

fn endpoint(socket: UdpSocket, server: Option<ServerConfig>, config: EndpointConfig) -> io::Result<Endpoint> {
    let with_buffers = socket2::SockRef::from(&socket);
    // The system may give less: then more is lost, and sent again.
    let _less = with_buffers.set_recv_buffer_size(SOCKET);
    let _less = with_buffers.set_send_buffer_size(SOCKET);
    Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime))
}

/// Connects to a gateway whose certificate is `known`, or has never been seen.
///
/// # Errors
/// Where nobody answers there, or another than is known.
pub(crate) async fn connect(
    to: SocketAddr,
    known: Option<Fingerprint>,
) -> Result<(quinn::Connection, Fingerprint), LinkError> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let pinned = Pinned::new(known);
    let crypto = QuicClientConfig::try_from(pinned.client(crate::tls::PROTOCOL)?);
    let mut config = ClientConfig::new(Arc::new(crypto.map_err(|error| LinkError::Tls(error.to_string()))?));
    config.transport_config(transport(0, WINDOW));
    let connecting = endpoint(UdpSocket::bind(any)?, None, EndpointConfig::default())?
        .connect_with(config, to, "holdfast");
    let connecting = connecting.map_err(io::Error::other)?;
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("nobody answers at {to} (UDP)"));
    let connected = timeout(TRANSIT, connecting).await.map_err(|_| late())?;
    let failed = |error: quinn::ConnectionError| io::Error::other(format!("{to} (UDP): {error}"));
    let connection = connected.map_err(|error| pinned.explain(failed(error)))?;
    let shown = pinned.shown.get().copied();
    shown.map(|shown| (connection, shown)).ok_or(LinkError::Malformed("a server without a certificate"))
}

pub(crate) async fn stream(connection: &quinn::Connection) -> Result<Stream, LinkError> {
    let (sink, source) = connection.open_bi().await.map_err(io::Error::from)?;
    Ok(Stream::new(tokio::io::join(source, sink)))
}

/// Listens on a socket, which is bound.
///
/// # Errors
/// Where the identity is damaged.
pub(crate) fn listen(socket: UdpSocket, identity: &Identity) -> Result<Endpoint, LinkError> {
    let crypto = QuicServerConfig::try_from(identity.server(crate::tls::PROTOCOL)?);
    let crypto = crypto.map_err(|error| LinkError::Tls(error.to_string()))?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport(CALLS_MAX, STRANGE_WINDOW)).migration(true);
    // A gateway that was started again tells whoever still speaks to the one before: all of a cluster have this key.
    let secret = blake3::derive_key("holdfast 2026-11 QUIC stateless reset", &identity.key);
    let reset = hmac::Key::new(hmac::HMAC_SHA256, &secret);
    Ok(endpoint(socket, Some(config), EndpointConfig::new(Arc::new(reset)))?)
}

/// Gives a client the window that those have who are known.
pub(crate) fn trust(connection: &quinn::Connection) {
    connection.set_receive_window(VarInt::from_u32(WINDOW));
}

/// Shakes hands with a client.
///
/// # Errors
/// Where it does not come through with it.
pub(crate) async fn shake(incoming: quinn::Incoming) -> Result<quinn::Connection, LinkError> {
    let connection = timeout(TRANSIT, incoming).await;
    let connection = connection.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
    Ok(connection.map_err(io::Error::from)?)
}
