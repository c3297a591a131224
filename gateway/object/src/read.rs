//! Which shards to ask for a range of a pack.
//!
//! The range lies in some of the data shards: these are asked for just their parts, and nothing is decoded. Where one is
//! missing, damaged or late, its part is computed from the same part of any `k` others.

use bytes::Bytes;
use holdfast_erasure::ErasureCode;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use thiserror::Error;

/// A part of a shard to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fetch {
    pub shard: usize,
    pub offset: u32,
    pub len: u32,
}

/// The range cannot be read now.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("only {have} of the {need} shards needed can be read")]
pub struct ReadError {
    pub have: usize,
    pub need: usize,
}

/// A part of the wanted range that lies in one data shard.
#[derive(Debug)]
struct Piece {
    fetch: Fetch,
    bytes: Option<Bytes>,
    /// Being computed from other shards.
    rebuilding: bool,
}

/// One read of a range of a pack. The driver carries out each [`ReadSession::poll_fetch`] and tells the result.
pub struct ReadSession<'a> {
    code: &'a ErasureCode,
    pieces: Vec<Piece>,
    /// Shards not to be asked: known to be missing, or suspected of lying.
    avoid: u32,
    /// Shards that failed in this read.
    failed: u32,
    /// What was asked for and is not answered.
    pending: BTreeSet<Fetch>,
    /// Answers that are not a wanted piece themselves.
    helpers: BTreeMap<Fetch, Bytes>,
    queue: VecDeque<Fetch>,
}

impl<'a> ReadSession<'a> {
    /// A read of `len` bytes from `offset` of a pack, whose shards in `avoid` are not to be asked.
    pub fn new(code: &'a ErasureCode, shard_len: u32, offset: u32, len: u32, avoid: u32) -> Self {
        let end = offset + len;
        let first = (offset / shard_len) as usize;
        let last = (end.saturating_sub(1) / shard_len).max(offset / shard_len) as usize;
        assert!(last < code.profile().data(), "the range is inside the pack");
        let piece = |shard: usize| {
            let base = shard as u32 * shard_len;
            let (from, to) = (offset.max(base) - base, end.min(base + shard_len) - base);
            Piece { fetch: Fetch { shard, offset: from, len: to - from }, bytes: None, rebuilding: false }
        };
        let mut session = Self {
            code,
            pieces: (first..=last).map(piece).collect(),
            avoid,
            failed: 0,
            pending: BTreeSet::new(),
            helpers: BTreeMap::new(),
            queue: VecDeque::new(),
        };
        let direct: Vec<Fetch> = session.pieces.iter().map(|piece| piece.fetch).collect();
        for fetch in direct {
            if session.usable(fetch.shard) {
                session.queue.push_back(fetch);
                session.pending.insert(fetch);
            }
        }
        session.rebuild_unusable();
        session
    }

    fn usable(&self, shard: usize) -> bool {
        (self.avoid | self.failed) >> shard & 1 == 0
    }

    /// The next part to read, while there is one.
    pub fn poll_fetch(&mut self) -> Option<Fetch> {
        self.queue.pop_front()
    }

    /// A fetch ended; `None` where the shard is missing or damaged.
    pub fn handle_fetched(&mut self, fetch: Fetch, bytes: Option<Bytes>) {
        if !self.pending.remove(&fetch) {
            return;
        }
        match bytes {
            Some(bytes) => {
                let wanted = self.pieces.iter_mut().find(|piece| piece.fetch == fetch);
                if let Some(piece) = wanted {
                    piece.bytes.get_or_insert_with(|| bytes.clone());
                }
                self.helpers.insert(fetch, bytes);
            }
            None => self.failed |= 1 << fetch.shard,
        }
        self.rebuild_unusable();
        self.compute();
    }

    /// Some answers are late: what they would tell is computed from others as well, and the first to come counts.
    pub fn handle_late(&mut self) {
        for i in 0..self.pieces.len() {
            if self.pieces[i].bytes.is_none() {
                self.pieces[i].rebuilding = true;
            }
        }
        self.ask_helpers(true);
    }

    /// Begins to compute the pieces whose shards cannot be had.
    fn rebuild_unusable(&mut self) {
        for i in 0..self.pieces.len() {
            let piece = &self.pieces[i];
            if piece.bytes.is_none() && !self.usable(piece.fetch.shard) {
                self.pieces[i].rebuilding = true;
            }
        }
        self.ask_helpers(false);
    }

    /// Asks shards so that each piece that is being computed has `k` sources. `hedge` does not count on the late ones.
    fn ask_helpers(&mut self, hedge: bool) {
        let k = self.code.profile().data();
        let wanted: Vec<Fetch> =
            self.pieces.iter().filter(|p| p.rebuilding && p.bytes.is_none()).map(|p| p.fetch).collect();
        for part in wanted {
            let at = |shard| Fetch { shard, ..part };
            let others =
                (0..self.code.profile().total()).filter(|&shard| shard != part.shard && self.usable(shard));
            let others: Vec<usize> = others.collect();
            let have = others.iter().filter(|&&shard| self.helpers.contains_key(&at(shard))).count();
            let coming = others.iter().filter(|&&shard| self.pending.contains(&at(shard))).count();
            let counted = if hedge { have } else { have + coming };
            let fresh = others.into_iter().filter(|&shard| {
                !self.helpers.contains_key(&at(shard)) && !self.pending.contains(&at(shard))
            });
            let more: Vec<Fetch> = fresh.take(k.saturating_sub(counted)).map(at).collect();
            for fetch in more {
                self.pending.insert(fetch);
                self.queue.push_back(fetch);
            }
        }
    }

    /// Computes the pieces that have `k` sources by now.
    fn compute(&mut self) {
        let k = self.code.profile().data();
        for piece in self.pieces.iter_mut().filter(|piece| piece.rebuilding && piece.bytes.is_none()) {
            let sources: Vec<(usize, &[u8])> = self
                .helpers
                .iter()
                .filter(|(fetch, _)| {
                    (fetch.offset, fetch.len) == (piece.fetch.offset, piece.fetch.len)
                        && fetch.shard != piece.fetch.shard
                })
                .map(|(fetch, bytes)| (fetch.shard, &bytes[..]))
                .collect();
            if sources.len() < k {
                continue;
            }
            let mut computed = vec![0; piece.fetch.len as usize];
            if self.code.reconstruct(&sources, &[piece.fetch.shard], &mut [&mut computed]).is_ok() {
                piece.bytes = Some(computed.into());
            }
        }
    }

    /// The range's bytes in order, once they are there, or why they cannot be.
    pub fn poll_result(&self) -> Option<Result<Vec<Bytes>, ReadError>> {
        if self.pieces.iter().all(|piece| piece.bytes.is_some()) {
            return Some(Ok(self.pieces.iter().filter_map(|piece| piece.bytes.clone()).collect()));
        }
        if self.pending.is_empty() {
            let total = self.code.profile().total();
            let have = (0..total).filter(|&shard| self.usable(shard)).count();
            return Some(Err(ReadError { have, need: self.code.profile().data() }));
        }
        None
    }

    /// Shards that were asked and have not answered.
    pub fn pending(&self) -> impl Iterator<Item = usize> {
        self.pending.iter().map(|fetch| fetch.shard)
    }

    /// Shards that turned out missing or damaged.
    pub fn failed(&self) -> u32 {
        self.failed
    }

    /// Shards whose bytes went into the result.
    pub fn used(&self) -> u32 {
        let direct = self.pieces.iter().filter(|piece| !piece.rebuilding).map(|piece| piece.fetch.shard);
        let helping = self.helpers.keys().map(|fetch| fetch.shard);
        direct.chain(helping).fold(0, |mask, shard| mask | 1 << shard)
    }
}

/// Sets that are tried: all of them for narrow profiles, and those of the fewest liars for wide ones.
const SUSPECTS_MAX: usize = 4096;

/// Sets of shards to distrust, the smallest first: where a chunk does not have its hash although each block has its
/// checksum, some shard lies, and a read that avoids the right set gives the chunk.
pub fn suspects(used: u32, parity: usize) -> Vec<u32> {
    let mut sets = Vec::new();
    let mut smaller = vec![0u32];
    while smaller.first().is_some_and(|set| (set.count_ones() as usize) < parity) && sets.len() < SUSPECTS_MAX
    {
        // Each larger set once: by adding a shard above all that it has.
        let larger: Vec<u32> = smaller
            .iter()
            .flat_map(|set| (u32::BITS - set.leading_zeros()..u32::BITS).map(move |bit| set | 1 << bit))
            .filter(|set| set & !used == 0)
            .collect();
        sets.extend(&larger);
        smaller = larger;
    }
    sets
}

#[cfg(test)]
mod tests;
