//! Floor 5: HTTP. The admin server: `/metrics`, `/live`, `/ready`, `/topology`, `/state`, `/tap`.

mod admin;

pub use admin::{AdminError, AdminServer};
