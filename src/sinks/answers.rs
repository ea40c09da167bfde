//! What a sink says of each row of a batch.

use crate::model::Json;

/// The answer to one row.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It is durable.
    Written,
    /// It is durable, and this is the row as it stands there afterwards.
    Wrote(Json),
    /// It will never be taken, and why.
    Refused(String),
}

/// The answers to the rows of one batch, by their place in it. A row without an answer is what the result of
/// [`Sink::deliver`](super::Sink::deliver) says.
#[derive(Debug, Default)]
pub struct Answers(Vec<Option<Answer>>);

impl Answers {
    /// For a batch of so many rows, none of which is answered.
    #[must_use]
    pub fn new(rows: usize) -> Answers {
        Answers(vec![None; rows])
    }

    /// Row `row` is durable.
    pub fn written(&mut self, row: usize) {
        self.0[row] = Some(Answer::Written);
    }

    /// Row `row` is durable, and stands there as `as_it_is`.
    pub fn wrote(&mut self, row: usize, as_it_is: Json) {
        self.0[row] = Some(Answer::Wrote(as_it_is));
    }

    /// Row `row` will never be taken.
    pub fn refused(&mut self, row: usize, why: impl Into<String>) {
        self.0[row] = Some(Answer::Refused(why.into()));
    }

    /// One for each row, in their order.
    #[must_use]
    pub fn into_vec(self) -> Vec<Option<Answer>> {
        self.0
    }
}
