use super::*;
use holdfast_core::kv::{Batch, Durability, MemStore, Store, View};

struct NoSnapshots;

impl SnapshotSource for NoSnapshots {
    fn take(&self) -> Option<TakenSnapshot> {
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
