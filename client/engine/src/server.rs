//! Servers as an engine sees them. Their changes are made all or none, and durable when they answer.

use crate::error::Result;
use async_trait::async_trait;
use bytes::Bytes;
use holdfast_core::ids::ChunkId;
use holdfast_proto::sync::{
    self, Changes, ChunkRef, NameChange, NamedVersion, Names, Outcome, Piece, Range, VersionOf,
};
use std::sync::Arc;

/// A server that somebody is signed in at.
///
/// Errors are the network's and the server's: [`Error::code`](crate::error::Error::code) says which.
#[async_trait]
pub trait Server: Send + Sync {
    /// What this device is called.
    fn device_name(&self) -> &str;

    /// Which cluster, and which life of it, this is.
    async fn life(&self) -> Result<Life>;

    /// A page of the names of a space, behind a path.
    async fn names(&self, space: &str, after: Vec<u8>) -> Result<Names>;

    /// What has changed since `cursor`.
    async fn changes(&self, space: &str, cursor: u64) -> Result<Changes>;

    /// Which of these chunks need not be sent.
    async fn have(&self, space: &str, chunks: &[ChunkId], versions: &[NamedVersion]) -> Result<Vec<bool>>;

    /// Begins to send chunks.
    async fn upload(&self, space: &str) -> Result<Box<dyn Sending + '_>>;

    async fn commit(&self, space: &str, changes: Vec<NameChange>) -> Result<Vec<Outcome>>;

    /// The chunks of a file's version, or of its newest.
    async fn manifest(&self, space: &str, path: &[u8], of: Option<VersionOf>) -> Result<Listed>;

    /// The bytes of ranges of a version, one behind another.
    async fn fetch(
        &self,
        space: &str,
        path: &[u8],
        of: VersionOf,
        ranges: Vec<Range>,
    ) -> Result<Box<dyn Receiving + '_>>;

    /// Signatures of parts of a version, as librsync writes them.
    async fn signatures(
        &self,
        space: &str,
        path: &[u8],
        of: VersionOf,
        ranges: Vec<Range>,
    ) -> Result<Vec<Bytes>>;
}

/// Chunks on their way to a server.
#[async_trait]
pub trait Sending: Send {
    async fn chunk(&mut self, id: ChunkId, data: Bytes) -> Result<()>;

    /// A chunk as what it differs in from a part of a version.
    async fn delta(&mut self, id: ChunkId, delta: Bytes, base: Piece) -> Result<()>;

    /// When this returns, all of them are durable.
    async fn finish(self: Box<Self>) -> Result<()>;
}

/// Bytes on their way from a server.
#[async_trait]
pub trait Receiving: Send {
    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>>;
}

/// A file's chunks, and what is said of it with them.
pub struct Listed {
    pub node: u64,
    pub file: sync::File,
    pub chunks: Vec<(ChunkId, u32)>,
}

/// Which cluster it is, and which starts of its gateways it remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    epoch: String,
    known: Arc<[String]>,
}

impl Life {
    pub fn new(epoch: String, known: Vec<String>) -> Self {
        Self { epoch, known: known.into() }
    }

    /// What is written down of it.
    pub fn text(&self) -> String {
        format!("{}/{}", self.epoch, self.known.last().map_or("", String::as_str))
    }

    /// Whether it goes on from what was written down of one: of the same cluster, which has forgotten nothing since.
    pub fn follows(&self, text: &str) -> bool {
        let (epoch, life) = text.split_once('/').unwrap_or((text, ""));
        epoch == self.epoch && (life.is_empty() || self.known.iter().any(|known| known == life))
    }
}

/// A file's chunk as the protocol writes it.
pub fn reference((id, bytes): &(ChunkId, u32)) -> ChunkRef {
    ChunkRef { id: id.as_bytes().to_vec(), bytes: *bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_has_forgotten_is_another() {
        let life = |epoch: &str, known: &[&str]| {
            Life::new(epoch.to_owned(), known.iter().map(|life| (*life).to_owned()).collect())
        };
        let now = life("e", &["1", "2", "3"]);
        assert_eq!(now.text(), "e/3");
        for text in ["e/1", "e/3", "e", "e/"] {
            assert!(now.follows(text), "{text}");
        }
        // Set back to before its second start, and started again.
        let back = life("e", &["1", "4"]);
        for text in ["e/2", "e/3", "other/1", ""] {
            assert!(!back.follows(text), "{text}");
        }
    }
}
