//! A gateway's end: one address, over UDP and over TCP.

use crate::{
    Identity, LinkError, Stream, quic,
    tcp::{self, Door},
    websocket::Served,
};
use quinn::{Endpoint, VarInt};
use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};
use tokio::{net::TcpStream, time::sleep};
use tokio_rustls::TlsAcceptor;

/// A pause after what the system could not do, such as open one more file.
const PAUSE: Duration = Duration::from_millis(100);

/// Where devices knock.
pub struct Listener {
    endpoint: Endpoint,
    door: Door,
}

/// Binds one port of an address for both ways; with port 0 one that is free on both.
///
/// # Errors
/// Where it is taken.
fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    const TRIES: usize = 20;
    let mut tries = 0;
    loop {
        let tcp = TcpListener::bind(address)?;
        tries += 1;
        match UdpSocket::bind(tcp.local_addr()?) {
            Ok(udp) => return Ok((udp, tcp)),
            Err(error) if address.port() != 0 || tries == TRIES => return Err(error),
            Err(_) => {}
        }
    }
}

/// The sockets of a listener, which are bound before there is an identity.
pub struct Bound(UdpSocket, TcpListener);

impl Bound {
    /// Binds an address.
    ///
    /// # Errors
    /// Where it is taken, for UDP or TCP.
    pub fn to(address: SocketAddr) -> io::Result<Self> {
        let (udp, tcp) = bind(address)?;
        Ok(Self(udp, tcp))
    }
}

impl Listener {
    /// Listens.
    ///
    /// # Errors
    /// Where the identity is damaged.
    pub fn over(Bound(udp, tcp): Bound, identity: &Identity) -> Result<Self, LinkError> {
        Ok(Self { endpoint: quic::listen(udp, identity)?, door: Door::over(tcp, identity)? })
    }

    /// # Errors
    /// Where the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next client that knocks; `None` when the listener is closed.
    pub async fn accept(&self) -> Option<Arriving> {
        loop {
            tokio::select! {
                incoming = self.endpoint.accept() => return Some(Arriving(Knock::Quic(Box::new(incoming?)))),
                accepted = self.door.accept() => match accepted {
                    Ok((socket, acceptor, address)) => {
                        return Some(Arriving(Knock::Tcp(socket, acceptor, address)));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection was not taken");
                        sleep(PAUSE).await;
                    }
                },
            }
        }
    }

    /// Ends all connections that are over QUIC; the others end with those who serve them.
    pub fn close(&self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
    }
}

/// A client whose hands are still to be shaken.
pub struct Arriving(Knock);

enum Knock {
    Quic(Box<quinn::Incoming>),
    Tcp(TcpStream, TlsAcceptor, SocketAddr),
}

impl Arriving {
    pub fn address(&self) -> SocketAddr {
        match &self.0 {
            Knock::Quic(incoming) => incoming.remote_address(),
            Knock::Tcp(_, _, address) => *address,
        }
    }

    /// Has one whose address may be another's show first that it is there, if that is asked for: it knocks again then.
    pub fn unless_unseen(self, asked: bool) -> Option<Self> {
        match self.0 {
            Knock::Quic(incoming)
                if asked && !incoming.remote_address_validated() && incoming.may_retry() =>
            {
                // It may, as was just seen.
                let _sent = incoming.retry();
                None
            }
            knock @ Knock::Quic(_) | knock @ Knock::Tcp(..) => Some(Self(knock)),
        }
    }

    /// # Errors
    /// Where the client does not come through with it.
    pub async fn shake(self) -> Result<Peer, LinkError> {
        match self.0 {
            Knock::Quic(incoming) => {
                let connection = quic::shake(*incoming).await?;
                Ok(Peer { address: connection.remote_address(), way: Way::Quic(connection) })
            }
            Knock::Tcp(socket, acceptor, address) => {
                Ok(Peer { address, way: Way::Tcp(tcp::shake(socket, acceptor).await?) })
            }
        }
    }

    /// Sends it away: there are too many.
    pub fn refuse(self) {
        if let Knock::Quic(incoming) = self.0 {
            incoming.refuse();
        }
    }
}

/// A client, as a gateway sees it.
pub struct Peer {
    address: SocketAddr,
    way: Way,
}

enum Way {
    Quic(quinn::Connection),
    Tcp(Served),
}

impl Peer {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets it send as much ahead as those do who are known.
    pub fn trust(&self) {
        if let Way::Quic(connection) = &self.way {
            quic::trust(connection);
        }
    }

    /// The next call; `None` when the client has gone. Over TCP it comes when the one before is over.
    pub async fn stream(&self) -> Option<Stream> {
        match &self.way {
            Way::Quic(connection) => {
                let (sink, source) = connection.accept_bi().await.ok()?;
                Some(Stream::new(tokio::io::join(source, sink)))
            }
            Way::Tcp(served) => served.stream().await,
        }
    }
}
