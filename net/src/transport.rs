//! How connections are made: TLS over TCP, or QUIC. What is said on them is the same.
//!
//! A connection is a pair of byte streams, one each way, between two hosts that know who they are. docs/adr/0005 has the
//! measurements by which TCP is the default.

use crate::{Caller, Target, Tls};
use futures::future::BoxFuture;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::timeout,
};

pub(crate) mod quic;

pub use quic::Quic;

/// How long a handshake may take.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);

/// What comes in.
pub type Source = Box<dyn AsyncRead + Send + Unpin>;

/// What goes out.
pub type Sink = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection that somebody made, once it is known who.
pub type Arrival = BoxFuture<'static, io::Result<(Source, Sink, Caller)>>;

/// A way of connecting hosts.
pub trait Transport: Send + Sync + 'static {
    /// Connects to the host that `target` names.
    fn dial<'a>(
        &'a self,
        tls: &'a Tls,
        target: Target,
        address: &'a str,
    ) -> BoxFuture<'a, Result<(Source, Sink), String>>;

    /// Listens for others.
    fn listen<'a>(
        &'a self,
        address: SocketAddr,
        tls: &'a Tls,
    ) -> BoxFuture<'a, io::Result<Box<dyn Acceptor>>>;
}

/// A bound listener.
pub trait Acceptor: Send + Sync + 'static {
    /// The next connection, whose handshake is carried out by whoever awaits it.
    fn accept(&self) -> BoxFuture<'_, io::Result<Arrival>>;

    /// # Errors
    /// Where the system does not tell.
    fn address(&self) -> io::Result<SocketAddr>;
}

/// TLS over TCP.
pub struct Tcp;

impl Transport for Tcp {
    fn dial<'a>(
        &'a self,
        tls: &'a Tls,
        target: Target,
        address: &'a str,
    ) -> BoxFuture<'a, Result<(Source, Sink), String>> {
        Box::pin(async move {
            let say = |error: io::Error| error.to_string();
            let stream = TcpStream::connect(address).await.map_err(say)?;
            stream.set_nodelay(true).map_err(say)?;
            let (connector, name) = tls.connector(target).map_err(|error| error.to_string())?;
            let stream = connector.connect(name, stream).await.map_err(say)?;
            let (source, sink) = tokio::io::split(stream);
            Ok((Box::new(source) as Source, Box::new(sink) as Sink))
        })
    }

    fn listen<'a>(
        &'a self,
        address: SocketAddr,
        tls: &'a Tls,
    ) -> BoxFuture<'a, io::Result<Box<dyn Acceptor>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(address).await?;
            Ok(Box::new(TcpAcceptor { listener, tls: tls.clone() }) as Box<dyn Acceptor>)
        })
    }
}

struct TcpAcceptor {
    listener: TcpListener,
    tls: Tls,
}

impl Acceptor for TcpAcceptor {
    fn accept(&self) -> BoxFuture<'_, io::Result<Arrival>> {
        Box::pin(async move {
            let (stream, _) = self.listener.accept().await?;
            let acceptor = tokio_rustls::TlsAcceptor::from(self.tls.server.clone());
            let arrival: Arrival = Box::pin(async move {
                stream.set_nodelay(true)?;
                let shaken = timeout(HANDSHAKE, acceptor.accept(stream)).await;
                let stream = shaken.map_err(io::Error::other)??;
                let caller = caller_of(stream.get_ref().1.peer_certificates())?;
                let (source, sink) = tokio::io::split(stream);
                Ok((Box::new(source) as Source, Box::new(sink) as Sink, caller))
            });
            Ok(arrival)
        })
    }

    fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Who calls, by the certificates that were shown.
pub(crate) fn caller_of(
    certificates: Option<&[rustls::pki_types::CertificateDer<'static>]>,
) -> io::Result<Caller> {
    match certificates {
        Some([certificate, ..]) => {
            Caller::of(certificate).ok_or_else(|| io::Error::other("a certificate names nobody"))
        }
        Some([]) | None => Ok(Caller::Stranger),
    }
}

/// The transport of a name, as configurations write it.
///
/// # Errors
/// Where there is none of that name.
pub fn named(name: &str) -> Result<Arc<dyn Transport>, String> {
    match name {
        "tcp" => Ok(Arc::new(Tcp)),
        "quic" => Ok(Arc::new(Quic::default())),
        _ => Err(format!("{name:?} is no transport: there are tcp and quic")),
    }
}
