//! Values that clap does not know: spans, moments, names, hashes. Refused here, before any hub is asked.

use crate::{
    approvals::MAX_JOIN_WINDOW,
    cli::context::{ContextName, ContextRef},
};
use hearthkey_core::{
    DeviceId, Seconds, UnixTime, hex,
    limits::{MAX_COMMAND_TTL, MAX_OVERLAP, MAX_PERSONAL_ACCESS_TOKEN_LIFETIME},
    session::{IntegrationName, UserName},
};
use jiff::{Timestamp, civil, tz::TimeZone};
use reqwest::Url;
use std::time::Duration;

/// Longest wait for a command: its longest life.
const MAX_WAIT: Duration = Duration::from_secs(MAX_COMMAND_TTL.0);
/// Where the hub listens unless told otherwise.
const DEFAULT_PORT: u16 = 8443;
/// A user code has 8 characters and a hyphen (RFC 8628 section 6.1); more is something else.
const MAX_USER_CODE_BYTES: usize = 32;

/// The SHA-256 of a CA certificate in DER: by it a hub is known that was never seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct CaPin(pub(in crate::cli) [u8; 32]);

impl CaPin {
    /// Parses 64 hexadecimal digits, with or without colons.
    pub(in crate::cli) fn parse(text: &str) -> Result<Self, String> {
        let digits: String = text.chars().filter(|character| *character != ':').collect::<String>().to_ascii_lowercase();
        hex::decode(&digits).map(Self).ok_or_else(|| "a SHA-256 has 64 hexadecimal digits".to_owned())
    }
}

/// Of whom it is asked what they may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Asked {
    /// A device.
    Device(DeviceId),
    /// Anybody else, in the words of the API: `user:ann`, `credential:` and an id.
    Other(String),
}

impl Asked {
    /// Parses `lamp`, `device:lamp`, `user:ann`, `key:ID`, `pat:ID`.
    pub(in crate::cli) fn parse(text: &str) -> Result<Self, String> {
        let name = |name: &str| DeviceId::parse(name).map_err(|error| error.to_string());
        match text.split_once(':') {
            None => name(text).map(Self::Device),
            Some(("device", id)) => name(id).map(Self::Device),
            Some(("user", id)) => name(id).map(|name| Self::Other(format!("user:{name}"))),
            Some(("key" | "pat" | "credential", id)) if id.len() <= 16 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                Ok(Self::Other(format!("credential:{id}")))
            }
            Some(_) => {
                Err("write a device's name, user:NAME, or key:ID and pat:ID with the id that `key list` and `pat list` show"
                    .to_owned())
            }
        }
    }
}

/// A point in time: so long ago, or a date with or without a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Moment {
    /// Before now.
    Ago(Duration),
    /// By the calendar.
    At(UnixTime),
}

impl Moment {
    /// Parses `2h`, `2026-08-01` (its beginning, here), `2026-08-01T12:00:00` (here) or `2026-08-01T12:00:00Z`.
    pub(in crate::cli) fn parse(text: &str) -> Result<Self, String> {
        let here = |date_time: civil::DateTime| date_time.to_zoned(TimeZone::system()).ok().map(|zoned| zoned.timestamp());
        let at = text
            .parse::<Timestamp>()
            .ok()
            .or_else(|| here(text.parse::<civil::DateTime>().ok()?))
            .and_then(|timestamp| u64::try_from(timestamp.as_second()).ok());
        match at {
            Some(second) => Ok(Self::At(UnixTime(second))),
            None => humantime::parse_duration(text)
                .map(Self::Ago)
                .map_err(|_| "write it as 2h (ago), 2026-08-01 or 2026-08-01T12:00:00Z".to_owned()),
        }
    }

    pub(in crate::cli) fn before(self, now: UnixTime) -> UnixTime {
        match self {
            Self::Ago(span) => now.minus(Seconds(span.as_secs())),
            Self::At(at) => at,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 10s, 500ms or 2m"))
}

pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|span| if span.is_zero() { Err("it must be longer than nothing".to_owned()) } else { Ok(span) })
}

pub(super) fn wait(text: &str) -> Result<Duration, String> {
    at_most(duration(text)?, MAX_WAIT)
}

pub(super) fn time_to_live(text: &str) -> Result<Duration, String> {
    whole_seconds(at_most(duration(text)?, Duration::from_secs(MAX_COMMAND_TTL.0))?)
}

pub(super) fn join_window(text: &str) -> Result<Duration, String> {
    whole_seconds(at_most(duration(text)?, Duration::from_secs(MAX_JOIN_WINDOW.0))?)
}

/// A span of at least a second.
pub(super) fn seconds(text: &str) -> Result<Seconds, String> {
    whole_seconds(duration(text)?).map(|span| Seconds(span.as_secs()))
}

/// How long what is replaced works on: whole seconds, or none.
pub(super) fn overlap(text: &str) -> Result<Seconds, String> {
    at_most(duration(text)?, Duration::from_secs(MAX_OVERLAP.0))?;
    if duration(text)?.is_zero() { Ok(Seconds(0)) } else { seconds(text) }
}

pub(super) fn pat_lifetime(text: &str) -> Result<Seconds, String> {
    at_most(duration(text)?, Duration::from_secs(MAX_PERSONAL_ACCESS_TOKEN_LIFETIME.0))?;
    seconds(text)
}

fn whole_seconds(span: Duration) -> Result<Duration, String> {
    if span.subsec_nanos() == 0 && !span.is_zero() { Ok(span) } else { Err("it is whole seconds, at least 1s".to_owned()) }
}

fn at_most(span: Duration, most: Duration) -> Result<Duration, String> {
    if span <= most { Ok(span) } else { Err(format!("at most {}", humantime::format_duration(most))) }
}

pub(super) fn user_name(text: &str) -> Result<UserName, String> {
    name("a user's name", text)
}

pub(super) fn integration_name(text: &str) -> Result<IntegrationName, String> {
    name("an integration's name", text)
}

pub(super) fn context_name(text: &str) -> Result<ContextName, String> {
    name("a context's name", text)
}

/// What has a separator of paths or a dot is a file; anything else is a name.
pub(super) fn context_ref(text: &str) -> Result<ContextRef, String> {
    if text.contains(['/', '.']) {
        return Ok(ContextRef::File(text.into()));
    }
    match context_name(text) {
        Ok(name) => Ok(ContextRef::Named(name)),
        Err(why) => Err(format!("{why}; a file is written with its path, as in ./{text}")),
    }
}

fn name(whose: &str, text: &str) -> Result<DeviceId, String> {
    DeviceId::parse(text)
        .map_err(|_| format!("{whose} has 1 to 32 characters of a-z, 0-9 and -, and begins and ends with a letter or digit"))
}

/// `https://` and the port of a hub may be left out.
pub(super) fn hub_url(text: &str) -> Result<Url, String> {
    let has_scheme = text.contains("://");
    let mut url = match has_scheme {
        true => Url::parse(text),
        false => Url::parse(&format!("https://{text}")),
    }
    .map_err(|error| format!("{error}; write it as https://hub.local:8443"))?;
    if url.scheme() != "https" {
        return Err("a token travels over https:// only".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err("it is a scheme, a host and a port, as in https://hub.local:8443".to_owned());
    }
    if !has_scheme && url.port().is_none() {
        url.set_port(Some(DEFAULT_PORT)).map_err(|()| "it has no host".to_owned())?;
    }
    Ok(url)
}

/// A code as a person types it, in the form in which two are compared: letters and digits only, upper case.
pub(super) fn user_code(text: &str) -> Result<String, String> {
    let code: String = text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_uppercase();
    let readable = !code.is_empty() && text.len() <= MAX_USER_CODE_BYTES;
    if readable { Ok(code) } else { Err("a code reads like WDJB-MJHT".to_owned()) }
}

pub(super) fn sha256_hex(text: &str) -> Result<String, String> {
    CaPin::parse(text).map(|CaPin(hash)| hex::encode(&hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_people_copy_it() {
        let plain = "ab".repeat(32);
        let with_colons = ["AB"; 32].join(":");
        assert_eq!(CaPin::parse(&plain), Ok(CaPin([0xab; 32])));
        assert_eq!(CaPin::parse(&with_colons), Ok(CaPin([0xab; 32])));
        for wrong in ["", "ab", &"ab".repeat(31), &"ab".repeat(33), &"zz".repeat(32), "é"] {
            assert!(CaPin::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_hub_is_named_by_as_little_as_its_host() {
        for (typed, meant) in [
            ("hub.local", "https://hub.local:8443/"),
            ("192.168.1.10", "https://192.168.1.10:8443/"),
            ("hub.local:9443", "https://hub.local:9443/"),
            ("[::1]", "https://[::1]:8443/"),
            ("https://hub.example", "https://hub.example/"),
        ] {
            assert_eq!(hub_url(typed).map(String::from).as_deref(), Ok(meant), "{typed}");
        }
        for wrong in ["http://hub.local", "", "ftp://x", "https://ann:secret@hub.local", "https://hub.local/?a=b", "a b"] {
            assert!(hub_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_moment_is_so_long_ago_or_a_date() {
        let now = UnixTime(1_780_000_000);
        let before = |text| Moment::parse(text).map(|moment| moment.before(now));
        assert_eq!(before("2h"), Ok(UnixTime(1_780_000_000 - 7_200)));
        assert_eq!(before("2026-05-28T20:26:40Z"), Ok(UnixTime(1_780_000_000)));
        assert_eq!(before("2026-05-28T22:26:40+02:00"), Ok(UnixTime(1_780_000_000)));
        assert!(before("2026-05-28").is_ok() && before("2026-05-28T20:26:40").is_ok());
        for wrong in ["yesterday", "", "2026-13-01", "1960-01-01T00:00:00Z"] {
            assert!(before(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_code_is_compared_without_regard_to_how_it_is_typed() {
        for typed in ["WDJB-MJHT", "wdjbmjht", "wdjb mjht"] {
            assert_eq!(user_code(typed).as_deref(), Ok("WDJBMJHT"));
        }
        assert!(user_code("--").is_err() && user_code(&"A".repeat(33)).is_err());
    }

    #[test]
    fn a_context_is_a_name_or_a_file() {
        assert_eq!(context_ref("cottage"), Ok(ContextRef::Named(DeviceId::parse("cottage").expect("a name"))));
        assert_eq!(context_ref("./cottage"), Ok(ContextRef::File("./cottage".into())));
        assert_eq!(context_ref("c.toml"), Ok(ContextRef::File("c.toml".into())));
        assert!(context_ref("Cottage").expect_err("neither").contains("./Cottage"));
    }
}
