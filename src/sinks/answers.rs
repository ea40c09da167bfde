//! A sink's answers to the single rows of a batch.

use crate::model::Json;

/// The answer to one row.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It is durable.
    Written,
    /// It is durable; the row as it is now in the database.
    Wrote(Json),
    /// It will never be accepted, and why.
    Refused(String),
}

/// The answers to the rows of one batch, by position. A row without an answer has the result of
/// [`Sink::deliver`](super::Sink::deliver).
#[derive(Debug, Default)]
pub struct Answers(Vec<Option<Answer>>);

impl Answers {
    /// For a batch of that many rows, without any answer yet.
    #[must_use]
    pub fn new(rows: usize) -> Answers {
        Answers(vec![None; rows])
    }

    /// Row `row` is durable.
    pub fn written(&mut self, row: usize) {
        self.0[row] = Some(Answer::Written);
    }

    /// Row `row` is durable, and is now `as_it_is` in the database.
    pub fn wrote(&mut self, row: usize, as_it_is: Json) {
        self.0[row] = Some(Answer::Wrote(as_it_is));
    }

    /// Row `row` will never be accepted.
    pub fn refused(&mut self, row: usize, why: impl Into<String>) {
        self.0[row] = Some(Answer::Refused(why.into()));
    }

    /// One per row, in order.
    #[must_use]
    pub fn into_vec(self) -> Vec<Option<Answer>> {
        self.0
    }
}
