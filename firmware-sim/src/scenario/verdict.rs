//! Judges what a story saw: whether each of its steps and faults took place, and whether what it expects is true. Watches
//! nothing itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::attack::Attempts;
use super::file::Scenario;
use super::network::NetworkCounts;
use crate::ledger::Delivery;
use crate::summary::{DeviceState, Summary};
use crate::world::{Chronicle, Violation};

/// An expectation and what was found.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// What was expected.
    pub expected: String,
    /// What was found.
    pub found: String,
    /// Whether that is it.
    pub met: bool,
}

impl Verdict {
    /// Everyone of `of` should be among `done`, and there should be somebody: what happens to nobody shows nothing.
    fn of_everyone(expected: impl Into<String>, done: usize, of: usize, how: &str) -> Self {
        Self { expected: expected.into(), found: format!("{done} of {of} {how}"), met: done == of && of > 0 }
    }
}

/// What the story saw, to be judged at its end.
#[derive(Default)]
pub(super) struct Seen {
    /// What came back, how fast, and who did not.
    pub(super) recoveries: Vec<(String, Duration, usize)>,
    /// Who was revoked, and how many sessions each had had when it was cut.
    pub(super) revoked: BTreeMap<usize, u64>,
    pub(super) cut_after: Vec<Duration>,
    /// Who was revoked and went on, or came back.
    pub(super) went_on: BTreeSet<usize>,
    pub(super) commands: usize,
    pub(super) failed_commands: Vec<String>,
    pub(super) refused_as_it_should: u64,
    /// Whether each step took place.
    steps: Vec<Verdict>,
    /// Where everyone stood when the first was revoked.
    before_revocations: Option<Vec<DeviceState>>,
    /// Where everyone stood in the end; `None` if the story was ended before.
    at_the_end: Option<Vec<DeviceState>>,
}

impl Seen {
    /// A step happened to `done` of the `of` devices that it should have happened to.
    pub(super) fn step(&mut self, what: &str, done: usize, of: usize, how: &str) {
        self.steps.push(Verdict::of_everyone(what, done, of, how));
    }

    /// An attack was made.
    pub(super) fn attack(&mut self, what: &str, attempts: Attempts) {
        let Attempts { let_through, made, refused_publishes, cut_after } = attempts;
        let found = match let_through.first() {
            None => format!("{made} attempts, none succeeded"),
            Some(first) => format!("{} of {made} attempts succeeded; {first}", let_through.len()),
        };
        let met = made > 0 && let_through.is_empty();
        self.steps.push(Verdict { expected: format!("{what}, in vain"), found, met });
        self.refused_as_it_should += refused_publishes;
        self.cut_after.extend(cut_after);
    }

    /// Somebody is about to be revoked.
    pub(super) fn before_revocation(&mut self, states: impl FnOnce() -> Vec<DeviceState>) {
        self.before_revocations.get_or_insert_with(states);
    }

    /// The story is over. Whoever was revoked should not be online, and have had no session since.
    pub(super) fn end(&mut self, states: Vec<DeviceState>) {
        let has_gone_on = |(index, sessions): (&usize, &u64)| {
            let state = states.get(*index)?;
            (state.online || state.sessions > *sessions).then_some(*index)
        };
        self.went_on.extend(self.revoked.iter().filter_map(has_gone_on));
        self.at_the_end = Some(states);
    }

    /// Of how many devices that are not revoked `is_so` was true in the end, given the index of each, and how many there are.
    fn others(&self, is_so: impl Fn(usize, &DeviceState) -> bool) -> (usize, usize) {
        let states = self.at_the_end.as_deref().unwrap_or_default();
        let others = || states.iter().enumerate().filter(|(index, _)| !self.revoked.contains_key(index));
        (others().filter(|(index, state)| is_so(*index, state)).count(), others().count())
    }
}

/// Each expectation of `scenario` and each promise, and whether it was kept.
pub(super) fn judge(
    scenario: &Scenario,
    seen: &Seen,
    summary: &Summary,
    delivery: Option<Delivery>,
    network: Option<&NetworkCounts>,
) -> Vec<Verdict> {
    let expect = &scenario.expect;
    let mut verdicts = seen.steps.clone();
    let mut expected = |expected: String, met: bool, found: String| verdicts.push(Verdict { expected, found, met });
    if let (Some(settings), Some(counts)) = (&scenario.network, network) {
        let promised = counts.of_promised(settings);
        let found: Vec<_> = promised.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let met = promised.iter().all(|(_, count)| *count > 0);
        let remedy = if met { "" } else { "; give it a longer duration, or a shorter fault_every" };
        expected("every fault of the network occurs".to_owned(), met, format!("{}{remedy}", found.join(", ")));
    }
    if let Some(bound) = expect.online_within {
        for (what, took, missing) in &seen.recoveries {
            let found = match missing {
                0 => format!("after {}", seconds(*took)),
                missing => format!("{missing} of {} did not", scenario.devices),
            };
            expected(format!("after {what} everyone comes online within {}", seconds(bound)), *missing == 0, found);
        }
    }
    if let Some(bound) = expect.revoked_within {
        let slowest = seen.cut_after.iter().max().copied().unwrap_or_default();
        let found = match seen.went_on.len() {
            0 => format!("{} cut, the slowest after {}", seen.cut_after.len(), seconds(slowest)),
            not_cut => format!("{not_cut} went on"),
        };
        // Where nobody was revoked, nothing was shown.
        let met = seen.went_on.is_empty() && !seen.cut_after.is_empty() && slowest <= bound;
        expected(format!("the revoked are cut within {} and stay away", seconds(bound)), met, found);
    }
    if expect.no_reading_lost {
        let Delivery { acknowledged, arrived, lost } = delivery.unwrap_or_default();
        let found = format!("{acknowledged} acknowledged, {arrived} arrived, {lost} lost");
        expected("no acknowledged reading is lost".to_owned(), lost == 0 && acknowledged > 0, found);
    }
    if expect.nothing_refused {
        let refused = summary.refused.saturating_sub(seen.refused_as_it_should);
        expected("no device is refused what is its own".to_owned(), refused == 0, format!("{refused} of its own refused"));
    }
    if expect.commands_succeed {
        let found = match seen.failed_commands.first() {
            None => format!("{} of {} did", seen.commands, seen.commands),
            Some(first) => format!("{} of {} did not; {first}", seen.failed_commands.len(), seen.commands),
        };
        expected("every command succeeds".to_owned(), seen.failed_commands.is_empty() && seen.commands > 0, found);
    }
    let latency = summary.publish;
    for (name, bound, found) in [("half", expect.publish_p50, latency.p50_ms), ("99 of 100", expect.publish_p99, latency.p99_ms)]
    {
        if let Some(bound) = bound {
            let met = found.is_some_and(|found| found <= bound.as_secs_f64() * 1e3);
            let found = found.map_or_else(|| "none was acknowledged".to_owned(), |found| format!("{found:.1} ms"));
            expected(format!("{name} publishes are acknowledged within {}", seconds(bound)), met, found);
        }
    }
    if expect.no_reading_lost {
        let (reported, others) = seen.others(|_, state| state.acknowledged > 0);
        verdicts.push(Verdict::of_everyone("everyone reports", reported, others, "had a publish acknowledged"));
    }
    if expect.others_undisturbed {
        let before = seen.before_revocations.as_deref().unwrap_or_default();
        let same_session = |index: usize, state: &DeviceState| {
            before.get(index).is_some_and(|before| state.online && before.online && state.sessions == before.sessions)
        };
        let (kept, others) = seen.others(same_session);
        verdicts.push(Verdict::of_everyone("nobody else is disturbed by the revocation", kept, others, "kept their session"));
    }
    if !scenario.clock_errors.is_empty() {
        let (told, others) = seen.others(|_, state| state.clock_corrected);
        verdicts.push(Verdict::of_everyone("the hub sets every wrong clock right", told, others, "were told the time"));
    }
    verdicts
}

/// Whether a virtual life, of which `end` is known, was as it should be, and what its chances promise came.
#[must_use]
pub fn judge_life(scenario: &Scenario, chronicle: &Chronicle, end: &Result<bool, Violation>) -> Vec<Verdict> {
    let (met, found) = match end {
        Ok(false) => (true, "after each step".to_owned()),
        Ok(true) => (true, "ended before its end".to_owned()),
        Err(violation) => (false, violation.to_string()),
    };
    let mut verdicts = vec![Verdict { expected: "every invariant holds".to_owned(), found, met }];
    let promised = chronicle.of_promised(&scenario.chances.unwrap_or_default(), scenario.devices);
    if !promised.is_empty() {
        let found: Vec<_> = promised.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let met = promised.iter().all(|(_, count)| *count > 0);
        verdicts.push(Verdict { expected: "everything that is likely comes to pass".to_owned(), found: found.join(", "), met });
    }
    verdicts
}

/// What no expectation names.
pub(super) fn notes(scenario: &Scenario, seen: &Seen) -> Vec<String> {
    let unjudged = seen.recoveries.iter().filter(|_| scenario.expect.online_within.is_none());
    unjudged.map(|(what, took, missing)| format!("after {what}: {missing} not online after {}", seconds(*took))).collect()
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether what is expected in words that begin so was met, in the shipped story of this name.
    fn holds(story: &str, words: &str, seen: &Seen, network: Option<&NetworkCounts>) -> bool {
        let scenario = Scenario::shipped(story).expect("a story");
        let verdicts = judge(&scenario, seen, &Summary::default(), None, network);
        verdicts.iter().find(|verdict| verdict.expected.starts_with(words)).expect("expected").met
    }

    #[test]
    fn the_revoked_stay_away_only_if_somebody_was_revoked_and_had_no_session_since() {
        let stay_away = |seen: &Seen| holds("revoke-one", "the revoked", seen, None);
        assert!(!stay_away(&Seen::default()), "nobody was revoked");
        let revoked = || Seen { revoked: [(1, 3)].into(), cut_after: vec![Duration::from_secs(1)], ..Seen::default() };
        let states = |online, sessions| vec![DeviceState::default(), DeviceState { online, sessions, ..DeviceState::default() }];
        for (online, sessions, stayed_away) in [(false, 3, true), (true, 3, false), (false, 4, false)] {
            let mut seen = revoked();
            seen.end(states(online, sessions));
            assert_eq!(stay_away(&seen), stayed_away, "online {online}, {sessions} sessions");
        }
        assert!(!stay_away(&Seen { cut_after: vec![Duration::from_secs(60)], ..revoked() }), "too slow");
    }

    #[test]
    fn nobody_else_is_disturbed_only_if_all_others_keep_the_session_that_they_had() {
        let undisturbed = |seen: &Seen| holds("revoke-one", "nobody else", seen, None);
        let device = |online, sessions| DeviceState { online, sessions, ..DeviceState::default() };
        for (other, kept) in [(device(true, 2), true), (device(true, 3), false), (device(false, 2), false)] {
            let mut seen = Seen { revoked: [(0, 1)].into(), ..Seen::default() };
            seen.before_revocation(|| vec![device(true, 1), device(true, 2)]);
            seen.end(vec![device(false, 1), other.clone()]);
            assert_eq!(undisturbed(&seen), kept, "{other:?}");
        }
        assert!(!undisturbed(&Seen::default()), "nobody was revoked, or the story was ended before its end");
    }

    #[test]
    fn a_bad_network_keeps_its_promise_only_if_each_of_its_faults_occurred() {
        let kept = |counts: &NetworkCounts| holds("lossy-wifi", "every fault", &Seen::default(), Some(counts));
        let all =
            NetworkCounts { connections: 9, delayed_segments: 9, lost_segments: 1, resets: 1, truncations: 1, half_open: 1 };
        assert!(kept(&all));
        for missing in [
            NetworkCounts { delayed_segments: 0, ..all },
            NetworkCounts { lost_segments: 0, ..all },
            NetworkCounts { resets: 0, ..all },
            NetworkCounts { truncations: 0, ..all },
            NetworkCounts { half_open: 0, ..all },
        ] {
            assert!(!kept(&missing), "{missing:?}");
        }
    }

    #[test]
    fn a_step_took_place_only_if_it_happened_to_all_of_its_devices_and_to_somebody() {
        for (done, of, met) in [(3, 3, true), (2, 3, false), (0, 3, false), (0, 0, false)] {
            let mut seen = Seen::default();
            seen.step("the power fails", done, of, "went dark");
            assert_eq!(holds("power-cut", "the power fails", &seen, None), met, "{done} of {of}");
        }
    }

    #[test]
    fn an_attack_was_in_vain_only_if_it_was_made_and_nothing_was_let_through() {
        let let_through = vec!["a stolen token".to_owned()];
        for (made, let_through, met) in [(3, vec![], true), (0, vec![], false), (3, let_through, false)] {
            let mut seen = Seen::default();
            seen.attack("the hub is flooded", Attempts { made, let_through, ..Attempts::default() });
            assert_eq!(holds("hostile", "the hub is flooded, in vain", &seen, None), met, "{made}");
        }
    }

    #[test]
    fn a_year_is_as_promised_only_if_each_of_its_chances_came_and_a_day_promises_less() {
        let year = Scenario::shipped("year").expect("a story");
        let came = Chronicle {
            passed_s: 365 * 86_400,
            power_cuts: 1,
            breaks: 1,
            hub_restarts: 1,
            commands: 1,
            rotations: 1,
            disablings: 1,
            revocations: 1,
            replays: 1,
            refused: 1,
            ..Chronicle::default()
        };
        let met = |chronicle: &Chronicle| judge_life(&year, chronicle, &Ok(false)).iter().all(|verdict| verdict.met);
        assert!(met(&came));
        for missing in [
            Chronicle { power_cuts: 0, ..came.clone() },
            Chronicle { breaks: 0, ..came.clone() },
            Chronicle { hub_restarts: 0, ..came.clone() },
            Chronicle { commands: 0, ..came.clone() },
            Chronicle { rotations: 0, ..came.clone() },
            Chronicle { disablings: 0, ..came.clone() },
            Chronicle { revocations: 0, ..came.clone() },
            Chronicle { replays: 0, ..came.clone() },
            Chronicle { refused: 0, ..came.clone() },
        ] {
            assert!(!met(&missing), "{missing:?}");
            assert!(met(&Chronicle { passed_s: 3_600, ..missing }), "an hour promises nothing");
        }
        let lost = Chronicle { revocations: 100, hub_restarts: 1, passed_s: came.passed_s, ..Chronicle::default() };
        assert!(met(&lost), "to a home whose devices are all revoked, nothing else happens");
        let violation = Violation { seed: 1, at_ms: 2, step: 3, what: "a publish without a right".to_owned() };
        assert!(!judge_life(&year, &came, &Err(violation))[0].met);
    }

    #[test]
    fn everyone_reports_and_every_clock_is_right_only_if_it_is_true_of_each_who_is_not_revoked() {
        let device = |acknowledged, clock_corrected| DeviceState { acknowledged, clock_corrected, ..DeviceState::default() };
        for (states, reports, right) in [
            (vec![device(1, true), device(2, true)], true, true),
            (vec![device(1, true), device(0, false)], false, false),
            (vec![device(1, false), device(1, true)], true, false),
            (vec![], false, false),
        ] {
            let mut seen = Seen::default();
            seen.end(states.clone());
            assert_eq!(holds("clock-skew", "everyone reports", &seen, None), reports, "{states:?}");
            assert_eq!(holds("clock-skew", "the hub sets every wrong clock", &seen, None), right, "{states:?}");
        }
        let mut seen = Seen { revoked: [(1, 1)].into(), ..Seen::default() };
        seen.end(vec![device(1, true), device(0, false)]);
        assert!(holds("clock-skew", "everyone reports", &seen, None), "the other is revoked");
    }
}
