//! x
pub mod mqtt;
pub mod store;
