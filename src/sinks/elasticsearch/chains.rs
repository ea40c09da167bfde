//! Rows of one batch by their ids: which of them is sent, and what its answer says about the others.

use std::collections::HashMap;

/// What a row does, as far as it matters to other rows of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    /// Puts its document in place of any other, or deletes it.
    Replaces,
    /// The same, where its version is greater.
    ReplacesOlder(i64),
    /// Puts its document where there is none.
    Creates,
}

/// The rows without an answer, by id, each list in the order of the batch.
pub(super) struct Chains {
    lists: Vec<Vec<(usize, Does)>>,
}

impl Chains {
    /// Of rows with their ids (with their index), in the order of the batch.
    pub(super) fn new<'a>(rows: impl IntoIterator<Item = ((&'a str, &'a str), Does)>) -> Chains {
        let mut places: HashMap<(&str, &str), usize> = HashMap::new();
        let mut lists: Vec<Vec<(usize, Does)>> = Vec::new();
        for (at, (id, does)) in rows.into_iter().enumerate() {
            let place = *places.entry(id).or_insert(lists.len());
            if place == lists.len() {
                lists.push(Vec::new());
            }
            lists[place].push((at, does));
        }
        Chains { lists }
    }

    /// The rows to send next, one for each id, in the order of the batch.
    pub(super) fn next(&self) -> Vec<usize> {
        let mut rows: Vec<usize> = self.lists.iter().filter_map(|list| decides(list)).collect();
        rows.sort_unstable();
        rows
    }

    /// A row that was sent is done: the rows that have an answer by that, itself among them.
    pub(super) fn done(&mut self, row: usize) -> Vec<usize> {
        let Some(list) = self.lists.iter_mut().find(|list| list.iter().any(|(at, _)| *at == row)) else {
            return Vec::new();
        };
        let creates = list.iter().any(|(at, does)| *at == row && *does == Does::Creates);
        let settled = match creates {
            // Those that follow find it there; a deletion among them makes room for the next.
            true => list.iter().take_while(|(at, does)| *at <= row || *does == Does::Creates).count(),
            false => list.iter().take_while(|(at, _)| *at <= row || !follows_a_create(list)).count(),
        };
        list.drain(..settled).map(|(at, _)| at).collect()
    }

    /// A row that was sent is refused: the others of its id go on without it.
    pub(super) fn refused(&mut self, row: usize) {
        for list in &mut self.lists {
            list.retain(|(at, _)| *at != row);
        }
    }
}

/// Whether rows have to be sent one after the other.
fn follows_a_create(list: &[(usize, Does)]) -> bool {
    list.iter().any(|(_, does)| *does == Does::Creates)
}

/// The row that decides what becomes of an id: the last, or the first of those with the greatest version; where rows create,
/// each in its turn.
fn decides(list: &[(usize, Does)]) -> Option<usize> {
    if follows_a_create(list) {
        return list.first().map(|(at, _)| *at);
    }
    let version = |does: &Does| match does {
        Does::ReplacesOlder(version) => Some(*version),
        Does::Replaces | Does::Creates => None,
    };
    let greatest = list.iter().filter_map(|(_, does)| version(does)).max();
    match greatest {
        Some(greatest) => list.iter().find(|(_, does)| version(does) == Some(greatest)).map(|(at, _)| *at),
        None => list.last().map(|(at, _)| *at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a batch: `id` and what it does for each row (`a=` replaces, `a7` by version, `a+` creates, `a-` deletes beside
    /// creates); rows named in `bad` are refused. What is sent in each round, and what each settles.
    fn check(rows: &str, bad: &[usize], expected: &str) {
        let parsed: Vec<(&str, Does)> = rows
            .split(' ')
            .map(|row| {
                let (id, does) = row.split_at(1);
                let does = match does {
                    "=" | "-" => Does::Replaces,
                    "+" => Does::Creates,
                    version => Does::ReplacesOlder(version.parse().expect("a version")),
                };
                (id, does)
            })
            .collect();
        let mut chains = Chains::new(parsed.iter().map(|(id, does)| (("i", *id), *does)));
        let (mut seen, mut answered) = (Vec::new(), Vec::new());
        loop {
            let sent = chains.next();
            if sent.is_empty() {
                break;
            }
            let mut round = Vec::new();
            for row in sent {
                if bad.contains(&row) {
                    chains.refused(row);
                    answered.push(row);
                    round.push(format!("{row}!"));
                } else {
                    let settled = chains.done(row);
                    round.push(format!("{row}{settled:?}"));
                    answered.extend(settled);
                }
            }
            seen.push(round.join(" "));
        }
        assert_eq!(seen.join("; "), expected, "{rows}");
        answered.sort_unstable();
        assert_eq!(answered, (0..parsed.len()).collect::<Vec<_>>(), "every row once: {rows}");
    }

    #[test]
    fn the_row_that_decides_answers_for_the_others() {
        check("a= b= c=", &[], "0[0] 1[1] 2[2]");
        check("a= b= a= a=", &[], "1[1] 3[0, 2, 3]");
        check("a= b= a= a=", &[3], "1[1] 3!; 2[0, 2]");
        check("a= a=", &[0, 1], "1!; 0!");
        // The first of the greatest version: the next one finds it there.
        check("a1 a3 a2 a3", &[], "1[0, 1, 2, 3]");
        check("a1 a3 a2 a3", &[1], "1!; 3[0, 2, 3]");
        check("a1 a3 a2 a3", &[1, 3], "1!; 3!; 2[0, 2]");
        // One after the other, except those that find a document there.
        check("a+ a+ a- a+ a+", &[], "0[0, 1]; 2[2]; 3[3, 4]");
        check("a+ a+ a-", &[0], "0!; 1[1]; 2[2]");
    }
}
