//! What goes wrong, in words that say what to do.

use holdfast_client_link::LinkError;
use holdfast_proto::sync::failure::Code;
use std::{io, path::Path};
use thiserror::Error;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, Error)]
pub enum Error {
    #[error("{0}")]
    Plain(String),
    #[error("{0}: {1}")]
    File(String, #[source] io::Error),
    #[error("{0} is damaged")]
    Damaged(String),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the database of this device: {0}")]
    Database(#[from] rusqlite::Error),
    /// What was planned leans on what is no longer so.
    #[error("{0} was changed meanwhile")]
    Changed(String),
}

impl Error {
    /// What the server says it is about.
    pub fn code(&self) -> Option<Code> {
        if let Self::Link(error) = self { error.code() } else { None }
    }

    /// Whether it is the network, or a server that is busy: the same may go well later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Link(LinkError::Io(_)) => true,
            Self::Link(error) => matches!(error.code(), Some(Code::Busy | Code::Full | Code::Internal)),
            Self::Plain(_) | Self::File(..) | Self::Damaged(_) | Self::Database(_) | Self::Changed(_) => {
                false
            }
        }
    }
}

/// Names the file that something failed with.
pub fn at(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::File(path.as_ref().display().to_string(), error)
}

/// An error that is words alone.
pub fn plain<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::Plain(text.into()))
}
