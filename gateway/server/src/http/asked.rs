//! Bodies that a client holds back until it is asked for them (`Expect: 100-continue`).

use hyper::{
    HeaderMap, Version,
    body::{Body, Frame, Incoming, SizeHint},
    header,
};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

/// The body of a request, which notes that it was asked for.
pub struct RequestBody {
    body: Incoming,
    asked: Option<Arc<AtomicBool>>,
}

/// Whether a client waits to be asked for its body.
pub struct Expectation(Option<Arc<AtomicBool>>);

impl RequestBody {
    /// The body, and what tells whether its client still waits to be asked for it.
    pub fn of(body: Incoming, version: Version, headers: &HeaderMap) -> (Self, Expectation) {
        let waits = version == Version::HTTP_11 && headers.contains_key(header::EXPECT);
        let asked = waits.then(Arc::<AtomicBool>::default);
        (Self { body, asked: asked.clone() }, Expectation(asked))
    }
}

impl Expectation {
    /// The client was answered and never asked for its body. Some then send the next request in its place (botocore
    /// does), and nobody can tell the one from the other any more: such a connection must end with the answer.
    pub fn is_pending(&self) -> bool {
        self.0.as_ref().is_some_and(|asked| !asked.load(Ordering::Acquire))
    }
}

impl Body for RequestBody {
    type Data = <Incoming as Body>::Data;
    type Error = <Incoming as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        // An empty body is never asked for, however often it is read.
        if !self.body.is_end_stream()
            && let Some(asked) = &self.asked
        {
            asked.store(true, Ordering::Release);
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
