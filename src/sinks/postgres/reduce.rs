//! The rows of a batch as the fewest statements that leave the table as the rows in their order would.
//!
//! Pure. Rows of one key are reduced to one, and a statement never has a key twice (the server refuses that). Rows are
//! sorted by their keys, so that two lanes that write the same ones wait for each other instead of locking each other out.
//! Where reducing would lose something, the batch is cut into rounds, one after the other:
//!
//! - a row that is written after its key was deleted: a delete also forgets the columns that are not written;
//! - with `newer_wins`, rows whose versions only the server can compare (text, numbers without bound).

use std::cmp::Ordering;
use std::collections::HashMap;

use super::Conflict;
use super::schema::Encoded;

/// Statements that may go in any order: their keys are disjoint.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Round<'a> {
    /// Rows to be removed, sorted by key.
    pub(super) deletes: Vec<&'a Encoded>,
    /// Rows to be written, sorted by key.
    pub(super) writes: Vec<&'a Encoded>,
}

/// Reduces a batch. `newer` is the cell of `newer_wins`; without a key nothing is reduced.
pub(super) fn rounds<'a>(
    rows: &'a [Encoded],
    keyed: bool,
    conflict: Conflict,
    newer: Option<usize>,
) -> Vec<Round<'a>> {
    if !keyed {
        return vec![Round { deletes: Vec::new(), writes: rows.iter().collect() }];
    }
    let mut done = Vec::new();
    // Of each key the rows that are left: one, or with `fail` every row.
    let mut open: HashMap<&[u8], Vec<&Encoded>> = HashMap::new();
    for row in rows {
        let of_key = open.entry(&row.key).or_default();
        match of_key.last().map(|last| next(last, row, conflict, newer)) {
            None | Some(Next::Beside) => of_key.push(row),
            Some(Next::Instead) => *of_key = vec![row],
            Some(Next::Nothing) => {}
            Some(Next::Later) => {
                done.push(close(std::mem::take(&mut open)));
                open.insert(&row.key, vec![row]);
            }
        }
    }
    done.push(close(open));
    done.retain(|round| !(round.deletes.is_empty() && round.writes.is_empty()));
    done
}

/// What becomes of a row that comes behind another of its key.
enum Next {
    /// It is written in place of that one.
    Instead,
    /// That one stands, whatever this one says.
    Nothing,
    /// Both are sent, in their order.
    Beside,
    /// It is written in the next round.
    Later,
}

fn next(last: &Encoded, row: &Encoded, conflict: Conflict, newer: Option<usize>) -> Next {
    match (last.delete, row.delete, conflict) {
        (true, false, _) => Next::Later,
        // The server decides between versions: a delete of an older one removes nothing.
        (false, true, Conflict::Upsert) if newer.is_some() => Next::Later,
        (true, true, _) if newer.is_some() => Next::Later,
        (_, true, _) => Next::Instead,
        (false, false, Conflict::Keep) => Next::Nothing,
        (false, false, Conflict::Fail) => Next::Beside,
        (false, false, Conflict::Upsert) => match newer {
            None => Next::Instead,
            Some(at) => match row.cells[at].compare(&last.cells[at]) {
                Some(Ordering::Greater) => Next::Instead,
                Some(Ordering::Equal | Ordering::Less) => Next::Nothing,
                None => Next::Later,
            },
        },
    }
}

fn close<'a>(open: HashMap<&[u8], Vec<&'a Encoded>>) -> Round<'a> {
    let mut all: Vec<&Encoded> = open.into_values().flatten().collect();
    all.sort_unstable_by(|a, b| (&a.key, a.at).cmp(&(&b.key, b.at)));
    let (deletes, writes) = all.into_iter().partition(|row| row.delete);
    Round { deletes, writes }
}

#[cfg(test)]
mod tests {
    use super::super::encode::Cell;
    use super::*;

    /// Rows as `key=version`, or `key-version` for a delete; the rounds as `deletes|writes`, each row by its place.
    #[track_caller]
    fn check(rows: &str, conflict: Conflict, newer: Option<usize>, expected: &str) {
        let version = |text: &str| match text.parse() {
            Ok(n) => Cell::Int(n),
            Err(_) => Cell::Text(text.to_owned()),
        };
        let encoded: Vec<Encoded> = rows
            .split(' ')
            .enumerate()
            .map(|(at, row)| {
                let delete = row.contains('-');
                let (key, rest) = row.split_once(['=', '-']).expect("key=version");
                Encoded { at, delete, cells: vec![version(rest)], key: key.as_bytes().to_vec() }
            })
            .collect();
        let list =
            |rows: &[&Encoded]| rows.iter().map(|row| row.at.to_string()).collect::<Vec<_>>().join(",");
        let got = rounds(&encoded, true, conflict, newer);
        let got: Vec<String> =
            got.iter().map(|round| format!("{}|{}", list(&round.deletes), list(&round.writes))).collect();
        assert_eq!(got.join(" "), expected, "{rows}");
    }

    #[test]
    fn rows_of_a_key_are_one_and_keys_are_sorted() {
        check("b=1 a=1 b=2", Conflict::Upsert, None, "|1,2");
        check("b=1 a=1 b=2", Conflict::Keep, None, "|1,0");
        check("b=1 a=1 b=2", Conflict::Fail, None, "|1,0,2");
    }

    #[test]
    fn a_delete_removes_what_was_before_it_and_comes_before_what_is_behind() {
        check("a=1 a-", Conflict::Upsert, None, "0|".replace('0', "1").as_str());
        check("a- a=1", Conflict::Upsert, None, "0| |1");
        check("a=1 a- a=2 b=1", Conflict::Keep, None, "1| |3".replace("1| |3", "1| |2,3").as_str());
        check("a- b=1", Conflict::Upsert, None, "0|1");
        check("a- a-", Conflict::Upsert, None, "1|");
    }

    #[test]
    fn the_newest_is_left_and_the_server_decides_where_it_must() {
        check("a=2 a=1 a=3 a=3", Conflict::Upsert, Some(0), "|2");
        check("a=x a=y", Conflict::Upsert, Some(0), "|0 |1");
        check("a=2 a-1", Conflict::Upsert, Some(0), "|0 1|");
        check("a-2 a-1", Conflict::Upsert, Some(0), "0| 1|");
    }

    #[test]
    fn without_a_key_every_row_is_written() {
        let rows: Vec<Encoded> =
            (0..3).map(|at| Encoded { at, delete: false, cells: vec![], key: vec![] }).collect();
        let got = rounds(&rows, false, Conflict::Fail, None);
        assert_eq!(got.iter().map(|round| round.writes.len()).collect::<Vec<_>>(), [3]);
    }
}
