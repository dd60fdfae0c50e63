//! Enrolment strings as secrets that are passed on: the agent says what is one and decodes it.

use hearthkey_agent::{Enrolment, EnrolmentStringError};
use zeroize::Zeroizing;

/// An enrolment string as `hearthkey device add` prints it; holds a one-time code, so it is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolmentString(Zeroizing<String>);

impl EnrolmentString {
    /// The string, to be given to an agent.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// One string per line; empty lines and lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// The number of the first line, from 1, that is no enrolment string, and why.
    pub fn parse_lines(text: &str) -> Result<Vec<Self>, (usize, EnrolmentStringError)> {
        text.lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
            .map(|(index, line)| line.parse().map_err(|error| (index + 1, error)))
            .collect()
    }
}

impl std::str::FromStr for EnrolmentString {
    type Err = EnrolmentStringError;

    fn from_str(text: &str) -> Result<Self, EnrolmentStringError> {
        let text = text.trim();
        Enrolment::parse(text)?;
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

impl std::fmt::Debug for EnrolmentString {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EnrolmentString(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hash, code and ports of zeros, host `hub`.
    fn valid() -> String {
        format!("hk1.{}AGh1Yg", "A".repeat(68))
    }

    #[test]
    fn surrounding_white_space_is_forgiven() {
        let string: EnrolmentString = format!(" {}\n", valid()).parse().expect("well-formed");
        assert_eq!(string.as_str(), valid());
    }

    #[test]
    fn what_is_no_enrolment_string_is_refused_without_repeating_it() {
        let (cut_off, without_prefix) = (&valid()[..60], &valid()[4..]);
        for text in ["", "hk1.", "hk2.AbC", cut_off, without_prefix] {
            let refused = text.parse::<EnrolmentString>().expect_err(text);
            assert!(refused.to_string().contains("hearthkey device add"), "{refused}");
            assert!(!refused.to_string().contains("AAAA"), "{refused}");
        }
    }

    #[test]
    fn a_file_holds_one_string_per_line() {
        let valid = valid();
        let parsed = EnrolmentString::parse_lines(&format!("# two lamps\n{valid}\n\n  {valid}  \n")).expect("well-formed");
        let strings: Vec<_> = parsed.iter().map(EnrolmentString::as_str).collect();
        assert_eq!(strings, [&valid, &valid]);
        let refused = EnrolmentString::parse_lines(&format!("{valid}\noops\n")).expect_err("line 2");
        assert_eq!(refused.0, 2);
    }

    #[test]
    fn debug_output_shows_nothing() {
        let string: EnrolmentString = valid().parse().expect("well-formed");
        assert_eq!(format!("{string:?}"), "EnrolmentString(secret)");
    }
}
