//! The temperature of one room with a heater, as a pure function of time. Knows nothing of devices or messages.

use core::time::Duration;

/// Setpoints outside of this range are refused: below it pipes freeze, above it nobody heats a room.
pub const SETPOINT_CELSIUS: core::ops::RangeInclusive<f32> = 5.0..=30.0;

/// The heater switches this far below and above the setpoint, so that it does not chatter.
const HYSTERESIS_CELSIUS: f32 = 0.25;
/// The heater is looked at this often within a step.
const CONTROL_INTERVAL: Duration = Duration::from_secs(60);
/// A step covers at most a day: what lies before is forgotten by any room, and a clock that jumps costs no time.
const LONGEST_STEP: Duration = Duration::from_secs(24 * 60 * 60);

/// What a thermostat has been told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Keep the room at the setpoint.
    Heat,
    /// Leave the heater off.
    Off,
}

/// A room that approaches the outside temperature and, while the heater is on, one that is higher by the heater's gain.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatModel {
    room_celsius: f32,
    outside_celsius: f32,
    setpoint_celsius: f32,
    mode: Mode,
    heating: bool,
    /// How many seconds the room takes to lose 63 % of its difference to the outside.
    time_constant_seconds: f32,
    /// How much warmer than outside a room ends up that is heated for ever.
    heater_gain_celsius: f32,
}

impl HeatModel {
    /// A room drawn from `seed`: the same seed is the same room.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut between = |low: f32, high: f32| low + random.f32() * (high - low);
        Self {
            room_celsius: between(16.0, 20.0),
            outside_celsius: between(-5.0, 12.0),
            setpoint_celsius: 21.0,
            mode: Mode::Heat,
            heating: false,
            time_constant_seconds: 3600.0 * between(3.0, 8.0),
            heater_gain_celsius: between(35.0, 45.0),
        }
    }

    /// Lets `elapsed` pass, at most a day.
    pub fn step(&mut self, elapsed: Duration) {
        let mut remaining = elapsed.min(LONGEST_STEP);
        self.switch_heater();
        while !remaining.is_zero() {
            let slice = remaining.min(CONTROL_INTERVAL);
            self.let_pass(slice);
            self.switch_heater();
            remaining -= slice;
        }
    }

    /// The exact solution of the cooling law, so no length of slice makes it unstable.
    fn let_pass(&mut self, slice: Duration) {
        let gain = if self.heating { self.heater_gain_celsius } else { 0.0 };
        let goal = self.outside_celsius + gain;
        let kept = libm::expf(-slice.as_secs_f32() / self.time_constant_seconds);
        self.room_celsius = goal + (self.room_celsius - goal) * kept;
    }

    fn switch_heater(&mut self) {
        self.heating = match self.mode {
            Mode::Off => false,
            Mode::Heat if self.heating => self.room_celsius < self.setpoint_celsius + HYSTERESIS_CELSIUS,
            Mode::Heat => self.room_celsius < self.setpoint_celsius - HYSTERESIS_CELSIUS,
        };
    }

    /// Sets the temperature to keep; takes effect at once. Values outside of [`SETPOINT_CELSIUS`] are clamped to it.
    pub fn set_setpoint(&mut self, celsius: f32) {
        // `max` and `min`, unlike `clamp`, also turn NaN into a bound.
        self.setpoint_celsius = celsius.max(*SETPOINT_CELSIUS.start()).min(*SETPOINT_CELSIUS.end());
        self.switch_heater();
    }

    /// Sets the mode; takes effect at once.
    pub fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
        self.switch_heater();
    }

    /// Room temperature, degrees Celsius.
    #[must_use]
    pub fn room_celsius(&self) -> f32 {
        self.room_celsius
    }

    /// The temperature to keep, degrees Celsius.
    #[must_use]
    pub fn setpoint_celsius(&self) -> f32 {
        self.setpoint_celsius
    }

    /// The mode.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether the heater is on.
    #[must_use]
    pub fn heating(&self) -> bool {
        self.heating
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3600);

    proptest! {
        #[test]
        fn a_heated_room_reaches_its_setpoint_and_stays_there(seed: u64, setpoint in 15.0..25.0_f32) {
            let mut room = HeatModel::seeded(seed);
            room.set_setpoint(setpoint);
            room.step(24 * HOUR);
            for _ in 0..100 {
                room.step(HOUR / 6);
                let off_by = (room.room_celsius() - setpoint).abs();
                prop_assert!(off_by < 1.0, "{off_by} after a day, {room:?}");
            }
        }

        #[test]
        fn a_room_with_the_heater_off_cools_down_to_the_outside_and_no_further(seed: u64) {
            let mut room = HeatModel::seeded(seed);
            room.set_mode(Mode::Off);
            let mut before = room.room_celsius();
            for _ in 0..200 {
                room.step(HOUR);
                prop_assert!(!room.heating());
                prop_assert!(room.room_celsius() <= before && room.room_celsius() >= room.outside_celsius - 0.001);
                before = room.room_celsius();
            }
            prop_assert!(before - room.outside_celsius < 0.1);
        }

        #[test]
        fn a_room_never_leaves_what_its_heater_and_the_weather_allow(
            seed: u64,
            steps in prop::collection::vec((0u64..100_000, -100.0..100.0_f32, any::<bool>()), 0..50),
        ) {
            let mut room = HeatModel::seeded(seed);
            let coldest = room.outside_celsius.min(room.room_celsius);
            let warmest = (room.outside_celsius + room.heater_gain_celsius).max(room.room_celsius);
            for (seconds, setpoint, heat) in steps {
                room.set_setpoint(setpoint);
                room.set_mode(if heat { Mode::Heat } else { Mode::Off });
                room.step(Duration::from_secs(seconds));
                prop_assert!(SETPOINT_CELSIUS.contains(&room.setpoint_celsius()));
                // A rounding error may lie beyond.
                prop_assert!((coldest - 0.001..=warmest + 0.001).contains(&room.room_celsius()), "{room:?}");
            }
        }

        #[test]
        fn two_half_steps_are_one_step(seed: u64, minutes in 0u32..600) {
            let (mut once, mut twice) = (HeatModel::seeded(seed), HeatModel::seeded(seed));
            once.step(2 * minutes * CONTROL_INTERVAL);
            twice.step(minutes * CONTROL_INTERVAL);
            twice.step(minutes * CONTROL_INTERVAL);
            prop_assert_eq!(once, twice);
        }

        #[test]
        fn a_higher_setpoint_never_makes_the_room_colder(seed: u64, low in 5.0..29.0_f32, more in 0.6..20.0_f32) {
            let (mut cool, mut warm) = (HeatModel::seeded(seed), HeatModel::seeded(seed));
            cool.set_setpoint(low);
            warm.set_setpoint(low + more);
            cool.step(24 * HOUR);
            warm.step(24 * HOUR);
            // Both swing by the hysteresis and by what one control interval adds.
            prop_assert!(warm.room_celsius() > cool.room_celsius() - 1.0);
        }
    }

    #[test]
    fn the_same_seed_is_the_same_room_and_another_seed_is_not() {
        assert_eq!(HeatModel::seeded(7), HeatModel::seeded(7));
        assert_ne!(HeatModel::seeded(7), HeatModel::seeded(8));
    }

    #[test]
    fn a_setpoint_that_is_no_number_is_a_bound() {
        let mut room = HeatModel::seeded(1);
        room.set_setpoint(f32::NAN);
        assert!(SETPOINT_CELSIUS.contains(&room.setpoint_celsius()));
    }

    #[test]
    fn the_longest_duration_is_one_day() {
        let (mut day, mut ages) = (HeatModel::seeded(1), HeatModel::seeded(1));
        day.step(LONGEST_STEP);
        ages.step(Duration::MAX);
        assert_eq!(day, ages);
    }
}
