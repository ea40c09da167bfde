//! What all processes share: the broker, the sinks, the wall clock, the ledger, and the dice.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;
use slackwater::clients::http::judge;
use slackwater::model::{Call, CallRequest, Cell, Json, Payload, Reply, SinkRow, Timestamp};

use super::broker::{Dice, Faults, MemoryBroker};
use super::ledger::{Input, Ledger};
use super::mutation::Mutation;
use super::shape::Shape;

pub struct Env {
    pub shape: &'static Shape,
    pub partitions: i32,
    pub broker: MemoryBroker,
    pub dice: Dice,
    pub ledger: Ledger,
    pub wall: Timestamp,
    /// Rows by node and record key: the last event in it and the text of the row.
    pub tables: BTreeMap<(usize, Option<Bytes>), (Option<usize>, String)>,
    /// Which machine the group gives a partition to.
    pub owners: BTreeMap<i32, usize>,
    /// No more faults: the end is near.
    pub calm: bool,
    pub mutation: Option<Mutation>,
    pub trace: Option<String>,
    pub tally: Tally,
}

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What schedules did, to see that they do what they are for.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Tally {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Tally {
            pub fn add(&mut self, other: &Tally) {
                $(self.$name += other.$name;)*
            }

            /// The mean of each over so many schedules, as text.
            pub fn mean(&self, schedules: u64) -> String {
                let mean = |n: u64| n as f64 / schedules.max(1) as f64;
                [$((stringify!($name), self.$name)),*].map(|(name, n)| format!("{name} {:.2}", mean(n))).join(", ")
            }
        }
    };
}

tally! {
    events,
    commits,
    /// Commits while there still were faults.
    under_fire,
    crashes,
    /// Partitions taken away, politely or not.
    revokes,
    /// Restores, and those with a gap behind local state.
    restores,
    gaps,
    /// Restores that waited for a transaction to end.
    waited,
    /// New owners that found offsets in an open transaction, and waited.
    pending,
    rewinds,
    /// Checkpoints refused because the member or the partition was not what it had been.
    fenced,
    calls,
    /// Commits of another group that a task was told of.
    foreign,
    /// Rows that a table gave back.
    given_back,
    /// Rows written again.
    repeated,
    /// Answers that came too late for their assignment.
    stale,
    /// Steps of a seal that left rows to copy.
    pieces,
}

/// Writes a line of the trace, if there is one.
macro_rules! note {
    ($env:expr, $($arg:tt)*) => {
        if $env.trace.is_some() {
            $env.line(format_args!($($arg)*));
        }
    };
}
pub(crate) use note;

impl Env {
    pub fn new(shape: &'static Shape, partitions: i32, seed: u64, faults: Faults) -> Env {
        Env {
            shape,
            partitions,
            broker: MemoryBroker::new(seed ^ 0xb0, faults),
            dice: Dice::new(seed),
            ledger: Ledger::new(shape),
            wall: Timestamp(1_000_000),
            tables: BTreeMap::new(),
            owners: BTreeMap::new(),
            calm: false,
            mutation: None,
            trace: None,
            tally: Tally::default(),
        }
    }

    pub fn line(&mut self, args: std::fmt::Arguments<'_>) {
        let wall = self.wall.0;
        if let Some(trace) = &mut self.trace {
            writeln!(trace, "{wall:>8} {args}").expect("a string takes everything");
        }
    }

    pub fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    pub fn inputs(&self, partition: i32) -> impl Iterator<Item = Input> + use<> {
        (0..self.shape.topics).map(move |topic| (topic, partition))
    }

    /// Does a table refuse every row of this key? It has no way to ask more politely than by its name.
    pub fn is_refused(&self, node: usize, row: &SinkRow) -> bool {
        self.shape.is_table(node) && row.record.key.as_ref().is_some_and(|k| k.last() == Some(&b'r'))
    }

    /// Writes a row: from now on it is durable.
    pub fn write(&mut self, node: usize, delivery: usize, row: &SinkRow) {
        self.tally.repeated += u64::from(self.ledger.durable(delivery));
        if self.shape.is_table(node) {
            let text = match &row.payload {
                Payload::Columns(cells) => {
                    let texts = cells.iter().map(|cell| match cell {
                        Cell::Json(json) => json.to_string(),
                        Cell::CommitTimestamp => "now".to_owned(),
                    });
                    texts.collect::<Vec<_>>().join("|")
                }
                Payload::Delete(_) => "deleted".to_owned(),
                Payload::Record | Payload::Message(_) => String::new(),
            };
            let last = self.ledger.last_event(delivery);
            self.tables.insert((node, row.record.key.clone()), (last, text));
        }
    }

    /// The API's answer: a function of the request, unless it has a bad moment.
    pub fn answer(&mut self, call: &Call) -> Reply {
        let CallRequest::Http(request) = &call.request;
        let http = |status, body: Json| {
            let body = if body.is_null() { String::new() } else { body.to_string() };
            judge(status, None, body.as_bytes())
        };
        if !self.calm {
            match self.dice.below(10) {
                0 => return http(503, Json::Null),
                1 => return Reply::Again { message: "timed out".into(), after: None },
                _ => {}
            }
        }
        if request.url.ends_with('x') {
            return http(404, Json::Null);
        }
        let asked = request.body.as_ref().map_or("", |b| std::str::from_utf8(b).unwrap_or_default());
        http(200, serde_json::json!({ "v": asked }))
    }
}
