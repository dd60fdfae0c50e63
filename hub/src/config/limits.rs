//! `[limits]` of the configuration: the bounds of the MQTT front by name, each with the range that makes sense.

use super::InvalidConfig;
use crate::mqtt::Limits;
use hearthkey_core::Seconds;
use serde::Deserialize;
use std::time::Duration;

/// A whole number of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub struct Within<const MIN: u64, const MAX: u64>(u64);

/// Why a number is no bound.
#[derive(Debug, thiserror::Error)]
#[error("{value} is out of range; write a number from {min} to {max} (docs/limits.md says what it is for)")]
pub struct OutOfRange {
    value: u64,
    min: u64,
    max: u64,
}

impl<const MIN: u64, const MAX: u64> TryFrom<u64> for Within<MIN, MAX> {
    type Error = OutOfRange;

    fn try_from(value: u64) -> Result<Self, OutOfRange> {
        if (MIN..=MAX).contains(&value) { Ok(Self(value)) } else { Err(OutOfRange { value, min: MIN, max: MAX }) }
    }
}

/// What a bound is kept as.
trait Number {
    fn of(number: u64) -> Self;
    fn number(&self) -> u64;
}

macro_rules! whole_numbers {
    ($($type:ty)*) => {$(
        impl Number for $type {
            fn of(number: u64) -> Self {
                Self::try_from(number).unwrap_or(Self::MAX)
            }

            fn number(&self) -> u64 {
                u64::try_from(*self).unwrap_or(u64::MAX)
            }
        }
    )*};
}

whole_numbers! { u16 u32 usize }

impl Number for Seconds {
    fn of(number: u64) -> Self {
        Self(number)
    }

    fn number(&self) -> u64 {
        self.0
    }
}

impl Number for Duration {
    fn of(number: u64) -> Self {
        Self::from_secs(number)
    }

    fn number(&self) -> u64 {
        self.as_secs()
    }
}

macro_rules! limits {
    ($($name:ident = $min:literal..=$max:literal => $field:ident;)*) => {
        /// Bounds that differ from the defaults; the fields of [`Limits`] say what each is for.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct LimitsConfig {
            $(
                #[doc = concat!("[`Limits::", stringify!($field), "`].")]
                pub $name: Option<Within<$min, $max>>,
            )*
        }

        impl LimitsConfig {
            /// All bounds.
            ///
            /// # Errors
            /// [`InvalidConfig::Limits`]: two that do not go together.
            pub fn limits(&self) -> Result<Limits, InvalidConfig> {
                let mut limits = Limits::default();
                $(
                    if let Some(Within(number)) = self.$name {
                        limits.$field = Number::of(number);
                    }
                )*
                fit_together(&limits)?;
                Ok(limits)
            }
        }

        impl Limits {
            /// Each bound by its name in the configuration.
            pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($name), self.$field.number()),)*].into_iter()
            }
        }

        /// Names and ranges.
        #[cfg(test)]
        const RANGES: &[(&str, u64, u64)] = &[$((stringify!($name), $min, $max),)*];
    };
}

limits! {
    connections = 1..=100_000 => max_connections;
    connections_per_principal = 1..=100_000 => max_connections_per_principal;
    device_connects_per_minute = 1..=60_000 => device_connects_per_minute;
    connects_per_minute = 1..=60_000 => connects_per_minute;
    tokens_per_minute = 1..=60_000 => tokens_per_minute;
    keep_alive_s = 10..=65_535 => max_keep_alive;
    half_open = 16..=65_536 => max_half_open;
    connect_timeout_s = 1..=300 => connect_timeout;
    packet_bytes = 1_024..=1_048_576 => max_packet_bytes;
    receive_maximum = 1..=65_535 => receive_maximum;
    in_flight = 1..=16_384 => max_in_flight;
    subscriptions = 1..=10_000 => max_subscriptions;
    topic_levels = 4..=32 => max_topic_levels;
    queued_messages = 1..=30_000 => max_queued_messages;
    queued_bytes = 4_096..=268_435_456 => max_queued_bytes;
    kept_sessions = 0..=100_000 => max_kept_sessions;
    kept_sessions_per_principal = 0..=100_000 => max_kept_sessions_per_principal;
    session_expiry_s = 0..=31_536_000 => max_session_expiry;
    will_grace_s = 0..=3_600 => will_grace;
    retained_messages = 0..=1_000_000 => max_retained_messages;
    retained_bytes = 0..=1_073_741_824 => max_retained_bytes;
    retained_messages_per_principal = 0..=1_000_000 => max_retained_messages_per_principal;
    retained_bytes_per_principal = 0..=1_073_741_824 => max_retained_bytes_per_principal;
    publish_rate = 1..=1_000_000 => publish_rate;
    publish_burst = 1..=1_000_000 => publish_burst;
}

fn fit_together(limits: &Limits) -> Result<(), InvalidConfig> {
    let refused = |what: &str| Err(InvalidConfig::Limits(what.to_owned()));
    if limits.max_queued_bytes < limits.max_packet_bytes {
        return refused("limits.queued_bytes is less than limits.packet_bytes: the largest message would never be delivered");
    }
    if limits.max_connections < limits.max_connections_per_principal {
        return refused(
            "limits.connections is less than limits.connections_per_principal: one client would use up what all share",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn refusal(text: &str) -> String {
        Config::from_toml(text).expect_err(text).to_string()
    }

    #[test]
    fn what_is_configured_holds_and_the_rest_stays() {
        let config =
            Config::from_toml("[limits]\nconnect_timeout_s = 5\nsubscriptions = 7\nsession_expiry_s = 60\n").expect("valid");
        let wanted = Limits {
            connect_timeout: Duration::from_secs(5),
            max_subscriptions: 7,
            max_session_expiry: Seconds(60),
            ..Limits::default()
        };
        assert_eq!(config.limits.limits().expect("they fit"), wanted);
        assert_eq!(Config::default().limits.limits().expect("they fit"), Limits::default());
    }

    #[test]
    fn a_bound_that_makes_no_sense_is_refused_with_its_range() {
        let zero = refusal("[limits]\n\nsubscriptions = 0\n");
        assert!(zero.contains("line 3") && zero.contains("from 1 to 10000"), "{zero}");
        let unknown = refusal("[limits]\nmax_subscriptions = 1\n");
        assert!(unknown.contains("line 2") && unknown.contains("`subscriptions`"), "{unknown}");
        assert!(refusal("[limits]\nsubscriptions = -1\n").contains("line 2"));
        assert!(refusal("[limits]\nqueued_bytes = 5000\n").contains("packet_bytes"));
        assert!(refusal("[limits]\nconnections = 100\n").contains("connections_per_principal"));
    }

    #[test]
    fn every_bound_is_documented_with_its_default_and_range() {
        let page = include_str!("../../../docs/limits.md");
        let plain = |text: &str| text.replace(['`', ',', ' '], "");
        let rows: Vec<Vec<String>> =
            page.lines().filter(|line| line.starts_with("| `")).map(|line| line.split('|').map(plain).collect()).collect();
        for ((name, default), (_, min, max)) in Limits::default().values().zip(RANGES) {
            let row = rows.iter().find(|row| row[1] == name).unwrap_or_else(|| panic!("docs/limits.md has no row for {name}"));
            assert_eq!(
                (row[2].as_str(), row[3].as_str()),
                (default.to_string().as_str(), format!("{min}to{max}").as_str()),
                "{name}"
            );
        }
    }
}
