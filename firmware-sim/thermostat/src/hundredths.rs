//! Temperatures as they are said and heard: hundredths of a degree. The tables that turn any decimal text into a binary
//! fraction and back are larger than the rest of a thermostat.

use core::fmt;

/// Hundredths of a degree Celsius.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hundredths(pub i32);

/// Far beyond any temperature; larger numbers are this one.
const LIMIT: u32 = 1_000_000_000;
/// Beyond a hundred places it is all or nothing.
const MAX_POWER: u32 = 100;

impl Hundredths {
    /// The nearest one.
    #[must_use]
    pub fn of(celsius: f32) -> Self {
        Self(libm::roundf(celsius * 100.0) as i32)
    }

    /// Reads a JSON number (RFC 8259), cut off behind the hundredths; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (is_negative, mut rest) = match text.as_bytes() {
            [b'-', rest @ ..] => (true, rest),
            all => (false, all),
        };
        let whole = take_digits(&mut rest)?;
        let mut fraction: &[u8] = &[];
        if let [b'.', after @ ..] = rest {
            rest = after;
            fraction = take_digits(&mut rest)?;
        }
        // As many digits as there are before hundredths end; those that are not written are zeros.
        let mut places = whole.len() + 2;
        if let [b'e' | b'E', after @ ..] = rest {
            let (is_lowered, after) = match after {
                [b'-', after @ ..] => (true, after),
                [b'+', after @ ..] | after => (false, after),
            };
            rest = after;
            let power = take_digits(&mut rest)?.iter().fold(0, |power, digit| next_digit(power, *digit).min(MAX_POWER)) as usize;
            places = if is_lowered { places.saturating_sub(power) } else { places + power };
        }
        if !rest.is_empty() {
            return None;
        }
        let digits = whole.iter().chain(fraction).chain(core::iter::repeat(&b'0')).take(places);
        let value = digits.fold(0, |value, digit| next_digit(value, *digit).min(LIMIT)) as i32; // bounded
        Some(Self(if is_negative { -value } else { value }))
    }

    /// As a number of degrees.
    #[must_use]
    pub fn celsius(self) -> f32 {
        self.0 as f32 / 100.0
    }
}

/// One digit or more from the beginning of `rest`.
fn take_digits<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, behind) = rest.split_at_checked(count).filter(|_| count > 0)?;
    *rest = behind;
    Some(digits)
}

fn next_digit(value: u32, digit: u8) -> u32 {
    value.saturating_mul(10).saturating_add(u32::from(digit - b'0'))
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
