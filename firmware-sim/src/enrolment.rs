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

    /// The same string for a device that reaches the hub by another way: HTTPS and MQTT ports at `host`.
    #[cfg(feature = "scenarios")]
    pub(crate) fn by_way_of(&self, host: &str, ports: [u16; 2]) -> Self {
        use base64ct::{Base64UrlUnpadded, Encoding as _};
        /// Hash and code, before the ports (docs/protocol.md).
        const SECRETS: usize = 48;
        let bytes = Base64UrlUnpadded::decode_vec(self.0.trim_start_matches("hk1.")).unwrap_or_default();
        let mut bytes = Zeroizing::new(bytes);
        bytes.truncate(SECRETS);
        bytes.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
        bytes.extend(host.as_bytes());
        Self(Zeroizing::new(format!("hk1.{}", Base64UrlUnpadded::encode_string(&bytes))))
    }

    /// The strings that stand on lines of their own. Other lines are skipped, so that what `hearthkey device add` prints
    /// around a string may stay.
    ///
    /// # Errors
    /// The number of the first line, from 1, that begins like an enrolment string and is none, and why.
    pub fn parse_lines(text: &str) -> Result<Vec<Self>, (usize, EnrolmentStringError)> {
        text.lines()
            .enumerate()
            .filter(|(_, line)| line.trim_start().starts_with("hk1."))
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
    fn strings_are_found_in_what_adding_devices_printed() {
        let valid = valid();
        let printed = format!(
            "lamp is added\n\n  {valid}\n\nIt lets one device in, once\n  hearthkey-sim device --enrol {valid}\n{valid}\n"
        );
        let parsed = EnrolmentString::parse_lines(&printed).expect("well-formed");
        let strings: Vec<_> = parsed.iter().map(EnrolmentString::as_str).collect();
        assert_eq!(strings, [&valid, &valid]);
        assert_eq!(EnrolmentString::parse_lines("lamp is added\n"), Ok(Vec::new()));
    }

    #[test]
    fn a_damaged_string_is_named_by_its_line() {
        let refused = EnrolmentString::parse_lines(&format!("{}\n  hk1.oops\n", valid())).expect_err("line 2");
        assert_eq!(refused.0, 2);
    }

    #[test]
    fn debug_output_shows_nothing() {
        let string: EnrolmentString = valid().parse().expect("well-formed");
        assert_eq!(format!("{string:?}"), "EnrolmentString(secret)");
    }
}
