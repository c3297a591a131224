//! The wire's messages. The only crate that defines what processes say to each other.
//!
//! Bulk bytes travel beside a message and are never copied through it.

#[expect(missing_docs, clippy::pedantic, reason = "generated; documented where it is written")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/holdfast.v1.rs"));
}

/// What sync clients and gateways say to each other.
#[expect(missing_docs, clippy::pedantic, reason = "generated; documented where it is written")]
pub mod sync {
    include!(concat!(env!("OUT_DIR"), "/holdfast.sync.v1.rs"));
}

pub use generated::*;
pub use prost::Message;

use failure::Code;

impl Failure {
    /// A failure with nothing but words.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), given: 0, other: 0 }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Result<reply::Result, Failure>> for Reply {
    fn from(result: Result<reply::Result, Failure>) -> Self {
        Self { result: Some(result.unwrap_or_else(reply::Result::Failure)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kept: what version 1 put on the wire.
    #[test]
    fn kept_messages_of_version_1_are_read() {
        let put =
            PutShard { device: 7, pack: vec![1; 16], index: 2, epoch: 300, maintenance: true, now_ms: 5 };
        let call = Call { timeout_ms: 250, method: Some(call::Method::PutShard(put)) };
        let kept = [
            8, 250, 1, 82, 29, 8, 7, 18, 16, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 24, 2, 32, 172,
            2, 40, 1, 48, 5,
        ];
        assert_eq!(call.encode_to_vec(), kept);
        assert_eq!(Call::decode(&kept[..]), Ok(call));
        let failure = Failure { given: 3, ..Failure::new(Code::NotLeader, "no") };
        let reply = Reply::from(Err(failure));
        let kept = [10, 8, 8, 7, 18, 2, 110, 111, 24, 3];
        assert_eq!(reply.encode_to_vec(), kept);
        assert_eq!(Reply::decode(&kept[..]), Ok(reply));
    }
}
