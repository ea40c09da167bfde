//! The `blackhole` sink: accepts everything, keeps nothing. For benches, and to measure a topology on its own.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Answers, Batch, Connected, Lane, Sink, SinkError, SinkSettings, Surroundings};
use crate::model::{Millis, SinkRow};

/// Takes records and forgets them.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct BlackholeConfig {}

/// Accepts rows.
#[derive(Clone, Copy)]
struct Blackhole;

impl SinkSettings for BlackholeConfig {
    fn label(&self) -> String {
        String::new()
    }

    fn connect<'a>(&'a self, _: Surroundings<'a>) -> BoxFuture<'a, Result<Arc<dyn Connected>, SinkError>> {
        Box::pin(async { Ok(Arc::new(Blackhole) as Arc<dyn Connected>) })
    }

    // Waiting would gain nothing.
    fn batch(&self) -> Batch {
        Batch { linger: Millis::ZERO, ..Batch::default() }
    }
}

impl Connected for Blackhole {
    fn lane(&self) -> Box<dyn Lane> {
        Box::new(*self)
    }
}

impl Sink for Blackhole {
    async fn deliver(&mut self, _: &[SinkRow], _: &mut Answers) -> Result<(), SinkError> {
        Ok(())
    }
}
