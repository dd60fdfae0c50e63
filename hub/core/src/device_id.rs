//! The name of a device: OAuth `client_id`, MQTT client identifier and topic level in one.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A device's name: `[a-z0-9-]{1,32}`, not beginning or ending with `-`.
///
/// The alphabet holds no MQTT wildcard, no topic separator and nothing that a shell, a URL or a file name would escape;
/// so an id can never reach outside its own topic level.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(Box<str>);

/// Why a text is no [`DeviceId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a device name has 1 to 32 characters of a-z, 0-9 and -, and begins and ends with a letter or digit, such as `living-room-2`"
)]
pub struct InvalidDeviceId;

impl DeviceId {
    /// Longest id, in bytes. The wire contract of docs/protocol.md.
    pub const MAX_BYTES: usize = 32;

    /// Parses an id.
    ///
    /// # Errors
    /// [`InvalidDeviceId`] if the text is outside the alphabet or the length.
    pub fn parse(text: &str) -> Result<Self, InvalidDeviceId> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let well_formed = (1..=Self::MAX_BYTES).contains(&text.len())
            && text.bytes().all(legal)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if well_formed { Ok(Self(text.into())) } else { Err(InvalidDeviceId) }
    }

    /// The device that an MQTT client identifier names: all of it, or what stands before the first `/`.
    ///
    /// # Errors
    /// [`InvalidDeviceId`] if that part is no id.
    pub fn of_client_identifier(client_identifier: &str) -> Result<Self, InvalidDeviceId> {
        let (device, _connection) = client_identifier.split_once('/').unwrap_or((client_identifier, ""));
        Self::parse(device)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DeviceId {
    type Err = InvalidDeviceId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for DeviceId {
    type Error = InvalidDeviceId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> Self {
        id.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_letters_digits_and_inner_hyphens() {
        for good in ["a", "7", "living-room-2", "a--b", &"x".repeat(32)] {
            assert!(DeviceId::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn an_id_never_holds_a_wildcard_a_separator_or_a_foreign_character() {
        for bad in ["", "-a", "a-", "A", "a+b", "#", "a/b", "a b", "a.b", "ä", "a\0", "${device}", &"x".repeat(33)] {
            assert!(DeviceId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_client_identifier_may_add_a_second_connection_after_a_slash() {
        assert_eq!(DeviceId::of_client_identifier("lamp/debug").map(String::from), Ok("lamp".to_owned()));
        assert_eq!(DeviceId::of_client_identifier("lamp").map(String::from), Ok("lamp".to_owned()));
        assert!(DeviceId::of_client_identifier("+/x").is_err());
        assert!(DeviceId::of_client_identifier("/x").is_err());
    }
}
