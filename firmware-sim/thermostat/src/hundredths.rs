//! Temperatures as they are said and heard: hundredths of a degree. The tables that turn any decimal text into a binary
//! fraction and back are larger than the rest of a thermostat.

use core::fmt;

/// Hundredths of a degree Celsius.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hundredths(pub i32);

/// Far beyond any temperature; larger numbers are this one.
const LIMIT: i64 = 1_000_000_000;

impl Hundredths {
    /// The nearest one.
    #[must_use]
    pub fn of(celsius: f32) -> Self {
        Self(libm::roundf(celsius * 100.0) as i32)
    }

    /// Reads a JSON number (RFC 8259), cut off behind the hundredths; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
        let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (mantissa, exponent) = digits.split_once(['e', 'E']).unwrap_or((digits, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
        let (raised, power) = match exponent.strip_prefix('-') {
            Some(power) => (-1, power),
            None => (1, exponent.strip_prefix('+').unwrap_or(exponent)),
        };
        if ![whole, fraction, power].into_iter().all(all_digits) {
            return None;
        }
        // Beyond a hundred places it is all or nothing.
        let exponent = raised * power.parse().unwrap_or(100_i64).min(100);
        // A digit at `place` counts 10^place hundredths.
        let mut place = i64::try_from(whole.len()).ok()? + 1 + exponent;
        let mut value = 0_i64;
        for digit in whole.bytes().chain(fraction.bytes()) {
            let Ok(power) = u32::try_from(place) else { break };
            let weight = 10_i64.checked_pow(power).unwrap_or(LIMIT).min(LIMIT);
            value = (value + i64::from(digit - b'0') * weight).min(LIMIT);
            place -= 1;
        }
        i32::try_from(sign * value).ok().map(Self)
    }

    /// As a number of degrees.
    #[must_use]
    pub fn celsius(self) -> f32 {
        self.0 as f32 / 100.0
    }
}

impl fmt::Display for Hundredths {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let all = self.0.unsigned_abs();
        write!(formatter, "{sign}{}.{:02}", all / 100, all % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString as _;

    proptest! {
        #[test]
        fn a_number_is_read_as_others_read_it(celsius in -10_000.0..10_000.0_f64, exponent in -5..5_i32) {
            for text in [celsius.to_string(), std::format!("{celsius}e{exponent}"), std::format!("{celsius:.1}E{exponent}")] {
                let other: f64 = text.parse().expect("a number");
                let Hundredths(read) = Hundredths::parse(&text).expect("a number");
                prop_assert!((f64::from(read) - (other * 100.0).clamp(-1e9, 1e9)).abs() <= 1.0, "{text}: {read}");
            }
        }

        #[test]
        fn what_is_written_is_read_again(hundredths in -1_000_000..1_000_000) {
            prop_assert_eq!(Hundredths::parse(&Hundredths(hundredths).to_string()), Some(Hundredths(hundredths)));
        }

        #[test]
        fn any_text_is_a_number_or_none(text in "[-+.0-9eE]{0,40}") {
            let _ = Hundredths::parse(&text);
        }
    }

    #[test]
    fn what_is_no_number_is_none_and_what_is_too_large_is_the_largest() {
        for text in ["", "-", "warm", "1.", ".5", "1.2.3", "0x10", "1e", "+1", "\"21\"", "NaN"] {
            assert_eq!(Hundredths::parse(text), None, "{text}");
        }
        assert_eq!(Hundredths::parse("1e300"), Some(Hundredths(1_000_000_000)));
        assert_eq!(Hundredths::parse("-99999999999999999999"), Some(Hundredths(-1_000_000_000)));
        assert_eq!(Hundredths::parse("21.5"), Some(Hundredths(2_150)));
        assert_eq!(Hundredths::parse("2.15e1"), Some(Hundredths(2_150)));
        assert_eq!(Hundredths::parse("2150e-2"), Some(Hundredths(2_150)));
    }
}
