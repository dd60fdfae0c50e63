//! Stories of fleets: what happens, and what must be true of it. Files say it ([`Scenario`]), [`play()`] does it at a real hub.

mod attack;
mod file;
mod network;
mod play;
mod record;
mod report;
mod verdict;
mod witness;

pub use file::{
    Action, AgentSettings, Chances, ClockKind, Expectations, Fault, MAX_SCENARIO_BYTES, NetworkSettings, Scenario, ScenarioError,
    Step,
};
pub use network::NetworkCounts;
pub use play::{Outcome, PlayError, Stage, play};
pub use record::{Mark, Record, Sample};
pub use report::{Report, VirtualReport};
pub use verdict::{Verdict, judge_life};
