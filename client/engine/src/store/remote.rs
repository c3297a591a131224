//! The server's names, as far as they were heard of, and which of them a directory can hold.

use super::{Store, id_of, number};
use crate::{
    error::{Error, Result},
    state::{Remote, RemoteFile},
};
use holdfast_client_sync::{Id, Node, Place, Side};
use holdfast_core::ids::NodeId;
use rusqlite::{OptionalExtension, Row, params};
use std::collections::BTreeSet;

const REMOTE: &str = "id, parent, name, version, bytes, mtime, content, executable, link";

fn remote_of(row: &Row<'_>) -> rusqlite::Result<(Id, Remote)> {
    let file = match row.get::<_, Option<i64>>(3)? {
        Some(version) => Some(RemoteFile {
            version: version as u64,
            bytes: row.get::<_, i64>(4)? as u64,
            mtime_ns: row.get(5)?,
            content: row.get(6)?,
            executable: row.get(7)?,
            link: row.get(8)?,
        }),
        None => None,
    };
    let parent = row.get::<_, i64>(1)? >> 1;
    Ok((id_of(row.get(0)?), Remote { parent: parent as u64, name: row.get(2)?, file }))
}

fn known(node: u64) -> Id {
    Id::Known(NodeId(node))
}

impl Store {
    /// What the server has of a node, whether a directory can hold it or not.
    pub fn remote(&self, id: Id) -> Result<Option<Remote>> {
        let sql = format!("SELECT {REMOTE} FROM remote WHERE id = ?");
        let found =
            self.connection.prepare_cached(&sql)?.query_row(params![number(id)], remote_of).optional()?;
        Ok(found.map(|(_, remote)| remote))
    }

    /// Takes note of what the server has of a node by now.
    pub fn hear(&self, node: u64, now: Option<&Remote>) -> Result<()> {
        let id = known(node);
        let before = self.remote(id)?;
        if before.as_ref() == now {
            let sql = "UPDATE remote SET listing = ?1 WHERE id = ?2 AND listing <> ?1";
            return self.execute(sql, params![self.listing.get(), number(id)]).map(drop);
        }
        self.others_at(id, before.as_ref())?;
        let was_hidden = self.unselected_above(id)?.0;
        match now {
            Some(remote) => self.put_remote(id, remote)?,
            None => drop(self.execute("DELETE FROM remote WHERE id = ?", params![number(id)])?),
        }
        self.mark(id)?;
        if let Some(Ok(node)) = now.map(Remote::node) {
            self.recognise(id, &node)?;
        }
        self.others_at(id, now)?;
        // What is in a directory is to be seen or not as the directory is.
        let held = |remote: Option<&Remote>| remote.is_some_and(|remote| remote.node().is_ok());
        if held(before.as_ref()) != held(now) || was_hidden != self.unselected_above(id)?.0 {
            self.mark_inside(id)?;
        }
        Ok(())
    }

    fn put_remote(&self, id: Id, remote: &Remote) -> Result<()> {
        let file = remote.file;
        let values = params![
            number(id),
            number(known(remote.parent)),
            remote.name,
            file.map(|file| file.version as i64),
            file.map_or(0, |file| file.bytes as i64),
            file.map_or(0, |file| file.mtime_ns),
            file.and_then(|file| file.content),
            file.is_some_and(|file| file.executable),
            file.is_some_and(|file| file.link),
            self.listing.get()
        ];
        self.execute("INSERT OR REPLACE INTO remote VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values).map(drop)
    }

    /// Marks other nodes of a name: one of them is seen, and which that is may have changed.
    fn others_at(&self, id: Id, remote: Option<&Remote>) -> Result<()> {
        let Some(remote) = remote else { return Ok(()) };
        let others: Vec<Id> =
            self.ids_at(&remote.place())?.into_iter().filter(|other| *other != id).collect();
        if others.is_empty() {
            return Ok(());
        }
        for other in others.into_iter().chain([id]) {
            self.mark(other)?;
            self.mark_inside(other)?;
        }
        Ok(())
    }

    pub(super) fn mark_inside(&self, id: Id) -> Result<()> {
        let (mut open, mut marked) = (vec![id], BTreeSet::new());
        while let Some(id) = open.pop() {
            for inside in self.ids("SELECT id FROM remote WHERE parent = ?", params![number(id)])? {
                // In the middle of what is heard directories may seem to be in each other.
                if marked.insert(inside) {
                    self.mark(inside)?;
                    open.push(inside);
                }
            }
        }
        Ok(())
    }

    /// Begins a list of all names.
    pub fn begin_listing(&self) -> Result<()> {
        self.listing.set(self.listing.get() + 1);
        self.execute("UPDATE life SET listing = ?", params![self.listing.get()]).map(drop)
    }

    /// Forgets what is not in the list that was begun.
    pub fn end_listing(&self) -> Result<()> {
        for id in self.ids("SELECT id FROM remote WHERE listing <> ?", params![self.listing.get()])? {
            if let Id::Known(NodeId(node)) = id {
                self.hear(node, None)?;
            }
        }
        Ok(())
    }

    pub(super) fn ids_at(&self, place: &Place) -> Result<Vec<Id>> {
        let sql = "SELECT id FROM remote WHERE parent = ? AND name = ? ORDER BY id";
        self.ids(sql, params![number(place.parent), place.name])
    }

    /// The node that has a name: of several, a directory can hold the eldest.
    pub fn remote_at(&self, place: &Place) -> Result<Option<Id>> {
        for id in self.ids_at(place)? {
            if self.remote(id)?.is_some_and(|remote| remote.node().is_ok()) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// What the server has of a node, if a directory can hold it.
    ///
    /// # Errors
    /// In it: why none can.
    pub fn seen(&self, id: Id) -> Result<std::result::Result<Option<Node>, &'static str>> {
        let node = match self.seen_by_itself(id)? {
            Ok(Some(node)) => node,
            other => return Ok(other),
        };
        let (mut at, mut above) = (node.place.parent, BTreeSet::new());
        while at != Id::Root {
            at = match self.seen_by_itself(at)? {
                // Until all is heard, directories may seem to be in each other.
                Ok(Some(directory)) if directory.kind.is_directory() && above.insert(at) => {
                    directory.place.parent
                }
                Ok(_) => return Ok(Err("its directory is not known")),
                Err(_) => return Ok(Err("its directory is not synced")),
            };
        }
        Ok(Ok(Some(node)))
    }

    /// As [`Store::seen`], whatever becomes of the directory that it is in.
    fn seen_by_itself(&self, id: Id) -> Result<std::result::Result<Option<Node>, &'static str>> {
        let Some(remote) = self.remote(id)? else { return Ok(Ok(None)) };
        match remote.node() {
            Ok(node) if self.remote_at(&node.place)? == Some(id) => Ok(Ok(Some(node))),
            Ok(_) => Ok(Err("another file or directory has its name")),
            Err(why) => Ok(Err(why)),
        }
    }

    /// The nodes in a directory of a side whose names begin so.
    pub fn inside(&self, side: Side, parent: Id, prefix: &[u8]) -> Result<Vec<Id>> {
        let table = match side {
            Side::Local => "local",
            Side::Remote => "remote",
        };
        let sql = format!("SELECT id, name FROM {table} WHERE parent = ? AND name >= ? ORDER BY name, id");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params![number(parent), prefix], |row| {
            Ok((id_of(row.get(0)?), row.get::<_, Vec<u8>>(1)?))
        })?;
        let rows = rows.map(|row| row.map_err(Error::from));
        let begins =
            |row: &Result<(Id, Vec<u8>)>| row.as_ref().map_or(true, |(_, name)| name.starts_with(prefix));
        rows.take_while(begins).map(|row| row.map(|(id, _)| id)).collect()
    }
}
