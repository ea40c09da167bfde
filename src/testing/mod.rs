//! Floor 6: what drives a topology without servers: `test`, `simulate` and the crash model. They drive the production [`Task`]; none of
//! our own logic is mocked.
//!
//! [`Task`]: crate::runtime::Task

mod broker;
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

pub use broker::{BrokerError, CommittedOffset, Dice, Faults, MemoryBroker};
pub use driver::{DriverError, Output, TopologyTestDriver};
pub use mock::{Answer, Mock};
pub use simulate::{SimulateError, simulate};
pub use tests_of_a_file::{TestFailure, run_test};
