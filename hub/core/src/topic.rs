//! MQTT topic names and filters (MQTT 5 section 4.7), parsed once. Knows nothing of who may use them.

use crate::limits::{MAX_TOPIC_BYTES, MAX_TOPIC_LEVELS};
use std::fmt;

/// A topic that messages are published to: no wildcard, no NUL, 1 to [`MAX_TOPIC_BYTES`] bytes, at most [`MAX_TOPIC_LEVELS`] levels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Box<str>);

/// A filter of topics: `+` stands for one level, a final `#` for any number of levels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter(Box<str>);

/// What a SUBSCRIBE asks for: a filter, possibly shared by a group (MQTT 5 section 4.8.2).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionFilter {
    /// The group that shares the messages, if it is a shared subscription.
    pub share_name: Option<Box<str>>,
    /// What is subscribed to.
    pub filter: TopicFilter,
}

/// Why a text is no topic name or filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopic {
    /// Nothing at all, or more than [`MAX_TOPIC_BYTES`].
    #[error("a topic has 1 to {MAX_TOPIC_BYTES} bytes")]
    Length,
    /// More than [`MAX_TOPIC_LEVELS`].
    #[error("a topic has at most {MAX_TOPIC_LEVELS} levels")]
    Levels,
    /// NUL or another control character (MQTT 5 section 1.5.4).
    #[error("a topic holds no control characters")]
    Control,
    /// `+` or `#` in a topic name.
    #[error("a topic name holds no wildcard")]
    WildcardInName,
    /// `+` beside other characters, or `#` anywhere but as the last level.
    #[error("`+` stands for a whole level, `#` for the whole end of a filter")]
    WildcardMisplaced,
    /// `$share/` without a group or without a filter.
    #[error("a shared subscription reads $share/<group>/<filter>")]
    Share,
    /// Not UTF-8.
    #[error("a topic is UTF-8")]
    Utf8,
}

fn parse_common(text: &str) -> Result<(), InvalidTopic> {
    if !(1..=MAX_TOPIC_BYTES).contains(&text.len()) {
        return Err(InvalidTopic::Length);
    }
    if text.split('/').count() > MAX_TOPIC_LEVELS {
        return Err(InvalidTopic::Levels);
    }
    if text.chars().any(char::is_control) {
        return Err(InvalidTopic::Control);
    }
    Ok(())
}

impl TopicName {
    /// Parses a topic name.
    ///
    /// # Errors
    /// [`InvalidTopic`].
    pub fn parse(text: &str) -> Result<Self, InvalidTopic> {
        parse_common(text)?;
        if text.contains(['+', '#']) { Err(InvalidTopic::WildcardInName) } else { Ok(Self(text.into())) }
    }

    /// Parses a topic name from the bytes of a packet.
    ///
    /// # Errors
    /// [`InvalidTopic`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidTopic> {
        Self::parse(std::str::from_utf8(bytes).map_err(|_| InvalidTopic::Utf8)?)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TopicFilter {
    /// Parses a topic filter.
    ///
    /// # Errors
    /// [`InvalidTopic`].
    pub fn parse(text: &str) -> Result<Self, InvalidTopic> {
        parse_common(text)?;
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            let legal = match level {
                "#" => levels.peek().is_none(),
                "+" => true,
                other => !other.contains(['+', '#']),
            };
            if !legal {
                return Err(InvalidTopic::WildcardMisplaced);
            }
        }
        Ok(Self(text.into()))
    }

    /// The filter as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a topic matches (MQTT 5 section 4.7). A wildcard in the first level never matches a topic that begins with `$`.
    #[must_use]
    pub fn matches(&self, topic: &TopicName) -> bool {
        if topic.0.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut names = topic.0.split('/');
        for level in self.0.split('/') {
            match (level, names.next()) {
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (level, Some(name)) if level == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }

    /// Whether each topic that `other` matches is matched by this one too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        if other.0.starts_with('$') && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut others = other.0.split('/');
        for level in self.0.split('/') {
            match (level, others.next()) {
                ("#", _) => return true,
                (_, Some("#")) => return false,
                ("+", Some(_)) => {}
                (level, Some(other)) if level == other => {}
                _ => return false,
            }
        }
        others.next().is_none()
    }
}

impl SubscriptionFilter {
    /// Parses what a SUBSCRIBE holds: a filter or `$share/<group>/<filter>`.
    ///
    /// # Errors
    /// [`InvalidTopic`].
    pub fn parse(text: &str) -> Result<Self, InvalidTopic> {
        let Some(shared) = text.strip_prefix("$share/") else {
            return Ok(Self { share_name: None, filter: TopicFilter::parse(text)? });
        };
        let (group, filter) = shared.split_once('/').ok_or(InvalidTopic::Share)?;
        if group.is_empty() || filter.is_empty() || group.contains(['+', '#']) {
            return Err(InvalidTopic::Share);
        }
        parse_common(text)?;
        Ok(Self { share_name: Some(group.into()), filter: TopicFilter::parse(filter)? })
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SubscriptionFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.share_name {
            Some(group) => write!(f, "$share/{group}/{}", self.filter),
            None => self.filter.fmt(f),
        }
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// MQTT 5 section 4.7 word for word, by recursion over levels.
    fn matches_naively(filter: &[&str], topic: &[&str]) -> bool {
        match (filter, topic) {
            (["#"], _) => true,
            ([], []) => true,
            (["+", filter @ ..], [_, topic @ ..]) => matches_naively(filter, topic),
            ([level, filter @ ..], [name, topic @ ..]) => level == name && matches_naively(filter, topic),
            _ => false,
        }
    }

    fn naive(filter: &str, topic: &str) -> bool {
        let hidden = topic.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#'));
        !hidden && matches_naively(&filter.split('/').collect::<Vec<_>>(), &topic.split('/').collect::<Vec<_>>())
    }

    fn topics() -> impl Strategy<Value = String> {
        proptest::collection::vec(prop_oneof!["[ab]{0,1}", Just("$a".to_owned())], 1..5).prop_map(|levels| levels.join("/"))
    }

    fn filters() -> impl Strategy<Value = String> {
        let levels = proptest::collection::vec(prop_oneof!["[ab]{0,1}", Just("+".to_owned()), Just("$a".to_owned())], 1..5);
        (levels, any::<bool>()).prop_map(|(mut levels, multi)| {
            if multi {
                levels.push("#".to_owned());
            }
            levels.join("/")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn matching_agrees_with_a_naive_matcher(filter in filters(), topic in topics()) {
            if let (Ok(parsed), Ok(name)) = (TopicFilter::parse(&filter), TopicName::parse(&topic)) {
                prop_assert_eq!(parsed.matches(&name), naive(&filter, &topic), "{} {}", filter, topic);
            }
        }

        #[test]
        fn a_covering_filter_matches_all_that_the_covered_one_matches(wide in filters(), narrow in filters(), topic in topics()) {
            if let (Ok(wide), Ok(narrow), Ok(topic)) = (TopicFilter::parse(&wide), TopicFilter::parse(&narrow), TopicName::parse(&topic))
                && wide.covers(&narrow) && narrow.matches(&topic) {
                prop_assert!(wide.matches(&topic), "{} covers {} but not {}", wide, narrow, topic);
            }
        }

        #[test]
        fn a_filter_covers_itself(filter in filters()) {
            if let Ok(filter) = TopicFilter::parse(&filter) && !filter.as_str().starts_with('$') {
                prop_assert!(filter.covers(&filter));
            }
        }

        #[test]
        fn no_text_makes_parsing_panic(text in "\\PC{0,40}") {
            let _ = (TopicName::parse(&text), TopicFilter::parse(&text), SubscriptionFilter::parse(&text));
        }
    }

    #[test]
    fn the_examples_of_the_specification_hold() {
        let matches = |filter: &str, topic: &str| {
            TopicFilter::parse(filter).expect("legal").matches(&TopicName::parse(topic).expect("legal"))
        };
        assert!(matches("sport/tennis/player1/#", "sport/tennis/player1"));
        assert!(matches("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"));
        assert!(matches("sport/#", "sport"));
        assert!(!matches("sport/tennis/+", "sport/tennis/player1/ranking"));
        assert!(!matches("sport/+", "sport"));
        assert!(matches("sport/+", "sport/"));
        assert!(matches("+/+", "/finance"));
        assert!(matches("/+", "/finance"));
        assert!(!matches("+", "/finance"));
        assert!(!matches("#", "$SYS/broker"));
        assert!(!matches("+/monitor/Clients", "$SYS/monitor/Clients"));
        assert!(matches("$SYS/#", "$SYS/broker"));
    }

    #[test]
    fn malformed_names_and_filters_are_refused() {
        for bad in ["", "a\0b", "a\u{7f}b", &"x".repeat(MAX_TOPIC_BYTES + 1), &"/".repeat(MAX_TOPIC_LEVELS)] {
            assert!(TopicName::parse(bad).is_err() && TopicFilter::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["sport/tennis#", "sport/tennis/#/ranking", "sport+", "a/+b", "##", "#/#"] {
            assert!(TopicFilter::parse(bad).is_err(), "{bad}");
        }
        for bad in ["a/+", "#", "a/#"] {
            assert_eq!(TopicName::parse(bad), Err(InvalidTopic::WildcardInName));
        }
        for bad in ["$share/", "$share//a", "$share/g", "$share/g/", "$share/g+/a"] {
            assert_eq!(SubscriptionFilter::parse(bad), Err(InvalidTopic::Share), "{bad}");
        }
        let shared = SubscriptionFilter::parse("$share/g/dev/+/tele/#").expect("legal");
        assert_eq!((shared.share_name.as_deref(), shared.filter.as_str()), (Some("g"), "dev/+/tele/#"));
    }
}
