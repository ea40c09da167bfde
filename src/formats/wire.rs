//! Confluent's wire format: `0`, the schema's id in four bytes, big-endian, then the data. Protobuf data has the index of
//! its message before it: how many numbers, then the way down through the nested messages, all as zigzag varints; a
//! single `0` stands for the first message.
//!
//! Source: Confluent's documentation, "Formats, Serializers, and Deserializers", section "Wire format".

/// Bytes before the data.
pub(super) const HEADER: usize = 5;
/// No message is nested deeper.
const DEPTH_MAX: usize = 32;

/// Splits off the schema's id.
pub(super) fn split(bytes: &[u8]) -> Result<(u32, &[u8]), String> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(format!("{} bytes are too few for a schema id: 5 come before the data", bytes.len()));
    };
    if head[0] != 0 {
        return Err(format!("the first byte is {}, not 0: no schema id comes before the data", head[0]));
    }
    Ok((u32::from_be_bytes([head[1], head[2], head[3], head[4]]), rest))
}

/// The bytes before the data: `0` and the id.
pub(super) fn header(id: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.push(0);
    out.extend_from_slice(&id.to_be_bytes());
    out
}

/// Splits off the path to a Protobuf message.
pub(super) fn split_path(bytes: &[u8]) -> Result<(Vec<usize>, &[u8]), String> {
    let (count, mut rest) = varint(bytes)?;
    if count == 0 {
        return Ok((vec![0], rest));
    }
    let count = usize::try_from(count).ok().filter(|n| *n <= DEPTH_MAX);
    let count = count.ok_or("the index of the message is no index")?;
    let mut path = Vec::with_capacity(count);
    for _ in 0..count {
        let (at, tail) = varint(rest)?;
        path.push(usize::try_from(at).map_err(|_| "the index of the message is negative".to_owned())?);
        rest = tail;
    }
    Ok((path, rest))
}

/// Writes the path to a Protobuf message.
pub(super) fn put_path(path: &[usize], out: &mut Vec<u8>) {
    if path == [0] {
        out.push(0);
        return;
    }
    for n in std::iter::once(path.len()).chain(path.iter().copied()) {
        // Zigzag encoding of a number that is never negative.
        let mut left = (n as u64) << 1;
        while left >= 0x80 {
            out.push(left.to_le_bytes()[0] | 0x80);
            left >>= 7;
        }
        out.push(left.to_le_bytes()[0]);
    }
}

fn varint(bytes: &[u8]) -> Result<(i64, &[u8]), String> {
    let mut value = 0u64;
    for (n, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            let zigzag = i64::from_ne_bytes((value >> 1).to_ne_bytes()) ^ -i64::from(value & 1 == 1);
            return Ok((zigzag, &bytes[n + 1..]));
        }
    }
    Err("the index of the message ends too early".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_a_zero_and_the_id() {
        assert_eq!(header(258), [0, 0, 0, 1, 2]);
        assert_eq!(split(&[0, 0, 0, 1, 2, 9, 8]), Ok((258, [9, 8].as_slice())));
        assert_eq!(split(&[0, 0, 0, 0, 7]), Ok((7, [].as_slice())));
        assert!(split(&[0, 0, 0, 7]).is_err_and(|e| e.contains("too few")));
        assert!(split(b"{\"a\":1}").is_err_and(|e| e.contains("123")));
    }

    #[test]
    fn the_way_to_a_message_is_zigzag() {
        let check = |path: &[usize], bytes: &[u8]| {
            let mut out = Vec::new();
            put_path(path, &mut out);
            assert_eq!(out, bytes, "{path:?}");
            out.push(0x55);
            assert_eq!(split_path(&out), Ok((path.to_vec(), [0x55].as_slice())));
        };
        // From the wire format's documentation: [0] is written as one 0, [1, 0] as 2, 1, 0, all in zigzag.
        check(&[0], &[0]);
        check(&[1], &[2, 2]);
        check(&[1, 0], &[4, 2, 0]);
        check(&[100], &[2, 0xc8, 1]);
        // [0] written in full is accepted too.
        assert_eq!(split_path(&[2, 0, 9]), Ok((vec![0], [9].as_slice())));
        assert!(split_path(&[]).is_err() && split_path(&[2]).is_err() && split_path(&[1, 9]).is_err());
        assert!(split_path(&[0xff; 12]).is_err() && split_path(&[200, 1]).is_err());
    }
}
