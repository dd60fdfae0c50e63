//! Enrolment strings as secrets that are passed on, not understood: the agent decodes them.

use zeroize::Zeroizing;

/// Prefix and the longest that docs/protocol.md allows (118 bytes encode to 158 characters).
const PREFIX: &str = "hk1.";
const MAX_CHARACTERS: usize = PREFIX.len() + 158;

/// An enrolment string as `hearthkey device add` prints it; holds a one-time code, so it is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolmentString(Zeroizing<String>);

/// Not the form of an enrolment string. Says nothing of its content.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an enrolment string: it begins with {PREFIX} and is printed by `hearthkey device add NAME --profile thermostat`")]
pub struct InvalidEnrolmentString;

impl EnrolmentString {
    /// The string, to be given to an agent.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// One string per line; empty lines and lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// The number of the first line, from 1, that is no enrolment string.
    pub fn parse_lines(text: &str) -> Result<Vec<Self>, usize> {
        text.lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
            .map(|(index, line)| line.parse().map_err(|_| index + 1))
            .collect()
    }
}

impl std::str::FromStr for EnrolmentString {
    type Err = InvalidEnrolmentString;

    fn from_str(text: &str) -> Result<Self, InvalidEnrolmentString> {
        let text = text.trim();
        let body = text.strip_prefix(PREFIX).ok_or(InvalidEnrolmentString)?;
        let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if body.is_empty() || text.len() > MAX_CHARACTERS || !body.bytes().all(is_base64url) {
            return Err(InvalidEnrolmentString);
        }
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

    #[test]
    fn surrounding_white_space_is_forgiven() {
        let string: EnrolmentString = " hk1.AbC-_9\n".parse().expect("well-formed");
        assert_eq!(string.as_str(), "hk1.AbC-_9");
    }

    #[test]
    fn what_is_no_enrolment_string_is_refused_without_repeating_it() {
        let too_long = format!("hk1.{}", "A".repeat(159));
        for text in ["", "hk1.", "hk2.AbC", "AbC", "hk1.Ab C", "hk1.Ab=", &too_long] {
            let refused = text.parse::<EnrolmentString>().expect_err(text);
            assert!(!refused.to_string().contains("AbC"));
        }
    }

    #[test]
    fn a_file_holds_one_string_per_line() {
        let parsed = EnrolmentString::parse_lines("# two lamps\nhk1.AAAA\n\n  hk1.BBBB  \n").expect("well-formed");
        let strings: Vec<_> = parsed.iter().map(EnrolmentString::as_str).collect();
        assert_eq!(strings, ["hk1.AAAA", "hk1.BBBB"]);
        assert_eq!(EnrolmentString::parse_lines("hk1.AAAA\noops\n"), Err(2));
    }

    #[test]
    fn debug_output_shows_nothing() {
        let string: EnrolmentString = "hk1.AAAA".parse().expect("well-formed");
        assert_eq!(format!("{string:?}"), "EnrolmentString(secret)");
    }
}
