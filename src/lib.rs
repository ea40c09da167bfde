//! slackwater: a Kafka Streams-style stateful stream processor in one binary. This page is the map of the code;
//! `README.md` describes the program for its users.
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
//! Kafka ───> partition queues ──> worker thread: Task::step ──> sink lanes (tokio) ──> databases, Kafka, files
//!                                  │  ^   ^                                │ acks
//!                                  │  │   └──────── inbox <────────────────┤
//!                                  │  └── replies <── call drivers (tokio) ──> HTTP APIs, paced by limiter and breaker
//!                                  └── sealed epochs ──> commit thread: one Kafka transaction, then RocksDB
//! ```
//!
//! Life of a record: a worker polls a partition's own queue and feeds the task. The source node checks the record and
//! takes key and event time from it. The record runs through the graph by an explicit work stack, depth first in declared
//! order. Its changes of state go into the open *epoch*; rows to write leave the task with the number of that epoch. A
//! checkpoint *seals* the epoch, waits until its rows are durable, *commits* changelog rows and source offsets in one Kafka
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
//! | 1 | [`clients`] | servers other than Kafka: connections by name, one client each, what its errors mean |
//! | 1 | [`state`] | stores with an epoch overlay, the row codec, RocksDB and memory below them |
//! | 1 | [`formats`] | bytes to JSON and back: text, numbers, Avro, Protobuf, the schema registry's client |
//! | 1 | [`kafka`] | the only place that knows `rdkafka`: group reader, writers, admin, restore, embedded broker |
//! | 2 | [`operators`] | the contract [`operators::Operator`], the list of kinds [`operators::NodeConfig`], a file per operator |
//! | 2 | [`sinks`] | the contract [`sinks::Sink`] (the only async one), the list of kinds [`sinks::SinkConfig`], a file per sink |
//! | 2 | [`endpoints`] | HTTP routes: settings of `http` and `endpoints`, the table of routes, what an expression may read of a request |
//! | 2 | [`sources`] | the questions to a kind of source [`sources::SourceSettings`], the list of kinds, a file per source |
//! | 3 | [`topology`] | [`topology::TopologyBuilder`], every check of the graph, sub-topologies, the topology as a picture and as text |
//! | 4 | [`yaml`] | YAML with places, variables, secrets, reports, JSON schema, `tests:` |
//! | 4 | [`runtime`] | the task, the engine around it: workers, commits, restores, global tables, calls, limiter, sink lanes, metrics |
//! | 5 | [`gateway`] | HTTP: the endpoints, reads of state from whichever instance has it, the admin server, which asks a [`runtime::EngineHandle`] |
//! | 6 | [`testing`] | the test driver, `tests:` of a file, `simulate` |
//! | 7 | [`dev`] | `slackwater dev`: the stand-ins of a topology's servers, the feed, the proof |
//! | 8 | [`cli`] | one file per command, exit codes, logs |
//!
//! Where to begin: a new operator is a file in `operators/` that implements [`operators::OperatorSettings`] and a line in
//! the list of `operators/registry.rs`; a new sink a file in `sinks/` that implements [`sinks::SinkSettings`] and a line
//! in the list of `sinks/registry.rs`; a new source a file in `sources/` that implements [`sources::SourceSettings`] and a
//! line in the list of `sources/registry.rs`. What follows from a list alone is written once, in `model/kinds.rs`.
//! A new section of the file is a line in `yaml/sections.rs`.
//! A kind of a user's own crate implements the same traits and is a line of its [`yaml::Registry`], as functions in
//! expressions are ([`expressions::OwnFunction`]); [`operators::custom`] is a thin layer for operators with state.
//!
//! # Invariants
//!
//! - **Tasks do no I/O.** A task, an operator and everything they call never await, block, or read a clock or a random
//!   number; time comes in as an argument. The same inputs give the same outputs, byte for byte.
//! - **One owner.** A task belongs to one worker thread; other threads send messages to the worker's inbox. The comment at
//!   a `Mutex` names the threads that share it.
//! - **Commit after durable.** An epoch is committed only when every row made in it is acknowledged. Pending calls,
//!   waiting keys and rows of sinks that are read from are state, so a checkpoint never waits for them.
//! - **State and offsets agree.** Both are in one transaction. Local RocksDB is always a prefix of the changelog and is
//!   brought up to its end before a task runs. A global table has no changelog and no task: one thread per instance
//!   reads its topics and keeps its positions with its rows; tasks only read it.
//! - **Offsets are next offsets**: the last record's plus one.
//! - **Generations.** An answer for an earlier run of a task (before it was reassigned, or rewound to a checkpoint) is
//!   ignored: every answer carries its [`runtime::TaskId`] and generation.
//! - **Order per key.** Rows of a key go through one lane, one batch at a time; a key's next call starts after the
//!   answer to the one before. Keys do not wait for each other.
//! - **No record passes unprocessed.** A record that a node cannot process goes to the dead letter, stops the task, or is
//!   dropped and counted, as the topology's `errors` say; the reasons are a closed list ([`model::Reason`]).
//! - **Never above the limit.** Every attempt takes a grant first; no window of one second holds more grants than the
//!   limit, and the instances' shares never sum to more than one.
//! - **Bounded.** Reading ahead, backlog of rows and calls, calls in flight and pending, batches: each has a bound with its
//!   unit. An inbox has none of its own, since every message in it answers a request that is bounded.
//! - **Defined order** wherever output or state depends on it: maps that are iterated are ordered maps, or sorted first.
//! - **Names are identity.** Topology and node names become the consumer group, changelog topics and keys of state; the
//!   order in the file has no meaning.
//! - **Formats never change in place.** A row starts with its format's number and is read completely or refused; a new
//!   format gets a new number, and a fixture of the old one stays.
//! - **Problems have places.** Everything wrong with a file is reported at once with code, place, label and help; problems
//!   that show only on connecting point into the file too. No secret is in any report.
//! - **A panic ends the process**, whichever thread it was; only a panic inside an expression is an error of its record. A
//!   failed write to state stops the task, so nothing is built on damaged state.
//! - **No clock is ahead of records in flight.** The wall clock moves a task's clocks only up to a time for which every
//!   record has been read and, for a repartition topic, has been written by the tasks above (`runtime/input/horizon.rs`).
//!
//! # Deliberately absent
//!
//! - A cluster with a coordinator or a leader: consumer groups, compacted topics and transactions take their place.
//! - Async in tasks and operators, and mocks of our own logic in tests.
//! - Automatic offset commits, automatic topic creation by the broker, pause and resume of partitions.
//! - HTTP redirects, retries and proxies below the operator that decides about retries.
//! - Functions in expressions that need more than their record: network, files, environment, clock, random numbers.
//! - Types on the hot path unless asked for: JSON values stay bytes until a field is read. A source with a `schema`, or with
//!   a format other than JSON, reads every value.

pub mod cli;
pub mod clients;
pub mod dev;
pub mod endpoints;
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
