//! The metadata, wherever it is.

use crate::{MetaError, MetaHandle, RemoteMeta};
use futures::future::Either;
use holdfast_meta_raft_machine::{
    ask::{Question, Topology, TopologyNow},
    command::{Outcome, Request},
};

/// The metadata as gateways and devices use it. Cheap to clone.
#[derive(Clone)]
pub enum Meta {
    /// In this process.
    Local(MetaHandle),
    Remote(RemoteMeta),
}

impl Meta {
    /// Has the metadata carry out `requests`; durable when the future ends. Whoever submits next is behind them.
    ///
    /// # Errors
    /// The future's: where they were not carried out, or it is not known.
    pub fn submit(
        &self,
        requests: Vec<Request>,
    ) -> impl Future<Output = Result<Vec<Outcome>, MetaError>> + Send + use<> {
        match self {
            Self::Local(handle) => Either::Left(handle.submit(requests)),
            Self::Remote(remote) => Either::Right(remote.submit(requests)),
        }
    }

    /// Submits one request; see [`Meta::submit`].
    ///
    /// # Errors
    /// As [`Meta::submit`].
    pub async fn request(&self, request: Request) -> Result<Outcome, MetaError> {
        self.submit(vec![request]).await?.pop().ok_or(MetaError::Stopped)
    }

    /// Who belongs to the cluster, and what is where.
    ///
    /// # Errors
    /// Where the state cannot be read or reached.
    pub async fn topology(&self) -> Result<Topology, MetaError> {
        match self {
            Self::Local(handle) => handle.ask(TopologyNow {}).await,
            Self::Remote(remote) => remote.topology().await,
        }
    }

    /// The linearizable answer to a question.
    ///
    /// # Errors
    /// Where the state cannot be read or reached.
    pub async fn ask<Q: Question>(&self, question: Q) -> Result<Q::Answer, MetaError> {
        match self {
            Self::Local(handle) => handle.ask(question).await,
            Self::Remote(remote) => remote.ask(question).await,
        }
    }
}
