//! x
pub mod power_cut;
