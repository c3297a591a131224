//! Which directories are synced.

use crate::{
    home::Home,
    limits::{Rate, Rates},
};
use holdfast_client_engine::{
    error::{Result, plain},
    strategy,
};
use rusqlite::{Connection, OptionalExtension, params};
use std::{
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    time::Duration,
};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS roots (
        id INTEGER PRIMARY KEY, space TEXT NOT NULL, directory BLOB NOT NULL UNIQUE, mark TEXT NOT NULL,
        conflicts TEXT NOT NULL, paused INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE IF NOT EXISTS limits (way TEXT PRIMARY KEY, bytes_per_second INTEGER NOT NULL) STRICT;
";

/// A directory that is synced with a space.
#[derive(Debug, Clone)]
pub struct Root {
    pub directory: PathBuf,
    pub paused: bool,
    /// What is synced with it, and how.
    pub synced: holdfast_client_engine::Root,
}

/// The list of the directories.
pub struct Database {
    connection: Connection,
    trees: PathBuf,
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
        Ok(Self { connection, trees: home.trees()? })
    }

    /// All synced directories.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn roots(&self) -> Result<Vec<Root>> {
        let mut statement = self
            .connection
            .prepare("SELECT space, directory, mark, conflicts, paused FROM roots ORDER BY id")?;
        let rows = statement.query_map([], |row| {
            let (directory, conflicts): (Vec<u8>, String) = (row.get(1)?, row.get(3)?);
            Ok((row.get(0)?, directory, row.get::<_, String>(2)?, conflicts, row.get(4)?))
        })?;
        let mut roots = Vec::new();
        for row in rows {
            let (space, directory, mark, conflicts, paused) = row?;
            let directory = PathBuf::from(std::ffi::OsString::from_vec(directory));
            let trees = self.trees.join(format!("{mark}.db"));
            let conflicts = strategy(&conflicts)?;
            let synced = holdfast_client_engine::Root { space, mark, conflicts, trees };
            roots.push(Root { directory, paused, synced });
        }
        Ok(roots)
    }

    /// Takes a directory in, which must not be in another, nor have one in it. Where what is known of it is kept.
    ///
    /// # Errors
    /// Where it is.
    pub fn add(&self, space: &str, directory: &Path, mark: &str, conflicts: &str) -> Result<PathBuf> {
        for root in self.roots()? {
            if root.directory.starts_with(directory) || directory.starts_with(&root.directory) {
                return plain(format!("{} is synced already", root.directory.display()));
            }
        }
        self.connection.execute(
            "INSERT INTO roots (space, directory, mark, conflicts) VALUES (?, ?, ?, ?)",
            params![space, directory.as_os_str().as_bytes(), mark, conflicts],
        )?;
        Ok(self.trees.join(format!("{mark}.db")))
    }

    /// Forgets a directory; its files stay.
    ///
    /// # Errors
    /// Where it is not synced.
    pub fn remove(&self, directory: &Path) -> Result<()> {
        let mark: Option<String> = self
            .connection
            .query_row(
                "DELETE FROM roots WHERE directory = ? RETURNING mark",
                params![directory.as_os_str().as_bytes()],
                |row| row.get(0),
            )
            .optional()?;
        let Some(mark) = mark else { return plain(format!("{} is not synced", directory.display())) };
        for ending in ["db", "db-wal", "db-shm"] {
            let _absent = std::fs::remove_file(self.trees.join(format!("{mark}.{ending}")));
        }
        Ok(())
    }

    /// How many bytes may go in a second.
    ///
    /// # Errors
    /// Where that cannot be read.
    pub fn limits(&self) -> Result<Rates> {
        let rate = |way: &str| {
            let sql = "SELECT bytes_per_second FROM limits WHERE way = ?";
            let bytes =
                self.connection.query_row(sql, params![way], |row| row.get::<_, i64>(0)).optional()?;
            Ok::<_, holdfast_client_engine::error::Error>(Rate(
                bytes.and_then(|bytes| u32::try_from(bytes).ok()?.try_into().ok()),
            ))
        };
        Ok(Rates { up: rate("up")?, down: rate("down")? })
    }

    /// # Errors
    /// Where it cannot be written.
    pub fn limit(&self, way: &str, rate: Rate) -> Result<()> {
        match rate.0 {
            Some(bytes) => self
                .connection
                .execute("INSERT OR REPLACE INTO limits VALUES (?, ?)", params![way, bytes.get()])?,
            None => self.connection.execute("DELETE FROM limits WHERE way = ?", params![way])?,
        };
        Ok(())
    }

    /// # Errors
    /// Where it cannot be written.
    pub fn pause(&self, paused: bool) -> Result<()> {
        self.connection.execute("UPDATE roots SET paused = ?", params![paused])?;
        Ok(())
    }
}
