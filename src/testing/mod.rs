//! Floor 6: runs a topology without servers, for `test` and `simulate`. It drives the production [`Task`]; none of our own
//! logic is mocked.
//!
//! [`Task`]: crate::runtime::Task

mod driver;
mod mock;
mod simulate;
mod tests_of_a_file;
#[cfg(test)]
mod toy_operator;
#[cfg(test)]
mod toy_sink;
#[cfg(test)]
mod toy_source;

pub use driver::{DriverError, Output, TopologyTestDriver};
pub use mock::{Answer, Mock};
pub use simulate::{SimulateError, simulate};
pub use tests_of_a_file::{TestFailure, run_test};
