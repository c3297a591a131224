//! Versions moved to another pool. Their chunks go as they are stored: no key is needed, and nothing is cut anew.

use crate::{
    engine::{Engine, EngineError, MIB, Shared, new_segment_id},
    upload::{Lease, LeaseKeeper},
};
use holdfast_core::{
    ids::{ChunkId, DomainId, PoolId},
    limits::PACK_BYTES,
};
use holdfast_gateway_object::PackBuilder;
use holdfast_meta_raft_machine::{
    ask::{Deduplicates, SegmentOf},
    command::{Command, Outcome, Request},
    records::{ChunkRef, SegmentRef},
};
use std::{collections::HashSet, sync::Arc};

/// MiB that a transfer holds: chunks that were read, the pack that they fill, and its parity.
const TRANSFER_MIB: u32 = 3 * (PACK_BYTES / MIB) as u32;

/// The way of chunks from one domain to another.
struct Transfer<'a> {
    shared: &'a Arc<Shared>,
    from: DomainId,
    to: DomainId,
    builder: Option<PackBuilder>,
    /// Chunks that are in the pack that fills, or were written already.
    written: HashSet<ChunkId>,
}

impl Engine {
    /// Writes what `segments` hold in another pool, and commits it as `command` says of the new ones.
    ///
    /// # Errors
    /// [`EngineError::Gone`] where the segments were released meanwhile; the command's rejection; and what keeps bytes
    /// from being read or made durable.
    pub async fn transfer(
        &self,
        segments: &[SegmentRef],
        to: PoolId,
        command: impl FnOnce(Vec<SegmentRef>) -> Command,
    ) -> Result<Outcome, EngineError> {
        let shared = &self.shared;
        let memory = shared.upload_memory.clone().acquire_many_owned(TRANSFER_MIB).await;
        let _memory = memory.map_err(|_| EngineError::ShuttingDown)?;
        let mut lease = LeaseKeeper::start(shared).await?;
        let mut moved = Vec::with_capacity(segments.len());
        for segment in segments {
            let record = shared.meta.ask(SegmentOf { id: segment.id }).await?.ok_or(EngineError::Gone)?;
            let (from, to, written) = (record.domain, to.domain(), HashSet::new());
            let mut transfer = Transfer { shared, from, to, builder: None, written };
            for some in runs(&record.chunks) {
                lease.keep(shared).await?;
                transfer.carry(some).await?;
            }
            transfer.flush().await?;
            let fresh = SegmentRef { id: new_segment_id(), bytes: segment.bytes };
            let register = Command::RegisterSegment { id: fresh.id, domain: to, chunks: record.chunks };
            shared.meta.request(Request::idempotent(register)).await?.accepted()?;
            moved.push(fresh);
        }
        let mut requests = vec![Request { id: Some(self.new_request_id().await?), command: command(moved) }];
        requests.extend(lease.finish().map(Lease::release));
        let mut outcomes = shared.meta.submit(requests).await?;
        outcomes.truncate(1);
        Ok(outcomes.pop().unwrap_or(Outcome::Done).accepted()?)
    }
}

/// Chunks that are read together: a pack's worth of bytes at most.
fn runs(mut chunks: &[ChunkRef]) -> impl Iterator<Item = &[ChunkRef]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |chunk: &&ChunkRef| {
            bytes += chunk.plain as usize;
            bytes <= PACK_BYTES
        };
        let count = chunks.iter().take_while(fits).count().max(1).min(chunks.len());
        let (run, rest) = chunks.split_at(count);
        chunks = rest;
        Some(run).filter(|run| !run.is_empty())
    })
}

impl Transfer<'_> {
    /// Reads chunks that the other domain does not have, and adds them to its pack.
    async fn carry(&mut self, chunks: &[ChunkRef]) -> Result<(), EngineError> {
        let ids = chunks.iter().map(|chunk| chunk.id).collect();
        let known = self.shared.meta.ask(Deduplicates { domain: self.to, ids }).await?;
        let fresh = chunks.iter().zip(known).filter(|(chunk, known)| !known && self.written.insert(chunk.id));
        let fresh: Vec<ChunkRef> = fresh.map(|(chunk, _)| *chunk).collect();
        let read = self.shared.read_wherever(self.from, &fresh).await?;
        for (chunk, bytes) in fresh.iter().zip(read) {
            if self.builder.as_ref().is_some_and(|builder| !builder.fits(bytes.len())) {
                self.flush().await?;
            }
            let buffers = &self.shared.buffers;
            self.builder.get_or_insert_with(|| PackBuilder::new(buffers.take())).add(chunk.id, &bytes);
        }
        Ok(())
    }

    /// Makes the pack durable; its registration is queued then.
    async fn flush(&mut self) -> Result<(), EngineError> {
        match self.builder.take() {
            Some(builder) => self.shared.store_pack(builder, self.to).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_a_pack_at_most_and_leave_nothing_out() {
        let chunk = |plain: usize| ChunkRef { id: ChunkId([0; 32]), plain: plain as u32 };
        let sizes = [PACK_BYTES - 1, 1, 1, PACK_BYTES + 5, 7, PACK_BYTES];
        let chunks: Vec<ChunkRef> = sizes.into_iter().map(chunk).collect();
        let lengths: Vec<usize> = runs(&chunks).map(<[ChunkRef]>::len).collect();
        assert_eq!(lengths, [2, 1, 1, 1, 1]);
        assert_eq!(runs(&[]).count(), 0);
    }
}
