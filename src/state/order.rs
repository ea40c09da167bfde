//! Sorts many keys by their order as bytes.
//!
//! Keys lie far apart in memory and often share a long prefix, so comparing two costs two cache misses and a walk over
//! the shared prefix. This sort skips the shared prefix and compares the next 8 bytes as one number, which it keeps
//! beside the key's index, and so rarely touches the keys themselves.

/// How many bytes of a key are compared at a time.
const HEAD: usize = 8;
/// Fewer keys than this are compared directly.
const FEW: usize = 16;
/// After so many rounds of skipping and comparing, what remains of the keys is compared directly.
const PARTS: usize = 16;

/// The numbers `0..n` sorted by their keys; numbers with equal keys stay in order. `n` must be below 2^32.
#[must_use]
pub fn order<'k>(n: usize, key: impl Fn(usize) -> &'k [u8]) -> Vec<u32> {
    let n = u32::try_from(n).expect("fewer than 4 Gi keys are sorted");
    let mut keys: Vec<(u64, u32)> = (0..n).map(|n| (0, n)).collect();
    sort(&mut keys, 0, PARTS, &|n: u32| key(n as usize));
    keys.into_iter().map(|(_, n)| n).collect()
}

/// Sorts keys whose first `skip` bytes are equal.
fn sort<'k>(keys: &mut [(u64, u32)], skip: usize, parts: usize, key: &impl Fn(u32) -> &'k [u8]) {
    let rest = |n: u32| &key(n)[skip..];
    let by_key = |a: &(u64, u32), b: &(u64, u32)| rest(a.1).cmp(rest(b.1)).then(a.1.cmp(&b.1));
    if keys.len() < FEW || parts == 0 {
        keys.sort_unstable_by(by_key);
        return;
    }
    let first = rest(keys[0].1);
    let alike = |known: usize, n: u32| {
        let (a, b) = (&first[..known], rest(n));
        if b.starts_with(a) { known } else { a.iter().zip(b).take_while(|(a, b)| a == b).count() }
    };
    let common = keys[1..].iter().fold(first.len(), |known, (_, n)| alike(known, *n));
    for (head, n) in keys.iter_mut() {
        *head = head_of(&rest(*n)[common..]);
    }
    keys.sort_unstable_by_key(|(head, _)| *head);
    let next = skip + common + HEAD;
    for same in keys.chunk_by_mut(|a, b| a.0 == b.0).filter(|same| same.len() > 1) {
        // Zeros may be padding behind a key that has ended, or part of a longer key; only the keys themselves can tell.
        if same.iter().any(|(_, n)| key(*n).len() < next) {
            same.sort_unstable_by(by_key);
        } else {
            sort(same, next, parts - 1, key);
        }
    }
}

fn head_of(rest: &[u8]) -> u64 {
    let head = rest.first_chunk::<HEAD>().copied().unwrap_or_else(|| {
        let mut head = [0; HEAD];
        head[..rest.len()].copy_from_slice(rest);
        head
    });
    u64::from_be_bytes(head)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys as they occur: long shared prefixes, one key a prefix of another, zeros at the end.
    pub(in crate::state) fn keys() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let part = prop_oneof![
            Just(b"account-0000000000".to_vec()),
            Just(vec![0]),
            Just(vec![0; 9]),
            Just(vec![0xff; 3]),
            prop::collection::vec(any::<u8>(), 0..12),
            prop::collection::vec(0..2u8, 0..20),
        ];
        let key = prop::collection::vec(part, 0..5).prop_map(|parts| parts.concat());
        prop::collection::vec(key, 0..200)
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_the_bytes(keys in keys()) {
            let got = order(keys.len(), |n| &keys[n]);
            let mut want: Vec<u32> = (0..got.len()).map(|n| u32::try_from(n).unwrap()).collect();
            want.sort_by_key(|n| &keys[*n as usize]);
            prop_assert_eq!(got, want);
        }
    }
}
