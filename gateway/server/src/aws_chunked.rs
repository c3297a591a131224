//! Bounds on `aws-chunked` bodies before s3s takes them apart.
//!
//! s3s keeps each chunk until it is whole, and clients choose their chunks: some send a whole object as one. A chunk that
//! is not signed is passed on as several small ones, which mean the same. A signed one cannot be taken apart, and is
//! refused where it is larger than any client's.

use bytes::{Buf, Bytes};
use futures::Stream;
use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};
use thiserror::Error;

/// Bytes of a chunk that is passed on.
const PASSED_MAX: u64 = 256 << 10;

/// Bytes of a signed chunk. Clients send 64 KiB to 1 MiB.
const SIGNED_MAX: u64 = 16 << 20;

/// Bytes of a chunk's head: its size and its signature.
const HEAD_MAX: usize = 1024;

/// The framing is not that of `aws-chunked`, or asks for too much memory.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FramingError {
    #[error("a chunk's head is longer than {HEAD_MAX} bytes")]
    LongHead,
    #[error("a chunk's head does not begin with a size")]
    BadSize,
    #[error("a signed chunk of {0} bytes is larger than {SIGNED_MAX}: send smaller ones")]
    LargeChunk(u64),
    #[error("the body ends before its last chunk")]
    Cut,
    #[error("something follows the last chunk")]
    Extended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    /// So many bytes of the client's chunk and of the one that is passed on are to come.
    Data {
        left: u64,
        passed_left: u64,
    },
    /// So many bytes of the line's end behind a chunk are to come.
    End(u8),
    Trailers,
    /// Of a body without trailers, so many bytes of its last line's end are to come.
    Last(u8),
}

/// The framing as a machine: bytes in, bytes out.
#[derive(Debug)]
struct Framing {
    state: State,
    head: Vec<u8>,
    out: VecDeque<Bytes>,
    has_trailers: bool,
}

impl Framing {
    fn new(has_trailers: bool) -> Self {
        Self { state: State::Head, head: Vec::new(), out: VecDeque::new(), has_trailers }
    }

    /// # Errors
    /// Where the body must not end yet. Whoever cuts it off could not sign its last, empty chunk.
    fn end(&self) -> Result<(), FramingError> {
        match self.state {
            State::Trailers | State::Last(_) => Ok(()),
            State::Head | State::Data { .. } | State::End(_) => Err(FramingError::Cut),
        }
    }

    fn push(&mut self, mut input: Bytes) -> Result<(), FramingError> {
        while !input.is_empty() {
            match self.state {
                State::Head => {
                    let byte = input.get_u8();
                    self.head.push(byte);
                    if byte == b'\n' {
                        self.enter_chunk()?;
                    } else if self.head.len() >= HEAD_MAX {
                        return Err(FramingError::LongHead);
                    }
                }
                State::Data { left, passed_left } => self.data(&mut input, left, passed_left),
                State::End(bytes) => {
                    let taken = input.split_to(usize::from(bytes).min(input.len()));
                    let left = bytes - taken.len() as u8;
                    self.out.push_back(taken);
                    self.state = if left == 0 { State::Head } else { State::End(left) };
                }
                State::Trailers => self.out.push_back(std::mem::take(&mut input)),
                State::Last(left) => {
                    let expected = &b"\r\n"[2 - usize::from(left)..];
                    if !expected.starts_with(&input) {
                        return Err(FramingError::Extended);
                    }
                    self.state = State::Last(left - input.len() as u8);
                    self.out.push_back(std::mem::take(&mut input));
                }
            }
        }
        Ok(())
    }

    fn data(&mut self, input: &mut Bytes, left: u64, passed_left: u64) {
        let taken = input.split_to(passed_left.min(input.len() as u64) as usize);
        let (left, passed_left) = (left - taken.len() as u64, passed_left - taken.len() as u64);
        self.out.push_back(taken);
        self.state = match (left, passed_left) {
            (0, _) => State::End(2),
            (_, 0) => {
                let next = left.min(PASSED_MAX);
                self.out.push_back(Bytes::from(format!("\r\n{next:x}\r\n")));
                State::Data { left, passed_left: next }
            }
            (left, passed_left) => State::Data { left, passed_left },
        };
    }

    /// Reads the head that is whole, and passes on the first chunk's.
    fn enter_chunk(&mut self) -> Result<(), FramingError> {
        let head = std::mem::take(&mut self.head);
        let digits = head.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let text = std::str::from_utf8(&head[..digits]).map_err(|_| FramingError::BadSize)?;
        let size = u64::from_str_radix(text, 16).map_err(|_| FramingError::BadSize)?;
        let signed = head.get(digits) == Some(&b';');
        if signed && size > SIGNED_MAX {
            return Err(FramingError::LargeChunk(size));
        }
        let passed = if signed { size } else { size.min(PASSED_MAX) };
        // A chunk that is passed on whole keeps its head, signed or strange.
        let head = if passed == size { Bytes::from(head) } else { Bytes::from(format!("{passed:x}\r\n")) };
        self.out.push_back(head);
        self.state = match (size, self.has_trailers) {
            (0, true) => State::Trailers,
            (0, false) => State::Last(2),
            (left, _) => State::Data { left, passed_left: passed },
        };
        Ok(())
    }
}

/// A body with its chunks bounded.
pub struct Bounded<S> {
    inner: S,
    framing: Framing,
}

impl<S> Bounded<S> {
    /// `has_trailers` as the request's head says it.
    pub fn new(inner: S, has_trailers: bool) -> Self {
        Self { inner, framing: Framing::new(has_trailers) }
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<S, E> Stream for Bounded<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Into<BoxError>,
{
    type Item = Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(bytes) = self.framing.out.pop_front() {
                return Poll::Ready(Some(Ok(bytes)));
            }
            match ready!(Pin::new(&mut self.inner).poll_next(context)) {
                Some(Ok(bytes)) => self.framing.push(bytes)?,
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(self.framing.end().err().map(|error| Err(error.into()))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Everything that comes out, where `wire` comes in pieces of `piece` bytes.
    fn pass(wire: &[u8], piece: usize) -> Result<Vec<u8>, FramingError> {
        let mut framing = Framing::new(true);
        for piece in wire.chunks(piece) {
            framing.push(Bytes::copy_from_slice(piece))?;
        }
        Ok(framing.out.iter().flatten().copied().collect())
    }

    /// The sizes and bytes of the chunks of `wire`, and what follows the last.
    fn parse(mut wire: &[u8]) -> (Vec<usize>, Vec<u8>, Vec<u8>) {
        let (mut sizes, mut data) = (Vec::new(), Vec::new());
        loop {
            let end = wire.windows(2).position(|pair| pair == b"\r\n").expect("a head ends");
            let head = std::str::from_utf8(&wire[..end]).expect("a head is text");
            let size = usize::from_str_radix(head, 16).expect("a head is a size");
            wire = &wire[end + 2..];
            sizes.push(size);
            if size == 0 {
                return (sizes, data, wire.to_vec());
            }
            data.extend_from_slice(&wire[..size]);
            assert_eq!(&wire[size..size + 2], b"\r\n");
            wire = &wire[size + 2..];
        }
    }

    fn frame(chunks: &[usize]) -> (Vec<u8>, Vec<u8>) {
        let (mut wire, mut data) = (Vec::new(), Vec::new());
        for (i, &size) in chunks.iter().enumerate() {
            let body: Vec<u8> = (0..size).map(|at| (at * 7 + i) as u8).collect();
            wire.extend_from_slice(format!("{size:x}\r\n").as_bytes());
            wire.extend_from_slice(&body);
            wire.extend_from_slice(b"\r\n");
            data.extend_from_slice(&body);
        }
        wire.extend_from_slice(b"0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n");
        (wire, data)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn chunks_become_small_and_keep_their_bytes(
            chunks in proptest::collection::vec(1usize..900_000, 0..4),
            piece in 1usize..100_000,
        ) {
            let (wire, data) = frame(&chunks);
            let (sizes, passed, trailers) = parse(&pass(&wire, piece).expect("well formed"));
            prop_assert!(sizes.iter().all(|size| *size as u64 <= PASSED_MAX));
            prop_assert_eq!(passed, data);
            prop_assert_eq!(trailers, b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n");
        }

        #[test]
        fn strange_bytes_are_errors_and_never_panics(
            wire in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b';'), b'0'..=b'f'], 0..300),
            piece in 1usize..50,
        ) {
            let whole = pass(&wire, wire.len().max(1));
            prop_assert_eq!(pass(&wire, piece), whole);
        }
    }

    #[test]
    fn a_body_ends_with_its_last_chunk_and_with_nothing_else() {
        let run = |wire: &[u8], has_trailers: bool| {
            let mut framing = Framing::new(has_trailers);
            framing.push(Bytes::copy_from_slice(wire)).and_then(|()| framing.end())
        };
        for has_trailers in [true, false] {
            assert_eq!(run(b"1\r\nx\r\n0\r\n\r\n", has_trailers), Ok(()));
            assert_eq!(run(b"1\r\nx\r\n0\r\n", has_trailers), Ok(()));
            for cut in [&b"1\r\nx\r\n"[..], b"1\r\nx", b"1\r\n", b""] {
                assert_eq!(run(cut, has_trailers), Err(FramingError::Cut));
            }
        }
        assert_eq!(run(b"1\r\nx\r\n0\r\na:b\r\n\r\n", true), Ok(()));
        for extended in [&b"0\r\n\r\n1\r\nx\r\n"[..], b"0\r\na:b\r\n\r\n", b"0\r\n\r\n\r\n"] {
            assert_eq!(run(extended, false), Err(FramingError::Extended));
        }
    }

    #[test]
    fn signed_chunks_stay_as_they_are() {
        let wire = b"3;chunk-signature=ab\r\nxyz\r\n0;chunk-signature=cd\r\n\r\n";
        assert_eq!(pass(wire, 5).expect("well formed"), wire);
    }

    #[test]
    fn what_takes_too_much_memory_is_refused() {
        let large = format!("{:x};chunk-signature=ab\r\n", SIGNED_MAX + 1);
        assert_eq!(pass(large.as_bytes(), 9), Err(FramingError::LargeChunk(SIGNED_MAX + 1)));
        assert_eq!(pass(&[b'1'; 2000], 9), Err(FramingError::LongHead));
        assert_eq!(pass(b"1ffffffffffffffff\r\n", 9), Err(FramingError::BadSize));
        assert_eq!(pass(b"\r\n", 9), Err(FramingError::BadSize));
    }
}
