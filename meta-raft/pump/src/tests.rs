use super::*;
use holdfast_core::kv::{Batch, Durability, MemStore, Store, View};

struct NoSnapshots;

impl SnapshotSource for NoSnapshots {
    fn take(&self, _: u64) -> Option<TakenSnapshot> {
        None
    }
}

const ME: MemberId = MemberId(1);

fn config(applied: u64) -> PumpConfig {
    PumpConfig { id: ME, election_ticks: 10, heartbeat_ticks: 2, seed: 7, applied }
}

fn open(store: &MemStore, watermark: u64) -> Result<RaftLog<MemStore, NoSnapshots>, LogError> {
    RaftLog::open(store.clone(), NoSnapshots, &[ME], Watermark(watermark))
}

fn drain(pump: &mut Pump<MemStore, NoSnapshots>) -> Vec<CommittedEntry> {
    let mut applied = Vec::new();
    while let Some(work) = pump.poll().expect("memory takes the log") {
        if let Some(last) = work.apply.last() {
            pump.applied(last.index);
        }
        applied.extend(work.apply);
    }
    applied
}

#[test]
fn the_only_member_leads_and_commits_what_is_durable() {
    let store = MemStore::default();
    let mut pump = Pump::new(&config(1), open(&store, 0).expect("a fresh log")).expect("a member");
    drain(&mut pump);
    assert!(pump.leads_alone());
    pump.propose(b"who".to_vec(), b"what".to_vec()).expect("the leader proposes");
    let applied = drain(&mut pump);
    let last = applied.last().expect("an entry");
    assert_eq!((&last.context[..], &last.data[..]), (&b"who"[..], &b"what"[..]));
    // It was durable before it was handed out.
    store.crash(0);
    assert_eq!(open(&store, last.index).expect("the log").last(), last.index);
}

#[test]
fn a_log_that_lost_its_tail_is_refused() {
    let store = MemStore::default();
    let mut pump = Pump::new(&config(1), open(&store, 0).expect("a fresh log")).expect("a member");
    drain(&mut pump);
    let last = pump.log().last();
    let mut batch = Batch::default();
    batch.delete([b"e".as_slice(), &last.to_be_bytes()].concat());
    store.write(&batch, Durability::Synced).expect("a write");
    assert!(matches!(open(&store, last), Err(LogError::LostTail { .. } | LogError::Damaged(_))));
    // Even where everything is gone.
    assert!(matches!(open(&MemStore::default(), 9), Err(LogError::LostTail { last: 0, watermark: 9 })));
}

#[test]
fn a_damaged_log_is_refused() {
    for key in [&b"h"[..], b"m", b"t"] {
        let store = MemStore::default();
        drop(open(&store, 0).expect("a fresh log"));
        let mut batch = Batch::default();
        batch.put(key.to_vec(), vec![0xff; 5]);
        store.write(&batch, Durability::Synced).expect("a write");
        assert!(matches!(open(&store, 1), Err(LogError::Damaged(_))), "{key:?}");
    }
}

#[test]
fn compaction_keeps_what_follows() {
    let store = MemStore::default();
    let mut pump = Pump::new(&config(1), open(&store, 0).expect("a fresh log")).expect("a member");
    for i in 0..10u8 {
        pump.propose(Vec::new(), vec![i; 10]).ok();
        drain(&mut pump);
    }
    let last = pump.log().last();
    pump.compact(last - 2).expect("compaction");
    pump.propose(Vec::new(), b"after".to_vec()).expect("the leader proposes");
    assert_eq!(drain(&mut pump).last().expect("an entry").data, b"after");
    assert!(store.get(&[b"e".as_slice(), &(last - 2).to_be_bytes()].concat()).expect("a read").is_none());
    let mut again = Pump::new(&config(last), open(&store, last + 1).expect("the log")).expect("a member");
    assert_eq!(drain(&mut again).first().expect("an entry").data, b"after");
}

#[test]
fn messages_from_outside_never_panic() {
    let store = MemStore::default();
    let mut pump = Pump::new(&config(1), open(&store, 0).expect("a fresh log")).expect("a member");
    drain(&mut pump);
    for bytes in [&b"\xff\xff"[..], b"", b"\x08\x63", b"\x08\x00", b"\x08\x01"] {
        assert!(matches!(pump.step(bytes), Err(PumpError::Message) | Ok(())));
    }
}

/// A group in memory, whose state is just how far it has applied.
struct Group {
    members: Vec<Member>,
}

/// How far a member has applied.
type Applied = std::rc::Rc<std::cell::Cell<u64>>;

type Member = (MemStore, Pump<MemStore, Whole>, Applied);

struct Whole(Applied);

impl SnapshotSource for Whole {
    fn take(&self, _: u64) -> Option<TakenSnapshot> {
        Some(TakenSnapshot { index: self.0.get(), data: vec![1] })
    }
}

impl Group {
    fn add(&mut self, id: u64, founds: bool) {
        let (store, applied) = (MemStore::default(), std::rc::Rc::new(std::cell::Cell::new(0)));
        let bootstrap: &[MemberId] = if founds { &[MemberId(id)] } else { &[] };
        let log =
            RaftLog::open(store.clone(), Whole(applied.clone()), bootstrap, Watermark(0)).expect("a log");
        applied.set(log.compacted());
        let config = PumpConfig {
            id: MemberId(id),
            election_ticks: 10,
            heartbeat_ticks: 2,
            seed: id * 3,
            applied: applied.get(),
        };
        self.members.push((store, Pump::new(&config, log).expect("a member"), applied));
    }

    /// Lets messages and time pass.
    fn run(&mut self, ticks: usize) {
        for _ in 0..ticks {
            let mut sent = Vec::new();
            for (_, pump, applied) in &mut self.members {
                pump.tick();
                while let Some(work) = pump.poll().expect("memory takes the log") {
                    sent.extend(work.send);
                    if let Some(snapshot) = work.install {
                        applied.set(snapshot.index);
                        pump.applied(snapshot.index);
                    }
                    for entry in work.apply {
                        applied.set(entry.index);
                        pump.applied(entry.index);
                    }
                }
            }
            for (to, message) in sent {
                if let Some((_, pump, _)) = self.members.get_mut(to.0 as usize - 1) {
                    pump.step(&message).expect("members understand each other");
                }
            }
        }
    }
}

#[test]
fn members_come_as_learners_and_go() {
    let mut group = Group { members: Vec::new() };
    group.add(1, true);
    group.run(5);
    for (id, voters) in [(2, vec![1, 2]), (3, vec![1, 2, 3])] {
        group.add(id, false);
        let (_, leader, _) = &mut group.members[0];
        leader.propose_change(Vec::new(), MemberChange::AddLearner(MemberId(id))).expect("a proposal");
        group.run(20);
        assert_eq!(group.members[0].1.learners_within(10), [MemberId(id)]);
        let (_, leader, _) = &mut group.members[0];
        leader.propose_change(Vec::new(), MemberChange::Promote(MemberId(id))).expect("a proposal");
        group.run(20);
        let mut now = group.members[0].1.log().voters().to_vec();
        now.sort_unstable();
        assert_eq!(now, voters);
    }
    let (_, leader, applied) = &mut group.members[0];
    let before = applied.get();
    leader.propose(Vec::new(), b"x".to_vec()).expect("a proposal");
    group.run(5);
    assert!(group.members.iter().all(|(_, _, applied)| applied.get() > before));
    group.members[0].1.propose_change(Vec::new(), MemberChange::Remove(MemberId(3))).expect("a proposal");
    group.run(20);
    assert!(!group.members[0].1.log().voters().contains(&3));
    // A restart finds the members that were agreed on last.
    let (store, _, applied) = &group.members[0];
    let log = RaftLog::open(store.clone(), Whole(applied.clone()), &[], Watermark(0)).expect("a log");
    assert_eq!(log.voters().len(), 2);
}
