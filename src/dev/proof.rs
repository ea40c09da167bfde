//! The proof at the end of `dev`: every account's row is the account's settled state.
//!
//! It needs a call of `/accounts/{{ key }}` whose answer goes into one column of a table. Without one it has nothing to
//! compare, and says so.

use crate::dev::Accounts;
use crate::model::{Json, Timestamp, same};
use crate::sinks::TableSink;
use crate::sinks::columns::Column;
use crate::topology::{NodeKind, Topology};

/// Differences that are listed, at most.
const LISTED_MAX: usize = 5;

/// Where an account's state ends up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The sink's node.
    pub sink: usize,
    /// The column that holds the API's answer.
    pub column: String,
}

impl Subject {
    /// The first column of a table that is the answer of `/accounts/{{ key }}`.
    #[must_use]
    pub fn find(topology: &Topology) -> Option<Subject> {
        topology.nodes.iter().enumerate().find_map(|(sink, node)| {
            let NodeKind::Sink(config) = &node.kind else { return None };
            let columns = config.table()?.columns;
            let answers = answers_before(topology, sink);
            let column = columns.0.iter().find_map(|(name, column)| match column {
                Column::Expr(expr) if answers.iter().any(|a| a == expr.text().trim()) => Some(name.clone()),
                Column::Expr(_) | Column::CommitTimestamp => None,
            })?;
            Some(Subject { sink, column })
        })
    }
}

/// The fields that calls of `/accounts/{{ key }}` upstream of a node set.
fn answers_before(topology: &Topology, node: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![node];
    let mut seen = vec![false; topology.nodes.len()];
    while let Some(n) = todo.pop() {
        if std::mem::replace(&mut seen[n], true) {
            continue;
        }
        let node = &topology.nodes[n];
        todo.extend(node.inputs.iter().map(|i| i.node));
        if let NodeKind::Operator(config) = &node.kind
            && let Some(calls) = config.calls()
            && let Ok((_, url)) = calls.http.checked()
            && url.text().replace(' ', "").ends_with("/accounts/{{key}}")
        {
            found.push(calls.into.to_owned());
        }
    }
    found
}

/// The result of the comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// Accounts that were changed.
    pub accounts: usize,
    /// How many of them have another row than they should.
    pub wrong: usize,
    /// The first of those, described.
    pub differences: Vec<String>,
}

impl Proof {
    /// Compares every changed account with its row. All changes must have settled by `now`.
    #[must_use]
    pub fn of(accounts: &Accounts, table: &TableSink, column: &str, now: Timestamp) -> Proof {
        let mut proof = Proof::default();
        for id in accounts.changed() {
            proof.accounts += 1;
            let settled = accounts.settled(id, now);
            let row = table.get(&[id]);
            let difference = match row.as_ref().map(|row| row.get(column).unwrap_or(&Json::Null)) {
                Some(state) if same(state, &settled) => continue,
                Some(state) => format!("{id}: the row has {state}, the account is {settled}"),
                None => format!("{id}: there is no row, the account is {settled}"),
            };
            proof.wrong += 1;
            if proof.differences.len() < LISTED_MAX {
                proof.differences.push(difference);
            }
        }
        proof
    }

    /// Whether every row is right.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.wrong == 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Cell, ManualClock, Millis, Payload, Record, SinkRow, Value};
    use crate::sinks::Operation;
    use crate::yaml::{Mode, load};

    fn write(table: &TableSink, id: &str, state: Json) {
        let payload = Payload::Columns(vec![Cell::Json(id.into()), Cell::Json(state)]);
        let record = Record::new(id.to_owned(), Value::Null, Timestamp(0));
        table.write(&[SinkRow { reply_to: None, record, payload }]).expect("is written");
    }

    #[test]
    fn a_row_that_is_missing_or_old_is_found() {
        let columns = ["Id".to_owned(), "State".to_owned()];
        let table =
            TableSink::new(&columns, &columns[..1], Operation::Upsert, Arc::new(ManualClock::default()));
        let mut accounts = Accounts::new(Millis(10));
        for id in ["a", "b", "c"] {
            accounts.change(id, Timestamp(0));
        }
        accounts.change("b", Timestamp(100));
        let now = Timestamp(200);
        write(&table, "a", accounts.settled("a", now));
        write(&table, "b", accounts.settled("b", Timestamp(50)));
        let proof = Proof::of(&accounts, &table, "State", now);
        assert_eq!((proof.accounts, proof.wrong, proof.holds()), (3, 2, false));
        assert!(proof.differences[0].starts_with("b: the row has"), "{proof:?}");
        assert!(proof.differences[1].starts_with("c: there is no row"), "{proof:?}");
        for id in ["b", "c"] {
            write(&table, id, accounts.settled(id, now));
        }
        assert!(Proof::of(&accounts, &table, "State", now).holds());
    }

    #[test]
    fn the_subject_is_the_column_with_the_apis_answer() {
        let file = |url: &str, column: &str| {
            format!(
                "name: t\nkafka: {{ brokers: b }}\nsources: {{ in: {{ kafka: {{ topic: in }} }} }}\noperators:\n  \
                 call: {{ from: in, enrich: {{ http: {{ get: \"http://h{url}\" }}, into: .account }} }}\n  \
                 pass: {{ from: call, filter: \"true\" }}\nsinks:\n  \
                 rows: {{ from: pass, spanner: {{ database: d, table: T, columns: {{ Id: key, State: {column} }} }} }}\n"
            )
        };
        let find = |url: &str, column: &str| {
            let loaded = load("t.yaml", &file(url, column), Mode::Lenient, &|_| None).expect("is well");
            Subject::find(&loaded.topology).map(|s| s.column)
        };
        assert_eq!(find("/accounts/{{ key }}", ".account").as_deref(), Some("State"));
        assert_eq!(find("/accounts/{{ key }}", ".other"), None);
        assert_eq!(find("/users/{{ key }}", ".account"), None);
    }
}
