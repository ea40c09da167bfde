//! Floor 4: what runs a topology. The task is sans-I/O; the drivers around it do the waiting.

mod nodes;
mod task;

pub use task::{
    DEAD_LETTER, Delivery, Input, Sealed, Step, Task, TaskError, TaskId, applied_positions, is_empty,
};
