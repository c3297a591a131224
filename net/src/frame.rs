//! Frames: what goes over a connection, one behind another.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | kind: 1 call, 2 reply, 3 cancel |
//! | 2 | 0 |
//! | 4 | length of the head, little-endian |
//! | 4 | length of the payload, little-endian |
//! | 8 | number of the call, little-endian |
//! | head | a `Call` or `Reply` |
//! | payload | bulk bytes |

use bytes::{Buf, Bytes};
use holdfast_core::buffer::BufferPool;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const VERSION: u8 = 1;
const HEADER: usize = 20;

/// What a frame may hold, at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    head: usize,
    payload: usize,
}

impl Limits {
    pub const HOST: Self = Self { head: 1 << 20, payload: PAYLOAD_MAX };
    /// Who may only ask to join has little to say.
    pub const STRANGER: Self = Self { head: 16 << 10, payload: 0 };
}

/// Bytes of a payload, at most.
pub const PAYLOAD_MAX: usize = 16 << 20;

/// Payloads from this size are read into aligned buffers, which devices write without copying.
const ALIGNED_FROM: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Call,
    Reply,
    Cancel,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub call: u64,
    pub head: Bytes,
    pub payload: Bytes,
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a frame has {what}"))
}

/// Reads the next frame; `None` where the connection ends between two.
///
/// # Errors
/// Where the connection fails, ends within a frame, or sends what is no frame.
pub async fn read(
    source: &mut (impl AsyncRead + Unpin),
    pool: &BufferPool,
    limits: Limits,
) -> io::Result<Option<Frame>> {
    let mut header = [0; HEADER];
    let first = source.read(&mut header).await?;
    if first == 0 {
        return Ok(None);
    }
    source.read_exact(&mut header[first..]).await?;
    let [version, kind, _, _, rest @ ..] = header;
    if version != VERSION {
        return Err(malformed("a version that is not known"));
    }
    let kind = match kind {
        1 => Kind::Call,
        2 => Kind::Reply,
        3 => Kind::Cancel,
        _ => return Err(malformed("a kind that is not known")),
    };
    let mut rest = rest.as_slice();
    let (head_len, payload_len) = (rest.get_u32_le() as usize, rest.get_u32_le() as usize);
    let call = rest.get_u64_le();
    if head_len > limits.head || payload_len > limits.payload {
        return Err(malformed("more bytes than frames may have"));
    }
    let mut head = vec![0; head_len];
    source.read_exact(&mut head).await?;
    let payload = if payload_len < ALIGNED_FROM {
        let mut payload = vec![0; payload_len];
        source.read_exact(&mut payload).await?;
        Bytes::from(payload)
    } else {
        let mut buffer = pool.take();
        buffer.grow(payload_len);
        source.read_exact(&mut buffer.as_mut_slice()[..payload_len]).await?;
        Bytes::from_owner(buffer).slice(..payload_len)
    };
    Ok(Some(Frame { kind, call, head: Bytes::from(head), payload }))
}

/// Writes a frame; it leaves with the next flush.
///
/// # Errors
/// Where the connection fails.
pub async fn write(sink: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> io::Result<()> {
    let kind = match frame.kind {
        Kind::Call => 1,
        Kind::Reply => 2,
        Kind::Cancel => 3,
    };
    let mut start = Vec::with_capacity(HEADER + frame.head.len());
    start.extend_from_slice(&[VERSION, kind, 0, 0]);
    start.extend_from_slice(&(frame.head.len() as u32).to_le_bytes());
    start.extend_from_slice(&(frame.payload.len() as u32).to_le_bytes());
    start.extend_from_slice(&frame.call.to_le_bytes());
    start.extend_from_slice(&frame.head);
    sink.write_all(&start).await?;
    sink.write_all(&frame.payload).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block<T>(future: impl Future<Output = T>) -> T {
        futures::executor::block_on(future)
    }

    proptest! {
        #[test]
        fn frames_come_back(call: u64, head: Vec<u8>, payload in proptest::collection::vec(any::<u8>(), 0..9000)) {
            let frame = Frame { kind: Kind::Reply, call, head: head.into(), payload: payload.into() };
            let mut wire = Vec::new();
            block(write(&mut wire, &frame)).expect("memory takes writes");
            let pool = BufferPool::new(1);
            let mut source = wire.as_slice();
            prop_assert_eq!(block(read(&mut source, &pool, Limits::HOST)).expect("a frame"), Some(frame));
            prop_assert_eq!(block(read(&mut source, &pool, Limits::HOST)).expect("the end"), None);
            let mut cut = &wire[..wire.len() - 1];
            prop_assert!(block(read(&mut cut, &pool, Limits::HOST)).is_err());
        }

        #[test]
        fn no_bytes_from_outside_panic(wire: Vec<u8>) {
            let mut source = wire.as_slice();
            let _answer = block(read(&mut source, &BufferPool::new(1), Limits::HOST));
        }
    }

    #[test]
    fn lengths_are_checked_before_memory_is_taken() {
        let mut wire = vec![VERSION, 1, 0, 0];
        wire.extend_from_slice(&u32::MAX.to_le_bytes());
        wire.extend_from_slice(&[0xff; 12]);
        assert!(block(read(&mut wire.as_slice(), &BufferPool::new(1), Limits::HOST)).is_err());
    }
}
