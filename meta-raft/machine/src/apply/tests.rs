//! The machine against random histories: whatever clients, collection and compaction do, every counter counts what is there
//! and nothing that a version needs is ever gone.

use crate::{
    apply,
    ask::{LookedUp, Object},
    audit::audit,
    command::{
        Command, Condition, LogEntry, NamedPart, NewContent, NewObject, NewPack, Outcome, PackChunk,
        Rejection, Request,
    },
    query,
    records::{
        AccessKey, Attributes, Authority, ChunkRef, Content, DeviceSpec, Duty, Etag, Host, PgSpec, PoolSpec,
        SegmentRef,
    },
};
use holdfast_core::{
    chunker::ChunkerProfile,
    ids::{
        BucketId, ChunkId, DeviceId, DomainId, Epoch, HostId, Incarnation, LeaseId, PackId, PgId, PoolId,
        RequestId, SegmentId, UploadId, VersionId,
    },
    kv::{Durability, MemStore, Store, View},
    pack::{Codec, Entry},
    profile::Profile,
    roles::{Role, Roles},
};
use proptest::prelude::*;

const DOMAIN: DomainId = DomainId(1);
const BUCKET: BucketId = BucketId(1);
const GRACE_MS: u64 = 1000;
const STORED: u32 = 100;

mod names;
mod pools;

use pools::COLD;

struct Machine {
    store: MemStore,
    index: u64,
    made: u64,
}

impl Machine {
    fn new() -> Self {
        let mut machine = Self { store: MemStore::default(), index: 0, made: 0 };
        let profile = Profile::new(4, 2).expect("a profile");
        let pg = PgSpec { epoch: Epoch(1), devices: (0..6).map(DeviceId).collect() };
        machine.run(
            0,
            Command::CreatePool { pool: PoolSpec { profile, pg_count: 1 }, pgs: vec![(PgId(0), pg)] },
        );
        machine
            .run(0, Command::CreateBucket { name: "b".into(), domain: DOMAIN, chunker: ChunkerProfile::V1 });
        machine
    }

    fn entry(&mut self, elapsed_ms: u64, requests: Vec<Request>) -> Vec<Outcome> {
        self.index += 1;
        let entry = LogEntry { stamp_ms: 5_000_000 + self.index, elapsed_ms, requests };
        let applied = apply(&self.store, self.index, Some(entry)).expect("memory reads");
        self.store.write(&applied.batch, Durability::Buffered).expect("memory writes");
        applied.outcomes
    }

    fn run(&mut self, elapsed_ms: u64, command: Command) -> Outcome {
        self.entry(elapsed_ms, vec![Request::idempotent(command)]).pop().expect("an outcome")
    }

    fn id(&mut self) -> [u8; 16] {
        self.made += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.made.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        id[8..].copy_from_slice(&self.made.to_be_bytes());
        id
    }

    fn pack(&mut self, pool: PoolId, chunks: &[(u8, Option<PackId>)]) -> NewPack {
        let random = self.id();
        let entry = |(at, (chunk, moved_from)): (usize, &(u8, Option<PackId>))| PackChunk {
            entry: Entry {
                chunk: ChunkId([*chunk; 32]),
                offset: at as u32 * STORED,
                stored: STORED,
                plain: STORED,
                codec: Codec::Raw,
            },
            moved_from: *moved_from,
        };
        NewPack {
            id: PackId::new(pool.group(0), random[4..].try_into().expect("12 bytes")),
            domain: pool.domain(),
            profile: Profile::new(4, 2).expect("a profile"),
            epoch: Epoch(1),
            shard_len: 4096,
            missing: 0,
            chunks: chunks.iter().enumerate().map(entry).collect(),
        }
    }

    fn segment(&mut self, pool: PoolId, chunks: &[u8]) -> (SegmentRef, Request) {
        let id = SegmentId(self.id());
        let refs = chunks.iter().map(|chunk| ChunkRef { id: ChunkId([*chunk; 32]), plain: STORED }).collect();
        let request =
            Request::idempotent(Command::RegisterSegment { id, domain: pool.domain(), chunks: refs });
        (SegmentRef { id, bytes: u64::from(STORED) * chunks.len() as u64 }, request)
    }

    fn object(segments: Vec<SegmentRef>) -> NewObject {
        NewObject {
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
            etag: Etag::Md5([1; 16]),
            content: NewContent::Segments(segments),
            attributes: Attributes::default(),
            checksum: None,
            parts: Vec::new(),
        }
    }

    /// Every version's chunks are in the index, and every counter is right.
    fn check(&self, keys: u8) -> Result<(), TestCaseError> {
        let audited = audit(&self.store, 4).expect("memory reads");
        prop_assert!(audited.is_ok(), "{:?}", audited);
        for key in 0..keys {
            let Some(version) = query::object(&self.store, BUCKET, &[b'k', key]).expect("memory reads")
            else {
                continue;
            };
            let Content::Segments(segments) = version.content else { continue };
            for segment in segments {
                let record = query::segment(&self.store, segment.id).expect("memory reads");
                let record = record.ok_or_else(|| TestCaseError::fail("a live segment is gone"))?;
                let ids = record.chunks.iter().map(|chunk| chunk.id);
                for place in query::chunks(&self.store, record.domain, ids).expect("memory reads") {
                    let place = place.ok_or_else(|| TestCaseError::fail("a live chunk is gone"))?;
                    let pack = query::pack(&self.store, place.pack).expect("memory reads");
                    prop_assert!(pack.is_some(), "a live chunk's pack is gone");
                }
            }
        }
        let header = query::header(&self.store).expect("memory reads").expect("a header");
        prop_assert_eq!(header.collection_stopped, None);
        Ok(())
    }
}

#[derive(Debug, Clone)]
enum Event {
    /// A whole PUT in one entry: some chunks are written, all are leant on.
    Put {
        key: u8,
        chunks: Vec<u8>,
    },
    /// Packs whose upload then goes away.
    Abandoned {
        chunks: Vec<u8>,
    },
    Copy {
        from: u8,
        to: u8,
    },
    Delete {
        key: u8,
    },
    Multipart {
        key: u8,
        chunks: Vec<u8>,
        complete: bool,
    },
    Collect {
        elapsed_ms: u64,
        steps: u32,
    },
    Compact,
    /// The bytes of a key go to the other pool.
    Move {
        key: u8,
    },
    /// Shards of a pack are found missing, perhaps too many to read it; or found again.
    Damage {
        nth: u8,
        mask: u8,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let chunks = || proptest::collection::vec(0u8..8, 1..4);
    prop_oneof![
        4 => (0u8..4, chunks()).prop_map(|(key, chunks)| Event::Put { key, chunks }),
        1 => chunks().prop_map(|chunks| Event::Abandoned { chunks }),
        2 => (0u8..4, 0u8..4).prop_map(|(from, to)| Event::Copy { from, to }),
        2 => (0u8..4).prop_map(|key| Event::Delete { key }),
        1 => (0u8..4, chunks(), any::<bool>()).prop_map(|(key, chunks, complete)| Event::Multipart { key, chunks, complete }),
        4 => (prop_oneof![Just(0u64), 0u64..2000], 1u32..40).prop_map(|(elapsed_ms, steps)| Event::Collect { elapsed_ms, steps }),
        2 => Just(Event::Compact),
        2 => (0u8..4).prop_map(|key| Event::Move { key }),
        1 => (any::<u8>(), 0u8..64).prop_map(|(nth, mask)| Event::Damage { nth, mask }),
    ]
}

impl Machine {
    fn happen(&mut self, event: Event) {
        match event {
            Event::Put { key, chunks } => {
                // As the gateway: what nothing references, and what is lost, is written again.
                let known = query::deduplicates(
                    &self.store,
                    DOMAIN,
                    chunks.iter().map(|chunk| ChunkId([*chunk; 32])),
                );
                let known = known.expect("memory reads");
                let fresh: Vec<(u8, Option<PackId>)> = chunks
                    .iter()
                    .zip(known)
                    .filter(|(_, known)| !known)
                    .map(|(chunk, _)| (*chunk, None))
                    .collect();
                let mut requests = Vec::new();
                if !fresh.is_empty() {
                    requests
                        .push(Request::idempotent(Command::RegisterPack(self.pack(PoolId::FIRST, &fresh))));
                }
                let (segment, register) = self.segment(PoolId::FIRST, &chunks);
                requests.push(register);
                let object = Self::object(vec![segment]);
                let put = Command::PutObject {
                    bucket: BUCKET,
                    key: vec![b'k', key],
                    condition: Condition::Always,
                    object,
                };
                requests.push(Request::idempotent(put));
                let outcomes = self.entry(1, requests);
                assert!(matches!(outcomes.last(), Some(Outcome::Committed(_))), "{outcomes:?}");
            }
            Event::Abandoned { chunks } => {
                let fresh: Vec<_> = chunks.iter().map(|chunk| (*chunk, None)).collect();
                let pack = self.pack(PoolId::FIRST, &fresh);
                let (_, register) = self.segment(PoolId::FIRST, &chunks);
                self.entry(0, vec![Request::idempotent(Command::RegisterPack(pack)), register]);
            }
            Event::Copy { from, to } => {
                let source = query::object(&self.store, BUCKET, &[b'k', from]).expect("memory reads");
                let Some(Content::Segments(segments)) = source.map(|version| version.content) else { return };
                let object = Self::object(segments);
                self.run(
                    1,
                    Command::PutObject {
                        bucket: BUCKET,
                        key: vec![b'k', to],
                        condition: Condition::Always,
                        object,
                    },
                );
            }
            Event::Delete { key } => {
                self.run(
                    1,
                    Command::DeleteObject {
                        bucket: BUCKET,
                        key: vec![b'k', key],
                        condition: Condition::Always,
                    },
                );
            }
            Event::Multipart { key, chunks, complete } => self.multipart(key, &chunks, complete),
            Event::Collect { elapsed_ms, steps } => {
                self.run(elapsed_ms, Command::Collect { grace_ms: GRACE_MS, steps });
            }
            Event::Compact => [PoolId::FIRST, COLD].into_iter().for_each(|pool| self.compact(pool)),
            Event::Move { key } => self.move_key(key),
            Event::Damage { nth, mask } => {
                let packs = query::packs(&self.store, None, None, 100).expect("memory reads");
                let Some((id, _)) = packs.get(usize::from(nth) % packs.len().max(1)) else { return };
                self.run(0, Command::ReportShards { shards: vec![(*id, u32::from(mask))] });
                let found = u32::from(mask.reverse_bits() >> 2);
                self.run(0, Command::RepairShards { pack: *id, epoch: Epoch(1), mask: found });
            }
        }
    }

    fn multipart(&mut self, key: u8, chunks: &[u8], complete: bool) {
        let (id, key) = (UploadId(self.id()), vec![b'k', key]);
        let fresh: Vec<_> = chunks.iter().map(|chunk| (*chunk, None)).collect();
        let pack = self.pack(PoolId::FIRST, &fresh);
        let (segment, register) = self.segment(PoolId::FIRST, chunks);
        let create = Command::CreateUpload {
            bucket: BUCKET,
            key: key.clone(),
            id,
            attributes: Attributes::default(),
            checksum: None,
        };
        let part = |number, md5| Command::PutPart {
            bucket: BUCKET,
            key: key.clone(),
            id,
            number,
            bytes: segment.bytes,
            md5,
            checksum: None,
            segments: vec![segment],
        };
        // Part 2 is uploaded twice, and is not named in the end.
        let commands =
            [create, part(1, [1; 16]), part(2, [2; 16]), part(2, [3; 16])].map(Request::idempotent);
        let mut requests = vec![Request::idempotent(Command::RegisterPack(pack)), register];
        requests.extend(commands);
        self.entry(1, requests);
        let end = if complete {
            let parts = vec![NamedPart { number: 1, md5: [1; 16] }];
            let (condition, etag) = (Condition::Always, Etag::Multipart { md5: [4; 16], parts: 1 });
            Command::CompleteUpload {
                bucket: BUCKET,
                key: key.clone(),
                id,
                condition,
                parts,
                etag,
                checksum: None,
            }
        } else {
            Command::AbortUpload { bucket: BUCKET, key: key.clone(), id }
        };
        let outcome = self.run(1, end);
        assert!(!matches!(outcome, Outcome::Rejected(_)), "{outcome:?}");
    }

    fn compact(&mut self, pool: PoolId) {
        let mut candidates = query::reclaimable(&self.store, 10).expect("memory reads");
        candidates.retain(|pack| pack.pg().pool() == pool);
        let all: Vec<ChunkId> = (0..8).map(|chunk| ChunkId([chunk; 32])).collect();
        let places = query::chunks(&self.store, pool.domain(), all).expect("memory reads");
        let survivors: Vec<(u8, Option<PackId>)> = (0u8..8)
            .zip(places)
            .filter_map(|(chunk, place)| {
                place.filter(|place| candidates.contains(&place.pack)).map(|p| (chunk, Some(p.pack)))
            })
            .collect();
        if !survivors.is_empty() {
            let pack = self.pack(pool, &survivors);
            self.run(0, Command::RegisterPack(pack));
        }
        for pack in candidates {
            let outcome = self.run(0, Command::DeletePacks { packs: vec![pack] });
            assert_eq!(outcome, Outcome::Done, "all survivors were moved");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn nothing_alive_is_deleted_and_every_counter_is_right(events in proptest::collection::vec(event(), 1..40)) {
        let mut machine = Machine::with_two_pools();
        for event in events {
            machine.happen(event);
            machine.check(4)?;
        }
        // In the end everything is deleted, and everything goes.
        for key in 0..4 {
            machine.happen(Event::Delete { key });
        }
        for _ in 0..40 {
            machine.happen(Event::Collect { elapsed_ms: GRACE_MS, steps: 1000 });
        }
        for _ in 0..20 {
            machine.happen(Event::Compact);
        }
        machine.check(4)?;
        prop_assert_eq!(query::packs(&machine.store, None, None, 10).expect("memory reads").len(), 0);
    }

    #[test]
    fn a_replica_that_applies_the_same_log_has_the_same_state(events in proptest::collection::vec(event(), 1..20)) {
        let (mut one, mut other) = (Machine::with_two_pools(), Machine::with_two_pools());
        for event in events {
            one.happen(event.clone());
            other.happen(event);
        }
        prop_assert_eq!(one.store.dump(), other.store.dump());
    }
}

#[test]
fn a_lease_keeps_what_became_unreferenced_since_it_began() {
    let mut machine = Machine::new();
    machine.happen(Event::Put { key: 0, chunks: vec![1] });
    let since_ms = query::header(&machine.store).expect("memory reads").expect("a header").clock_ms;
    machine.run(0, Command::HoldLease { id: LeaseId([1; 16]), since_ms, ttl_ms: 10 * GRACE_MS });
    machine.happen(Event::Delete { key: 0 });
    for _ in 0..8 {
        machine.happen(Event::Collect { elapsed_ms: GRACE_MS, steps: 100 });
    }
    let there = |machine: &Machine| {
        query::chunks(&machine.store, DOMAIN, [ChunkId([1; 32])]).expect("memory reads")[0].is_some()
    };
    assert!(there(&machine), "the lease protects the chunk");
    for _ in 0..8 {
        machine.happen(Event::Collect { elapsed_ms: GRACE_MS, steps: 100 });
    }
    assert!(!there(&machine), "an expired lease protects nothing");
}

#[test]
fn a_chunk_that_was_lost_is_healed_by_whoever_brings_it_again() {
    let mut machine = Machine::new();
    machine.happen(Event::Put { key: 0, chunks: vec![1] });
    let place = |machine: &Machine| {
        let found = query::chunks(&machine.store, DOMAIN, [ChunkId([1; 32])]).expect("memory reads");
        found[0].expect("the chunk is in the index").pack
    };
    let lost = place(&machine);
    machine.run(0, Command::ReportShards { shards: vec![(lost, 0b111)] });
    machine.happen(Event::Put { key: 1, chunks: vec![1] });
    let healed = place(&machine);
    assert_ne!(healed, lost);
    let pack = query::pack(&machine.store, healed).expect("memory reads").expect("the pack exists");
    assert!(!pack.is_lost());
    machine.check(2).expect("both objects are whole");
}

#[test]
fn a_repeated_request_gets_the_first_answer() {
    let mut machine = Machine::new();
    let id = Some(RequestId::new(5_000_000, 1));
    let put = |condition| {
        let content = NewContent::Inline(vec![1]);
        let object = NewObject { content, bytes: 1, ..Machine::object(Vec::new()) };
        Request { id, command: Command::PutObject { bucket: BUCKET, key: b"x".to_vec(), condition, object } }
    };
    let first = machine.entry(0, vec![put(Condition::Absent)]);
    let again = machine.entry(0, vec![put(Condition::Absent)]);
    assert_eq!(first, again);
    let old = Request { id: Some(RequestId::new(1, 1)), ..put(Condition::Always) };
    assert_eq!(machine.entry(0, vec![old]), [Outcome::Rejected(Rejection::RequestExpired)]);
}

#[test]
fn a_rejected_command_leaves_its_neighbours_alone() {
    let mut machine = Machine::new();
    let pack = machine.pack(PoolId::FIRST, &[(1, None)]);
    let (segment, register) = machine.segment(PoolId::FIRST, &[1]);
    let put = |key: &[u8], condition| {
        let object = Machine::object(vec![segment]);
        Request::idempotent(Command::PutObject { bucket: BUCKET, key: key.to_vec(), condition, object })
    };
    let outcomes = machine.entry(
        0,
        vec![
            Request::idempotent(Command::RegisterPack(pack)),
            register,
            put(b"k\x00", Condition::Always),
            put(b"k\x00", Condition::Absent),
            put(b"k\x01", Condition::Always),
        ],
    );
    assert_eq!(outcomes[3], Outcome::Rejected(Rejection::PreconditionFailed));
    assert!(matches!(outcomes[4], Outcome::Committed(_)));
    machine.check(4).expect("both versions are whole");
}

#[test]
fn stale_epochs_thin_packs_and_barred_names_are_refused() {
    let mut machine = Machine::new();
    let fresh = machine.pack(PoolId::FIRST, &[(1, None)]);
    let refuse = |machine: &mut Machine, pack: NewPack| machine.run(0, Command::RegisterPack(pack));
    let thin = NewPack { missing: 0b11, ..fresh.clone() };
    assert_eq!(refuse(&mut machine, thin), Outcome::Rejected(Rejection::BelowQuorum));
    let stale = NewPack { epoch: Epoch(0), ..fresh.clone() };
    assert!(matches!(refuse(&mut machine, stale), Outcome::Rejected(Rejection::StaleEpoch { .. })));
    machine.run(0, Command::TombstonePacks { packs: vec![fresh.id] });
    assert_eq!(refuse(&mut machine, fresh), Outcome::Rejected(Rejection::Tombstoned));
    assert!(machine.store.get(b"nothing").expect("memory reads").is_none());
}

/// Raft entries of earlier versions, as they stand in logs: they must decode to what was meant for ever.
#[test]
fn kept_entries_of_version_1_are_read() {
    let entry = LogEntry {
        stamp_ms: 1_700_000_000_000,
        elapsed_ms: 12,
        requests: vec![
            Request::idempotent(Command::CreateBucket {
                name: "b".into(),
                domain: DOMAIN,
                chunker: ChunkerProfile::V1,
            }),
            Request {
                id: Some(RequestId([7; 16])),
                command: Command::DeleteObject {
                    bucket: BUCKET,
                    key: b"k".to_vec(),
                    condition: Condition::Absent,
                },
            },
            Request::idempotent(Command::Collect { grace_ms: 1000, steps: 5 }),
        ],
    };
    let kept = include_str!("../../fixtures/entry-v1.hex").trim();
    assert_eq!(hex_of(&entry.clone().to_bytes()), kept);
    let bytes: Vec<u8> = (0..kept.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&kept[at..at + 2], 16).expect("hex"))
        .collect();
    assert_eq!(LogEntry::from_bytes(&bytes), Ok(entry));
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The whole state after a fixed history, record by record: every stored record of version 1 keeps its bytes.
#[test]
fn kept_state_of_version_1_never_changes() {
    let mut machine = Machine::new();
    machine.happen(Event::Put { key: 0, chunks: vec![1, 2] });
    machine.happen(Event::Multipart { key: 1, chunks: vec![3], complete: true });
    machine.happen(Event::Copy { from: 0, to: 2 });
    machine.happen(Event::Delete { key: 0 });
    machine.run(0, Command::HoldLease { id: LeaseId([1; 16]), since_ms: 5, ttl_ms: 10 });
    machine.run(0, Command::TombstonePacks { packs: vec![PackId([9; 16])] });
    let upload = Command::CreateUpload {
        bucket: BUCKET,
        key: b"open".to_vec(),
        id: UploadId([2; 16]),
        attributes: Attributes { content_type: Some("a/b".into()), ..Attributes::default() },
        checksum: None,
    };
    machine.entry(0, vec![Request { id: Some(RequestId([0xff; 16])), command: upload }]);
    let lines: String = machine
        .store
        .dump()
        .iter()
        .map(|(key, value)| format!("{} {}\n", hex_of(key), hex_of(value)))
        .collect();
    let kept = include_str!("../../fixtures/state-v1.txt");
    assert_eq!(lines, kept, "a stored record changed its shape: give it a new version instead");
}

#[test]
fn a_group_moves_pack_by_pack_and_settles_when_none_is_left_behind() {
    let mut machine = Machine::new();
    machine.run(0, Command::RaiseClusterVersion { version: 2 });
    for key in 0..3 {
        machine.happen(Event::Put { key, chunks: vec![key] });
    }
    let place = "z/r/n".parse().expect("a place");
    let device = DeviceSpec { incarnation: Incarnation([9; 16]), place, weight: 1 };
    machine.run(0, Command::PutDevice { id: DeviceId(9), device });
    let ids = |ids: &[u32]| ids.iter().map(|&id| DeviceId(id)).collect::<Vec<_>>();
    let reassign = |epoch, devices| Command::ReassignPg { pg: PgId(0), epoch: Epoch(epoch), devices };
    assert_eq!(machine.run(0, reassign(1, ids(&[0, 1, 2, 3, 4, 9]))), Outcome::Done);
    assert!(matches!(
        machine.run(0, reassign(1, ids(&[0; 6]))),
        Outcome::Rejected(Rejection::StaleEpoch { .. })
    ));
    let again = machine.run(0, reassign(2, ids(&[0, 1, 2, 3, 4, 8])));
    assert_eq!(again, Outcome::Rejected(Rejection::PgMoving(PgId(0))));
    let settle = |after, steps| Command::SettlePg { pg: PgId(0), epoch: Epoch(2), after, steps };
    let packs = query::packs(&machine.store, Some(PgId(0)), None, 100).expect("memory reads");
    assert_eq!(packs.len(), 3);
    for (id, pack) in &packs {
        let pg = query::pg(&machine.store, PgId(0)).expect("memory reads").expect("the group exists");
        assert_eq!(pg.devices_at(pack.epoch)[5], DeviceId(5));
        assert_eq!(machine.run(0, settle(None, 9)), Outcome::Rejected(Rejection::PgMoving(PgId(0))));
        let place = |was, missing| Command::PlacePack { pack: *id, was, epoch: Epoch(2), missing };
        let stale = machine.run(0, place((Epoch(1), 1), 0));
        assert_eq!(stale, Outcome::Rejected(Rejection::PreconditionFailed));
        let lossy = machine.run(0, place((Epoch(1), 0), 0b111));
        assert_eq!(lossy, Outcome::Rejected(Rejection::BelowQuorum));
        assert_eq!(machine.run(0, place((Epoch(1), 0), 0)), Outcome::Done);
    }
    let Outcome::Settling { after: Some(after) } = machine.run(0, settle(None, 2)) else {
        panic!("two of three")
    };
    assert_eq!(machine.run(0, settle(Some(after), 9)), Outcome::Settling { after: None });
    let pg = query::pg(&machine.store, PgId(0)).expect("memory reads").expect("the group exists");
    assert_eq!((pg.epoch, pg.previous), (Epoch(2), None));
    // A target that is given up while the group moves is replaced, and nothing else is.
    machine.run(0, reassign(2, ids(&[9, 1, 2, 3, 4, 5])));
    machine.run(0, Command::SetDuty { id: DeviceId(9), duty: Duty::Out });
    assert_eq!(machine.run(0, reassign(3, ids(&[7, 1, 2, 3, 4, 5]))), Outcome::Done);
    let pg = query::pg(&machine.store, PgId(0)).expect("memory reads").expect("the group exists");
    assert_eq!(pg.previous.map(|previous| previous.since), Some(Epoch(3)));
    machine.check(3).expect("all is whole");
}

#[test]
fn a_token_lets_one_host_in_once_and_in_time() {
    let mut machine = Machine::new();
    machine.run(0, Command::RaiseClusterVersion { version: 2 });
    let host = |name: &str, roles| Host {
        name: name.into(),
        roles: Roles::from_iter(roles),
        address: "h:1".into(),
        place: "z/r/n".parse().expect("a place"),
        revoked: false,
    };
    let authority = Authority { cluster: "c".into(), certificate: vec![1], key: vec![2] };
    let key = AccessKey { access: "a".into(), secret: "s".into() };
    let found = Command::FoundCluster { authority, host: host("meta-1", [Role::Meta]), key };
    assert_eq!(machine.run(0, found.clone()), Outcome::Host(HostId(1)));
    assert_eq!(machine.run(0, found), Outcome::Host(HostId(1)));
    let token = |n, roles| Command::MakeToken { hash: [n; 32], roles: Roles::from_iter(roles), ttl_ms: 1000 };
    let admit = |n, host: &Host| Command::AdmitHost { token: [n; 32], host: host.clone() };
    let storage = host("storage-1", [Role::Storage]);
    machine.run(0, token(1, [Role::Storage]));
    let wrong = machine.run(0, admit(1, &host("x", [Role::Meta])));
    assert_eq!(wrong, Outcome::Rejected(Rejection::RolesNotAllowed));
    let taken = machine.run(0, admit(1, &host("meta-1", [Role::Storage])));
    assert_eq!(taken, Outcome::Rejected(Rejection::NameTaken));
    assert_eq!(machine.run(0, admit(1, &storage)), Outcome::Host(HostId(2)));
    assert_eq!(machine.run(0, admit(1, &storage)), Outcome::Rejected(Rejection::BadToken));
    machine.run(0, token(2, [Role::Storage]));
    let late = machine.run(1500, admit(2, &host("storage-2", [Role::Storage])));
    assert_eq!(late, Outcome::Rejected(Rejection::TokenExpired));
}

#[test]
fn what_a_version_does_not_know_it_refuses() {
    let mut machine = Machine::new();
    let outcome = machine.run(0, Command::RevokeHost { id: HostId(1) });
    assert_eq!(outcome, Outcome::Rejected(Rejection::NeedsClusterVersion(2)));
}

#[test]
fn a_stale_gateway_and_a_replaced_device_commit_nothing_together() {
    let mut machine = Machine::new();
    machine.run(0, Command::RaiseClusterVersion { version: 2 });
    let host = Host {
        name: "meta-1".into(),
        roles: Roles::NONE.with(Role::Meta),
        address: "h:1".into(),
        place: "z/r/n".parse().expect("a place"),
        revoked: false,
    };
    let authority = Authority { cluster: "c".into(), certificate: vec![1], key: vec![2] };
    let key = AccessKey { access: "a".into(), secret: "s".into() };
    machine.run(0, Command::FoundCluster { authority, host: host.clone(), key });
    let device = DeviceSpec { incarnation: Incarnation([1; 16]), place: host.place, weight: 1 };
    machine.run(0, Command::AddDevice { id: DeviceId(3), host: HostId(1), device });
    // The gateway has written its shards, one of them on the disk that is about to go, and is cut off.
    let pack = machine.pack(PoolId::FIRST, &[(1, None)]);
    let replace = |life| Command::ReplaceDevice { id: DeviceId(3), incarnation: Incarnation([life; 16]) };
    assert_eq!(machine.run(0, replace(2)), Outcome::Rejected(Rejection::NotReplaceable));
    machine.run(0, Command::AllowReplacement { id: DeviceId(3) });
    assert_eq!(machine.run(0, replace(2)), Outcome::Done);
    let late = machine.run(0, Command::RegisterPack(pack));
    assert!(matches!(late, Outcome::Rejected(Rejection::StaleEpoch { .. })), "{late:?}");
    // The old disk cannot come back by itself either.
    assert_eq!(machine.run(0, replace(1)), Outcome::Rejected(Rejection::NotReplaceable));
}
