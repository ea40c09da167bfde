//! Floor 0: the words everything else is written in. Records, values, time, units and expressions.
//!
//! Called by every other floor; imports nothing of ours. Nothing here does I/O, spawns or blocks.

pub mod expr;
mod pick;
pub mod record;
mod scan;
pub mod shape;
pub mod text;
pub mod time;
pub mod types;
pub mod units;
pub mod value;

pub use expr::{EvalError, Expr, Function, Scope, Template, Yields};
pub use pick::{pick, pick_texts};
pub use record::{CHANGE_HEADER, Change, Headers, KEY_HEADER, Origin, Record, WINDOW_HEADER, Window};
pub use shape::{Field, Shape};
pub use time::{Clock, ManualClock, SystemClock, Timestamp};
pub use types::Types;
pub use units::{Millis, Rate, Size};
pub use value::{Json, NotJson, Value, check_json, key_text};
