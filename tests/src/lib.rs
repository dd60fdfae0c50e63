//! What the tests from outside stand on: hubs in processes of their own, real agents, foreign clients, power cuts.

pub mod agent;
pub mod hub;
pub mod keyed;
pub mod mosquitto;
pub mod patience;
pub mod power_cut;
pub mod process;
pub mod wire;
