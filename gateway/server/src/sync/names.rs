//! What is in a space, and what has changed: pages, and waiting for the next change.

use super::{Answer, Session, refuse, say, share::space_id};
use holdfast_client_link::Stream;
use holdfast_core::ids::{BucketId, NodeId};
use holdfast_meta_raft_machine::{
    ask::{NamesAfter, NamesChanged, UsageOf},
    names::{FileShown, NameChange, Named},
};
use holdfast_meta_raft_server::Meta;
use holdfast_proto::sync::{
    Change, Changes, File, ListNames, Name, Names, Properties, ReadChanges, change, failure::Code,
    reply::Reply,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::timeout};

/// Names, and changes, in one answer.
const PAGE_MAX: u32 = 1000;

/// How long a call waits for a change, at most.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// How often a journal is looked at that somebody waits for.
const LOOK_EVERY: Duration = Duration::from_millis(40);

/// What a file is beside its bytes, as its document says it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Described {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtime_ns: Option<i64>,
    #[serde(default)]
    executable: bool,
    #[serde(default)]
    link: bool,
}

/// The document of a file.
pub(super) fn describe(properties: &Properties) -> Option<String> {
    let Properties { mtime_ns, executable, link } = *properties;
    serde_json::to_string(&Described { mtime_ns, executable, link }).ok()
}

pub(super) fn show_file(file: FileShown) -> File {
    let described = file.described.and_then(|text| serde_json::from_str::<Described>(&text).ok());
    let Described { mtime_ns, executable, link } = described.unwrap_or_default();
    File {
        version: file.version.0,
        bytes: file.bytes,
        modified_ms: file.modified_ms,
        content: file.content.map(|content| content.to_vec()),
        mtime_ns,
        executable,
        link,
    }
}

/// A name as somebody knows it whose root is the directory `base`.
fn show(named: Named, base: Option<NodeId>) -> Name {
    let parent = if Some(named.parent) == base { 0 } else { named.parent.0 };
    Name { node: named.node.0, parent, name: named.name, file: named.file.map(show_file) }
}

impl Session {
    pub(super) async fn list_names(&self, stream: &mut Stream, asked: ListNames) -> Answer {
        let at = self.at(&asked.space).await?;
        let limit = asked.limit.clamp(1, PAGE_MAX);
        let (bucket, base) = (at.bucket.bucket.id, at.base.clone());
        let page = self.door.meta().ask(NamesAfter { bucket, base, after: asked.after, limit }).await?;
        if page.base.is_none() {
            refuse(Code::NotFound, "there is no such directory any more")?;
        }
        let names = page.names.into_iter().map(|named| show(named, page.base)).collect();
        let space = space_id(&at, page.base);
        say(stream, Reply::Names(Names { names, after: page.after, cursor: page.journal, space })).await
    }

    pub(super) async fn read_changes(&self, stream: &mut Stream, asked: ReadChanges) -> Answer {
        let mut at = self.at(&asked.space).await?;
        let bucket = at.bucket.bucket.id;
        if asked.wait_ms > 0 {
            let wait = Duration::from_millis(u64::from(asked.wait_ms)).min(WAIT_MAX);
            let mut head = self.door.heads.follow(bucket);
            let moved = |head: &Option<u64>| head.is_some_and(|head| head != asked.cursor);
            let _nothing_new = timeout(wait, head.wait_for(moved)).await.is_err();
            // Meanwhile it may have been revoked.
            at = self.at(&asked.space).await?;
        }
        let limit = asked.limit.clamp(1, PAGE_MAX);
        let question = NamesChanged { bucket, base: at.base.clone(), from: asked.cursor, limit };
        let page = self.door.meta().ask(question).await?;
        let shown = |change| match change {
            NameChange::Is(named) => change::Change::Is(show(named, page.base)),
            NameChange::Gone(node) => change::Change::Gone(node.0),
            NameChange::Moved(named) => change::Change::Moved(show(named, page.base)),
            NameChange::Passed(node) => change::Change::Passed(node.0),
            NameChange::Left(node) => change::Change::Left(node.0),
        };
        let changes = page.changes.into_iter().map(|change| Change { change: Some(shown(change)) }).collect();
        let (cursor, head, lost, space) = (page.next, page.head, page.lost, space_id(&at, page.base));
        say(stream, Reply::Changes(Changes { changes, cursor, head, lost, space })).await
    }
}

/// Where the journals of spaces end that somebody waits for. Each is looked at by one task, however many wait.
pub(super) struct Heads {
    meta: Meta,
    followed: Mutex<HashMap<BucketId, watch::Sender<Option<u64>>>>,
}

impl Heads {
    pub fn new(meta: Meta) -> Self {
        Self { meta, followed: Mutex::default() }
    }

    pub fn follow(self: &Arc<Self>, bucket: BucketId) -> watch::Receiver<Option<u64>> {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(head) = followed.get(&bucket) {
            return head.subscribe();
        }
        let (head, receiver) = watch::channel(None);
        followed.insert(bucket, head.clone());
        tokio::spawn(self.clone().look(bucket, head));
        receiver
    }

    async fn look(self: Arc<Self>, bucket: BucketId, head: watch::Sender<Option<u64>>) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.meta.ask(UsageOf { bucket }).await {
                Ok(usage) => {
                    // Of a bucket that is gone, those who wait are told so when they look.
                    let next = Some(usage.map_or(u64::MAX, |usage| usage.journal_next));
                    head.send_if_modified(|known| std::mem::replace(known, next) != next);
                }
                Err(error) => tracing::debug!(%error, "a journal is looked at later"),
            }
            let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
            if head.receiver_count() == 0 {
                followed.remove(&bucket);
                return;
            }
        }
    }
}
