//! What was before: versions and their names, what was deleted, and bringing it back.

use super::{Answer, At, Refused, Session, read::missing, refuse, say};
use crate::{lifecycle::VERSION_NAME, s3::replication};
use holdfast_client_link::Stream;
use holdfast_core::ids::VersionId;
use holdfast_meta_raft_machine::{
    ask::{DocumentsOf, LookedUp, Object, VersionListing, VersionsOf},
    command::{Command, Guarded, NewContent, NewObject, Outcome, TreeChange, VersionChange},
    list::{ListRequest, VersionItem, VersionShown},
    records::{Content, Extra, VersionName},
};
use holdfast_proto::sync::{
    self, Committed, Deleted, Done, ListTrash, ListVersions, NameVersion, Restore, RestoreTo, Restored,
    Trash, Versions, failure::Code, reply::Reply,
};
use hyper::HeaderMap;

/// Names, or versions, that are looked at for one answer.
const PAGE: usize = 1000;

/// Bytes of a version's name.
const NAME_MAX: usize = 256;

/// Files that one call makes what they were, at least, where there are so many; and those of one commit.
const CHANGES: usize = 200;
const AT_ONCE: usize = 100;

/// A walk through the history of all keys.
#[derive(Default)]
struct Walk {
    after: Vec<u8>,
    marker: Option<VersionName>,
    /// The key whose history is being read.
    open: Option<Then>,
    /// The last key whose history was read.
    finished: Vec<u8>,
    ended: bool,
}

impl Walk {
    fn finish(&mut self, done: &mut Vec<Then>) {
        if let Some(open) = self.open.take() {
            self.finished.clone_from(&open.newest.key);
            done.push(open);
        }
    }
}

/// What a key has now, and what it had at a moment, which may be a marker.
struct Then {
    newest: VersionShown,
    wanted: Option<VersionShown>,
}

impl Session {
    /// A page of the versions of a space, behind a key and one of its versions.
    async fn history(
        &self,
        at: &At,
        prefix: &[u8],
        after: Vec<u8>,
        marker: Option<VersionName>,
    ) -> Result<(Vec<VersionShown>, bool), Refused> {
        let wanted = ListRequest { prefix: prefix.to_vec(), after, max: PAGE, ..ListRequest::default() };
        let question = VersionListing { bucket: at.bucket.bucket.id, wanted, after: marker };
        let page = self.door.meta().ask(question).await?;
        let versions = page.items.into_iter().filter_map(|item| match item {
            VersionItem::Version(shown) => Some(shown),
            VersionItem::CommonPrefix(_) => None,
        });
        Ok((versions.collect(), page.truncated))
    }

    pub(super) async fn list_versions(&self, stream: &mut Stream, asked: ListVersions) -> Answer {
        let at = self.at(&asked.space).await?;
        let asked = ListVersions { path: at.full(&asked.path), ..asked };
        at.demand("s3:GetObject", Some(&asked.path))?;
        let (shown, _) = self.history(&at, &asked.path, Vec::new(), None).await?;
        let mine: Vec<_> = shown.into_iter().filter(|shown| shown.key == asked.path).collect();
        if mine.is_empty() {
            return Err(missing().into());
        }
        let name = &at.bucket.bucket.name;
        let (_, newest) = self.door.s3.look(name, Some((asked.path, None))).await.map_err(Refused::from)?;
        let LookedUp::Found(newest) = newest else { return Err(missing().into()) };
        let wanted = mine.iter().map(|shown| (shown.key.clone(), Some(shown.name))).collect();
        let question = DocumentsOf { bucket: at.bucket.bucket.id, wanted, name: VERSION_NAME.to_owned() };
        let names = self.door.meta().ask(question).await?;
        let versions = mine.into_iter().zip(names).map(|(shown, name)| sync::Version {
            version: shown.id.0,
            node: newest.version.node.0,
            bytes: shown.bytes,
            modified_ms: shown.modified_ms,
            deleted: shown.marker,
            latest: shown.latest,
            name: name.unwrap_or_default(),
        });
        say(stream, Reply::Versions(Versions { versions: versions.collect() })).await
    }

    /// Writes a version once more, above all others: its bytes are where they are.
    pub(super) async fn restore(&self, stream: &mut Stream, asked: Restore) -> Answer {
        let at = self.at(&asked.space).await?;
        let path = at.full(&asked.path);
        let newest = self.newest(&at, &path).await?;
        let (shown, _) = self.history(&at, &path, Vec::new(), None).await?;
        let mine = shown.into_iter().filter(|shown| shown.key == path && !shown.marker);
        let wanted = match asked.version {
            Some(id) => mine.into_iter().find(|shown| shown.id.0 == id),
            None => mine.into_iter().next(),
        };
        let id = wanted.ok_or_else(missing)?.id;
        let change = self.again(&at, path, &newest, id).await?;
        let outcomes = self.change_all(&at, vec![change]).await?;
        say(stream, Reply::Committed(Committed { outcomes })).await
    }

    /// What a path has now, which may be a marker.
    async fn newest(&self, at: &At, path: &[u8]) -> Result<Object, Refused> {
        let name = &at.bucket.bucket.name;
        match self.door.s3.look(name, Some((path.to_vec(), None))).await?.1 {
            LookedUp::Found(newest) => Ok(*newest),
            LookedUp::NotAsked | LookedUp::NoKey | LookedUp::NoVersion => Err(missing()),
        }
    }

    async fn change_all(&self, at: &At, changes: Vec<TreeChange>) -> Result<Vec<sync::Outcome>, Refused> {
        let (bucket, owner) = (at.bucket.bucket.id, at.scene.writer());
        let changes = changes.into_iter().map(Guarded::from).collect();
        let command = Command::ChangeTree { bucket, owner, changes };
        let Outcome::Changed(done) = self.door.s3.engine.run(command).await? else {
            return refuse(Code::Internal, "the metadata answered something else");
        };
        let told = |done: &holdfast_meta_raft_machine::command::Changed| sync::Outcome {
            node: done.node.0,
            version: done.version.map(|id| id.0),
        };
        Ok(done.iter().map(told).collect())
    }

    /// The change by which a path has a version's bytes again.
    async fn again(
        &self,
        at: &At,
        path: Vec<u8>,
        newest: &Object,
        id: VersionId,
    ) -> Result<TreeChange, Refused> {
        at.demand("s3:GetObject", Some(&path))?;
        at.demand("s3:PutObject", Some(&path))?;
        let wanted = vec![(newest.version.node, id)];
        let question = VersionsOf { bucket: at.bucket.bucket.id, wanted };
        let found = self.door.meta().ask(question).await?.into_iter().next().flatten();
        let (version, mut extra) = found.ok_or_else(missing)?;
        at.demand_object("s3:GetObjectVersion", &path, &extra)?;
        // What was told of a copy elsewhere is not so of this one, nor what it was called.
        extra.documents.retain(|name, _| !name.starts_with("replica") && name != VERSION_NAME);
        let content = match &version.content {
            Content::Inline => NewContent::Inline(self.inline(at, &version).await?.to_vec()),
            Content::Segments(segments) => NewContent::Segments(segments.clone()),
        };
        let object = NewObject {
            bytes: version.bytes,
            etag: version.etag,
            content,
            attributes: version.attributes,
            checksum: version.checksum,
            parts: version.parts,
        };
        let on = (!newest.extra.marker).then_some((newest.version.node, newest.version.id));
        let owner = at.scene.writer();
        let mut extra = Extra { owner, documents: extra.documents, tags: extra.tags, ..Extra::default() };
        let key = String::from_utf8_lossy(&path);
        replication::mark(&at.scene, &HeaderMap::new(), &at.bucket, &key, None, &mut extra)?;
        Ok(TreeChange::Put { path, on, object: Box::new(object), extra })
    }

    /// Calls a version something, so that it is kept.
    pub(super) async fn name_version(&self, stream: &mut Stream, asked: NameVersion) -> Answer {
        let at = self.at(&asked.space).await?;
        let path = at.full(&asked.path);
        at.demand("s3:PutObject", Some(&path))?;
        if asked.name.len() > NAME_MAX || asked.name.chars().any(char::is_control) {
            refuse(Code::Invalid, format!("a version's name has at most {NAME_MAX} bytes"))?;
        }
        let (shown, _) = self.history(&at, &path, Vec::new(), None).await?;
        let mut mine = shown.into_iter().filter(|shown| shown.key == path && !shown.marker);
        let wanted = mine.find(|shown| shown.id.0 == asked.version).ok_or_else(missing)?;
        let text = Some(asked.name).filter(|name| !name.is_empty());
        let change = Command::ChangeVersion {
            bucket: at.bucket.bucket.id,
            key: path,
            version: Some(wanted.name),
            judged: wanted.id,
            change: VersionChange::Document(VERSION_NAME.to_owned(), text),
        };
        self.door.s3.engine.run(change).await?;
        say(stream, Reply::Done(Done {})).await
    }

    /// Makes files what they were at a moment.
    pub(super) async fn restore_to(&self, stream: &mut Stream, asked: RestoreTo) -> Answer {
        let at = self.at(&asked.space).await?;
        let path = at.full(&asked.path);
        let bare = path.strip_suffix(b"/").unwrap_or(&path).to_vec();
        let is_in = |key: &[u8]| {
            let rest = key.strip_prefix(bare.as_slice());
            bare.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        let mut walk = Walk { after: asked.after, ..Walk::default() };
        let mut changes = Vec::new();
        while changes.len() < CHANGES && !walk.ended {
            for then in self.next_keys(&at, &bare, &mut walk, asked.at_ms).await? {
                if is_in(&then.newest.key) {
                    changes.extend(self.back(&at, then).await?);
                }
            }
        }
        let files = changes.len() as u32;
        let mut left = changes.into_iter().peekable();
        while left.peek().is_some() {
            let some: Vec<TreeChange> = left.by_ref().take(AT_ONCE).collect();
            self.change_all(&at, some).await?;
        }
        // What was begun of the next key is read again.
        let after = (!walk.ended).then_some(walk.finished);
        say(stream, Reply::Restored(Restored { files, after })).await
    }

    /// What the next keys have, and had at a moment: those whose whole history was seen.
    async fn next_keys(
        &self,
        at: &At,
        prefix: &[u8],
        walk: &mut Walk,
        at_ms: u64,
    ) -> Result<Vec<Then>, Refused> {
        let marker = walk.marker.or((!walk.after.is_empty()).then_some(VersionName::Id(VersionId(0))));
        let (shown, truncated) = self.history(at, prefix, walk.after.clone(), marker).await?;
        let mut done = Vec::new();
        for version in shown {
            (walk.after, walk.marker) = (version.key.clone(), Some(version.name));
            if walk.open.as_ref().is_none_or(|open| open.newest.key != version.key) {
                walk.finish(&mut done);
                walk.open = Some(Then { newest: version.clone(), wanted: None });
            }
            if let Some(open) =
                walk.open.as_mut().filter(|open| open.wanted.is_none() && version.modified_ms <= at_ms)
            {
                open.wanted = Some(version);
            }
        }
        walk.ended = !truncated;
        if walk.ended {
            walk.finish(&mut done);
        }
        Ok(done)
    }

    /// The change by which a key has what it had, if it has something else.
    async fn back(&self, at: &At, then: Then) -> Result<Option<TreeChange>, Refused> {
        let Then { newest, wanted } = then;
        let path = newest.key.clone();
        match wanted.filter(|wanted| !wanted.marker) {
            Some(wanted) if wanted.id == newest.id => Ok(None),
            Some(wanted) if !newest.marker && (wanted.etag, wanted.bytes) == (newest.etag, newest.bytes) => {
                Ok(None)
            }
            Some(wanted) => {
                let newest = self.newest(at, &path).await?;
                self.again(at, path, &newest, wanted.id).await.map(Some)
            }
            None if newest.marker => Ok(None),
            None => {
                at.demand("s3:DeleteObject", Some(&path))?;
                let newest = self.newest(at, &path).await?;
                let on = (newest.version.node, newest.version.id);
                Ok(Some(TreeChange::RemoveFile { path, on }))
            }
        }
    }

    pub(super) async fn list_trash(&self, stream: &mut Stream, asked: ListTrash) -> Answer {
        let at = self.at(&asked.space).await?;
        // Behind all versions of the key that the page before ended with.
        let marker = (!asked.after.is_empty()).then_some(VersionName::Id(VersionId(0)));
        let (shown, truncated) = self.history(&at, &at.base, asked.after, marker).await?;
        let after = shown.last().filter(|_| truncated).map(|last| last.key.clone());
        let deleted = shown
            .into_iter()
            .filter(|shown| shown.latest && shown.marker)
            .map(|shown| Deleted { path: at.short(shown.key), deleted_ms: shown.modified_ms });
        say(stream, Reply::Trash(Trash { deleted: deleted.collect(), after })).await
    }
}
