//! slackwater: a Kafka Streams-style stateful stream processor in one binary. This page is the map of the code; what
//! the program does for its user stands in `README.md`.
//!
//! # Bird's-eye view
//!
//! A topology file (or the Rust DSL) becomes a [`topology::Topology`]: nodes in declared order, cut into
//! sub-topologies, sets of nodes that are connected without a topic between them. A *task* is one sub-topology on one
//! partition. The task is a plain state machine: records, replies, acknowledgements and the time go in, rows to
//! deliver and calls to make come out ([`runtime::Task::step`]). Two drivers run the same task: the
//! [`runtime::Engine`] in production, and [`testing::TopologyTestDriver`] on virtual time behind `test` and
//! `simulate`.
//!
//! ```text
//!            poller thread: group events, offsets
//! Kafka ───> partition queues ──> worker thread: Task::step ──> sink lanes (tokio) ──> Spanner, Kafka, files
//!                                  │  ^   ^                                │ acks
//!                                  │  │   └──────── inbox <────────────────┤
//!                                  │  └── replies <── call drivers (tokio) ──> HTTP APIs, paced by limiter and breaker
//!                                  └── sealed epochs ──> commit thread: one Kafka transaction, then RocksDB
//! ```
//!
//! Life of a record: a worker polls a partition's own queue and feeds the task; the source node checks it and takes
//! key and time from it; it runs through the graph by an explicit work stack, depth first in declared order; what it
//! changes goes into the open *epoch*; what it wants written leaves as rows that carry their epoch. A checkpoint
//! *seals* the epoch, waits until its rows are durable, *commits* changelog rows and source offsets in one Kafka
//! transaction, and *applies* the same rows to RocksDB in one write. The next epoch is open meanwhile.
//!
//! # Code map
//!
//! A module uses lower floors only, and one foreign crate has one home; `tests/sim/architecture.rs` keeps both so and
//! lists the exceptions with their reasons.
//!
//! | floor | module | what is there |
//! |---|---|---|
//! | 0 | [`model`] | record, value, time, units (`30s`, `64MiB`, `1500/s`), expressions as a trait, rows, calls, problems |
//! | 1 | [`expressions`] | VRL: compiled, bounded, typed |
//! | 1 | [`clients`] | clients of servers that several parts of the program ask |
//! | 1 | [`state`] | stores with an epoch overlay, the row codec, RocksDB and memory below them |
//! | 1 | [`formats`] | bytes to JSON and back: text, numbers, Avro, Protobuf, the schema registry's client |
//! | 1 | [`kafka`] | the only place that knows `rdkafka`: group reader, writers, admin, restore, embedded broker |
//! | 2 | [`operators`] | the contract [`operators::Operator`], the list of kinds [`operators::NodeConfig`], a file per operator |
//! | 2 | [`sinks`] | the contract [`sinks::Sink`] (the only async one), the list of kinds [`sinks::SinkConfig`], a file per sink |
//! | 2 | [`sources`] | what a kind of source says of itself [`sources::SourceSettings`], the list of kinds, a file per source |
//! | 3 | [`topology`] | [`topology::TopologyBuilder`], every check of the graph, sub-topologies, the topology in pictures and words |
//! | 4 | [`yaml`] | YAML with places, variables, secrets, reports, JSON schema, `tests:` |
//! | 4 | [`runtime`] | the task, the engine around it: workers, commits, restores, global tables, calls, limiter, sink lanes, metrics |
//! | 5 | [`gateway`] | HTTP: the admin server |
//! | 6 | [`testing`] | the test driver, `tests:` of a file, `simulate`, the broker of the crash model |
//! | 7 | [`dev`] | `slackwater dev`: the stand-ins of a topology's servers, the feed, the proof |
//! | 8 | [`cli`] | one file per command, exit codes, logs |
//!
//! Where to begin: a new operator is a file in `operators/` that implements [`operators::OperatorSettings`] and a line in
//! the list of `operators/registry.rs`; a new sink a file in `sinks/` that implements [`sinks::SinkSettings`] and a line
//! in the list of `sinks/registry.rs`; a new source a file in `sources/` that implements [`sources::SourceSettings`] and a
//! line in the list of `sources/registry.rs`. What follows from a list alone is written once, in `model/kinds.rs`.
//! A kind of a user's own crate implements the same traits and is a line of its [`yaml::Registry`], as functions in
//! expressions are ([`expressions::OwnFunction`]); [`operators::custom`] is a thin layer for operators with state.
//!
//! # Invariants
//!
//! - **Tasks do no I/O.** A task, an operator and everything they call never await, block, or read a clock or a random
//!   number; time comes in as an argument. The same inputs give the same outputs, byte for byte.
//! - **One owner.** A task belongs to one worker thread; everyone else sends to the worker's inbox. A `Mutex` has a
//!   comment that says who else holds it.
//! - **Commit after durable.** An epoch is committed only when every row made in it is acknowledged. Pending calls,
//!   waiting keys and rows of a sink that is read from are state, so a checkpoint never waits for them.
//! - **State and offsets agree.** Both are in one transaction; local RocksDB is always a prefix of the changelog and is
//!   brought up to its end before a task runs. A global table has no changelog and no task: one thread per instance
//!   reads its topics and keeps its positions with its rows; tasks only read it.
//! - **Offsets are next offsets**: the last record's plus one.
//! - **Generations.** What comes back for an earlier life of a task (a lost assignment, a rewound checkpoint) is
//!   ignored: every answer carries its [`runtime::TaskId`] and generation.
//! - **Order per key.** Rows of a key go through one lane, one batch at a time; a key's next call starts after the
//!   answer to the one before. Keys do not wait for each other.
//! - **Nothing passes unprocessed.** A record that a node cannot process goes to the dead letter, stops the task, or is
//!   dropped and counted, as the topology says; the reasons are a closed list ([`model::Reason`]).
//! - **Never above the limit.** Every attempt takes a grant first; no window of one second holds more grants than the
//!   limit, and the instances' shares never sum to more than one.
//! - **Bounded.** Reading ahead, backlog of rows and calls, calls in flight and pending, batches: each has a number with
//!   its unit. An inbox has none of its own, since everything in it answers something that is bounded.
//! - **Defined order** wherever output or state depends on it: maps that are walked are ordered maps or sorted first.
//! - **Names are identity.** Topology and node names are the consumer group, changelog topics and keys of state;
//!   positions in the file mean nothing.
//! - **Formats never change in place.** A row starts with its format's number and is read whole or refused; a new format
//!   is a new number and a fixture of the old.
//! - **Problems have places.** Everything wrong with a file is reported at once with code, place, label and help; what
//!   shows only on connecting points into the file too. No secret is in any report.
//! - **A panic ends the process**, whichever thread it was; only one inside an expression is that record's error. A failed
//!   write to state stops the task: nothing goes on on top of it.
//! - **No clock ahead of what is under way.** The wall clock moves a task's clocks only as far as every record up to then has
//!   been read; of a repartition topic, has been written there by whoever writes it (`runtime/input/horizon.rs`).
//!
//! # Deliberately absent
//!
//! - A cluster of our own, a coordinator, a leader: consumer groups, compacted topics and transactions do that.
//! - Async in tasks and operators, and mocks of our own logic in tests.
//! - Automatic offset commits, automatic topic creation by the broker, pause and resume of partitions.
//! - HTTP redirects, retries and proxies below the operator that decides about retries.
//! - Functions in expressions that reach outside of their record: network, files, environment, clock, chance.
//! - Types on the hot path unless asked for: JSON values stay bytes until something asks for a field; a source's `schema`,
//!   or a format other than JSON, makes it look at every value.

pub mod cli;
pub mod clients;
pub mod dev;
pub mod expressions;
pub mod formats;
pub mod gateway;
pub mod kafka;
pub mod model;
pub mod operators;
pub mod runtime;
pub mod sinks;
pub mod sources;
pub mod state;
pub mod testing;
pub mod topology;
pub mod yaml;
