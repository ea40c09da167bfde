//! The row that one pending entry is on disk and in the changelog. The key is not in it: it is the row's key.
//!
//! Called by `table.rs` when a checkpoint is taken and when one is restored. All numbers big-endian:
//!
//! ```text
//! version u8 = 1 or 2 | flags u8 | count u32 | first i64 | last i64 | first_ts i64 | last_ts i64 | extra_len u32 | value_len u32 | extra | value
//! ```
//!
//! Flags: 1 = the value is null (then `value_len` is 0); all others must be 0. Version 2 is written where one of the
//! headers in `extra` is null, which version 1 does not know. A change of the format is a new version, a new fixture
//! below, and a decoder that still reads the old ones.

use std::fmt;

use super::headers;

/// The version that is written.
pub const VERSION: u8 = 1;
/// The version that is written where a header is null.
pub const VERSION_NULLS: u8 = 2;
/// Bytes before `extra`.
pub const HEADER_BYTES: usize = 46;

const NULL: u8 = 1;

/// One pending entry, without its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// Events folded, at most the largest `u32`. 0: all of them were fired at `max_wait` already, and the entry fires
    /// once more when the key is quiet.
    pub count: u32,
    /// The time from which the first event counts, milliseconds.
    pub first: i64,
    /// The latest time from which any event counts.
    pub last: i64,
    /// The first event's own timestamp.
    pub first_ts: i64,
    /// The last event's own timestamp.
    pub last_ts: i64,
    /// The operator's own bytes (a record's headers).
    pub extra: &'a [u8],
    /// The folded value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
}

/// The bytes are not a valid row.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RowError {
    /// Written by a newer slackwater, or not by slackwater.
    #[error("a debounce row of version {0}; this build reads versions {VERSION} and {VERSION_NULLS}")]
    Version(u8),
    /// Truncated, too long, or with impossible numbers.
    #[error("a damaged debounce row: {0}")]
    Damaged(&'static str),
}

impl Row<'_> {
    /// Appends the row's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let value = self.value.unwrap_or_default();
        let mut header = [0; HEADER_BYTES];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            header[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        let version = if headers::has_null(self.extra) { VERSION_NULLS } else { VERSION };
        put(&[version, if self.value.is_none() { NULL } else { 0 }]);
        put(&self.count.to_be_bytes());
        put(&self.first.to_be_bytes());
        put(&self.last.to_be_bytes());
        put(&self.first_ts.to_be_bytes());
        put(&self.last_ts.to_be_bytes());
        put(&length(self.extra).to_be_bytes());
        put(&length(value).to_be_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(self.extra);
        out.extend_from_slice(value);
    }

    /// How many bytes [`Row::encode`] appends.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        HEADER_BYTES + self.extra.len() + self.value.map_or(0, <[u8]>::len)
    }

    /// Reads a row; every byte is accounted for.
    ///
    /// # Errors
    /// Another version, or bytes that no encoder wrote.
    pub fn decode(bytes: &[u8]) -> Result<Row<'_>, RowError> {
        let &version = bytes.first().ok_or(RowError::Damaged("empty"))?;
        if !matches!(version, VERSION | VERSION_NULLS) {
            return Err(RowError::Version(version));
        }
        let (header, body) =
            bytes.split_first_chunk::<HEADER_BYTES>().ok_or(RowError::Damaged("cut off in its header"))?;
        let u32_at = |at: usize| {
            let mut n = [0; 4];
            n.copy_from_slice(&header[at..at + 4]);
            u32::from_be_bytes(n)
        };
        let i64_at = |at: usize| {
            let mut n = [0; 8];
            n.copy_from_slice(&header[at..at + 8]);
            i64::from_be_bytes(n)
        };
        let flags = header[1];
        let (extra_len, value_len) = (u32_at(38) as usize, u32_at(42) as usize);
        if flags & !NULL != 0 {
            return Err(RowError::Damaged("unknown flags"));
        }
        if body.len() != extra_len.saturating_add(value_len) {
            return Err(RowError::Damaged("its length does not match its header"));
        }
        if flags & NULL != 0 && value_len != 0 {
            return Err(RowError::Damaged("a null value with bytes"));
        }
        let (extra, value) = body.split_at(extra_len);
        let row = Row {
            count: u32_at(2),
            first: i64_at(6),
            last: i64_at(14),
            first_ts: i64_at(22),
            last_ts: i64_at(30),
            extra,
            value: (flags & NULL == 0).then_some(value),
        };
        if row.last < row.first {
            return Err(RowError::Damaged("last before first"));
        }
        Ok(row)
    }
}

/// A length as the row stores it. Kafka's records are under 2 GiB, so every length fits.
pub(super) fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a record is under 4 GiB")
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.map_or("null".into(), String::from_utf8_lossy);
        write!(f, "{} events, {} to {}: {value}", self.count, self.first_ts, self.last_ts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: Row<'_> = Row {
        count: 3,
        first: 1_700_000_000_000,
        last: 1_700_000_000_500,
        first_ts: -1,
        last_ts: 258,
        extra: b"hh",
        value: Some(b"val"),
    };

    /// Never edit: rows on users' disks have this format.
    const FIXTURE_V1: &[u8] = &[
        1, 0, 0, 0, 0, 3, // version, flags, count
        0x00, 0x00, 0x01, 0x8b, 0xcf, 0xe5, 0x68, 0x00, // first
        0x00, 0x00, 0x01, 0x8b, 0xcf, 0xe5, 0x69, 0xf4, // last
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // first_ts
        0, 0, 0, 0, 0, 0, 1, 2, // last_ts
        0, 0, 0, 2, 0, 0, 0, 3, // lengths
        b'h', b'h', b'v', b'a', b'l',
    ];

    #[test]
    fn version_1_is_written_and_read_as_on_users_disks() {
        let mut bytes = Vec::new();
        ROW.encode(&mut bytes);
        assert_eq!(bytes, FIXTURE_V1);
        assert_eq!(bytes.len(), ROW.encoded_len());
        assert_eq!(Row::decode(FIXTURE_V1), Ok(ROW));
        let null = Row { value: None, extra: b"", ..ROW };
        bytes.clear();
        null.encode(&mut bytes);
        assert_eq!(bytes.len(), HEADER_BYTES);
        assert_eq!(bytes[1], 1);
        assert_eq!(Row::decode(&bytes), Ok(null));
    }

    /// Never edit: this is what lies on users' disks.
    #[test]
    fn version_2_has_null_headers() {
        let row = Row { extra: &[0, 1, b'n', 0xff, 0xff, 0xff, 0xff], ..ROW };
        let mut bytes = Vec::new();
        row.encode(&mut bytes);
        let fixture = [
            &[2][..],
            &FIXTURE_V1[1..38],
            &[0, 0, 0, 7, 0, 0, 0, 3, 0, 1, b'n', 0xff, 0xff, 0xff, 0xff, b'v', b'a', b'l'],
        ];
        assert_eq!(bytes, fixture.concat());
        assert_eq!(Row::decode(&bytes), Ok(row));
    }

    #[test]
    fn damaged_rows_are_refused() {
        let changed = |at: usize, to: u8| {
            let mut bytes = FIXTURE_V1.to_vec();
            bytes[at] = to;
            bytes
        };
        let damaged = RowError::Damaged;
        for (bytes, error) in [
            (vec![], damaged("empty")),
            (changed(0, 3), RowError::Version(3)),
            (changed(0, 0), RowError::Version(0)),
            (changed(1, 2), damaged("unknown flags")),
            (changed(1, 1), damaged("a null value with bytes")),
            (changed(7, 0xff), damaged("last before first")),
            (changed(38, 0xff), damaged("its length does not match its header")),
            (changed(45, 2), damaged("its length does not match its header")),
            (FIXTURE_V1[..45].to_vec(), damaged("cut off in its header")),
            ([FIXTURE_V1, b"x"].concat(), damaged("its length does not match its header")),
        ] {
            assert_eq!(Row::decode(&bytes), Err(error), "{bytes:?}");
        }
        for cut in 0..FIXTURE_V1.len() {
            assert!(Row::decode(&FIXTURE_V1[..cut]).is_err(), "{cut}");
        }
    }
}
