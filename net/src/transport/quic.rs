//! QUIC: one connection between two hosts, and one stream on it each way.

use super::{Acceptor, Arrival, HANDSHAKE, Sink, Source, Transport, caller_of};
use crate::{Target, Tls};
use futures::future::BoxFuture;
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::pki_types::CertificateDer;
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{net::lookup_host, time::timeout};

/// What both sides must speak.
const PROTOCOL: &[u8] = b"holdfast/1";

/// Bytes on their way: a shard or a few.
const WINDOW: u32 = 16 << 20;

/// Bytes of the socket's buffers, as far as the system allows.
const SOCKET: usize = 8 << 20;

/// A connection that says nothing for so long is gone, and is asked at a third of it.
const IDLE: Duration = Duration::from_secs(15);

/// QUIC over UDP. Calls share one socket.
#[derive(Default)]
pub struct Quic {
    endpoint: OnceLock<Endpoint>,
}

fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(u64::from(WINDOW))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .keep_alive_interval(Some(IDLE / 3))
        .max_idle_timeout(IDLE.try_into().ok());
    Arc::new(config)
}

fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
    // The system may give less: then more is lost, and sent again.
    let _less = socket.set_recv_buffer_size(SOCKET);
    let _less = socket.set_send_buffer_size(SOCKET);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn endpoint(address: SocketAddr, server: Option<ServerConfig>) -> io::Result<Endpoint> {
    let runtime = Arc::new(quinn::TokioRuntime);
    Endpoint::new(EndpointConfig::default(), server, socket(address)?, runtime)
}

impl Quic {
    fn client(&self) -> io::Result<Endpoint> {
        if let Some(endpoint) = self.endpoint.get() {
            return Ok(endpoint.clone());
        }
        let made = endpoint((Ipv4Addr::UNSPECIFIED, 0).into(), None)?;
        Ok(self.endpoint.get_or_init(|| made).clone())
    }
}

impl Transport for Quic {
    fn dial<'a>(
        &'a self,
        tls: &'a Tls,
        target: Target,
        address: &'a str,
    ) -> BoxFuture<'a, Result<(Source, Sink), String>> {
        Box::pin(async move {
            let say = |error: io::Error| error.to_string();
            let mut crypto = rustls::ClientConfig::clone(&tls.client);
            crypto.alpn_protocols = vec![PROTOCOL.to_vec()];
            let crypto = QuicClientConfig::try_from(crypto).map_err(|error| error.to_string())?;
            let mut config = ClientConfig::new(Arc::new(crypto));
            config.transport_config(transport());
            let name = target.name();
            let to = lookup_host(address).await.map_err(say)?.next().ok_or("the name has no address")?;
            let connecting = self.client().map_err(say)?.connect_with(config, to, &name);
            let connection = connecting.map_err(|error| error.to_string())?.await;
            let connection = connection.map_err(|error| error.to_string())?;
            let (sink, source) = connection.open_bi().await.map_err(|error| error.to_string())?;
            Ok((Box::new(source) as Source, Box::new(sink) as Sink))
        })
    }

    fn listen<'a>(
        &'a self,
        address: SocketAddr,
        tls: &'a Tls,
    ) -> BoxFuture<'a, io::Result<Box<dyn Acceptor>>> {
        Box::pin(async move {
            let mut crypto = rustls::ServerConfig::clone(&tls.server);
            crypto.alpn_protocols = vec![PROTOCOL.to_vec()];
            let crypto = QuicServerConfig::try_from(crypto).map_err(io::Error::other)?;
            let mut config = ServerConfig::with_crypto(Arc::new(crypto));
            config.transport_config(transport());
            let endpoint = endpoint(address, Some(config))?;
            Ok(Box::new(QuicAcceptor { endpoint }) as Box<dyn Acceptor>)
        })
    }
}

struct QuicAcceptor {
    endpoint: Endpoint,
}

impl Acceptor for QuicAcceptor {
    fn accept(&self) -> BoxFuture<'_, io::Result<Arrival>> {
        Box::pin(async move {
            let closed = || io::Error::other("the listener is closed");
            let incoming = self.endpoint.accept().await.ok_or_else(closed)?;
            let arrival: Arrival = Box::pin(async move {
                let shaken = timeout(HANDSHAKE, async {
                    let connection = incoming.await?;
                    let (sink, source) = connection.accept_bi().await?;
                    Ok::<_, io::Error>((connection, source, sink))
                });
                let (connection, source, sink) = shaken.await.map_err(io::Error::other)??;
                let shown = connection.peer_identity();
                let shown = shown.and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok());
                let caller = caller_of(shown.as_ref().map(|shown| shown.as_slice()))?;
                Ok((Box::new(source) as Source, Box::new(sink) as Sink, caller))
            });
            Ok(arrival)
        })
    }

    fn address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }
}
