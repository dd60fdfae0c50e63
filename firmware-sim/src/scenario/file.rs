//! Scenario files (TOML): what they may say, and errors that point at the line. Runs nothing.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use toml::Spanned;

/// More steps than a story has.
const MAX_STEPS: usize = 64;
/// Largest scenario file.
pub const MAX_SCENARIO_BYTES: u64 = 64 * 1024;
/// Most devices of one scenario: each holds a socket and some 26 KB.
const MAX_DEVICES: usize = 4_000;
/// Longest run by the wall clock.
const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);
/// Longest run in virtual time: ten years.
const MAX_VIRTUAL: Duration = Duration::from_secs(10 * 366 * 86_400);

/// The stories that ship with the program; the files lie in `firmware-sim/scenarios/`.
const SHIPPED: [&str; 10] = [
    include_str!("../../scenarios/morning.toml"),
    include_str!("../../scenarios/power-cut.toml"),
    include_str!("../../scenarios/hub-restart.toml"),
    include_str!("../../scenarios/rotation.toml"),
    include_str!("../../scenarios/revoke-one.toml"),
    include_str!("../../scenarios/revoke-half.toml"),
    include_str!("../../scenarios/clock-skew.toml"),
    include_str!("../../scenarios/lossy-wifi.toml"),
    include_str!("../../scenarios/hostile.toml"),
    include_str!("../../scenarios/year.toml"),
];

/// A story: who takes part, what happens to them, and what must be true of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Short, in kebab case.
    pub name: String,
    /// What it is about, in a sentence or two.
    pub story: String,
    /// Whose time passes.
    #[serde(default)]
    pub clock: ClockKind,
    /// How many devices take part.
    pub devices: usize,
    /// Time between two reports of a device.
    #[serde(deserialize_with = "duration")]
    pub interval: Duration,
    /// The devices start one after another over this time.
    #[serde(default, deserialize_with = "duration")]
    pub ramp: Duration,
    /// How long the story lasts once everyone is online.
    #[serde(deserialize_with = "duration")]
    pub duration: Duration,
    /// What chance draws from.
    #[serde(default = "one")]
    pub seed: u64,
    /// How the agents keep their connections.
    #[serde(default)]
    pub agent: AgentSettings,
    /// The network between the devices and the hub; a good one if absent.
    pub network: Option<NetworkSettings>,
    /// How far the devices' clocks are off when they first connect: device 1 takes the first, and so on, round and round.
    #[serde(default, deserialize_with = "signed_durations")]
    pub clock_errors: Vec<i64>,
    /// What happens in a virtual world, by chance.
    pub chances: Option<Chances>,
    /// What happens, in order.
    #[serde(default, rename = "step")]
    pub steps: Vec<Step>,
    /// What must be true.
    #[serde(default)]
    pub expect: Expectations,
}

/// Whose time passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClockKind {
    /// The wall clock's: real sockets, real TLS, a real hub.
    #[default]
    Wall,
    /// A simulated one: agents and the hub's core in this process, and a year in seconds.
    Virtual,
}

/// How the agents of a scenario keep their connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentSettings {
    /// MQTT keep alive.
    #[serde(deserialize_with = "duration")]
    pub keep_alive: Duration,
    /// The first delay of the back-off is drawn from zero to this.
    #[serde(deserialize_with = "duration")]
    pub backoff_base: Duration,
    /// No delay is drawn from more than this.
    #[serde(deserialize_with = "duration")]
    pub backoff_cap: Duration,
    /// How long a device that is disabled or was taken over waits at most.
    #[serde(deserialize_with = "duration")]
    pub backoff_slow: Duration,
}

impl Default for AgentSettings {
    fn default() -> Self {
        let hearthkey_agent::Config { keep_alive, backoff, .. } = hearthkey_agent::Config::DEFAULT;
        Self {
            keep_alive: Duration::from_secs(u64::from(keep_alive)),
            backoff_base: backoff.base,
            backoff_cap: backoff.cap,
            backoff_slow: backoff.slow,
        }
    }
}

/// What a bad network does to each connection that goes through it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSettings {
    /// How long a segment takes, `5ms..60ms`.
    #[serde(default, deserialize_with = "duration_range")]
    pub delay: Option<RangeInclusive<Duration>>,
    /// The part of segments that is lost on the way: below TCP that shows as a further delay of 200 ms each time.
    #[serde(default)]
    pub loss: f64,
    /// Mean time between two faults of one connection; none if absent.
    #[serde(default, deserialize_with = "optional_duration")]
    pub fault_every: Option<Duration>,
    /// Which faults there are.
    #[serde(default)]
    pub faults: Vec<Fault>,
}

/// How a connection goes bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Both sides see a reset.
    Reset,
    /// A segment arrives in part, then the connection ends.
    Truncate,
    /// Nothing arrives any more, and nobody is told.
    HalfOpen,
}

/// How often things happen in a virtual world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Chances {
    /// Power cuts of one device in a year.
    pub power_cuts: f64,
    /// Connections of one device that break in a year, half of them without either side being told.
    pub breaks: f64,
    /// Restarts of the hub in a year.
    pub hub_restarts: f64,
    /// Commands to one device in a year.
    pub commands: f64,
    /// Key rotations of one device in a year.
    pub rotations: f64,
    /// Devices that are disabled for a while, each so often in a year.
    pub disablings: f64,
    /// Devices that are revoked in a year, of all.
    pub revocations: f64,
    /// Attempts in a year to use what an eavesdropper could have: replayed assertions and foreign topics.
    pub attacks: f64,
}

/// Something that happens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// How long after everyone was online first.
    #[serde(deserialize_with = "duration")]
    pub at: Duration,
    /// What.
    pub r#do: Spanned<Action>,
    /// To which part of the devices; all if neither this nor `devices` is there.
    pub share: Option<Spanned<f64>>,
    /// To how many devices.
    pub devices: Option<Spanned<usize>>,
    /// For how long power or hub are gone.
    #[serde(default, deserialize_with = "optional_duration")]
    pub down: Option<Duration>,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The hub says goodbye, is away for `down`, and starts again.
    RestartHub,
    /// The hub is killed, is away for `down`, and starts again.
    KillHub,
    /// Devices lose their power without goodbye, for `down`.
    CutPower,
    /// The owner has devices make new keys.
    Rotate,
    /// The owner revokes devices.
    Revoke,
    /// The owner commands devices to identify themselves.
    Command,
    /// A token that was stolen from a device is used.
    StolenToken,
    /// An assertion that was overheard is used again.
    ReplayedAssertion,
    /// Devices publish and subscribe to what is not theirs.
    ForeignTopics,
    /// Garbage and wrong passwords by the hundred.
    Flood,
}

/// What must be true of a run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expectations {
    /// After the start and after each disturbance, everyone who is not revoked is online again within this.
    #[serde(deserialize_with = "optional_duration")]
    pub online_within: Option<Duration>,
    /// Revoked devices lose their session within this, and do not come back.
    #[serde(deserialize_with = "optional_duration")]
    pub revoked_within: Option<Duration>,
    /// Whoever is not revoked keeps the session that it had when the first was.
    pub others_undisturbed: bool,
    /// A subscriber gets every reading that the hub acknowledged, and everyone who is not revoked has had one acknowledged.
    pub no_reading_lost: bool,
    /// No device is refused a publish, except by foreign-topics.
    pub nothing_refused: bool,
    /// Every command succeeds.
    pub commands_succeed: bool,
    /// Half of the publishes are acknowledged within this.
    #[serde(deserialize_with = "optional_duration")]
    pub publish_p50: Option<Duration>,
    /// All but a hundredth of the publishes are acknowledged within this.
    #[serde(deserialize_with = "optional_duration")]
    pub publish_p99: Option<Duration>,
    /// What a virtual world holds to, checked after each step: rights, bounds, single use, nobody locked out.
    pub invariants: bool,
}

/// Why a file is no scenario: what, where, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ScenarioError {
    text: String,
}

impl Scenario {
    /// The shipped scenario of this name.
    #[must_use]
    pub fn shipped(name: &str) -> Option<Self> {
        Self::all_shipped().into_iter().map(|(scenario, _)| scenario).find(|scenario| scenario.name == name)
    }

    /// All shipped scenarios, each with its file's text.
    ///
    /// # Panics
    /// Never: a test parses them all.
    #[must_use]
    pub fn all_shipped() -> Vec<(Self, &'static str)> {
        let parse = |text| (Self::parse("a shipped scenario", text).expect("held by a test"), text);
        SHIPPED.into_iter().map(parse).collect()
    }

    /// Reads a scenario. `file` is its name in errors.
    ///
    /// # Errors
    /// [`ScenarioError`] shows the line.
    pub fn parse(file: &str, text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text).map_err(|error| {
            let place = error.span();
            let message = error.message().to_owned();
            point_at(file, text, place, &with_suggestion(&message))
        })?;
        scenario.check().map_err(|(place, problem)| point_at(file, text, place, &problem))?;
        Ok(scenario)
    }

    /// Whether it stops the hub: then it must have started it.
    #[must_use]
    pub fn needs_own_hub(&self) -> bool {
        self.steps.iter().any(|step| matches!(step.r#do.get_ref(), Action::RestartHub | Action::KillHub))
    }

    /// Whether it still makes sense after fields were changed.
    ///
    /// # Errors
    /// [`ScenarioError`] says what does not.
    pub fn validate(&self) -> Result<(), ScenarioError> {
        self.check().map_err(|(_, problem)| ScenarioError { text: format!("scenario {}: {problem}", self.name) })
    }

    fn check(&self) -> Result<(), (Option<Range<usize>>, String)> {
        let nowhere = |problem: String| Err((None, problem));
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if self.name.is_empty() || !self.name.bytes().all(is_word) {
            return nowhere(format!("name `{}`: use lower case letters, digits and dashes", self.name));
        }
        if self.devices == 0 || self.devices > MAX_DEVICES {
            return nowhere(format!("devices = {}: between 1 and {MAX_DEVICES}", self.devices));
        }
        if self.interval < Duration::from_millis(10) {
            return nowhere("interval: at least 10ms".to_owned());
        }
        let longest = if self.clock == ClockKind::Virtual { MAX_VIRTUAL } else { MAX_DURATION };
        if self.duration > longest || self.ramp > longest {
            return nowhere(format!("duration and ramp: at most {}", humantime::format_duration(longest)));
        }
        if self.steps.len() > MAX_STEPS {
            return nowhere(format!("{} steps: at most {MAX_STEPS}", self.steps.len()));
        }
        let keep_alive = self.agent.keep_alive;
        if keep_alive < Duration::from_secs(1) || keep_alive > Duration::from_secs(u64::from(u16::MAX)) {
            return nowhere("agent.keep_alive: between 1s and 65535s".to_owned());
        }
        if let Some(network) = &self.network {
            if !(0.0..1.0).contains(&network.loss) {
                return nowhere(format!("network.loss = {}: from 0 to below 1", network.loss));
            }
            if network.fault_every.is_some() == network.faults.is_empty() {
                return nowhere("network: fault_every and faults go together".to_owned());
            }
            if network.fault_every.is_some_and(|every| every < Duration::from_millis(100)) {
                return nowhere("network.fault_every: at least 100ms".to_owned());
            }
        }
        match self.clock {
            ClockKind::Virtual if self.network.is_some() || !self.steps.is_empty() || !self.clock_errors.is_empty() => {
                return nowhere("clock = \"virtual\": use [chances] in place of steps, network and clock_errors".to_owned());
            }
            ClockKind::Wall if self.chances.is_some() => {
                return nowhere("[chances] are for clock = \"virtual\"; use [[step]]".to_owned());
            }
            ClockKind::Wall if self.expect.invariants => {
                return nowhere("expect.invariants is for clock = \"virtual\"".to_owned());
            }
            ClockKind::Virtual | ClockKind::Wall => {}
        }
        self.steps.iter().try_for_each(|step| self.check_step(step))?;
        if self.steps.windows(2).any(|pair| pair[0].at > pair[1].at) {
            return nowhere("steps: put them in the order of their `at`".to_owned());
        }
        let late = self.steps.iter().find(|step| step.at > self.duration);
        late.map_or(Ok(()), |step| {
            let [at, end] = [step.at, self.duration].map(humantime::format_duration);
            Err((Some(step.r#do.span()), format!("at = {at} is after the end, duration = {end}")))
        })
    }

    fn check_step(&self, step: &Step) -> Result<(), (Option<Range<usize>>, String)> {
        let action = *step.r#do.get_ref();
        if let Some(share) = step.share.as_ref().filter(|share| !(*share.get_ref() > 0.0 && *share.get_ref() <= 1.0)) {
            return Err((Some(share.span()), "share: above 0 and at most 1".to_owned()));
        }
        if let Some(devices) = step.devices.as_ref().filter(|devices| !(1..=self.devices).contains(devices.get_ref())) {
            return Err((Some(devices.span()), format!("devices: between 1 and the {} that take part", self.devices)));
        }
        if let (Some(_), Some(devices)) = (&step.share, &step.devices) {
            return Err((Some(devices.span()), "either share or devices".to_owned()));
        }
        let takes_some = matches!(action, Action::CutPower | Action::Rotate | Action::Revoke | Action::Command);
        if let Some(place) = step.share.as_ref().map(Spanned::span).or(step.devices.as_ref().map(Spanned::span))
            && !takes_some
        {
            return Err((Some(place), "this happens to no choice of devices: leave share and devices away".to_owned()));
        }
        if step.down.is_some() && !matches!(action, Action::RestartHub | Action::KillHub | Action::CutPower) {
            return Err((Some(step.r#do.span()), "down is for restart-hub, kill-hub and cut-power".to_owned()));
        }
        Ok(())
    }
}

impl Step {
    /// How many of `devices` it happens to; at least one.
    #[must_use]
    pub fn count_of(&self, devices: usize) -> usize {
        match (&self.share, &self.devices) {
            (_, Some(count)) => *count.get_ref(),
            (Some(share), None) => ((devices as f64 * share.get_ref()).round() as usize).clamp(1, devices),
            (None, None) => devices,
        }
    }
}

fn point_at(file: &str, text: &str, place: Option<Range<usize>>, problem: &str) -> ScenarioError {
    let Some(place) = place.filter(|place| place.start <= text.len() && text.is_char_boundary(place.start)) else {
        return ScenarioError { text: format!("{file}: {problem}") };
    };
    let before = &text[..place.start];
    let number = before.matches('\n').count() + 1;
    let column = before.len() - before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text.lines().nth(number - 1).unwrap_or_default();
    let width = place.len().clamp(1, line.len().saturating_sub(column).max(1));
    let gutter = " ".repeat(number.to_string().len());
    let (indent, marks) = (" ".repeat(column), "^".repeat(width));
    ScenarioError { text: format!("{file}:{number}: {problem}\n  {number} | {line}\n  {gutter} | {indent}{marks}") }
}

/// serde's list of what was expected, cut down to what was probably meant.
fn with_suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (Some(wrong), "unknown") = (quoted.next(), message.split(' ').next().unwrap_or_default()) else {
        return message.lines().next().unwrap_or_default().to_owned();
    };
    let likeness = |known: &&str| (strsim::jaro_winkler(wrong, known) * 1000.0) as u32;
    match quoted.max_by_key(likeness).filter(|known| likeness(known) > 750) {
        Some(known) => format!("{}; did you mean `{known}`?", message.split(", expected").next().unwrap_or(message)),
        None => message.to_owned(),
    }
}

const fn one() -> u64 {
    1
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

fn optional_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

fn duration_range<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RangeInclusive<Duration>>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let (low, high) = text.split_once("..").ok_or_else(|| serde::de::Error::custom("a range such as `5ms..60ms`"))?;
    let (low, high) =
        (parse_duration(low).map_err(serde::de::Error::custom)?, parse_duration(high).map_err(serde::de::Error::custom)?);
    if low > high {
        return Err(serde::de::Error::custom("the shorter time comes first"));
    }
    Ok(Some(low..=high))
}

fn signed_durations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<i64>, D::Error> {
    let signed = |text: &String| {
        let (sign, rest) = text.strip_prefix('-').map_or((1, text.as_str()), |rest| (-1, rest));
        let seconds = parse_duration(rest).map(|duration| duration.as_secs())?;
        i64::try_from(seconds).map(|seconds| sign * seconds).map_err(|error| error.to_string())
    };
    Vec::<String>::deserialize(deserializer)?.iter().map(signed).collect::<Result<_, _>>().map_err(serde::de::Error::custom)
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim()).map_err(|error| format!("`{text}` is no time such as 5s, 500ms or 2m: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = "name = \"x\"\nstory = \"y\"\ndevices = 3\ninterval = \"1s\"\nduration = \"1m\"\n";

    fn refusal(rest: &str) -> String {
        Scenario::parse("my.toml", &format!("{SMALLEST}{rest}")).expect_err(rest).to_string()
    }

    #[test]
    fn every_shipped_scenario_is_one_and_bears_the_name_of_its_file() {
        let names: Vec<_> = Scenario::all_shipped().into_iter().map(|(scenario, _)| scenario.name).collect();
        let mut files: Vec<_> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios"))
            .expect("the folder")
            .map(|entry| entry.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned())
            .collect();
        let mut sorted = names.clone();
        sorted.sort();
        files.sort();
        assert_eq!(sorted, files);
        assert!(Scenario::shipped("morning").is_some() && Scenario::shipped("evening").is_none());
    }

    #[test]
    fn every_shipped_scenario_expects_something() {
        for (scenario, text) in Scenario::all_shipped() {
            let Expectations { online_within, invariants, .. } = scenario.expect;
            assert!(online_within.is_some() || invariants, "{text}");
        }
    }

    #[test]
    fn an_unknown_field_is_named_with_its_line_and_what_was_meant() {
        let said = refusal("devicez = 4\n");
        assert_eq!(said, "my.toml:6: unknown field `devicez`; did you mean `devices`?\n  6 | devicez = 4\n    | ^^^^^^^");
        let said = refusal("[expect]\nno_reading_lots = true\n");
        assert!(said.starts_with("my.toml:7: unknown field `no_reading_lots`; did you mean `no_reading_lost`?"), "{said}");
        let said = refusal("[[step]]\nat = \"5s\"\ndo = \"restart-hup\"\n");
        assert!(said.starts_with("my.toml:8: unknown variant `restart-hup`; did you mean `restart-hub`?"), "{said}");
        let said = refusal("[expect]\nwarp = true\n");
        assert!(said.contains("unknown field `warp`, expected one of"), "{said}");
    }

    #[test]
    fn what_makes_no_sense_is_refused_where_it_stands() {
        for (rest, says) in [
            ("ramp = \"soon\"\n", "my.toml:6: `soon` is no time such as 5s"),
            ("[[step]]\nat = \"5s\"\ndo = \"revoke\"\nshare = 2.0\n", "my.toml:9: share: above 0"),
            ("[[step]]\nat = \"5s\"\ndo = \"revoke\"\ndevices = 4\n", "my.toml:9: devices: between 1 and the 3"),
            ("[[step]]\nat = \"5s\"\ndo = \"flood\"\nshare = 0.5\n", "my.toml:9: this happens to no choice"),
            ("[[step]]\nat = \"2m\"\ndo = \"flood\"\n", "my.toml:8: at = 2m is after the end, duration = 1m"),
            ("[[step]]\nat = \"5s\"\ndo = \"revoke\"\ndown = \"1s\"\n", "my.toml:8: down is for"),
            ("[network]\nloss = 1.5\n", "my.toml: network.loss"),
            ("[network]\nfaults = [\"reset\"]\n", "my.toml: network: fault_every and faults"),
            ("[network]\ndelay = \"9ms..5ms\"\n", "my.toml:7: the shorter time"),
            ("[chances]\nbreaks = 3.0\n", "my.toml: [chances] are for"),
            ("clock = \"virtual\"\n[[step]]\nat = \"5s\"\ndo = \"flood\"\n", "my.toml: clock = \"virtual\""),
            ("seed = -1\n", "my.toml:6: "),
            ("devices = 3\n", "my.toml:6: duplicate key"),
        ] {
            let said = refusal(rest);
            assert!(said.starts_with(says), "{rest}: {said}");
        }
        assert!(Scenario::parse("my.toml", "name = \"x\"").expect_err("too little").to_string().contains("missing field"));
        assert!(Scenario::parse("my.toml", SMALLEST).is_ok());
    }

    #[test]
    fn a_story_that_was_changed_must_still_make_sense() {
        let story = Scenario::shipped("hub-restart").expect("a story");
        story.validate().expect("as it ships");
        let shorter = Scenario { duration: Duration::from_secs(1), ..story.clone() };
        let said = shorter.validate().expect_err("its steps come later").to_string();
        assert!(said.starts_with("scenario hub-restart: at = ") && said.ends_with("is after the end, duration = 1s"), "{said}");
        let larger = Scenario { devices: MAX_DEVICES + 1, ..story };
        assert!(larger.validate().expect_err("too many").to_string().contains("between 1 and 4000"));
    }

    #[test]
    fn a_share_is_of_the_devices_and_never_nobody() {
        let step = |rest: &str| {
            let text = format!("{SMALLEST}[[step]]\nat = \"5s\"\ndo = \"revoke\"\n{rest}");
            Scenario::parse("my.toml", &text).expect("legal").steps[0].clone()
        };
        assert_eq!(step("share = 0.5").count_of(100), 50);
        assert_eq!(step("share = 0.001").count_of(3), 1);
        assert_eq!(step("devices = 2").count_of(3), 2);
        assert_eq!(step("").count_of(3), 3);
    }
}
