//! How processes of a cluster speak with each other: mutual TLS over TCP, many calls on one connection, bulk bytes beside
//! the messages.
//!
//! Who a process is, and what it may do, stands in its certificate, which the cluster's own authority signed; the caller
//! names whom it wants to reach, and the callee sees who calls. A connection without a certificate may ask to join, and
//! nothing else.

pub mod authority;
mod budget;
mod client;
mod error;
mod frame;
pub mod https;
mod server;
mod tls;
pub mod transport;

pub use budget::RetryBudget;
pub use client::{Pending, Remote};
pub use error::NetError;
pub use frame::PAYLOAD_MAX;
pub use server::{Answer, Handler, Listener, Stream, accept_anybody, at_once, serve};
pub use tls::{Caller, Secret, Target, Tls, TlsError, join_client};
