//! The client's database: which directories are synced, and their trees. Every save is one transaction.

use crate::{
    engine::strategy,
    error::{Error, Result, plain},
    home::Home,
    state::{Info, Remote, State},
};
use holdfast_client_sync::{Base, Conflicts, Content, Id, Kind, Node, Place, Tree};
use holdfast_core::{codec, ids::NodeId};
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::HashMap,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS roots (
        id INTEGER PRIMARY KEY, space TEXT NOT NULL, directory BLOB NOT NULL UNIQUE, mark TEXT NOT NULL,
        conflicts TEXT NOT NULL, paused INTEGER NOT NULL DEFAULT 0,
        bucket INTEGER NOT NULL DEFAULT 0, epoch TEXT NOT NULL DEFAULT '', cursor INTEGER,
        next_fresh INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE IF NOT EXISTS nodes (
        root INTEGER NOT NULL, side INTEGER NOT NULL, id INTEGER NOT NULL, data BLOB NOT NULL,
        PRIMARY KEY (root, side, id)
    ) STRICT, WITHOUT ROWID;
";

/// Sides of the table of nodes.
const NAMES: i64 = 0;
const LOCAL: i64 = 1;
const SYNCED: i64 = 2;

/// A directory that is synced with a space.
#[derive(Debug, Clone)]
pub struct Root {
    pub id: i64,
    pub space: String,
    pub directory: PathBuf,
    /// By which the directory is known again.
    pub mark: String,
    pub conflicts: Conflicts,
    pub paused: bool,
}

/// A row of the table of nodes: root, side, node.
type Key = (i64, i64, i64);

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Database {
    connection: Arc<Mutex<Connection>>,
    /// A hash of each row as it was written last, so that only those that changed are written again.
    written: Arc<Mutex<HashMap<Key, u64>>>,
}

/// A node as it is stored. Ids of the client's own are odd.
#[derive(Serialize, Deserialize)]
enum StoredKind {
    Directory,
    File([u8; 32]),
    Link([u8; 32]),
}

#[derive(Serialize, Deserialize)]
struct StoredLocal {
    parent: i64,
    name: Vec<u8>,
    kind: StoredKind,
    executable: bool,
    info: Option<Info>,
}

#[derive(Serialize, Deserialize)]
struct StoredBase {
    place: Option<(i64, Vec<u8>)>,
    kind: Option<StoredKind>,
    executable: Option<bool>,
}

fn number(id: Id) -> i64 {
    match id {
        Id::Root => 0,
        Id::Known(NodeId(node)) => (node as i64) * 2,
        Id::Fresh(fresh) => (fresh as i64) * 2 + 1,
    }
}

fn id_of(number: i64) -> Id {
    match number {
        0 => Id::Root,
        even if even % 2 == 0 => Id::Known(NodeId((even / 2) as u64)),
        odd => Id::Fresh((odd / 2) as u64),
    }
}

fn stored(kind: &Kind) -> StoredKind {
    match kind {
        Kind::Directory => StoredKind::Directory,
        Kind::File { content } => StoredKind::File(content.0),
        Kind::Link { content } => StoredKind::Link(content.0),
    }
}

fn kind_of(kind: StoredKind) -> Kind {
    match kind {
        StoredKind::Directory => Kind::Directory,
        StoredKind::File(content) => Kind::File { content: Content(content) },
        StoredKind::Link(content) => Kind::Link { content: Content(content) },
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    codec::decode("a row", bytes).map_err(|_| Error::Damaged("the database of this device".to_owned()))
}

impl Database {
    /// # Errors
    /// Where it cannot be opened.
    pub fn open(home: &Home) -> Result<Self> {
        let connection = Connection::open(home.database())?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)), written: Arc::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All synced directories.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn roots(&self) -> Result<Vec<Root>> {
        let connection = self.lock();
        let mut statement = connection
            .prepare("SELECT id, space, directory, mark, conflicts, paused FROM roots ORDER BY id")?;
        let rows = statement.query_map([], |row| {
            let directory: Vec<u8> = row.get(2)?;
            Ok((row.get(0)?, row.get(1)?, directory, row.get(3)?, row.get::<_, String>(4)?, row.get(5)?))
        })?;
        let mut roots = Vec::new();
        for row in rows {
            let (id, space, directory, mark, conflicts, paused) = row?;
            let directory = PathBuf::from(std::ffi::OsString::from_vec(directory));
            roots.push(Root { id, space, directory, mark, conflicts: strategy(&conflicts)?, paused });
        }
        Ok(roots)
    }

    /// Takes a directory in, which must not be in another, nor have one in it.
    ///
    /// # Errors
    /// Where it is.
    pub fn add(&self, space: &str, directory: &Path, mark: &str, conflicts: &str) -> Result<()> {
        for root in self.roots()? {
            if root.directory.starts_with(directory) || directory.starts_with(&root.directory) {
                return plain(format!("{} is synced already", root.directory.display()));
            }
        }
        self.lock().execute(
            "INSERT INTO roots (space, directory, mark, conflicts) VALUES (?, ?, ?, ?)",
            params![space, directory.as_os_str().as_bytes(), mark, conflicts],
        )?;
        Ok(())
    }

    /// Forgets a directory; its files stay.
    ///
    /// # Errors
    /// Where it is not synced.
    pub fn remove(&self, directory: &Path) -> Result<()> {
        let connection = self.lock();
        let id: Option<i64> = connection
            .query_row(
                "SELECT id FROM roots WHERE directory = ?",
                params![directory.as_os_str().as_bytes()],
                |row| row.get(0),
            )
            .optional()?;
        let Some(id) = id else { return plain(format!("{} is not synced", directory.display())) };
        connection.execute("DELETE FROM nodes WHERE root = ?", params![id])?;
        connection.execute("DELETE FROM roots WHERE id = ?", params![id])?;
        Ok(())
    }

    /// # Errors
    /// Where it cannot be written.
    pub fn pause(&self, paused: bool) -> Result<()> {
        self.lock().execute("UPDATE roots SET paused = ?", params![paused])?;
        Ok(())
    }

    /// What was known of a directory.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn load(&self, root: &Root) -> Result<State> {
        let connection = self.lock();
        let mut state = State::default();
        (state.space, state.epoch, state.cursor, state.next_fresh) = connection.query_row(
            "SELECT bucket, epoch, cursor, next_fresh FROM roots WHERE id = ?",
            params![root.id],
            |row| {
                let (space, cursor, fresh): (i64, Option<i64>, i64) = (row.get(0)?, row.get(2)?, row.get(3)?);
                Ok((space as u64, row.get(1)?, cursor.map(|cursor| cursor as u64), fresh as u64))
            },
        )?;
        let mut statement = connection.prepare("SELECT side, id, data FROM nodes WHERE root = ?")?;
        let mut rows = statement.query(params![root.id])?;
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let mut local: HashMap<i64, Vec<(Id, Node)>> = HashMap::new();
        while let Some(row) = rows.next()? {
            let (side, key, data): (i64, i64, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            written.insert((root.id, side, key), hash(&data));
            match side {
                NAMES => drop(state.names.insert(key as u64, decode::<Remote>(&data)?)),
                LOCAL => {
                    let row: StoredLocal = decode(&data)?;
                    let place = Place { parent: id_of(row.parent), name: row.name };
                    let node = Node { place, kind: kind_of(row.kind), executable: row.executable };
                    local.entry(row.parent).or_default().push((id_of(key), node));
                    state.infos.extend(row.info.map(|info| (id_of(key), info)));
                }
                _ => {
                    let row: StoredBase = decode(&data)?;
                    let place = row.place.map(|(parent, name)| Place { parent: id_of(parent), name });
                    let base = Base { place, kind: row.kind.map(kind_of), executable: row.executable };
                    state.trees.synced.insert(id_of(key), base);
                }
            }
        }
        let (mut tree, mut open) = (Tree::default(), vec![0]);
        while let Some(parent) = open.pop() {
            for (id, node) in local.remove(&parent).unwrap_or_default() {
                if tree.insert(id, node).is_ok() {
                    open.push(number(id));
                }
            }
        }
        state.trees.local = tree;
        state.grow_remote();
        Ok(state)
    }

    /// Writes what has changed since it was loaded or saved.
    ///
    /// # Errors
    /// Where it cannot be written: nothing is then.
    pub fn save(&self, root: &Root, state: &State) -> Result<()> {
        let mut rows: Vec<(Key, Vec<u8>)> = Vec::new();
        for (node, remote) in &state.names {
            rows.push(((root.id, NAMES, *node as i64), codec::encode(remote)));
        }
        for (id, node) in state.trees.local.iter() {
            let row = StoredLocal {
                parent: number(node.place.parent),
                name: node.place.name.clone(),
                kind: stored(&node.kind),
                executable: node.executable,
                info: state.infos.get(&id).copied(),
            };
            rows.push(((root.id, LOCAL, number(id)), codec::encode(&row)));
        }
        for (id, base) in &state.trees.synced {
            let row = StoredBase {
                place: base.place.as_ref().map(|place| (number(place.parent), place.name.clone())),
                kind: base.kind.as_ref().map(stored),
                executable: base.executable,
            };
            rows.push(((root.id, SYNCED, number(*id)), codec::encode(&row)));
        }
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone: HashMap<Key, u64> = written
            .iter()
            .filter(|((of, _, _), _)| *of == root.id)
            .map(|(key, hash)| (*key, *hash))
            .collect();
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let mut fresh = Vec::new();
        {
            let mut put = transaction
                .prepare_cached("INSERT OR REPLACE INTO nodes (root, side, id, data) VALUES (?, ?, ?, ?)")?;
            for (key, data) in &rows {
                let now = hash(data);
                if gone.remove(key) != Some(now) {
                    put.execute(params![key.0, key.1, key.2, data])?;
                    fresh.push((*key, now));
                }
            }
            let mut delete =
                transaction.prepare_cached("DELETE FROM nodes WHERE root = ? AND side = ? AND id = ?")?;
            for key in gone.keys() {
                delete.execute(params![key.0, key.1, key.2])?;
            }
        }
        transaction.execute(
            "UPDATE roots SET bucket = ?, epoch = ?, cursor = ?, next_fresh = ? WHERE id = ?",
            params![
                state.space as i64,
                state.epoch,
                state.cursor.map(|cursor| cursor as i64),
                state.next_fresh as i64,
                root.id
            ],
        )?;
        transaction.commit()?;
        written.retain(|key, _| !gone.contains_key(key));
        written.extend(fresh);
        Ok(())
    }
}

fn hash(data: &[u8]) -> u64 {
    u64::from_le_bytes(holdfast_core::ids::ChunkId::of(data).as_bytes()[..8].try_into().unwrap_or_default())
}
