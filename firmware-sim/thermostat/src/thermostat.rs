//! A thermostat: what it reports and which commands it obeys. Knows nothing of topics, MQTT or when.

use core::fmt::Write as _;
use core::time::Duration;

use heapless::String;
use hearthkey_agent::json::{Object, Value};
use hearthkey_agent::{Buffer, BufferFull, MAX_REASON};

use crate::Hundredths;
use crate::heat::{HeatModel, Mode, SETPOINT_CELSIUS};

/// The command names a thermostat obeys, as its `about` message announces them.
pub const COMMANDS: [&str; 3] = ["set-setpoint", "set-mode", "identify"];

/// A thermostat and its room.
#[derive(Clone, Debug)]
pub struct Thermostat {
    room: HeatModel,
    identified: u32,
}

/// Why a command was rejected: one sentence that says what would be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection(pub String<MAX_REASON>);

/// `dev/<id>/tele/temperature`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemperatureReading {
    /// Room temperature.
    pub celsius: Hundredths,
    /// Whether the heater is on.
    pub heating: bool,
}

/// `dev/<id>/state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Room temperature.
    pub celsius: Hundredths,
    /// The temperature to keep.
    pub setpoint: Hundredths,
    /// `heat` or `off`.
    pub mode: &'static str,
    /// Whether the heater is on.
    pub heating: bool,
}

impl TemperatureReading {
    /// As JSON.
    ///
    /// # Errors
    /// [`BufferFull`] in less than 64 bytes.
    pub fn write(&self, out: &mut Buffer<'_>) -> Result<(), BufferFull> {
        let Self { celsius, heating } = self;
        Ok(write!(out, r#"{{"celsius":{celsius},"heating":{heating}}}"#)?)
    }
}

impl State {
    /// As JSON.
    ///
    /// # Errors
    /// [`BufferFull`] in less than 96 bytes.
    pub fn write(&self, out: &mut Buffer<'_>) -> Result<(), BufferFull> {
        let Self { celsius, setpoint, mode, heating } = self;
        Ok(write!(out, r#"{{"celsius":{celsius},"setpoint":{setpoint},"mode":"{mode}","heating":{heating}}}"#)?)
    }
}

impl Thermostat {
    /// A thermostat in the room that `seed` draws.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { room: HeatModel::seeded(seed), identified: 0 }
    }

    /// Lets time pass in the room.
    pub fn step(&mut self, elapsed: Duration) {
        self.room.step(elapsed);
    }

    /// Obeys a command. `args` is the JSON of the command's arguments, empty when there are none.
    ///
    /// # Errors
    /// [`Rejection`] for an unknown command and for arguments that it does not take; nothing changes then.
    pub fn execute(&mut self, command: &str, args: &[u8]) -> Result<(), Rejection> {
        match command {
            "set-setpoint" => {
                let celsius = only_member(args, "celsius").filter(|value| value.as_str().is_none());
                let Some((wanted, text)) = celsius.and_then(|value| Some((Hundredths::parse(value.as_raw())?, value.as_raw())))
                else {
                    return Err(rejection(format_args!(r#"arguments must look like {{"celsius":21.5}}"#)));
                };
                if !SETPOINT_CELSIUS.contains(&wanted.celsius()) {
                    let (low, high) = SETPOINT_CELSIUS.into_inner();
                    return Err(rejection(format_args!(
                        "celsius must be between {} and {}, not {text}",
                        low as i32, high as i32
                    )));
                }
                self.room.set_setpoint(wanted.celsius());
            }
            "set-mode" => {
                let mode = match only_member(args, "mode").and_then(|value| value.as_str()) {
                    Some("heat") => Mode::Heat,
                    Some("off") => Mode::Off,
                    _ => {
                        return Err(rejection(format_args!(r#"arguments must look like {{"mode":"heat"}} or {{"mode":"off"}}"#)));
                    }
                };
                self.room.set_mode(mode);
            }
            "identify" => self.identified = self.identified.saturating_add(1),
            _ => {
                let [first, second, third] = COMMANDS;
                return Err(rejection(format_args!("unknown command; it obeys {first}, {second}, {third}")));
            }
        }
        Ok(())
    }

    /// Becomes what is desired, as far as it can: `setpoint` in range, `mode`. The rest is passed over, and what it became says
    /// what was.
    pub fn become_desired(&mut self, desired: &Object<'_>) {
        let setpoint = desired.get("setpoint").filter(|value| value.as_str().is_none());
        if let Some(wanted) = setpoint.and_then(|value| Hundredths::parse(value.as_raw()))
            && SETPOINT_CELSIUS.contains(&wanted.celsius())
        {
            self.room.set_setpoint(wanted.celsius());
        }
        match desired.get("mode").and_then(|value| value.as_str()) {
            Some("heat") => self.room.set_mode(Mode::Heat),
            Some("off") => self.room.set_mode(Mode::Off),
            _ => {}
        }
    }

    /// What it became: `dev/<id>/twin/reported`.
    ///
    /// # Errors
    /// [`BufferFull`] in less than 96 bytes.
    pub fn write_twin(&self, version: u64, out: &mut Buffer<'_>) -> Result<(), BufferFull> {
        let State { setpoint, mode, .. } = self.state();
        Ok(write!(out, r#"{{"v":{version},"setpoint":{setpoint},"mode":"{mode}"}}"#)?)
    }

    /// What it measures.
    #[must_use]
    pub fn reading(&self) -> TemperatureReading {
        TemperatureReading { celsius: Hundredths::of(self.room.room_celsius()), heating: self.room.heating() }
    }

    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> State {
        State {
            celsius: Hundredths::of(self.room.room_celsius()),
            setpoint: Hundredths::of(self.room.setpoint_celsius()),
            mode: match self.room.mode() {
                Mode::Heat => "heat",
                Mode::Off => "off",
            },
            heating: self.room.heating(),
        }
    }

    /// What it is: `dev/<id>/about`.
    ///
    /// # Errors
    /// [`BufferFull`] in less than 192 bytes, for a model of at most 32.
    pub fn write_about(&self, model: &str, out: &mut Buffer<'_>) -> Result<(), BufferFull> {
        let [first, second, third] = COMMANDS;
        let firmware = env!("CARGO_PKG_VERSION");
        write!(out, r#"{{"model":"{model}","firmware":"{firmware}","capabilities":["{first}","{second}","{third}"]}}"#)?;
        Ok(())
    }

    /// How often it was asked to identify itself; a real one would blink.
    #[must_use]
    pub fn identified(&self) -> u32 {
        self.identified
    }
}

/// The value of the only member of an object, if that is its name.
fn only_member<'a>(args: &'a [u8], name: &str) -> Option<Value<'a>> {
    let mut members = Object::parse(args).ok()?.members();
    let (found, value) = members.next()?;
    (found == name && members.next().is_none()).then_some(value)
}

/// Cut off where it would not fit, which only a number as long as itself brings about.
fn rejection(reason: core::fmt::Arguments<'_>) -> Rejection {
    let mut text = [0; MAX_REASON];
    let mut out = Buffer::new(&mut text);
    let _ = out.write_fmt(reason);
    let written = core::str::from_utf8(out.written()).unwrap_or_default();
    Rejection(String::try_from(written).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;
    use std::string::{String, ToString as _};

    fn rejection(thermostat: &mut Thermostat, command: &str, args: &str) -> String {
        let before = thermostat.state();
        let rejected = thermostat.execute(command, args.as_bytes()).expect_err(args);
        assert_eq!(thermostat.state(), before, "a rejected command changes nothing");
        rejected.0.to_string()
    }

    #[test]
    fn a_setpoint_is_obeyed_and_reported() {
        let mut thermostat = Thermostat::seeded(1);
        thermostat.execute("set-setpoint", br#"{"celsius":23.5}"#).expect("in range");
        assert_eq!(thermostat.state().setpoint, Hundredths(2_350));
        thermostat.step(Duration::from_secs(24 * 3600));
        assert!((thermostat.reading().celsius.celsius() - 23.5).abs() < 1.0);
    }

    #[test]
    fn a_bad_setpoint_is_rejected_with_what_would_do() {
        let mut thermostat = Thermostat::seeded(1);
        for args in ["", "{}", "null", "[]", r#"{"celsius":"warm"}"#, r#"{"celsius":21,"x":1}"#, "\u{0}"] {
            let reason = rejection(&mut thermostat, "set-setpoint", args);
            assert_eq!(reason, r#"arguments must look like {"celsius":21.5}"#);
        }
        for celsius in ["99", "-3", "1e300", "30.01", "4.99"] {
            let reason = rejection(&mut thermostat, "set-setpoint", &format!(r#"{{"celsius":{celsius}}}"#));
            assert!(reason.starts_with("celsius must be between 5 and 30, not "), "{reason}");
        }
        for bound in ["5", "30"] {
            let args = format!(r#"{{"celsius":{bound}}}"#);
            thermostat.execute("set-setpoint", args.as_bytes()).expect("the bounds are in");
        }
    }

    #[test]
    fn mode_off_stops_heating_at_once_and_heat_resumes_it() {
        let mut thermostat = Thermostat::seeded(1);
        thermostat.execute("set-setpoint", br#"{"celsius":30}"#).expect("in range");
        assert!(thermostat.reading().heating);
        thermostat.execute("set-mode", br#"{"mode":"off"}"#).expect("a mode");
        assert_eq!((thermostat.state().mode, thermostat.reading().heating), ("off", false));
        thermostat.execute("set-mode", br#"{"mode":"heat"}"#).expect("a mode");
        assert_eq!((thermostat.state().mode, thermostat.reading().heating), ("heat", true));
        let reason = rejection(&mut thermostat, "set-mode", r#"{"mode":"cool"}"#);
        assert!(reason.contains(r#"{"mode":"off"}"#), "{reason}");
    }

    #[test]
    fn it_becomes_what_is_desired_as_far_as_it_can() {
        let mut thermostat = Thermostat::seeded(1);
        for (desired, became) in [
            (r#"{"v":1,"setpoint":23.5,"mode":"off"}"#, r#"{"v":7,"setpoint":23.50,"mode":"off"}"#),
            (r#"{"v":2,"mode":"heat"}"#, r#"{"v":7,"setpoint":23.50,"mode":"heat"}"#),
            (r#"{"v":3,"setpoint":99,"mode":"cool"}"#, r#"{"v":7,"setpoint":23.50,"mode":"heat"}"#),
            (r#"{"v":4,"setpoint":"18","mode":1,"colour":"red"}"#, r#"{"v":7,"setpoint":23.50,"mode":"heat"}"#),
        ] {
            thermostat.become_desired(&Object::parse(desired.as_bytes()).expect("an object"));
            let mut text = [0; 96];
            let mut out = Buffer::new(&mut text);
            thermostat.write_twin(7, &mut out).expect("fits");
            assert_eq!(core::str::from_utf8(out.written()), Ok(became), "{desired}");
        }
    }

    #[test]
    fn an_unknown_command_is_rejected_with_the_known_ones() {
        let reason = rejection(&mut Thermostat::seeded(1), "self-destruct", "{}");
        assert_eq!(reason, "unknown command; it obeys set-setpoint, set-mode, identify");
    }

    #[test]
    fn identify_takes_anything() {
        let mut thermostat = Thermostat::seeded(1);
        thermostat.execute("identify", b"").expect("no arguments needed");
        assert_eq!(thermostat.identified(), 1);
    }

    #[test]
    fn reports_are_the_documented_json() {
        let thermostat = Thermostat::seeded(1);
        let json = |write: &dyn Fn(&mut Buffer<'_>) -> Result<(), BufferFull>| {
            let mut text = [0; 192];
            let mut out = Buffer::new(&mut text);
            write(&mut out).expect("fits");
            serde_json::from_slice::<serde_json::Value>(out.written()).expect("JSON")
        };
        let reading = json(&|out| thermostat.reading().write(out));
        assert!(reading["celsius"].is_f64() && reading["heating"].is_boolean());
        let state = json(&|out| thermostat.state().write(out));
        assert_eq!((&state["mode"], &state["setpoint"]), (&"heat".into(), &21.0.into()));
        let about = json(&|out| thermostat.write_about("simulated thermostat", out));
        assert_eq!((&about["model"], &about["capabilities"][0]), (&"simulated thermostat".into(), &"set-setpoint".into()));
    }
}
