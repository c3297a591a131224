//! Clients that write down what they did.

use crate::{
    Client, Lab,
    client::Response,
    history::{Call, Operation, Outcome},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Registers that clients fight over at one time; after a while they fight over others, so that no history gets long.
const REGISTERS: u64 = 6;
const ERA: Duration = Duration::from_secs(4);

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(8);

/// The pause between two operations of a client.
const PAUSE: Duration = Duration::from_millis(25);

/// What all clients did.
#[derive(Default)]
pub struct Record {
    /// By register.
    pub histories: BTreeMap<String, Vec<Operation>>,
    /// Objects that were acknowledged, by key: the seed of their bytes.
    pub objects: BTreeMap<String, u64>,
    /// Reads of objects with other bytes than were written, and the like.
    pub violations: Vec<String>,
    pub done: u64,
    pub refused: u64,
    pub unknown: u64,
}

/// Running clients.
pub struct Load {
    record: Arc<Mutex<Record>>,
    stop: Arc<AtomicBool>,
    strict: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    began: Instant,
}

pub fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that no compressor shrinks, of a length that follows from the seed.
pub fn body(seed: u64) -> Vec<u8> {
    let len = [600, 9_000, 200_000, 1_200_000][seed as usize % 4];
    let mut random = StdRng::seed_from_u64(seed);
    (0..len).map(|_| random.random()).collect()
}

fn value_of(body: &[u8]) -> Option<u64> {
    std::str::from_utf8(body).ok()?.parse().ok()
}

struct Worker {
    client: Client,
    /// Of the other gateway, for a second try.
    other: Client,
    /// Each operation must succeed, the second time at the latest.
    strict: Arc<AtomicBool>,
    random: StdRng,
    values: Arc<AtomicU64>,
    record: Arc<Mutex<Record>>,
    began: Instant,
    /// The value and entity tag that this client last read or wrote, by register.
    known: BTreeMap<String, (u64, String)>,
}

impl Worker {
    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn next_value(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed)
    }

    /// One operation on a register.
    fn register(&mut self) {
        let era = self.began.elapsed().as_millis() / ERA.as_millis();
        let key = format!("/registers/{era}-{}", self.random.random_range(0..REGISTERS));
        let (call, tag) = match self.random.random_range(0..10) {
            0..=3 => (Call::Read, None),
            4..=5 => (Call::Write(self.next_value()), None),
            6 => (Call::Delete, None),
            7 => (Call::Swap(None, self.next_value()), None),
            _ => match self.known.get(&key).cloned() {
                Some((value, tag)) => (Call::Swap(Some(value), self.next_value()), Some(tag)),
                None => (Call::Read, None),
            },
        };
        let called = self.now();
        let answer = self.send(&key, call, tag);
        if answer.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            // Never sent: it cannot have done anything.
            lock(&self.record).refused += 1;
            return;
        }
        let outcome = self.outcome(&key, call, answer);
        let operation = Operation { called, returned: self.now(), call, outcome };
        let mut record = lock(&self.record);
        match outcome {
            Outcome::Unknown => record.unknown += 1,
            Outcome::Found(_) | Outcome::Done | Outcome::Refused => record.done += 1,
        }
        record.histories.entry(key).or_default().push(operation);
    }

    fn send(&self, key: &str, call: Call, tag: Option<String>) -> io::Result<Response> {
        let put = |value: u64, headers: &[(&str, &str)]| {
            self.client.try_request("PUT", key, &[], headers, value.to_string().as_bytes())
        };
        match call {
            Call::Read => self.client.try_request("GET", key, &[], &[], b""),
            Call::Write(value) => put(value, &[]),
            Call::Delete => self.client.try_request("DELETE", key, &[], &[], b""),
            Call::Swap(None, value) => put(value, &[("if-none-match", "*")]),
            Call::Swap(Some(_), value) => put(value, &[("if-match", &tag.unwrap_or_default())]),
        }
    }

    fn outcome(&mut self, key: &str, call: Call, answer: io::Result<Response>) -> Outcome {
        let Ok(answer) = answer else { return Outcome::Unknown };
        let tag = answer.headers.get("etag").cloned().unwrap_or_default();
        match (call, answer.status) {
            (Call::Read, 200) => match value_of(&answer.body) {
                Some(value) => {
                    self.known.insert(key.to_owned(), (value, tag));
                    Outcome::Found(Some(value))
                }
                None => {
                    lock(&self.record).violations.push(format!("{key} holds what nobody wrote"));
                    Outcome::Unknown
                }
            },
            (Call::Read, 404) => Outcome::Found(None),
            (Call::Write(value) | Call::Swap(_, value), 200) => {
                self.known.insert(key.to_owned(), (value, tag));
                Outcome::Done
            }
            (Call::Delete, 204) => Outcome::Done,
            (Call::Swap(..), 412 | 404) => Outcome::Refused,
            (_, 200..=499) => {
                let text = format!("{call:?} of {key} was answered {} {}", answer.status, answer.text());
                lock(&self.record).violations.push(text);
                Outcome::Unknown
            }
            // It may have been carried out all the same.
            _ => Outcome::Unknown,
        }
    }

    /// Writes an object once, and reads one that is there.
    fn object(&mut self) {
        let seed = self.next_value();
        let key = format!("/objects/{seed}");
        // What was begun in bad times may end badly.
        let strict = self.strict.load(Ordering::Relaxed);
        let mut answer = self.client.try_request("PUT", &key, &[], &[], &body(seed));
        if strict && !answer.as_ref().is_ok_and(|answer| answer.status == 200) {
            let first = answer.map(|answer| answer.status);
            answer = self.other.try_request("PUT", &key, &[], &[], &body(seed));
            if self.strict.load(Ordering::Relaxed)
                && !answer.as_ref().is_ok_and(|answer| answer.status == 200)
            {
                let second = answer.as_ref().map(|answer| answer.status);
                let text = format!("{key} failed twice in a rolling restart: {first:?}, then {second:?}");
                lock(&self.record).violations.push(text);
            }
        }
        match answer {
            Ok(Response { status: 200, .. }) => {
                let mut record = lock(&self.record);
                record.done += 1;
                record.objects.insert(key, seed);
            }
            Ok(Response { status: 500.., .. }) => lock(&self.record).refused += 1,
            Ok(other) => {
                lock(&self.record).violations.push(format!("{key}: {} {}", other.status, other.text()));
            }
            Err(_) => lock(&self.record).unknown += 1,
        }
        let random = {
            let record = lock(&self.record);
            let count = record.objects.len();
            let at = self.random.random_range(0..count.max(1));
            record.objects.iter().nth(at).map(|(key, seed)| (key.clone(), *seed))
        };
        if let Some((key, seed)) = random {
            let strict = self.strict.load(Ordering::Relaxed);
            let mut read = read(&self.client, &key, seed);
            if strict && read == Ok(false) {
                read = crate::load::read(&self.other, &key, seed);
                if read == Ok(false) && self.strict.load(Ordering::Relaxed) {
                    read = Err(format!("{key} could not be read twice in a rolling restart"));
                }
            }
            let mut record = lock(&self.record);
            match read {
                Ok(true) => record.done += 1,
                Ok(false) => record.refused += 1,
                Err(violation) => record.violations.push(violation),
            }
        }
    }
}

/// Whether an acknowledged object could be read now.
///
/// # Errors
/// Where it is gone, or has other bytes.
pub fn read(client: &Client, key: &str, seed: u64) -> Result<bool, String> {
    match client.try_request("GET", key, &[], &[], b"") {
        Ok(Response { status: 200, body: found, .. }) if found == body(seed) => Ok(true),
        Ok(Response { status: 200, .. }) => Err(format!("{key} has other bytes than were written")),
        Ok(Response { status: 500.., .. }) | Err(_) => Ok(false),
        Ok(other) => Err(format!("{key} was acknowledged, and is answered {}", other.status)),
    }
}

impl Load {
    pub fn start(lab: &Lab, seed: u64) -> Self {
        let (record, stop, began) =
            (Arc::<Mutex<Record>>::default(), Arc::<AtomicBool>::default(), Instant::now());
        let strict = Arc::<AtomicBool>::default();
        let values = Arc::new(AtomicU64::new(1));
        let threads = (0..6).map(|number| {
            let mut worker = Worker {
                client: lab.client(number).with_patience(PATIENCE),
                other: lab.client(number + 1).with_patience(PATIENCE),
                strict: strict.clone(),
                random: StdRng::seed_from_u64(seed ^ number as u64),
                values: values.clone(),
                record: record.clone(),
                began,
                known: BTreeMap::new(),
            };
            let stop = stop.clone();
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if number < 4 {
                        worker.register()
                    } else {
                        worker.object()
                    }
                    thread::park_timeout(PAUSE);
                }
            })
        });
        Self { threads: threads.collect(), record, stop, strict, began }
    }

    /// From now on each write of an object must succeed, at the second try at the latest.
    pub fn expect_little(&self, much: bool) {
        self.strict.store(much, Ordering::Relaxed);
    }

    /// Operations that were answered so far.
    pub fn done(&self) -> u64 {
        lock(&self.record).done
    }

    /// Stops, and reads every register once more, so that what was lost is seen.
    pub fn finish(self, lab: &Lab) -> Record {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            if thread.join().is_err() {
                lock(&self.record).violations.push("a client panicked".to_owned());
            }
        }
        let mut record = std::mem::take(&mut *lock(&self.record));
        let client = lab.client(0).with_patience(PATIENCE);
        for (key, history) in &mut record.histories {
            let called = self.began.elapsed().as_nanos() as u64;
            let outcome = match client.try_request("GET", key, &[], &[], b"") {
                Ok(Response { status: 200, body, .. }) => Outcome::Found(value_of(&body)),
                Ok(Response { status: 404, .. }) => Outcome::Found(None),
                Ok(_) | Err(_) => {
                    record.violations.push(format!("{key} cannot be read after all faults have ended"));
                    continue;
                }
            };
            let returned = self.began.elapsed().as_nanos() as u64;
            history.push(Operation { called, returned, call: Call::Read, outcome });
        }
        record
    }
}
