//! Bodies that clients of HTTP/2 do not take.
//!
//! Such a client can leave one answer unread while its connection is as lively as any: the time that a socket may block says
//! nothing then. A body that nobody asks for its next piece gives up what it holds.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

/// Bodies up to this are in memory anyway, and hold nothing that others wait for.
const SMALL: u64 = 64 << 10;

struct State {
    /// `None` once it was given up.
    body: Option<s3s::Body>,
    polls: u64,
    /// It was asked, and has nothing yet: that is not its client's fault.
    waiting: bool,
    done: bool,
    waker: Option<Waker>,
}

/// A body that is given up when it is not asked for so long.
struct Patient(Arc<Mutex<State>>);

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Body for Patient {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut state = lock(&self.0);
        state.polls += 1;
        let Some(body) = &mut state.body else {
            return Poll::Ready(Some(Err("the client did not take its answer".into())));
        };
        let polled = Pin::new(body).poll_frame(context);
        state.waiting = polled.is_pending();
        state.done = matches!(polled, Poll::Ready(None));
        state.waker = Some(context.waker().clone());
        polled
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.0).body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.0).body.as_ref().is_some_and(Body::is_end_stream)
    }
}

/// The body, which gives up after nobody asked for a piece of it for `patience`.
pub fn patient(body: s3s::Body, patience: Duration) -> s3s::Body {
    if body.size_hint().upper().is_some_and(|bytes| bytes <= SMALL) {
        return body;
    }
    let state =
        Arc::new(Mutex::new(State { body: Some(body), polls: 0, waiting: false, done: false, waker: None }));
    let watched = Arc::downgrade(&state);
    tokio::spawn(async move {
        let mut seen = 0;
        loop {
            tokio::time::sleep(patience).await;
            let Some(state) = watched.upgrade() else { return };
            let mut state = lock(&state);
            if state.done {
                return;
            }
            if state.polls == seen && !state.waiting {
                state.body = None;
                state.waker.take().into_iter().for_each(Waker::wake);
                return;
            }
            seen = state.polls;
        }
    });
    s3s::Body::http_body_unsync(Patient(state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use http_body_util::{BodyExt, StreamBody};

    /// A body of many pieces, which holds something.
    fn body(held: &Arc<()>) -> s3s::Body {
        let held = held.clone();
        let pieces = futures::stream::iter(0..100).map(move |_| {
            let _holds = &held;
            Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![7; 10_000])))
        });
        s3s::Body::http_body_unsync(StreamBody::new(pieces))
    }

    #[tokio::test]
    async fn what_is_not_taken_is_given_up() {
        let held = Arc::new(());
        let mut slow = patient(body(&held), Duration::from_millis(20));
        assert!(slow.frame().await.is_some_and(|frame| frame.is_ok()));
        let given_up = async {
            while Arc::strong_count(&held) > 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), given_up).await.expect("it gives up what it holds");
        assert!(slow.frame().await.is_some_and(|frame| frame.is_err()));
    }

    #[tokio::test]
    async fn what_is_taken_comes_whole() {
        let held = Arc::new(());
        let taken = BodyExt::collect(patient(body(&held), Duration::from_secs(60))).await.expect("a body");
        assert_eq!(taken.to_bytes().len(), 1_000_000);
    }
}
