//! The course of a run: samples at regular times and marks for what happened, in bounded memory.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::fleet::Fleet;

/// More points than a plot is wide. At the bound every second sample goes, and they come half as often from then on.
const MAX_SAMPLES: usize = 1_200;
/// More marks than a plot can show.
const MAX_MARKS: usize = 256;
/// Time between two samples at first.
const FIRST_STEP: Duration = Duration::from_millis(500);

/// The course of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// At regular times.
    pub samples: Vec<Sample>,
    /// What happened, and when.
    pub marks: Vec<Mark>,
    #[serde(skip)]
    began: Instant,
    #[serde(skip)]
    step: Duration,
    #[serde(skip)]
    last: Duration,
}

/// How things stood.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// Seconds since the start.
    pub at_s: f64,
    /// Devices with an open session.
    pub online: u64,
    /// Publishes that the hub acknowledged, per second since the sample before.
    pub acknowledged_per_s: f64,
    /// Half of them took at most this long, milliseconds; `None` if there were none.
    pub publish_p50_ms: Option<f64>,
    /// All but a hundredth of them took at most this long, milliseconds.
    pub publish_p99_ms: Option<f64>,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
pub struct Mark {
    /// Seconds since the start.
    pub at_s: f64,
    /// What.
    pub what: String,
}

impl Default for Record {
    fn default() -> Self {
        Self { samples: Vec::new(), marks: Vec::new(), began: Instant::now(), step: FIRST_STEP, last: Duration::ZERO }
    }
}

impl Record {
    /// Takes a sample if one is due. Call it a few times a second.
    pub fn sample(&mut self, fleet: &Fleet) {
        let at = self.began.elapsed();
        let since = at.saturating_sub(self.last);
        if since < self.step {
            return;
        }
        self.last = at;
        let window = fleet.take_window();
        self.push(Sample {
            at_s: at.as_secs_f64(),
            online: fleet.summary().online,
            acknowledged_per_s: window.acknowledged as f64 / since.as_secs_f64(),
            publish_p50_ms: window.publish.p50_ms,
            publish_p99_ms: window.publish.p99_ms,
        });
    }

    /// Notes that something happens now.
    pub fn mark(&mut self, what: impl Into<String>) {
        if self.marks.len() < MAX_MARKS {
            self.marks.push(Mark { at_s: self.began.elapsed().as_secs_f64(), what: what.into() });
        }
    }

    fn push(&mut self, sample: Sample) {
        self.samples.push(sample);
        if self.samples.len() >= MAX_SAMPLES {
            let mut index = 0;
            self.samples.retain(|_| {
                index += 1;
                index % 2 == 0
            });
            self.step = self.step.saturating_mul(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_end_is_kept_in_bounded_memory_from_its_start_to_now() {
        let mut record = Record::default();
        let sample = |at_s| Sample { at_s, online: 1, acknowledged_per_s: 1.0, publish_p50_ms: Some(1.0), publish_p99_ms: None };
        for at in 0..100_000 {
            record.push(sample(f64::from(at)));
        }
        assert!(record.samples.len() < MAX_SAMPLES);
        assert!(record.samples.is_sorted_by(|a, b| a.at_s < b.at_s));
        assert_eq!(record.samples.last().map(|sample| sample.at_s), Some(99_999.0));
        for _ in 0..1_000 {
            record.mark("again");
        }
        assert_eq!(record.marks.len(), MAX_MARKS);
    }
}
