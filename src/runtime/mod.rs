//! Floor 4: runs a topology. The task is sans-I/O; the drivers around it do the waiting.
//!
//! | room | what is there |
//! |---|---|
//! | `task/` | the state machine: one sub-topology on one partition |
//! | `input/` | where a task's records come from, in which order, and how far the wall clock may move its nodes |
//! | `worker/` | a thread that owns tasks: reads, steps, seals, commits |
//! | `checkpoint/` | the commit thread, and what brings a task's state up to date before it runs |
//! | `calls/` | API calls: permits, limits, the circuit breaker |
//! | `delivery` | sink lanes: rows become batches, batches become answers |
//! | `globals/` | tables that each instance holds whole |
//! | `layout/` | what an earlier run kept, compared with the topology of today, and moved to other names |
//! | `engine/` | starts all of these for a topology, and stops them in order |
//! | `inbox`, `metrics` | what is sent to a worker; what is scraped |

mod calls;
mod checkpoint;
mod delivery;
mod engine;
mod every;
mod globals;
mod inbox;
mod input;
pub mod layout;
pub mod metrics;
mod task;
mod worker;

pub(crate) use calls::breaker;
pub use engine::{
    AskError, AtGate, Engine, EngineError, EngineHandle, EngineOptions, Found, MissingTopics, Override,
    Owner, Position, Said, Status, StoreOf, Taps, WHOLE,
};
pub use globals::{GlobalTable, query_global};
pub use inbox::Handle;
pub use task::{
    DeadLetter, Delivery, Globals, Input, Place, ReadFrom, Sealed, Step, Tapped, Task, TaskError, TaskId,
    TaskOptions, applied_positions, inspect, is_empty,
};
pub use worker::{Assigned, Rewound, TaskStatus};
