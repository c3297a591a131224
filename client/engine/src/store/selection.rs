//! Which directories of the space are not selected: what is in them is not kept on this device.
//!
//! A directory is known by its node, so that it stays unselected where somebody renames it, and by its path, for the day on
//! which the server gives it another node.

use super::{Store, id_of, number};
use crate::{
    error::{Result, plain},
    state::shown,
    system::Names,
};
use holdfast_client_sync::{Id, Place, Side};
use rusqlite::params;
use std::collections::BTreeSet;

impl Store {
    pub(super) fn count_unselected(&self) -> Result<()> {
        let sql = "SELECT count(*) FROM unselected";
        self.unselected.set(self.connection.query_row(sql, [], |row| row.get(0))?);
        Ok(())
    }

    /// Whether a node is in a directory that is not selected, or is one: on the server, in the synced directory.
    pub fn unselected_above(&self, id: Id) -> Result<(bool, bool)> {
        if self.unselected.get() == 0 {
            return Ok((false, false));
        }
        Ok((self.is_below_unselected(Side::Remote, id)?, self.is_below_unselected(Side::Local, id)?))
    }

    /// Whether nothing is to be done about a node: on one side or the other it is in a directory that is not selected.
    pub fn is_hidden(&self, id: Id) -> Result<bool> {
        let (there, here) = self.unselected_above(id)?;
        Ok(there || here)
    }

    fn is_below_unselected(&self, side: Side, id: Id) -> Result<bool> {
        let (mut at, mut above) = (id, BTreeSet::new());
        while at != Id::Root && above.insert(at) {
            let parent = match side {
                Side::Remote => self.remote(at)?.map(|remote| remote.place().parent),
                Side::Local => self.local(at)?.map(|local| local.place.parent),
            };
            let Some(parent) = parent else { return Ok(false) };
            let sql = "SELECT EXISTS (SELECT 1 FROM unselected WHERE id = ?)";
            if self.connection.prepare_cached(sql)?.query_row(params![number(at)], |row| row.get(0))? {
                return Ok(true);
            }
            at = parent;
        }
        Ok(false)
    }

    /// The server's node at a place whose directory is not kept here.
    pub fn hidden_at(&self, place: &Place) -> Result<Option<Id>> {
        if self.unselected.get() == 0 {
            return Ok(None);
        }
        for id in self.ids_at(place)? {
            if self.unselected_above(id)?.0 {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// The server's directory of a path.
    fn remote_directory(&self, names: &[Vec<u8>]) -> Result<Option<Id>> {
        let mut at = Id::Root;
        for name in names {
            let ids = self.ids_at(&Place { parent: at, name: name.clone() })?;
            let mut directory = None;
            for id in ids {
                let is_one = self.remote(id)?.is_some_and(|remote| remote.file.is_none());
                directory = directory.or(is_one.then_some(id));
            }
            let Some(directory) = directory else { return Ok(None) };
            at = directory;
        }
        Ok(Some(at))
    }

    /// Has a directory be selected, or not. It is durable when this returns: what is missing on the disk must not be taken
    /// for deleted.
    ///
    /// # Errors
    /// Where the server has no such directory.
    pub fn select(&self, names: &[Vec<u8>], selected: bool) -> Result<()> {
        let path = names.join(&b'/');
        let Some(id) = self.remote_directory(names)?.filter(|id| *id != Id::Root) else {
            return plain(format!("the space has no directory {}", shown(names)));
        };
        match selected {
            true => {
                self.execute("DELETE FROM unselected WHERE id = ? OR path = ?", params![number(id), path])?
            }
            false => {
                self.execute("INSERT OR REPLACE INTO unselected VALUES (?, ?)", params![path, number(id)])?
            }
        };
        self.count_unselected()?;
        self.mark(id)?;
        self.mark_inside(id)?;
        self.mark_local_inside(id)?;
        self.keep_durably()
    }

    /// Has a path not be selected as soon as the server is known to have it.
    pub fn unselect_path(&self, path: &[u8]) -> Result<()> {
        self.execute("INSERT OR IGNORE INTO unselected VALUES (?, NULL)", params![path])?;
        self.count_unselected()?;
        self.keep_durably()
    }

    fn mark_local_inside(&self, id: Id) -> Result<()> {
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            for inside in self.ids("SELECT id FROM local WHERE parent = ?", params![number(id)])? {
                self.mark(inside)?;
                open.push(inside);
            }
        }
        Ok(())
    }

    /// What is not selected, as it is called now.
    pub fn unselected(&self) -> Result<Vec<Names>> {
        let mut statement =
            self.connection.prepare_cached("SELECT path, id FROM unselected ORDER BY path")?;
        let rows = statement
            .query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Option<i64>>(1)?.map(id_of))))?;
        let mut found = Vec::new();
        for row in rows {
            let (path, id) = row?;
            let now = id.map(|id| self.remote_names(id)).transpose()?.flatten();
            found.push(now.unwrap_or_else(|| path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect()));
        }
        Ok(found)
    }

    /// The names down to a node of the server's.
    fn remote_names(&self, id: Id) -> Result<Option<Names>> {
        let (mut names, mut at, mut above) = (Names::new(), id, BTreeSet::new());
        while at != Id::Root {
            let Some(remote) = self.remote(at)?.filter(|_| above.insert(at)) else { return Ok(None) };
            at = remote.place().parent;
            names.push(remote.name);
        }
        names.reverse();
        Ok(Some(names))
    }

    /// Remembers by their paths alone what is not selected: the nodes will be others.
    pub(super) fn unselect_by_path(&self) -> Result<()> {
        let now = self.unselected()?;
        self.execute("DELETE FROM unselected", [])?;
        for names in now {
            self.execute("INSERT OR IGNORE INTO unselected VALUES (?, NULL)", params![names.join(&b'/')])?;
        }
        self.count_unselected()
    }

    /// Finds the nodes of what is known by its path alone. It is done when all names have been read, and before anything
    /// is made of them.
    pub fn find_unselected(&self) -> Result<()> {
        if self.unselected.get() == 0 {
            return Ok(());
        }
        let mut statement = self.connection.prepare_cached("SELECT path FROM unselected WHERE id IS NULL")?;
        let paths: Vec<Vec<u8>> =
            statement.query_map([], |row| row.get(0))?.collect::<std::result::Result<_, _>>()?;
        for path in paths {
            let names: Names = path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
            let Some(id) = self.remote_directory(&names)? else { continue };
            self.execute("UPDATE unselected SET id = ? WHERE path = ?", params![number(id), path])?;
            self.mark(id)?;
            self.mark_inside(id)?;
        }
        // It is kept with the list, when that is known to be of one moment.
        Ok(())
    }

    /// Open nodes about which nothing is to be done but to take them off the disk.
    pub fn hidden(&self) -> Result<Vec<Id>> {
        if self.unselected.get() == 0 {
            return Ok(Vec::new());
        }
        let mut hidden = self.ids("SELECT id FROM open WHERE why IS NULL", [])?;
        let mut failed = None;
        hidden.retain(|id| match self.is_hidden(*id) {
            Ok(is) => is,
            Err(error) => {
                failed = Some(error);
                false
            }
        });
        failed.map_or(Ok(hidden), Err)
    }

    /// As [`Store::keep`], and no power cut takes it back.
    pub fn keep_durably(&self) -> Result<()> {
        self.connection.execute_batch("COMMIT; PRAGMA synchronous = FULL; BEGIN")?;
        // A transaction that writes something, so that there is something to be made durable.
        self.execute("UPDATE life SET pass = pass", [])?;
        Ok(self.connection.execute_batch("COMMIT; PRAGMA synchronous = NORMAL; BEGIN")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Remote, RemoteFile};
    use holdfast_core::ids::NodeId;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&dir.path().join("trees.db")).expect("it opens");
        (dir, store)
    }

    fn hear(store: &Store, node: u64, parent: u64, name: &str, is_file: bool) {
        let file = RemoteFile {
            version: 1,
            bytes: 0,
            mtime_ns: 0,
            content: Some([0; 32]),
            executable: false,
            link: false,
        };
        let remote = Remote { parent, name: name.as_bytes().to_vec(), file: is_file.then_some(file) };
        store.hear(node, Some(&remote)).expect("it is written");
    }

    fn known(node: u64) -> Id {
        Id::Known(NodeId(node))
    }

    fn path(text: &str) -> Names {
        text.split('/').map(|name| name.as_bytes().to_vec()).collect()
    }

    #[test]
    fn a_directory_stays_unselected_wherever_it_is_moved_and_after_another_start() {
        let (dir, store) = store();
        hear(&store, 1, 0, "big", false);
        hear(&store, 2, 1, "film", true);
        hear(&store, 3, 0, "small", true);
        assert!(store.select(&path("none"), false).is_err());
        assert!(store.select(&path("small"), false).is_err(), "a file is no directory");
        store.select(&path("big"), false).expect("it is there");
        drop(store);
        let store = Store::open(&dir.path().join("trees.db")).expect("it opens");
        let hidden = |store: &Store| [1, 2, 3].map(|node| store.is_hidden(known(node)).expect("it reads"));
        assert_eq!(hidden(&store), [true, true, false]);
        hear(&store, 1, 0, "huge", false);
        assert_eq!(hidden(&store), [true, true, false]);
        assert_eq!(store.unselected().expect("it reads"), [path("huge")]);
        // What leaves it is seen again, and what comes into it is not.
        hear(&store, 2, 0, "film", true);
        hear(&store, 3, 1, "small", true);
        assert_eq!(hidden(&store), [true, false, true]);
        store.select(&path("huge"), true).expect("it is there");
        assert_eq!(hidden(&store), [false; 3]);
    }

    #[test]
    fn another_server_with_the_same_paths_has_the_same_unselected() {
        let (_dir, store) = store();
        hear(&store, 1, 0, "a", false);
        hear(&store, 2, 1, "b", false);
        store.select(&path("a/b"), false).expect("it is there");
        store.forget().expect("it is written");
        hear(&store, 7, 0, "a", false);
        hear(&store, 8, 7, "b", false);
        hear(&store, 9, 8, "file", true);
        assert!(!store.is_hidden(known(8)).expect("it reads"), "not before the list is whole");
        store.find_unselected().expect("it is written");
        assert!(store.is_hidden(known(8)).expect("it reads") && store.is_hidden(known(9)).expect("it reads"));
        assert!(!store.is_hidden(known(7)).expect("it reads"));
    }
}
