//! Floor 0: the words that everything else is written in: records, values, time, units, expressions, rows, calls,
//! problems.
//!
//! Every other floor uses it; it uses none of ours. Nothing here does I/O, spawns or blocks.

mod backoff;
mod call;
pub(crate) mod canonical;
pub(crate) mod document;
pub(crate) mod expr;
pub(crate) mod kinds;
pub(crate) mod number;
pub(crate) mod path;
mod pick;
mod problem;
mod reason;
pub(crate) mod record;
mod row;
mod scan;
pub mod secret;
pub(crate) mod shape;
mod template;
pub(crate) mod text;
pub(crate) mod time;
pub(crate) mod types;
pub(crate) mod units;
pub(crate) mod value;
mod words;

pub use backoff::Backoff;
pub use call::{Call, CallRequest, HttpRequest, Reply};
pub use canonical::{canonical, compare_numbers, key_text, same};
pub use document::Document;
pub use expr::{EvalError, Expr, Function, Scope};
pub use kinds::Own;
pub use number::read_json;
pub use path::FieldPath;
pub use pick::{pick, pick_texts};
pub use problem::{Problem, Refused, Severity};
pub use reason::Reason;
pub use record::{CHANGE_HEADER, Change, Headers, KEY_HEADER, Origin, Record, WINDOW_HEADER, Window};
pub use row::{Cell, Message, Payload, SinkRow};
pub use shape::{Field, Shape};
pub use template::Template;
pub use time::{Clock, ManualClock, SystemClock, Timestamp, TimestampFormat};
pub use types::Types;
pub use units::{Millis, Rate, Size};
pub use value::{Json, NotJson, Value, check_json};
pub use words::{did_you_mean, meant, near};
