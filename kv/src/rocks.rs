//! RocksDB with the settings that durability depends on.

use holdfast_core::kv::{Batch, Durability, KvError, Store, View, Visit};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRecoveryMode, ErrorKind, Options, ReadOptions, SnapshotWithThreadMode, WriteBatch, WriteOptions,
};
use std::{ops::ControlFlow, path::Path, sync::Arc};

/// How much memory and how many files a database may use.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    pub block_cache_bytes: usize,
    /// Bytes of recent writes that each family keeps in memory before they are sorted onto the disk.
    pub memtable_bytes: usize,
    pub open_files: i32,
    pub background_jobs: i32,
}

/// A RocksDB database of named families that share one write-ahead log: their writes survive a crash as one prefix.
#[derive(Clone)]
pub struct Database {
    db: Arc<DB>,
}

/// A family of a database: a sorted map of its own.
#[derive(Clone)]
pub struct Family {
    db: Arc<DB>,
    name: &'static str,
}

/// A family as it stood at one instant.
pub struct Snapshot<'a> {
    family: &'a Family,
    snapshot: SnapshotWithThreadMode<'a, DB>,
}

fn failed(what: &str) -> impl FnOnce(rocksdb::Error) -> KvError + '_ {
    move |error| {
        let text = format!("{what}: {error}");
        if error.kind() == ErrorKind::Corruption { KvError::Damaged(text) } else { KvError::Storage(text) }
    }
}

fn options(tuning: &Tuning, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_bloom_filter(10.0, false);
    // Filters and indexes are cut into blocks like data: the one filter of a large file does not fit a shard of the
    // cache, and would be read and hashed as a whole for every lookup.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(8 << 10);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_top_level_index_and_filter(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_block_size(16 << 10);
    table.set_format_version(5);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_block_based_table_factory(&table);
    // What is damaged is an error, never skipped. A torn tail of the log was not acknowledged; what was, callers know
    // from a watermark of their own.
    options.set_paranoid_checks(true);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_write_buffer_size(tuning.memtable_bytes);
    // Most lookups of a request are for records that plain objects do not have: the table in memory need not be searched for them.
    options.set_memtable_prefix_bloom_ratio(0.05);
    options.set_memtable_whole_key_filtering(true);
    options.set_max_write_buffer_number(3);
    options.set_max_open_files(tuning.open_files);
    options.set_max_background_jobs(tuning.background_jobs);
    options.set_max_total_wal_size(4 * tuning.memtable_bytes as u64);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_keep_log_file_num(2);
    options.set_bytes_per_sync(1 << 20);
    options
}

impl Database {
    /// Opens or makes a database with `families`.
    ///
    /// # Errors
    /// Where it is damaged, in use, or the disk fails. The message is for the operator.
    pub fn open(path: &Path, tuning: &Tuning, families: &[&'static str]) -> Result<Self, KvError> {
        let cache = Cache::new_lru_cache(tuning.block_cache_bytes);
        let options = options(tuning, &cache);
        let descriptors = families
            .iter()
            .map(|name| ColumnFamilyDescriptor::new(*name, options.clone()))
            .collect::<Vec<_>>();
        let db = DB::open_cf_descriptors(&options, path, descriptors)
            .map_err(failed(&format!("opening {}", path.display())))?;
        Ok(Self { db: Arc::new(db) })
    }

    pub fn family(&self, name: &'static str) -> Family {
        assert!(self.db.cf_handle(name).is_some(), "the database was opened with its families");
        Family { db: self.db.clone(), name }
    }

    /// Makes every write so far durable.
    ///
    /// # Errors
    /// Where the disk fails; nothing may be written afterwards.
    pub fn sync(&self) -> Result<(), KvError> {
        self.db.flush_wal(true).map_err(failed("syncing the write-ahead log"))
    }

    /// Reads every block of every file and checks its checksum.
    ///
    /// # Errors
    /// At the first damaged block.
    pub fn verify(&self) -> Result<(), KvError> {
        for name in DB::list_cf(&Options::default(), self.db.path()).map_err(failed("listing families"))? {
            let Some(family) = self.db.cf_handle(&name) else { continue };
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            options.set_readahead_size(2 << 20);
            let mut iterator = self.db.raw_iterator_cf_opt(family, options);
            iterator.seek_to_first();
            while iterator.valid() {
                iterator.next();
            }
            iterator.status().map_err(failed("verifying"))?;
        }
        Ok(())
    }

    /// Bytes in the database's table files.
    pub fn table_bytes(&self) -> u64 {
        self.db.live_files().map_or(0, |files| files.iter().map(|file| file.size as u64).sum())
    }
}

impl Family {
    fn handle(&self) -> &rocksdb::ColumnFamily {
        self.db.cf_handle(self.name).expect("families are never dropped")
    }

    /// The family as it is now, unmoved by later writes.
    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot { family: self, snapshot: self.db.snapshot() }
    }

    /// Removes everything. Durable with the next synced write.
    ///
    /// # Errors
    /// Where the disk fails; nothing may be written afterwards.
    pub fn clear(&self) -> Result<(), KvError> {
        let mut first = None;
        self.scan(&[], &[0xff; 64], &mut |key, _| {
            first = Some(key.to_vec());
            ControlFlow::Break(())
        })?;
        if first.is_none() {
            return Ok(());
        }
        let mut writes = WriteBatch::default();
        writes.delete_range_cf(self.handle(), [].as_slice(), &[0xff; 64]);
        self.db.write(writes).map_err(failed("clearing"))
    }

    fn scan_with(
        &self,
        mut options: ReadOptions,
        start: &[u8],
        end: &[u8],
        visit: Visit<'_>,
    ) -> Result<(), KvError> {
        if start >= end {
            return Ok(());
        }
        options.set_iterate_upper_bound(end);
        let mut iterator = self.db.raw_iterator_cf_opt(self.handle(), options);
        iterator.seek(start);
        while let Some((key, value)) = iterator.item() {
            if visit(key, value).is_break() {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(failed("scanning"))
    }

    fn get_many_with(
        &self,
        options: &ReadOptions,
        keys: &[Vec<u8>],
    ) -> Result<Vec<Option<Vec<u8>>>, KvError> {
        self.db
            .batched_multi_get_cf_opt(self.handle(), keys, false, options)
            .into_iter()
            .map(|found| found.map(|value| value.map(|bytes| bytes.to_vec())).map_err(failed("reading")))
            .collect()
    }
}

impl View for Family {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.db.get_cf(self.handle(), key).map_err(failed("reading"))
    }

    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, KvError> {
        self.get_many_with(&ReadOptions::default(), keys)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: Visit<'_>) -> Result<(), KvError> {
        self.scan_with(ReadOptions::default(), start, end, visit)
    }
}

impl Store for Family {
    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), KvError> {
        let handle = self.handle();
        let mut writes = WriteBatch::default();
        for (key, value) in batch.iter() {
            match value {
                Some(value) => writes.put_cf(handle, key, value),
                None => writes.delete_cf(handle, key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Synced);
        self.db.write_opt(writes, &options).map_err(failed("writing"))
    }
}

impl Snapshot<'_> {
    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        options
    }
}

impl View for Snapshot<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.snapshot.get_cf(self.family.handle(), key).map_err(failed("reading"))
    }

    fn get_many(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, KvError> {
        self.family.get_many_with(&self.options(), keys)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: Visit<'_>) -> Result<(), KvError> {
        self.family.scan_with(self.options(), start, end, visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::kv::conformance;

    const TUNING: Tuning =
        Tuning { block_cache_bytes: 1 << 20, memtable_bytes: 1 << 20, open_files: 64, background_jobs: 1 };

    #[test]
    fn rocksdb_conforms() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut made = 0;
        conformance::check(&mut || {
            made += 1;
            let path = dir.path().join(made.to_string());
            Database::open(&path, &TUNING, &["a", "b"]).expect("a database").family("a")
        });
    }

    #[test]
    fn a_snapshot_does_not_move() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let family = Database::open(dir.path(), &TUNING, &["a"]).expect("a database").family("a");
        let mut batch = Batch::default();
        batch.put(b"k".to_vec(), b"1".to_vec());
        family.write(&batch, Durability::Buffered).expect("a write");
        let snapshot = family.snapshot();
        batch.put(b"k".to_vec(), b"2".to_vec());
        family.write(&batch, Durability::Buffered).expect("a write");
        assert_eq!(snapshot.get(b"k").expect("a read"), Some(b"1".to_vec()));
        assert_eq!(snapshot.get_many(&[b"k".to_vec()]).expect("a read"), [Some(b"1".to_vec())]);
        assert_eq!(family.get(b"k").expect("a read"), Some(b"2".to_vec()));
    }

    #[test]
    fn a_family_is_cleared_and_its_snapshots_are_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let database = Database::open(dir.path(), &TUNING, &["a", "b"]).expect("a database");
        let (one, other) = (database.family("a"), database.family("b"));
        let mut batch = Batch::default();
        batch.put(b"k".to_vec(), b"1".to_vec());
        one.write(&batch, Durability::Buffered).expect("a write");
        other.write(&batch, Durability::Buffered).expect("a write");
        let snapshot = one.snapshot();
        one.clear().expect("a write");
        assert_eq!(one.get(b"k").expect("a read"), None);
        assert_eq!(other.get(b"k").expect("a read"), Some(b"1".to_vec()));
        assert_eq!(snapshot.get(b"k").expect("a read"), Some(b"1".to_vec()));
    }

    /// The settings as RocksDB itself wrote them down.
    #[test]
    fn damage_is_never_skipped() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        drop(Database::open(dir.path(), &TUNING, &["a"]).expect("a database"));
        let written = std::fs::read_dir(dir.path())
            .expect("a listing")
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.to_string_lossy().contains("OPTIONS"))
            .map(|path| std::fs::read_to_string(path).expect("an options file"))
            .collect::<String>();
        for setting in
            ["paranoid_checks=true", "wal_recovery_mode=kPointInTimeRecovery", "verify_compression=false"]
        {
            assert!(written.contains(setting), "{setting} is not in force");
        }
        assert!(written.contains("paranoid_file_checks") && !written.contains("unordered_write=true"));
    }
}
