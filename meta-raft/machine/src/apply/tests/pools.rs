//! Pools beside the first one, and what moves between them.

use super::*;
use crate::CLUSTER_VERSION;
use crate::records::{ClassPool, Pool, VersionName};
use holdfast_core::topology::FailureDomain;

pub const COLD: PoolId = PoolId(1);

const CLASS: &str = "class";

pub fn cold(id: PoolId, class: &str, pgs: Vec<(PgId, PgSpec)>) -> Command {
    let profile = Profile::new(4, 2).expect("a profile");
    let pool = Pool { profile, pg_count: pgs.len() as u32, domain: FailureDomain::Device };
    Command::FoundClassPool { id, pool: ClassPool { class: class.into(), pool, devices: None }, pgs }
}

fn groups(pool: PoolId, devices: u32) -> Vec<(PgId, PgSpec)> {
    vec![(pool.group(0), PgSpec { epoch: Epoch(1), devices: (0..devices).map(DeviceId).collect() })]
}

impl Machine {
    pub fn with_two_pools() -> Self {
        let mut machine = Self::new();
        machine.run(0, Command::RaiseClusterVersion { version: CLUSTER_VERSION });
        assert_eq!(machine.run(0, cold(COLD, "GLACIER", groups(COLD, 6))), Outcome::Done);
        machine
    }

    fn object_of(&self, key: u8) -> Option<Object> {
        match query::look_up(&self.store, BUCKET, &[b'k', key], None).expect("memory reads") {
            LookedUp::Found(object) => Some(*object),
            LookedUp::NotAsked | LookedUp::NoKey | LookedUp::NoVersion => None,
        }
    }

    /// Moves a key's bytes to the pool in which they are not, as the gateway does, in one entry.
    pub fn move_key(&mut self, key: u8) {
        let Some(object) = self.object_of(key) else { return };
        let Content::Segments(segments) = &object.version.content else { return };
        let from = object.extra.documents.get(CLASS).cloned();
        let (pool, to) = match from {
            None => (COLD, Some("GLACIER".to_owned())),
            Some(_) => (PoolId::FIRST, None),
        };
        let (mut requests, mut moved) = (Vec::new(), Vec::new());
        for segment in segments {
            let record = query::segment(&self.store, segment.id).expect("memory reads").expect("it is live");
            let chunks: Vec<u8> = record.chunks.iter().map(|chunk| chunk.id.as_bytes()[0]).collect();
            let ids = record.chunks.iter().map(|chunk| chunk.id);
            let known = query::deduplicates(&self.store, pool.domain(), ids).expect("memory reads");
            let fresh = chunks.iter().zip(known).filter(|(_, known)| !known);
            let fresh: Vec<_> = fresh.map(|(chunk, _)| (*chunk, None)).collect();
            if !fresh.is_empty() {
                requests.push(Request::idempotent(Command::RegisterPack(self.pack(pool, &fresh))));
            }
            let (segment, register) = self.segment(pool, &chunks);
            requests.push(register);
            moved.push(segment);
        }
        requests.push(Request::idempotent(Self::moving(key, &object, moved, from, to)));
        let outcomes = self.entry(1, requests);
        assert_eq!(outcomes.last(), Some(&Outcome::Done), "{outcomes:?}");
    }

    fn moving(
        key: u8,
        object: &Object,
        segments: Vec<SegmentRef>,
        from: Option<String>,
        to: Option<String>,
    ) -> Command {
        Command::MoveContent {
            bucket: BUCKET,
            key: vec![b'k', key],
            version: VersionName::Null,
            judged: object.version.id,
            segments,
            document: CLASS.to_owned(),
            from,
            to,
        }
    }
}

#[test]
fn a_class_has_one_pool_whose_groups_are_its_own() {
    let mut machine = Machine::with_two_pools();
    let (again, other) = (groups(COLD, 6), PoolId(2));
    assert_eq!(machine.run(0, cold(COLD, "GLACIER", again)), Outcome::Done, "a repetition is no change");
    let refused = |outcome| match outcome {
        Outcome::Rejected(rejection) => rejection,
        taken @ Outcome::Done
        | taken @ Outcome::Bucket(_)
        | taken @ Outcome::Committed(_)
        | taken @ Outcome::Deleted { .. }
        | taken @ Outcome::Registered { .. }
        | taken @ Outcome::Collected(_)
        | taken @ Outcome::Host(_)
        | taken @ Outcome::Settling { .. }
        | taken @ Outcome::Changed(_)
        | taken @ Outcome::Removed(_) => panic!("it was taken: {taken:?}"),
    };
    let exists = machine.run(0, cold(other, "GLACIER", groups(other, 6)));
    assert_eq!(refused(exists), Rejection::PoolExists);
    let exists = machine.run(0, cold(COLD, "STANDARD_IA", groups(COLD, 6)));
    assert_eq!(refused(exists), Rejection::PoolExists);
    for wrong in [
        groups(COLD, 6),
        groups(other, 5),
        Vec::from_iter(groups(other, 6).into_iter().chain(groups(COLD, 6))),
    ] {
        assert_eq!(refused(machine.run(0, cold(other, "STANDARD_IA", wrong))), Rejection::Malformed);
    }
    let first = cold(PoolId::FIRST, "STANDARD_IA", groups(PoolId::FIRST, 6));
    assert_eq!(refused(machine.run(0, first)), Rejection::Malformed);
    assert_eq!(machine.run(0, cold(other, "STANDARD_IA", groups(other, 6))), Outcome::Done);
    let pools: Vec<_> = query::class_pools(&machine.store).expect("memory reads");
    assert_eq!(
        pools.iter().map(|(id, pool)| (*id, pool.class.as_str())).collect::<Vec<_>>(),
        [(COLD, "GLACIER"), (other, "STANDARD_IA")]
    );
    assert_eq!(query::pgs(&machine.store).expect("memory reads").len(), 3);
}

#[test]
fn bytes_move_once_from_where_they_were_seen_and_give_their_room_back() {
    let mut machine = Machine::with_two_pools();
    machine.happen(Event::Put { key: 0, chunks: vec![1, 2, 1] });
    let before = machine.object_of(0).expect("it is there");
    machine.move_key(0);
    let after = machine.object_of(0).expect("it is there");
    assert_eq!((after.version.id, after.version.bytes), (before.version.id, before.version.bytes));
    assert_eq!(after.extra.documents.get(CLASS).map(String::as_str), Some("GLACIER"));
    let Content::Segments(moved) = after.version.content.clone() else { panic!("it has segments") };
    let domain =
        query::segment(&machine.store, moved[0].id).expect("memory reads").expect("a segment").domain;
    assert_eq!(domain, COLD.domain());

    // Whoever looked before that moves nothing: neither by the class, nor by the version, nor with other bytes.
    let cold = Some("GLACIER".to_owned());
    let (segment, register) = machine.segment(COLD, &[1, 2, 1]);
    let (short, register_short) = machine.segment(COLD, &[1]);
    machine.entry(0, vec![register, register_short]);
    let late = [
        Machine::moving(0, &before, vec![segment], None, cold.clone()),
        Machine::moving(0, &after, vec![short], cold.clone(), None),
        Machine::moving(0, &after, vec![segment], cold.clone(), cold.clone()),
        Command::MoveContent {
            bucket: BUCKET,
            key: vec![b'k', 0],
            version: VersionName::Null,
            judged: VersionId(after.version.id.0 + 1),
            segments: vec![segment],
            document: CLASS.to_owned(),
            from: cold,
            to: None,
        },
    ];
    for command in late {
        assert_eq!(machine.run(0, command), Outcome::Rejected(Rejection::PreconditionFailed));
    }
    for _ in 0..6 {
        machine.run(3 * GRACE_MS, Command::Collect { grace_ms: GRACE_MS, steps: 100 });
    }
    let left = |domain| {
        let ids = [1u8, 2].map(|chunk| ChunkId([chunk; 32]));
        query::chunks(&machine.store, domain, ids).expect("memory reads").into_iter().flatten().count()
    };
    assert_eq!((left(DOMAIN), left(COLD.domain())), (0, 2));
    machine.check(1).expect("all is counted right");
}

#[test]
fn a_pack_is_of_its_groups_pool() {
    let mut machine = Machine::with_two_pools();
    let other = |change: fn(&mut NewPack), machine: &mut Machine| {
        let mut pack = machine.pack(COLD, &[(1, None)]);
        change(&mut pack);
        machine.run(0, Command::RegisterPack(pack))
    };
    let malformed = Outcome::Rejected(Rejection::Malformed);
    assert_eq!(other(|pack| pack.domain = DOMAIN, &mut machine), malformed);
    // As many devices, and yet another code.
    let three = |pack: &mut NewPack| pack.profile = Profile::new(3, 3).expect("a profile");
    assert_eq!(other(three, &mut machine), malformed);
    assert_eq!(other(|_| {}, &mut machine), Outcome::Registered { adopted: 1 });
}
