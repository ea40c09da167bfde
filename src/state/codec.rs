//! The encoding of rows: a version byte, then bincode with a size limit. The only place that uses `bincode`.
//!
//! Keys are encoded by hand, big-endian, so that the order of the bytes is the order of the values.

use bincode::config::{self, Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};
use bytes::Bytes;

use super::StateError;

/// Largest encoded row, in bytes. A guard against a damaged length field, not a quota.
const ROW_BYTES_MAX: usize = 64 << 20;

fn settings() -> Configuration<LittleEndian, Fixint, Limit<ROW_BYTES_MAX>> {
    config::standard().with_fixed_int_encoding().with_limit::<ROW_BYTES_MAX>()
}

/// Encodes a row as `[version][bincode]`.
///
/// # Errors
/// The row is larger than 64 MiB.
pub fn encode<T: Encode>(version: u8, row: &T) -> Result<Bytes, StateError> {
    let mut out = Vec::new();
    encode_into(version, row, &mut out)?;
    Ok(Bytes::from(out))
}

/// Like [`encode`], appending to `out`.
///
/// # Errors
/// The row is larger than 64 MiB; a part of it has been written.
pub fn encode_into<T: Encode>(version: u8, row: &T, out: &mut Vec<u8>) -> Result<(), StateError> {
    out.push(version);
    bincode::encode_into_std_write(row, out, settings()).map_err(|e| StateError(format!("encode: {e}")))?;
    Ok(())
}

/// Reads what [`encode`] wrote. Every byte must be used.
///
/// # Errors
/// The version is another one, the bytes do not decode, or some are left over.
pub fn decode<T: Decode<()>>(version: u8, bytes: &[u8]) -> Result<T, StateError> {
    let (found, body) = bytes.split_first().ok_or_else(|| StateError("decode: empty row".into()))?;
    if *found != version {
        return Err(StateError(format!("decode: row has format {found}, this program reads {version}")));
    }
    let (row, used) =
        bincode::decode_from_slice(body, settings()).map_err(|e| StateError(format!("decode: {e}")))?;
    if used != body.len() {
        return Err(StateError(format!("decode: {} bytes left over", body.len() - used)));
    }
    Ok(row)
}

/// A signed number as 8 bytes that sort as the numbers do.
#[must_use]
pub fn ordered_i64(n: i64) -> [u8; 8] {
    (n.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

/// Reads [`ordered_i64`].
#[must_use]
pub fn read_ordered_i64(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_whole_or_refused() {
        let bytes = encode(1, &(7u64, String::from("x"))).expect("encodes");
        assert_eq!(decode::<(u64, String)>(1, &bytes).expect("decodes"), (7, "x".into()));
        assert!(decode::<(u64, String)>(2, &bytes).is_err(), "other version");
        assert!(decode::<u64>(1, &bytes).is_err(), "bytes left over");
        assert!(decode::<(u64, String)>(1, &bytes[..bytes.len() - 1]).is_err(), "cut off");
        assert!(decode::<u64>(1, &[]).is_err(), "empty");
    }

    #[test]
    fn ordered_numbers_sort_as_numbers() {
        let numbers = [i64::MIN, -5, -1, 0, 1, 255, 256, i64::MAX];
        let mut bytes: Vec<_> = numbers.iter().map(|n| ordered_i64(*n)).collect();
        bytes.sort_unstable();
        let back: Vec<_> = bytes.into_iter().map(read_ordered_i64).collect();
        assert_eq!(back, numbers);
    }
}
