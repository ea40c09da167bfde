//! Floor 4: what runs a topology. The task is sans-I/O; the drivers around it do the waiting.

mod ahead;
mod assigned;
pub mod breaker;
pub mod calls;
mod checkpoint;
mod choose;
mod deliver;
mod engine;
mod failpoint;
mod gate;
mod global;
mod global_reader;
mod held;
mod horizon;
pub mod http;
mod inbox;
pub mod limiter;
pub mod look;
pub mod metrics;
mod nodes;
pub mod pacer;
mod purge;
mod read;
mod restore;
mod shares;
mod task;
mod worker;

pub use assigned::{Assigned, Rewound};
pub use engine::{Engine, EngineError, EngineOptions, MissingTopics, Override, Shared, Status};
pub use global::GlobalTable;
pub use inbox::Handle;
pub use task::{
    DEAD_LETTER, Delivery, Globals, Input, Sealed, Step, Task, TaskError, TaskId, applied_positions, is_empty,
};
