//! Changes that the server is to make: files are sent, then changes committed, some at a time, each time all or none.

use super::{Engine, key, node_of, server_name, server_names};
use crate::{
    chunks,
    error::{Error, Result, at},
    server::reference,
    state::{Remote, RemoteFile, disk_names},
    system::{Names, Reading, blocking},
};
use holdfast_client_sync::{Base, Id, Kind, Node, Place, Step, Tree};
use holdfast_core::ids::{ChunkId, NodeId};
use holdfast_proto::sync::{
    Describe, MakeDirectory, Move, NameChange, Outcome, Properties, Put, RemoveDirectory, RemoveFile,
    VersionOf, Within, failure::Code, name_change::Change,
};
use std::collections::{BTreeMap, HashSet};

/// Changes in one commit, and bytes of files in it.
const BATCH: usize = 400;
const BATCH_BYTES: u64 = 64 << 20;

/// A change, and the bytes that it may have to be sent.
type Planned = (NameChange, u64);

/// What a step failed with, and the local file that it is about.
type Failed = (Names, Error);

/// Changes that are committed together.
#[derive(Default)]
struct Batch {
    steps: Vec<Step>,
    changes: Vec<NameChange>,
    bytes: u64,
    /// How many names are aside.
    aside: HashSet<Id>,
}

impl Batch {
    fn add(&mut self, step: Step, change: NameChange) {
        match &step {
            Step::Move { id, to } if to.is_aside() => drop(self.aside.insert(*id)),
            Step::Move { id, .. } | Step::Remove { id } => drop(self.aside.remove(id)),
            Step::Create { .. } | Step::Edit { .. } | Step::Mark { .. } => {}
        }
        self.steps.push(step);
        self.changes.push(change);
    }
}

/// The server's tree as it becomes.
struct Becoming {
    tree: Tree,
    /// What the server calls nodes that were made.
    made: BTreeMap<Id, u64>,
}

impl Engine {
    /// What nodes are called that got the server's names.
    pub(super) async fn change_server(&mut self, steps: Vec<Step>) -> Result<BTreeMap<Id, Id>> {
        let mut becoming = Becoming { tree: self.state.trees.remote.clone(), made: BTreeMap::new() };
        let done = self.commit_all(steps, &mut becoming).await;
        // Also where not all went well.
        let mut made = BTreeMap::new();
        for (fresh, node) in becoming.made {
            let known = Id::Known(NodeId(node));
            // What was deleted there and is made anew there is the same node to the server. Here the old one may still stand,
            // among what is worked on or not: then the new one has no name yet, and is known again when it is heard of.
            if self.state.trees.local.contains(known) || self.store.local(known)?.is_some() {
                let _not_there = Step::Remove { id: fresh }.carry_out(&mut self.state.trees.remote);
                self.state.reused.extend([fresh, known]);
            } else {
                made.insert(fresh, known);
            }
        }
        for (fresh, known) in &made {
            let _not_here = self.state.trees.renumber(*fresh, *known);
            let _not_there = self.state.trees.remote.renumber(*fresh, *known);
            self.state.call(*fresh, *known);
            self.store.call(*fresh, *known)?;
        }
        done.map(|()| made)
    }

    async fn commit_all(&mut self, steps: Vec<Step>, becoming: &mut Becoming) -> Result<()> {
        let mut batch = Batch::default();
        for step in steps {
            match self.plan(becoming, &step) {
                Ok(Some((change, bytes))) => {
                    if step.carry_out(&mut becoming.tree).is_err() {
                        // What it leans on was left out.
                        continue;
                    }
                    batch.add(step, change);
                    batch.bytes += bytes;
                }
                Ok(None) => {}
                Err((names, error)) => self.note(id_of(&step), &names, &error),
            }
            let full = batch.changes.len() >= BATCH || batch.bytes >= BATCH_BYTES;
            if full && batch.aside.is_empty() && !self.flush(&mut batch, becoming).await? {
                return Ok(());
            }
        }
        self.flush(&mut batch, becoming).await.map(drop)
    }

    /// A step as the server takes it, and the bytes that it may have to be sent; `None` where there is nothing to send.
    fn plan(&self, becoming: &Becoming, step: &Step) -> std::result::Result<Option<Planned>, Failed> {
        let tree = &becoming.tree;
        let place_key = |place: &Place, is_directory: bool| -> Vec<u8> {
            let mut names = server_names(tree, place.parent);
            names.push(server_name(place));
            crate::state::key_of(&names, is_directory)
        };
        let here = |id: Id| disk_names(&self.state.trees.local, id);
        // What is made in the same commit has no node yet.
        let within = |place: &Place| Some(Within { node: node_of(place.parent, &becoming.made) });
        let change = match step {
            Step::Create { id, node } if node.kind.is_directory() => {
                let _of = id;
                Change::MakeDirectory(MakeDirectory { path: place_key(&node.place, true) })
            }
            Step::Create { id, node } => {
                let (put, bytes) = self
                    .put(*id, &node.kind, place_key(&node.place, false), None)
                    .map_err(|error| (here(*id), error))?;
                let within = within(&node.place);
                return Ok(Some((NameChange { change: Some(Change::Put(put)), within }, bytes)));
            }
            Step::Edit { id, kind } => {
                let Some(on) = self.on(*id, becoming) else { return Ok(None) };
                let put = self.put(*id, kind, key(tree, *id), Some(on));
                let (put, bytes) = put.map_err(|error| (here(*id), error))?;
                return Ok(Some((NameChange { change: Some(Change::Put(put)), within: None }, bytes)));
            }
            Step::Mark { id, .. } => {
                let Some(on) = self.on(*id, becoming) else { return Ok(None) };
                let properties = Some(self.properties(*id));
                Change::Describe(Describe { path: key(tree, *id), on: Some(on), properties })
            }
            Step::Move { id, to } => {
                let Some(node) = node_of(*id, &becoming.made) else { return Ok(None) };
                let to = place_key(to, tree.is_directory(*id));
                let from = match tree.get(*id) {
                    Some(now) => place_key(&now.place, tree.is_directory(*id)),
                    None => return Ok(None),
                };
                Change::Move(Move { node, from, to })
            }
            Step::Remove { id } if tree.is_directory(*id) => {
                let Some(node) = node_of(*id, &becoming.made) else { return Ok(None) };
                Change::RemoveDirectory(RemoveDirectory { node, path: removed_key(tree, *id, &place_key) })
            }
            Step::Remove { id } => {
                let Some(on) = self.on(*id, becoming) else { return Ok(None) };
                Change::RemoveFile(RemoveFile { path: removed_key(tree, *id, &place_key), on: Some(on) })
            }
        };
        let within = match step {
            Step::Create { node, .. } => within(&node.place),
            Step::Move { to, .. } => within(to),
            Step::Edit { .. } | Step::Mark { .. } | Step::Remove { .. } => None,
        };
        Ok(Some((NameChange { change: Some(change), within }, 0)))
    }

    fn on(&self, id: Id, becoming: &Becoming) -> Option<VersionOf> {
        let node = node_of(id, &becoming.made)?;
        Some(VersionOf { node, version: self.state.names.get(&node)?.file?.version })
    }

    fn properties(&self, id: Id) -> Properties {
        let node = self.state.trees.local.get(id);
        Properties {
            mtime_ns: self.state.infos.get(&id).map(|info| info.mtime_ns),
            executable: node.is_some_and(|node| node.executable),
            link: node.is_some_and(|node| matches!(node.kind, Kind::Link { .. })),
        }
    }

    /// The commit of a local file, whose chunks are known from when it was looked at.
    fn put(&self, id: Id, kind: &Kind, path: Vec<u8>, on: Option<VersionOf>) -> Result<(Put, u64)> {
        let names = disk_names(&self.state.trees.local, id);
        let same = self.state.trees.local.get(id).is_some_and(|node| node.kind == *kind);
        let changed = || Error::Changed(crate::state::shown(&names));
        if !same {
            return Err(changed());
        }
        let cut = match self.state.cut.get(&id) {
            Some(chunks) => chunks.clone(),
            // It was looked at by an earlier process.
            None => match kind {
                Kind::Link { .. } => {
                    let target =
                        self.means.disk.read_link(&names).map_err(at(crate::state::shown(&names)))?;
                    vec![(ChunkId::of(&target), target.len() as u32)]
                }
                Kind::File { .. } | Kind::Directory => {
                    let (file, stat) =
                        self.means.disk.read(&names).map_err(at(crate::state::shown(&names)))?;
                    let cut = blocking(|| chunks::cut(Reading::new(&*file), stat.size));
                    cut.map_err(at(crate::state::shown(&names)))?.chunks
                }
            },
        };
        let content = holdfast_core::manifest::content_of(cut.iter().copied());
        let planned = match kind {
            Kind::File { content } | Kind::Link { content } => content.0,
            Kind::Directory => [0; 32],
        };
        if content != planned {
            return Err(changed());
        }
        let bytes = cut.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
        let chunks = cut.iter().map(reference).collect();
        Ok((Put { path, on, chunks, properties: Some(self.properties(id)), runs: Vec::new() }, bytes))
    }

    /// Sends and commits a batch. Whether what comes after it can be committed, too.
    async fn flush(&mut self, batch: &mut Batch, becoming: &mut Becoming) -> Result<bool> {
        let Batch { steps, changes, aside, .. } = std::mem::take(batch);
        if changes.is_empty() {
            return Ok(true);
        }
        // What is aside and does not get to where it goes stays where it is: all of it is thought about again.
        if !aside.is_empty() {
            for id in steps.iter().map(id_of) {
                let names = disk_names(&self.state.trees.local, id);
                self.note(id, &names, &Error::Changed(String::new()));
            }
            return Ok(false);
        }
        let sent = async {
            let told = self.shorten(&steps, &changes).await?;
            self.send(&steps, &told).await?;
            Ok(told.into_iter().map(|told| told.change).collect())
        };
        let told = match sent.await {
            Ok(told) => told,
            // A file was changed while it was read.
            Err(Error::Changed(_)) => {
                for id in steps.iter().map(id_of) {
                    let names = disk_names(&self.state.trees.local, id);
                    self.note(id, &names, &Error::Changed(String::new()));
                }
                return Ok(false);
            }
            Err(error) => {
                return self.refused(Batch { steps, changes, ..Batch::default() }, becoming, error).await;
            }
        };
        // Whoever is stopped before the answer knows by this what to make of what it hears.
        for (id, asked) in asked_for(&steps) {
            self.store.send(id, &asked)?;
        }
        self.store.keep()?;
        let outcomes = match self.means.api.commit(&self.means.space, told).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                return self.refused(Batch { steps, changes, ..Batch::default() }, becoming, error).await;
            }
        };
        for ((step, change), outcome) in steps.iter().zip(&changes).zip(&outcomes) {
            tracing::debug!(?step, ?outcome, "a step on the server");
            self.committed(step, change, outcome, becoming);
        }
        Ok(true)
    }

    /// Finds what of a batch it is that cannot be: it keeps nothing else from being. Whether to go on.
    async fn refused(&mut self, batch: Batch, becoming: &mut Becoming, error: Error) -> Result<bool> {
        tracing::debug!(%error, steps = ?batch.steps, "refused by the server");
        let Batch { steps, changes, .. } = batch;
        match error.code() {
            Some(Code::ChunksGone) => {
                self.whole = true;
                Ok(false)
            }
            Some(Code::Overtaken | Code::Invalid | Code::Denied | Code::Quota) => {
                let parts = apart(steps, changes);
                if let [alone] = parts.as_slice() {
                    for id in alone.steps.iter().map(id_of) {
                        let names = disk_names(&self.state.trees.local, id);
                        self.note(id, &names, &error);
                    }
                    return Ok(true);
                }
                for mut part in parts {
                    if !Box::pin(self.flush(&mut part, becoming)).await? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            _ => Err(error),
        }
    }

    /// Takes note of a change that the server has made.
    fn committed(&mut self, step: &Step, change: &NameChange, outcome: &Outcome, becoming: &mut Becoming) {
        let id = id_of(step);
        if matches!(id, Id::Fresh(_)) {
            becoming.made.insert(id, outcome.node);
        }
        if step.carry_out(&mut self.state.trees.remote).is_err() {
            return;
        }
        let Some(node) = self.state.trees.remote.get(id) else {
            self.state.names.remove(&outcome.node);
            return;
        };
        let parent = node_of(node.place.parent, &becoming.made).unwrap_or_default();
        let file = match (&change.change, outcome.version) {
            (Some(Change::Put(put)), Some(version)) => {
                let content = match node.kind {
                    Kind::File { content } | Kind::Link { content } => Some(content.0),
                    Kind::Directory => None,
                };
                let properties = put.properties.unwrap_or_default();
                Some(RemoteFile {
                    version,
                    bytes: put.chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum(),
                    mtime_ns: properties.mtime_ns.unwrap_or_default(),
                    content,
                    executable: node.executable,
                    link: properties.link,
                })
            }
            (Some(_), _) => {
                let file = self.state.names.get(&outcome.node).and_then(|name| name.file);
                file.map(|file| RemoteFile { executable: node.executable, ..file })
            }
            (None, _) => None,
        };
        let name = node.place.name.clone();
        self.state.names.insert(outcome.node, Remote { parent, name, file });
        if matches!(change.change, Some(Change::Put(_))) {
            self.state.cut.remove(&id);
        }
    }
}

/// What of each node steps have the server take over from the disk. What else it has of them may be nowhere here yet.
fn asked_for(steps: &[Step]) -> BTreeMap<Id, Base> {
    let mut asked: BTreeMap<Id, Base> = BTreeMap::new();
    for step in steps {
        let of = asked.entry(id_of(step)).or_default();
        match step {
            Step::Create { node, .. } => *of = Base::from(node.clone()),
            Step::Move { to, .. } => of.place = Some(to.clone()),
            Step::Edit { kind, .. } => of.kind = Some(kind.clone()),
            Step::Mark { executable, .. } => of.executable = Some(*executable),
            Step::Remove { .. } => *of = Base::default(),
        }
    }
    asked
}

/// Changes that can be made one without the other: those that take something aside go with those that take it on.
fn apart(steps: Vec<Step>, changes: Vec<NameChange>) -> Vec<Batch> {
    let (mut parts, mut part) = (Vec::new(), Batch::default());
    for (step, change) in steps.into_iter().zip(changes) {
        part.add(step, change);
        if part.aside.is_empty() {
            parts.push(std::mem::take(&mut part));
        }
    }
    if !part.steps.is_empty() {
        parts.push(part);
    }
    parts
}

/// The node that a step is about.
pub(super) fn id_of(step: &Step) -> Id {
    match step {
        Step::Create { id, .. }
        | Step::Move { id, .. }
        | Step::Edit { id, .. }
        | Step::Mark { id, .. }
        | Step::Remove { id } => *id,
    }
}

/// The key of a node that may be aside.
fn removed_key(tree: &Tree, id: Id, place_key: &dyn Fn(&Place, bool) -> Vec<u8>) -> Vec<u8> {
    tree.get(id).map(|node| place_key(&node.place, tree.is_directory(id))).unwrap_or_default()
}

/// A step that was planned before nodes got the server's names.
pub(super) fn renamed(step: Step, made: &BTreeMap<Id, Id>) -> Step {
    let now = |id: Id| made.get(&id).copied().unwrap_or(id);
    let at = |place: Place| Place { parent: now(place.parent), ..place };
    match step {
        Step::Create { id, node } => {
            Step::Create { id: now(id), node: Node { place: at(node.place), ..node } }
        }
        Step::Move { id, to } => Step::Move { id: now(id), to: at(to) },
        Step::Edit { id, kind } => Step::Edit { id: now(id), kind },
        Step::Mark { id, executable } => Step::Mark { id: now(id), executable },
        Step::Remove { id } => Step::Remove { id: now(id) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_aside_is_never_left_there() {
        let place = |name: &str| Place { parent: Id::Root, name: name.as_bytes().to_vec() };
        let moved = |id, name: &str| Step::Move { id: Id::Known(NodeId(id)), to: place(name) };
        let removed = |id| Step::Remove { id: Id::Known(NodeId(id)) };
        let steps = [
            moved(1, "a"),
            moved(2, "\0-1-b"),
            moved(3, "b"),
            moved(2, "c"),
            moved(4, "\0-2-d"),
            removed(4),
            removed(5),
        ];
        assert!(place("\0-1-b").is_aside());
        let changes = steps.iter().map(|_| NameChange::default()).collect();
        let parts: Vec<usize> = apart(steps.to_vec(), changes).iter().map(|part| part.steps.len()).collect();
        assert_eq!(parts, [1, 3, 2, 1]);
    }
}
