//! The reference auditor: recounts what the counters say, on one consistent view, in bounded memory.
//!
//! Memory is bounded by auditing one slice of the ids at a time: each pass counts only the ids whose first byte falls
//! into its slice. A mismatch means that garbage collection would delete something alive, or never delete something dead.

use crate::{
    keys::{self, Table},
    records::{Chunk, Content, Pack, Part, Record, Segment, SegmentUse, Version},
};
use holdfast_core::{
    ids::{ChunkId, DomainId, PackId, SegmentId},
    kv::{KvError, View, prefix_end},
};
use std::{collections::BTreeMap, ops::ControlFlow, ops::RangeInclusive};

/// A counter that does not count what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch(pub String);

/// What an audit looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Audited {
    pub segments: u64,
    pub chunks: u64,
    pub packs: u64,
}

/// Checks every counter in `passes` passes over the state, which divides the memory needed by as much.
///
/// # Errors
/// Where the state cannot be read.
pub fn audit<V: View + ?Sized>(view: &V, passes: u16) -> Result<Result<Audited, Mismatch>, KvError> {
    let passes = passes.clamp(1, 256);
    let mut audited = Audited::default();
    for pass in 0..passes {
        let bound = |i: u16| (u32::from(i) * 256 / u32::from(passes)) as u16;
        let slice = bound(pass) as u8..=(bound(pass + 1) - 1) as u8;
        for check in [segments::<V>, chunks::<V>, packs::<V>] {
            match check(view, &slice, &mut audited)? {
                Ok(()) => {}
                Err(mismatch) => return Ok(Err(mismatch)),
            }
        }
    }
    Ok(Ok(audited))
}

type Checked = Result<Result<(), Mismatch>, KvError>;

/// Shows each record of a table.
fn each<R: Record>(
    view: &(impl View + ?Sized),
    table: Table,
    mut visit: impl FnMut(&[u8], R) -> Result<(), KvError>,
) -> Result<(), KvError> {
    let start = keys::table(table);
    let mut failure = None;
    view.scan(&start, &prefix_end(&start), &mut |key, value| match R::from_bytes(value)
        .and_then(|record| visit(&key[start.len()..], record))
    {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failure.map_or(Ok(()), Err)
}

fn bad_key(what: &str) -> KvError {
    KvError::Storage(format!("a key of {what} has the wrong length"))
}

/// References to segments: from versions, parts, and releases that are still to be done.
fn segments<V: View + ?Sized>(view: &V, slice: &RangeInclusive<u8>, audited: &mut Audited) -> Checked {
    let mut counts: BTreeMap<SegmentId, u64> = BTreeMap::new();
    let mut count = |id: SegmentId| {
        if slice.contains(&id.0[0]) {
            *counts.entry(id).or_default() += 1;
        }
    };
    each(view, Table::Version, |_, version: Version| {
        if let Content::Segments(segments) = &version.content {
            segments.iter().for_each(|segment| count(segment.id));
        }
        Ok(())
    })?;
    each(view, Table::Part, |_, part: Part| {
        part.segments.iter().for_each(|segment| count(segment.id));
        Ok(())
    })?;
    let releases = keys::table(Table::Release);
    view.scan(&releases, &prefix_end(&releases), &mut |key, _| {
        keys::parse_release(key).into_iter().for_each(&mut count);
        ControlFlow::Continue(())
    })?;
    let mut mismatch = None;
    each(view, Table::SegmentUse, |key, usage: SegmentUse| {
        let id = SegmentId::from_slice(key).ok_or_else(|| bad_key("segments"))?;
        if slice.contains(&id.0[0]) {
            audited.segments += 1;
            let counted = counts.remove(&id).unwrap_or(0);
            if counted != usage.refs {
                mismatch =
                    Some(format!("segment {id} has {} references recorded and {counted} found", usage.refs));
            }
        }
        Ok(())
    })?;
    if let Some((id, counted)) = counts.first_key_value() {
        mismatch = Some(format!("segment {id} is referenced {counted} times and does not exist"));
    }
    Ok(mismatch.map_or(Ok(()), |text| Err(Mismatch(text))))
}

/// References to chunks: from segments.
fn chunks<V: View + ?Sized>(view: &V, slice: &RangeInclusive<u8>, audited: &mut Audited) -> Checked {
    let mut counts: BTreeMap<(DomainId, ChunkId), u64> = BTreeMap::new();
    each(view, Table::Segment, |_, segment: Segment| {
        for chunk in &segment.chunks {
            if slice.contains(&chunk.id.0[0]) {
                *counts.entry((segment.domain, chunk.id)).or_default() += 1;
            }
        }
        Ok(())
    })?;
    let mut mismatch = None;
    each(view, Table::Chunk, |key, chunk: Chunk| {
        let domain = key.first_chunk().map(|bytes| DomainId(u64::from_be_bytes(*bytes)));
        let id = key.get(8..).and_then(ChunkId::from_slice);
        let (Some(domain), Some(id)) = (domain, id) else { return Err(bad_key("chunks")) };
        if slice.contains(&id.0[0]) {
            audited.chunks += 1;
            let counted = counts.remove(&(domain, id)).unwrap_or(0);
            if counted != chunk.refs || (counted == 0) != chunk.zero_since_ms.is_some() {
                mismatch =
                    Some(format!("chunk {id} has {} references recorded and {counted} found", chunk.refs));
            }
        }
        Ok(())
    })?;
    if let Some(((_, id), counted)) = counts.first_key_value() {
        mismatch = Some(format!("chunk {id} is referenced {counted} times and does not exist"));
    }
    Ok(mismatch.map_or(Ok(()), |text| Err(Mismatch(text))))
}

/// What packs hold: from the chunk index.
fn packs<V: View + ?Sized>(view: &V, slice: &RangeInclusive<u8>, audited: &mut Audited) -> Checked {
    // A pack's first bytes are its placement group; the last one is random.
    let in_slice = |id: &PackId| slice.contains(&id.0[15]);
    let mut held: BTreeMap<PackId, (u32, u64)> = BTreeMap::new();
    each(view, Table::Chunk, |_, chunk: Chunk| {
        if in_slice(&chunk.pack) {
            let (entries, live) = held.entry(chunk.pack).or_default();
            *entries += 1;
            *live += u64::from(chunk.stored);
        }
        Ok(())
    })?;
    let mut mismatch = None;
    each(view, Table::Pack, |key, pack: Pack| {
        let id = PackId::from_slice(key).ok_or_else(|| bad_key("packs"))?;
        if in_slice(&id) {
            audited.packs += 1;
            let (entries, live) = held.remove(&id).unwrap_or_default();
            if (entries, live) != (pack.entries, pack.live) {
                mismatch = Some(format!(
                    "pack {id} has {} chunks of {} bytes recorded, and {entries} of {live} found",
                    pack.entries, pack.live
                ));
            }
        }
        Ok(())
    })?;
    if let Some((id, (entries, _))) = held.first_key_value() {
        mismatch = Some(format!("pack {id} is named by {entries} chunks and does not exist"));
    }
    Ok(mismatch.map_or(Ok(()), |text| Err(Mismatch(text))))
}
