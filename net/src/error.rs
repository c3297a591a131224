//! Why a call was not answered.

use holdfast_proto::{Failure, failure::Code};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum NetError {
    /// Nothing was sent: the call may be made elsewhere without a second thought.
    #[error("{address} cannot be reached: {reason}")]
    Unreachable { address: String, reason: String },
    /// The connection broke after the call was sent. It may have been carried out.
    #[error("the connection to {0} broke before an answer came")]
    Broken(String),
    #[error("{0} did not answer in time")]
    Deadline(String),
    /// The other side answered, and this is its answer.
    #[error(transparent)]
    Failed(#[from] Failure),
    #[error("{0} answered with something else than was asked for")]
    Protocol(String),
}

impl NetError {
    /// What the other side said, if it did.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Failed(failure) => Some(failure.code()),
            Self::Unreachable { .. } | Self::Broken(_) | Self::Deadline(_) | Self::Protocol(_) => None,
        }
    }
}
