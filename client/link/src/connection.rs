//! A client's connection to a gateway: over QUIC, and where that does not come through, over TLS and TCP.

use crate::{Fingerprint, LinkError, Stream, quic, tcp::Connections};
use holdfast_proto::sync::Call;
use quinn::VarInt;
use std::{net::SocketAddr, str::FromStr, sync::Arc, time::Duration};
use tokio::{net::lookup_host, time::sleep};

/// How long QUIC is waited for until TCP is tried beside it.
const HEAD_START: Duration = Duration::from_millis(700);

/// What frames go over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Quic,
    /// WebSocket over TLS.
    Tcp,
}

impl FromStr for Transport {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        match text {
            "quic" => Ok(Self::Quic),
            "tcp" => Ok(Self::Tcp),
            other => {
                Err(LinkError::BadAddress(format!("{other} is no transport, which are quic and tcp: it")))
            }
        }
    }
}

/// A client's connection to a gateway. Cheap to clone.
#[derive(Clone)]
pub struct Connection {
    way: Way,
    /// The certificate that the gateway showed.
    pub fingerprint: Fingerprint,
}

#[derive(Clone)]
enum Way {
    Quic(quinn::Connection),
    Tcp(Arc<Connections>),
}

impl Connection {
    /// Connects to `address`, as HOST:PORT, whose certificate is `known`, or has never been seen: by what is asked for, or
    /// else by QUIC, and by TCP where that takes its time or fails.
    ///
    /// # Errors
    /// Where nobody answers there, or another than is known.
    pub async fn open(
        address: &str,
        known: Option<Fingerprint>,
        by: Option<Transport>,
    ) -> Result<Self, LinkError> {
        let bad = || LinkError::BadAddress(address.to_owned());
        let to = lookup_host(address).await.map_err(|_| bad())?.next().ok_or_else(bad)?;
        match by {
            Some(Transport::Quic) => Self::by_quic(to, known).await,
            Some(Transport::Tcp) => Self::by_tcp(to, known).await,
            None => Self::by_either(to, known).await,
        }
    }

    async fn by_quic(to: SocketAddr, known: Option<Fingerprint>) -> Result<Self, LinkError> {
        let (connection, fingerprint) = quic::connect(to, known).await?;
        Ok(Self { way: Way::Quic(connection), fingerprint })
    }

    async fn by_tcp(to: SocketAddr, known: Option<Fingerprint>) -> Result<Self, LinkError> {
        let (connections, fingerprint) = Connections::open(to, known).await?;
        Ok(Self { way: Way::Tcp(Arc::new(connections)), fingerprint })
    }

    async fn by_either(to: SocketAddr, known: Option<Fingerprint>) -> Result<Self, LinkError> {
        let mut quic = std::pin::pin!(Self::by_quic(to, known));
        tokio::select! {
            connected = &mut quic => match connected {
                Err(LinkError::Io(error)) => {
                    tracing::debug!(%error, "QUIC does not come through");
                    return Self::by_tcp(to, known).await;
                }
                done => return done,
            },
            () = sleep(HEAD_START) => {}
        }
        let mut tcp = std::pin::pin!(Self::by_tcp(to, known));
        // Whichever comes through first; where one fails, it depends on the other.
        tokio::select! {
            connected = &mut quic => match connected {
                Err(LinkError::Io(_)) => tcp.await,
                done => done,
            },
            connected = &mut tcp => match connected {
                Err(LinkError::Io(_)) => quic.await,
                done => done,
            },
        }
    }

    /// What frames go over.
    pub fn transport(&self) -> Transport {
        match self.way {
            Way::Quic(_) => Transport::Quic,
            Way::Tcp(_) => Transport::Tcp,
        }
    }

    /// Says what every connection begins with that is made for this one's calls. The caller has said it on this one.
    pub fn greet(&self, call: Call) {
        if let Way::Tcp(connections) = &self.way {
            connections.greet(call);
        }
    }

    /// A stream for a call.
    ///
    /// # Errors
    /// Where the connection has ended.
    pub async fn stream(&self) -> Result<Stream, LinkError> {
        match &self.way {
            Way::Quic(connection) => quic::stream(connection).await,
            Way::Tcp(connections) => connections.stream().await,
        }
    }

    /// Ends the connection, when all that was sent has arrived or been given up.
    pub fn close(&self) {
        if let Way::Quic(connection) = &self.way {
            connection.close(VarInt::from_u32(0), b"");
        }
    }
}
