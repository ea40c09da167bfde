//! State in RocksDB: one database per task; the block cache and the write-buffer budget are shared by the process.
//!
//! The only place that uses `rocksdb`. Its write-ahead log is written but not synced: a killed process loses nothing,
//! and a machine that loses power loses recent writes that are still in the changelog. Every write is one sorted batch.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Direction, IteratorMode, Options, ReadOptions,
    WriteBatch, WriteBufferManager, WriteOptions,
};

use super::{Backend, Row, StateError, Visit};

/// What all databases of a process share.
#[derive(Clone)]
pub struct RocksEnv {
    cache: Cache,
    buffers: WriteBufferManager,
}

impl RocksEnv {
    /// `cache_bytes` for blocks, `write_bytes` for the memtables of all databases together.
    #[must_use]
    pub fn new(cache_bytes: usize, write_bytes: usize) -> RocksEnv {
        RocksEnv {
            cache: Cache::new_lru_cache(cache_bytes),
            buffers: WriteBufferManager::new_write_buffer_manager(write_bytes, false),
        }
    }
}

/// One task's database.
pub struct RocksBackend {
    db: Arc<DB>,
}

/// The most that RocksDB adds to a row in a batch, in bytes: a tag and two lengths.
const FRAME_BYTES: usize = 11;

fn failed(what: &str, error: &rocksdb::Error) -> StateError {
    StateError(format!("RocksDB {what}: {error}"))
}

impl RocksBackend {
    /// Opens the database in `dir`, or creates it.
    ///
    /// # Errors
    /// The directory cannot be used, another process holds it, or the files are damaged.
    pub fn open(dir: &Path, env: &RocksEnv) -> Result<RocksBackend, StateError> {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&env.cache);
        blocks.set_bloom_filter(10.0, false);
        blocks.set_cache_index_and_filter_blocks(true);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&blocks);
        options.set_write_buffer_manager(&env.buffers);
        options.set_write_buffer_size(32 << 20);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_max_background_jobs(2);
        options.set_max_open_files(256);
        options.set_keep_log_file_num(2);
        let db =
            DB::open(&options, dir).map_err(|e| failed(&format!("cannot open {}", dir.display()), &e))?;
        Ok(RocksBackend { db: Arc::new(db) })
    }

    /// Opens the database in `dir` for looking at it. Nothing is written, not even what a recovery would write.
    ///
    /// # Errors
    /// There is no database, or its files are damaged.
    pub fn open_read_only(dir: &Path) -> Result<RocksBackend, StateError> {
        let db = DB::open_for_read_only(&Options::default(), dir, false)
            .map_err(|e| failed(&format!("cannot read {}", dir.display()), &e))?;
        Ok(RocksBackend { db: Arc::new(db) })
    }
}

impl Backend for RocksBackend {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        let found = self.db.get(key).map_err(|e| failed("get", &e))?;
        Ok(found.map(Bytes::from))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StateError> {
        let mut read = ReadOptions::default();
        read.set_iterate_upper_bound(to);
        for row in self.db.iterator_opt(IteratorMode::From(from, Direction::Forward), read) {
            let (key, value) = row.map_err(|e| failed("scan", &e))?;
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, rows: &[Row]) -> Result<(), StateError> {
        let bytes: usize =
            rows.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len)).sum();
        let mut batch = WriteBatch::with_capacity_bytes(bytes + rows.len() * FRAME_BYTES);
        for (key, value) in rows {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(false);
        options.set_memtable_insert_hint_per_batch(true);
        self.db.write_opt(batch, &options).map_err(|e| failed("write", &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::ControlFlow;

    #[test]
    fn rows_survive_a_reopen_and_a_second_owner_is_refused() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let env = RocksEnv::new(1 << 20, 1 << 20);
        let row = |k: &'static str, v: Option<&'static str>| (Bytes::from(k), v.map(Bytes::from));
        {
            let db = RocksBackend::open(dir.path(), &env).expect("opens");
            assert!(RocksBackend::open(dir.path(), &env).is_err(), "two owners");
            db.write(&[row("a", Some("1")), row("b", Some("2")), row("c", Some("3"))]).expect("writes");
            db.write(&[row("b", None)]).expect("writes");
        }
        let look = RocksBackend::open_read_only(dir.path()).expect("opens to look");
        assert_eq!(look.get(b"a").expect("gets"), Some(Bytes::from("1")), "also what is only in the log");
        assert!(look.write(&[row("a", None)]).is_err());
        drop(look);
        let db = RocksBackend::open(dir.path(), &env).expect("opens again");
        let mut seen = Vec::new();
        db.scan(b"a", b"c", &mut |k, v| {
            seen.push((k.to_vec(), v.to_vec()));
            ControlFlow::Continue(())
        })
        .expect("scans");
        assert_eq!(seen, vec![(b"a".to_vec(), b"1".to_vec())]);
        assert_eq!(db.get(b"c").expect("gets"), Some(Bytes::from("3")));
    }
}
