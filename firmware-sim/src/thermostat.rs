//! A thermostat's application: what it reports and which commands it obeys. Knows nothing of topics, MQTT or time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::heat::{HeatModel, Mode, SETPOINT_CELSIUS};

/// The command names a simulated thermostat obeys, as its `about` message announces them.
pub const COMMANDS: [&str; 3] = ["set-setpoint", "set-mode", "identify"];

/// The application of one simulated device.
#[derive(Clone, Debug)]
pub struct Thermostat {
    room: HeatModel,
    identified: u32,
}

/// Why a command was rejected: one sentence that says what would be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Rejection(String);

/// `dev/<id>/tele/temperature`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TemperatureReading {
    /// Room temperature, rounded to hundredths.
    pub celsius: f64,
    /// Whether the heater is on.
    pub heating: bool,
}

/// `dev/<id>/state`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct State {
    /// Room temperature, rounded to hundredths.
    pub celsius: f64,
    /// The temperature to keep.
    pub setpoint: f64,
    /// `heat` or `off`.
    pub mode: &'static str,
    /// Whether the heater is on.
    pub heating: bool,
}

/// `dev/<id>/about`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct About {
    /// What it is.
    pub model: &'static str,
    /// The version of the program that plays it.
    pub firmware: &'static str,
    /// The commands it obeys.
    pub capabilities: [&'static str; 3],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetpointArgs {
    celsius: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModeArgs {
    mode: ModeName,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ModeName {
    Heat,
    Off,
}

impl Thermostat {
    /// A thermostat in the room that `seed` draws.
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
                let wanted: SetpointArgs = parse(args, r#"{"celsius":21.5}"#)?;
                if !SETPOINT_CELSIUS.contains(&wanted.celsius) {
                    let (low, high) = SETPOINT_CELSIUS.into_inner();
                    let refusal = format!("celsius must be between {low} and {high}, not {}", wanted.celsius);
                    return Err(Rejection(refusal));
                }
                self.room.set_setpoint(wanted.celsius);
            }
            "set-mode" => {
                let wanted: ModeArgs = parse(args, r#"{"mode":"heat"} or {"mode":"off"}"#)?;
                self.room.set_mode(match wanted.mode {
                    ModeName::Heat => Mode::Heat,
                    ModeName::Off => Mode::Off,
                });
            }
            "identify" => self.identified = self.identified.saturating_add(1),
            _ => return Err(Rejection(format!("unknown command; it obeys {}", COMMANDS.join(", ")))),
        }
        Ok(())
    }

    /// What it measures.
    pub fn reading(&self) -> TemperatureReading {
        TemperatureReading { celsius: hundredths(self.room.room_celsius()), heating: self.room.heating() }
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        State {
            celsius: hundredths(self.room.room_celsius()),
            setpoint: self.room.setpoint_celsius(),
            mode: match self.room.mode() {
                Mode::Heat => "heat",
                Mode::Off => "off",
            },
            heating: self.room.heating(),
        }
    }

    /// What it is.
    pub fn about(&self) -> About {
        About { model: "simulated thermostat", firmware: env!("CARGO_PKG_VERSION"), capabilities: COMMANDS }
    }

    /// How often it was asked to identify itself; a real one would blink.
    pub fn identified(&self) -> u32 {
        self.identified
    }
}

fn parse<'a, T: Deserialize<'a>>(args: &'a [u8], example: &str) -> Result<T, Rejection> {
    serde_json::from_slice(args).map_err(|_| Rejection(format!("arguments must look like {example}")))
}

fn hundredths(celsius: f64) -> f64 {
    (celsius * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejection(thermostat: &mut Thermostat, command: &str, args: &str) -> String {
        let before = thermostat.state();
        let rejected = thermostat.execute(command, args.as_bytes()).expect_err(args);
        assert_eq!(thermostat.state(), before, "a rejected command changes nothing");
        rejected.to_string()
    }

    #[test]
    fn a_setpoint_is_obeyed_and_reported() {
        let mut thermostat = Thermostat::seeded(1);
        thermostat.execute("set-setpoint", br#"{"celsius":23.5}"#).expect("in range");
        assert_eq!(thermostat.state().setpoint, 23.5);
        thermostat.step(Duration::from_secs(24 * 3600));
        assert!((thermostat.reading().celsius - 23.5).abs() < 1.0);
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
        let reading = serde_json::to_value(thermostat.reading()).expect("JSON");
        assert!(reading["celsius"].is_f64() && reading["heating"].is_boolean());
        let state = serde_json::to_value(thermostat.state()).expect("JSON");
        assert_eq!((&state["mode"], &state["setpoint"]), (&"heat".into(), &21.0.into()));
        let about = serde_json::to_value(thermostat.about()).expect("JSON");
        assert_eq!(about["capabilities"][0], "set-setpoint");
    }
}
