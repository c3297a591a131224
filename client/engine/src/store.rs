//! What is known of one synced directory, on the disk: three trees, and which nodes they do not agree about.
//!
//! Memory holds what is being worked on, and nothing else. All changes since the last [`Store::keep`] are one transaction.

mod remote;
mod selection;
mod sent;

use crate::{
    error::{Error, Result},
    state::{Info, Local, aside_names},
    system::{Class, Names},
};
use holdfast_client_sync::{Base, Content, Id, Kind, Place, Side, is_marked};
use holdfast_core::ids::NodeId;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::{cell::Cell, collections::BTreeMap, path::Path};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS life (
        one INTEGER PRIMARY KEY CHECK (one = 1), space INTEGER NOT NULL, epoch TEXT NOT NULL, cursor INTEGER,
        next_fresh INTEGER NOT NULL, pass INTEGER NOT NULL, listing INTEGER NOT NULL
    ) STRICT;
    INSERT OR IGNORE INTO life VALUES (1, 0, '', NULL, 1, 1, 0);
    CREATE TABLE IF NOT EXISTS local (
        id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name BLOB NOT NULL, class INTEGER NOT NULL, content BLOB,
        executable INTEGER NOT NULL, inode INTEGER NOT NULL, device INTEGER NOT NULL, size INTEGER NOT NULL,
        mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, racy INTEGER NOT NULL, unread INTEGER NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX IF NOT EXISTS local_place ON local (parent, name);
    CREATE INDEX IF NOT EXISTS local_inode ON local (inode);
    CREATE TABLE IF NOT EXISTS remote (
        id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name BLOB NOT NULL, version INTEGER, bytes INTEGER NOT NULL,
        mtime INTEGER NOT NULL, content BLOB, executable INTEGER NOT NULL, link INTEGER NOT NULL, listing INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS remote_place ON remote (parent, name);
    CREATE TABLE IF NOT EXISTS synced (
        id INTEGER PRIMARY KEY, parent INTEGER, name BLOB, class INTEGER, content BLOB, executable INTEGER
    ) STRICT;
    CREATE INDEX IF NOT EXISTS synced_parent ON synced (parent);
    CREATE TABLE IF NOT EXISTS asked (
        id INTEGER PRIMARY KEY, parent INTEGER, name BLOB, class INTEGER, content BLOB, executable INTEGER
    ) STRICT;
    CREATE INDEX IF NOT EXISTS asked_place ON asked (parent, name);
    CREATE TABLE IF NOT EXISTS open (
        id INTEGER PRIMARY KEY, pass INTEGER NOT NULL, tries INTEGER NOT NULL, why TEXT
    ) STRICT;
    CREATE INDEX IF NOT EXISTS open_due ON open (pass) WHERE why IS NULL;
    CREATE TABLE IF NOT EXISTS skipped (
        parent INTEGER NOT NULL, name BLOB NOT NULL, why TEXT NOT NULL, PRIMARY KEY (parent, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS unselected (path BLOB PRIMARY KEY, id INTEGER) STRICT;
    CREATE INDEX IF NOT EXISTS unselected_id ON unselected (id);
    PRAGMA user_version = 1;
";

/// KiB of the database that are kept in memory, and statements.
const CACHE_KIB: i64 = 16 << 10;
const STATEMENTS: usize = 64;

/// How often a node is tried that is never what it was a moment before, until it is left for a while.
const TRIES_MAX: i64 = 30;

/// Problems that are listed one by one.
const LISTED_MAX: i64 = 1000;

/// The tables that have some of the attributes of nodes: what both sides had alike, and what the server was asked for.
const SYNCED: &str = "synced";
const ASKED: &str = "asked";

/// Where nothing is: what is on its way from one place to another.
const NOWHERE: i64 = -1;

/// What is known of the space, and how far that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// Which bucket has the space's name.
    pub space: u64,
    /// Which life of which cluster.
    pub epoch: String,
    /// Where the space's journal was read to; `None` before its names were read.
    pub cursor: Option<u64>,
    pub next_fresh: u64,
    /// Which look at all open nodes this is.
    pub pass: i64,
}

/// The database of one directory.
pub struct Store {
    connection: Connection,
    files: Cell<i64>,
    /// The number of the list of all the server's names that was begun last.
    listing: Cell<i64>,
    /// How many directories are not selected.
    unselected: Cell<i64>,
}

/// Ids of the client's own are odd.
fn number(id: Id) -> i64 {
    match id {
        Id::Root => 0,
        Id::Known(NodeId(node)) => (node as i64) << 1,
        Id::Fresh(fresh) => (fresh as i64) << 1 | 1,
    }
}

fn id_of(number: i64) -> Id {
    match number {
        0 => Id::Root,
        even if even & 1 == 0 => Id::Known(NodeId((even >> 1) as u64)),
        odd => Id::Fresh((odd >> 1) as u64),
    }
}

fn class_number(class: Class) -> i64 {
    match class {
        Class::Directory => 0,
        Class::File => 1,
        Class::Link => 2,
        Class::Other => 3,
    }
}

fn class_of(number: i64) -> Class {
    match number {
        0 => Class::Directory,
        1 => Class::File,
        2 => Class::Link,
        _ => Class::Other,
    }
}

fn kind_number(kind: &Kind) -> (i64, Option<[u8; 32]>) {
    match kind {
        Kind::Directory => (0, None),
        Kind::File { content } => (1, Some(content.0)),
        Kind::Link { content } => (2, Some(content.0)),
    }
}

fn kind_of(class: Option<i64>, content: Option<[u8; 32]>) -> Option<Kind> {
    match (class?, content.map(Content)) {
        (0, _) => Some(Kind::Directory),
        (1, Some(content)) => Some(Kind::File { content }),
        (_, Some(content)) => Some(Kind::Link { content }),
        (_, None) => None,
    }
}

const LOCAL: &str =
    "id, parent, name, class, content, executable, inode, device, size, mtime, ctime, racy, unread";

fn local_of(row: &Row<'_>) -> rusqlite::Result<(Id, Local)> {
    let info = Info {
        inode: row.get::<_, i64>(6)? as u64,
        device: row.get::<_, i64>(7)? as u64,
        size: row.get::<_, i64>(8)? as u64,
        mtime_ns: row.get(9)?,
        ctime_ns: row.get(10)?,
        racy: row.get(11)?,
    };
    let local = Local {
        place: Place { parent: id_of(row.get(1)?), name: row.get(2)? },
        class: class_of(row.get(3)?),
        content: row.get(4)?,
        executable: row.get(5)?,
        info,
        unread: row.get(12)?,
    };
    Ok((id_of(row.get(0)?), local))
}

impl Store {
    /// # Errors
    /// Where it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // What a power cut takes of the end is as if it had not been known yet, which is never a reason to delete anything.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.execute_batch(SCHEMA)?;
        let files = connection.query_row("SELECT count(*) FROM local", [], |row| row.get(0))?;
        let listing = connection.query_row("SELECT listing FROM life", [], |row| row.get(0))?;
        connection.execute_batch("BEGIN")?;
        let (files, listing) = (Cell::new(files), Cell::new(listing));
        let store = Self { connection, files, listing, unselected: Cell::default() };
        store.count_unselected()?;
        Ok(store)
    }

    /// Keeps what was written since the last time.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn keep(&self) -> Result<()> {
        Ok(self.connection.execute_batch("COMMIT; BEGIN")?)
    }

    fn execute(&self, sql: &str, values: impl rusqlite::Params) -> Result<usize> {
        let done = self.connection.prepare_cached(sql)?.execute(values);
        Ok(done.inspect_err(|error| tracing::error!(sql, %error, "the database refuses"))?)
    }

    fn ids(&self, sql: &str, values: impl rusqlite::Params) -> Result<Vec<Id>> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(values, |row| Ok(id_of(row.get(0)?)))?;
        rows.map(|row| row.map_err(Error::from)).collect()
    }

    pub fn life(&self) -> Result<Life> {
        let sql = "SELECT space, epoch, cursor, next_fresh, pass FROM life";
        Ok(self.connection.prepare_cached(sql)?.query_row([], |row| {
            Ok(Life {
                space: row.get::<_, i64>(0)? as u64,
                epoch: row.get(1)?,
                cursor: row.get::<_, Option<i64>>(2)?.map(|cursor| cursor as u64),
                next_fresh: row.get::<_, i64>(3)? as u64,
                pass: row.get(4)?,
            })
        })?)
    }

    pub fn set_life(&self, life: &Life) -> Result<()> {
        let values = params![
            life.space as i64,
            life.epoch,
            life.cursor.map(|cursor| cursor as i64),
            life.next_fresh as i64,
            life.pass
        ];
        let sql = "UPDATE life SET space = ?, epoch = ?, cursor = ?, next_fresh = ?, pass = ?";
        self.execute(sql, values).map(drop)
    }

    /// A number for a node that is the client's own.
    pub fn fresh(&self) -> Result<Id> {
        let sql = "UPDATE life SET next_fresh = next_fresh + 1 RETURNING next_fresh - 1";
        let next: i64 = self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        Ok(Id::Fresh(next as u64))
    }

    /// How many local nodes there are.
    pub fn files(&self) -> usize {
        usize::try_from(self.files.get()).unwrap_or_default()
    }

    pub fn local(&self, id: Id) -> Result<Option<Local>> {
        let sql = select("id = ?");
        let found =
            self.connection.prepare_cached(&sql)?.query_row(params![number(id)], local_of).optional()?;
        Ok(found.map(|(_, local)| local))
    }

    pub fn local_at(&self, place: &Place) -> Result<Option<(Id, Local)>> {
        let sql = select("parent = ? AND name = ?");
        let values = params![number(place.parent), place.name];
        Ok(self.connection.prepare_cached(&sql)?.query_row(values, local_of).optional()?)
    }

    /// What is in a local directory, by name.
    pub fn local_inside(&self, parent: Id) -> Result<BTreeMap<Vec<u8>, (Id, Local)>> {
        let sql = select("parent = ?");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params![number(parent)], local_of)?;
        rows.map(|row| Ok(row.map(|(id, local)| (local.place.name.clone(), (id, local)))?)).collect()
    }

    /// Local nodes that are aside.
    pub fn aside(&self) -> Result<Vec<(Id, Local)>> {
        let sql = select("parent = 0 AND name >= x'00' AND name < x'01'");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map([], local_of)?;
        rows.map(|row| row.map_err(Error::from)).collect()
    }

    /// Local nodes that had an inode when they were looked at last.
    pub fn by_inode(&self, inode: u64, device: u64) -> Result<Vec<(Id, Local)>> {
        let sql = select("inode = ? AND device = ?");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement.query_map(params![inode as i64, device as i64], local_of)?;
        rows.map(|row| row.map_err(Error::from)).collect()
    }

    pub fn put_local(&self, id: Id, local: &Local) -> Result<()> {
        let Local { place, class, content, executable, info, unread } = local;
        let values = params![
            number(place.parent),
            place.name,
            class_number(*class),
            content,
            executable,
            info.inode as i64,
            info.device as i64,
            info.size as i64,
            info.mtime_ns,
            info.ctime_ns,
            info.racy,
            unread,
            number(id)
        ];
        let update =
            "UPDATE local SET parent = ?, name = ?, class = ?, content = ?, executable = ?, inode = ?,
            device = ?, size = ?, mtime = ?, ctime = ?, racy = ?, unread = ? WHERE id = ?";
        if self.execute(update, values)? == 0 {
            let insert =
                "INSERT INTO local (parent, name, class, content, executable, inode, device, size, mtime,
                ctime, racy, unread, id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
            self.execute(insert, values)?;
            self.files.set(self.files.get() + 1);
        }
        Ok(())
    }

    /// Local nodes that are called as conflicted copies are.
    pub fn named_as_copies(&self) -> Result<Vec<Id>> {
        let mut statement = self.connection.prepare_cached("SELECT id, name FROM local")?;
        let rows = statement.query_map([], |row| Ok((id_of(row.get(0)?), row.get::<_, Vec<u8>>(1)?)))?;
        let mut copies = Vec::new();
        for row in rows {
            let (id, name) = row?;
            if is_marked(&name) {
                copies.push(id);
            }
        }
        copies.truncate(LISTED_MAX as usize);
        Ok(copies)
    }

    /// Takes a local node away from its place, until it is put to another.
    pub fn detach(&self, id: Id) -> Result<()> {
        let name = format!("{}", number(id)).into_bytes();
        let sql = "UPDATE local SET parent = ?, name = ? WHERE id = ?";
        self.execute(sql, params![NOWHERE, name, number(id)]).map(drop)
    }

    /// What was detached and has no place again.
    pub fn detached(&self) -> Result<Vec<Id>> {
        self.ids("SELECT id FROM local WHERE parent = ?", params![NOWHERE])
    }

    pub fn remove_local(&self, id: Id) -> Result<()> {
        let gone = self.execute("DELETE FROM local WHERE id = ?", params![number(id)])?;
        self.files.set(self.files.get() - gone as i64);
        self.execute("DELETE FROM skipped WHERE parent = ?", params![number(id)]).map(drop)
    }

    /// Forgets a local node and all that is in it, and says of each that it is open.
    pub fn prune_local(&self, id: Id) -> Result<()> {
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            open.extend(self.ids("SELECT id FROM local WHERE parent = ?", params![number(id)])?);
            self.remove_local(id)?;
            self.mark(id)?;
        }
        Ok(())
    }

    /// Calls a local node by another name, as the place of what is in it too.
    pub fn call(&self, from: Id, to: Id) -> Result<()> {
        let values = params![number(to), number(from)];
        self.execute("UPDATE local SET id = ? WHERE id = ?", values)?;
        self.execute("UPDATE local SET parent = ? WHERE parent = ?", values)?;
        self.execute("UPDATE skipped SET parent = ? WHERE parent = ?", values)?;
        self.execute("UPDATE synced SET parent = ? WHERE parent = ?", values)?;
        self.execute("UPDATE OR REPLACE asked SET id = ? WHERE id = ?", values)?;
        self.execute("UPDATE asked SET parent = ? WHERE parent = ?", values)?;
        self.mark(from)?;
        self.mark(to)
    }

    /// Where a local node is on the disk, which may be aside.
    pub fn disk_names(&self, id: Id) -> Result<Names> {
        let (mut names, mut at) = (Names::new(), id);
        while let Some(local) = self.local(at)? {
            if local.place.is_aside() {
                names.extend(aside_names(&local.place).into_iter().rev());
                break;
            }
            names.push(local.place.name);
            at = local.place.parent;
        }
        names.reverse();
        Ok(names)
    }

    /// Where a place in a local directory is on the disk.
    pub fn path(&self, place: &Place) -> Result<Names> {
        if place.is_aside() {
            return Ok(aside_names(place));
        }
        let mut names = self.disk_names(place.parent)?;
        names.push(place.name.clone());
        Ok(names)
    }

    /// Whether a node is, or is in, a directory.
    pub fn is_in(&self, id: Id, directory: Id) -> Result<bool> {
        let mut at = id;
        while at != directory {
            let Some(local) = self.local(at)? else { return Ok(false) };
            at = local.place.parent;
        }
        Ok(true)
    }

    pub fn base(&self, id: Id) -> Result<Option<Base>> {
        self.part(SYNCED, id)
    }

    pub fn set_base(&self, id: Id, base: Option<&Base>) -> Result<()> {
        match base {
            Some(base) => self.put_part(SYNCED, id, base),
            None => self.execute("DELETE FROM synced WHERE id = ?", params![number(id)]).map(drop),
        }
    }

    /// What a table has of some of a node's attributes.
    fn part(&self, table: &str, id: Id) -> Result<Option<Base>> {
        let sql = format!("SELECT parent, name, class, content, executable FROM {table} WHERE id = ?");
        let base = self.connection.prepare_cached(&sql)?.query_row(params![number(id)], |row| {
            let parent: Option<i64> = row.get(0)?;
            let place = parent.zip(row.get(1)?).map(|(parent, name)| Place { parent: id_of(parent), name });
            Ok(Base { place, kind: kind_of(row.get(2)?, row.get(3)?), executable: row.get(4)? })
        });
        Ok(base.optional()?)
    }

    fn put_part(&self, table: &str, id: Id, base: &Base) -> Result<()> {
        let (place, kind) = (base.place.as_ref(), base.kind.as_ref().map(kind_number));
        let values = params![
            number(id),
            place.map(|place| number(place.parent)),
            place.map(|place| &place.name),
            kind.map(|(class, _)| class),
            kind.and_then(|(_, content)| content),
            base.executable
        ];
        self.execute(&format!("INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?, ?, ?)"), values).map(drop)
    }

    /// Forgets what was agreed and what was on the disk, which is looked at anew: what is there is joined to what is on the
    /// server, and nothing is deleted.
    pub fn forget(&self) -> Result<()> {
        self.unselect_by_path()?;
        self.connection.execute_batch(
            "DELETE FROM synced; DELETE FROM local; DELETE FROM remote; DELETE FROM open; DELETE FROM skipped;
            DELETE FROM asked;",
        )?;
        self.files.set(0);
        let life = self.life()?;
        self.set_life(&Life { cursor: None, ..life })
    }

    /// Says that something has changed of a node, so that not all trees agree about it, perhaps.
    pub fn mark(&self, id: Id) -> Result<()> {
        let sql = "INSERT INTO open VALUES (?, 0, 0, NULL)
            ON CONFLICT (id) DO UPDATE SET pass = 0, tries = 0, why = NULL";
        self.execute(sql, params![number(id)]).map(drop)
    }

    /// Some open nodes that were not looked at in this pass.
    pub fn due(&self, pass: i64, limit: usize) -> Result<Vec<Id>> {
        let sql = "SELECT id FROM open WHERE why IS NULL AND pass < ? LIMIT ?";
        self.ids(sql, params![pass, limit as i64])
    }

    /// Says of a node that all trees agree.
    pub fn close(&self, id: Id) -> Result<()> {
        self.execute("DELETE FROM open WHERE id = ?", params![number(id)]).map(drop)
    }

    /// Says of a node that it was looked at, whether it was tried in vain, and why it is not synced, if that is known.
    pub fn leave(&self, id: Id, pass: i64, tried: bool, why: Option<&str>) -> Result<()> {
        let sql = "INSERT INTO open VALUES (?1, ?2, ?3, ?4) ON CONFLICT (id) DO UPDATE SET pass = ?2,
            tries = tries + ?3, why = coalesce(?4, iif(tries >= ?5, 'it changes all the time', NULL))";
        self.execute(sql, params![number(id), pass, tried, why, TRIES_MAX]).map(drop)
    }

    /// Has what could not be synced be tried again.
    pub fn retry(&self) -> Result<()> {
        self.execute("UPDATE open SET pass = 0, tries = 0, why = NULL WHERE why IS NOT NULL", []).map(drop)
    }

    /// Whether there are open nodes without a reason why.
    pub fn is_open(&self) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM open WHERE why IS NULL)";
        Ok(self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }

    /// How many nodes are open that one side has and the other has deleted: on the server, in the directory.
    pub fn deletions(&self) -> Result<(i64, i64)> {
        let count = |has: &str, lacks: &str| {
            let sql = format!(
                "SELECT count(*) FROM open JOIN synced USING (id) JOIN {has} USING (id)
                LEFT JOIN {lacks} ON {lacks}.id = open.id WHERE {lacks}.id IS NULL"
            );
            self.connection.prepare_cached(&sql)?.query_row([], |row| row.get::<_, i64>(0))
        };
        Ok((count("remote", "local")?, count("local", "remote")?))
    }

    /// How many nodes a side has.
    pub fn count(&self, side: Side) -> Result<i64> {
        match side {
            Side::Local => Ok(self.files.get()),
            Side::Remote => {
                Ok(self.connection.query_row("SELECT count(*) FROM remote", [], |row| row.get(0))?)
            }
        }
    }

    /// Says that something in a directory is not synced, and why.
    pub fn skip(&self, place: &Place, why: &str) -> Result<()> {
        let values = params![number(place.parent), place.name, why];
        self.execute("INSERT OR REPLACE INTO skipped VALUES (?, ?, ?)", values).map(drop)
    }

    /// Forgets what was skipped at a place.
    pub fn unskip(&self, place: &Place) -> Result<()> {
        let values = params![number(place.parent), place.name];
        self.execute("DELETE FROM skipped WHERE parent = ? AND name = ?", values).map(drop)
    }

    /// Forgets what was skipped in a directory.
    pub fn unskip_all(&self, parent: Id) -> Result<()> {
        self.execute("DELETE FROM skipped WHERE parent = ?", params![number(parent)]).map(drop)
    }

    /// The places of what was skipped.
    pub fn skipped(&self) -> Result<Vec<(Place, String)>> {
        let sql = "SELECT parent, name, why FROM skipped LIMIT ?";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(params![LISTED_MAX], |row| {
            Ok((Place { parent: id_of(row.get(0)?), name: row.get(1)? }, row.get(2)?))
        })?;
        rows.map(|row| row.map_err(Error::from)).collect()
    }

    /// Open nodes of which it is known why.
    pub fn left(&self) -> Result<Vec<(Id, String)>> {
        let sql = "SELECT id, why FROM open WHERE why IS NOT NULL LIMIT ?";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(params![LISTED_MAX], |row| Ok((id_of(row.get(0)?), row.get(1)?)))?;
        rows.map(|row| row.map_err(Error::from)).collect()
    }

    /// How many things are not synced, of which it is known why.
    pub fn problems(&self) -> Result<usize> {
        let sql = "SELECT (SELECT count(*) FROM open WHERE why IS NOT NULL) + (SELECT count(*) FROM skipped)";
        let count: i64 = self.connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
        Ok(usize::try_from(count).unwrap_or_default())
    }
}

fn select(condition: &str) -> String {
    format!("SELECT {LOCAL} FROM local WHERE {condition}")
}
