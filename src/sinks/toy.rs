//! A sink for tests only. This file (with its `mod` line) and one line in the list of kinds are all that a new kind
//! needs.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Answers, Connected, Lane, Sink, SinkError, SinkSettings, Surroundings};
use crate::model::{Problem, SinkRow};

/// Keeps values, and refuses empty ones.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToySink {
    /// Its label.
    pub shelf: String,
    /// The values it was given.
    #[serde(skip)]
    pub kept: Toy,
}

impl SinkSettings for ToySink {
    fn label(&self) -> String {
        self.shelf.clone()
    }

    fn connect<'a>(&'a self, _: Surroundings<'a>) -> BoxFuture<'a, Result<Arc<dyn Connected>, SinkError>> {
        Box::pin(async { Ok(Arc::new(self.kept.clone()) as Arc<dyn Connected>) })
    }

    fn check(&self) -> Vec<Problem> {
        if self.shelf.is_empty() {
            return vec![Problem::setting("shelf", "the shelf has no name", "write `shelf: top`")];
        }
        Vec::new()
    }
}

/// The values so far, as text.
#[derive(Clone, Debug, Default)]
pub struct Toy(pub Arc<Mutex<Vec<String>>>);

impl Connected for Toy {
    fn lane(&self) -> Box<dyn Lane> {
        Box::new(self.clone())
    }
}

impl Sink for Toy {
    async fn deliver(&mut self, batch: &[SinkRow], out: &mut Answers) -> Result<(), SinkError> {
        let mut kept = self.0.lock().expect("no lane panicked");
        for (n, row) in batch.iter().enumerate() {
            if row.record.value.is_null() {
                out.refused(n, "nothing to keep");
            } else {
                kept.push(row.record.value.show().to_string());
            }
        }
        Ok(())
    }
}
