//! Floor 5: the stand-ins for `test`, `simulate`, `dev` and the crash model. They drive the production [`Task`]; none of
//! our own logic is mocked.
//!
//! [`Task`]: crate::runtime::Task

pub mod dev;
mod driver;
mod mock;
mod run_test;
mod simulate;

pub use driver::{DriverError, Output, TopologyTestDriver};
pub use mock::{Answer, Mock};
pub use run_test::{TestFailure, run_test};
pub use simulate::{SimulateError, simulate};
