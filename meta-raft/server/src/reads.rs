//! Linearizable reads: a member may answer once it has applied what was committed when it was asked.
//!
//! Reads that wait share one question to the group. The next question is sent when the one before is answered, or took
//! too long: it may have been lost, with a leader or on the way.

use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A question that was not answered for so long is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Tells a reader that the state is new enough.
pub type Reader = oneshot::Sender<()>;

#[derive(Default)]
pub struct Reads {
    /// Not asked for yet.
    waiting: Vec<Reader>,
    asked: Option<(Vec<u8>, Vec<Reader>, Instant)>,
    /// Answered: they wait until the entry is applied.
    behind: Vec<(u64, Vec<Reader>)>,
    questions: u64,
}

impl Reads {
    pub fn add(&mut self, reader: Reader) {
        self.waiting.push(reader);
    }

    /// Answers everybody: the state here is the newest there can be.
    pub fn release_all(&mut self) {
        self.waiting.drain(..).for_each(release);
        if let Some((_, readers, _)) = self.asked.take() {
            readers.into_iter().for_each(release);
        }
        self.behind.drain(..).flat_map(|(_, readers)| readers).for_each(release);
    }

    /// The next question for the group, named `boot` and a number that is never used twice.
    pub fn poll_question(&mut self, boot: &[u8], now: Instant) -> Option<Vec<u8>> {
        if let Some((_, readers, at)) = &mut self.asked {
            if now.duration_since(*at) < ASK_AGAIN {
                return None;
            }
            readers.retain(|reader| !reader.is_closed());
            self.waiting.append(readers);
            self.asked = None;
        }
        if self.waiting.is_empty() {
            return None;
        }
        self.questions += 1;
        let context = [boot, &self.questions.to_be_bytes()].concat();
        self.asked = Some((context.clone(), std::mem::take(&mut self.waiting), now));
        Some(context)
    }

    /// The group's answer: whoever asked may read when `index` is applied.
    pub fn answered(&mut self, context: &[u8], index: u64) {
        if let Some((_, readers, _)) = self.asked.take_if(|(asked, ..)| asked == context) {
            self.behind.push((index, readers));
        }
    }

    /// Everything up to `index` is in the state.
    pub fn applied(&mut self, index: u64) {
        for (_, readers) in self.behind.extract_if(.., |(wanted, _)| *wanted <= index) {
            readers.into_iter().for_each(release);
        }
    }
}

fn release(reader: Reader) {
    // Who asked may have gone.
    let _gone = reader.send(());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_wait_for_the_answer_and_for_the_state() {
        let (mut reads, now) = (Reads::default(), Instant::now());
        let (reader, mut told) = oneshot::channel();
        reads.add(reader);
        let first = reads.poll_question(b"boot", now).expect("a question");
        let (reader, mut late) = oneshot::channel();
        reads.add(reader);
        assert_eq!(reads.poll_question(b"boot", now), None);
        // Lost: it is asked again under another name, for both; a late answer to the first is nobody's.
        let second = reads.poll_question(b"boot", now + ASK_AGAIN).expect("a question");
        assert_ne!(first, second);
        reads.answered(&first, 3);
        reads.applied(9);
        assert!(told.try_recv().is_err());
        reads.answered(&second, 10);
        assert!(told.try_recv().is_err());
        reads.applied(10);
        assert_eq!((told.try_recv(), late.try_recv()), (Ok(()), Ok(())));
    }
}
