//! Floor 5: HTTP. The admin server: `/metrics`, `/live`, `/ready`, `/topology`, `/state`, `/tap`, and `/read`, where
//! instances ask each other for keys. [`reads`] looks things up for endpoints, [`owners`] says which instance has a key.

mod admin;
pub mod owners;
pub mod reads;

pub use admin::{AdminError, AdminServer};
