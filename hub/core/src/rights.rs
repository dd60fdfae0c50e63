//! Decides who may use a topic. Knows nothing of sockets, storage or tokens.
//!
//! [`Rights`] are what a principal may do at this moment, expanded; they hand out permits. The router takes a permit and
//! nothing else, so a check cannot be forgotten. Everything that no rule grants is denied, delivery included.

use crate::{
    DeviceId,
    profile::{Profile, ProfileName},
    scope::{PermissionName, Scope},
    topic::{SubscriptionFilter, TopicFilter, TopicName},
};
use serde::Serialize;
use std::sync::Arc;

/// What a principal may do with topics: filters, each with the rule that grants it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    publish: Grants,
    subscribe: Grants,
}

/// What is granted in one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Grants {
    list: Vec<Granted>,
    /// Bytes that each topic begins with which one of them matches; those of a device all name it.
    common: usize,
}

impl Grants {
    fn new(mut list: Vec<Granted>) -> Self {
        list.shrink_to_fit();
        let common = list.split_first().map_or(0, |(first, others)| {
            let of_first = first.literal();
            let shared = |other: &Granted| of_first.iter().zip(other.literal()).take_while(|(one, other)| one == other).count();
            others.iter().map(shared).min().unwrap_or(of_first.len())
        });
        Self { list, common }
    }

    fn matching(&self, topic: &TopicName) -> Option<&Granted> {
        let (common, rest) = topic.as_str().as_bytes().split_at_checked(self.common)?;
        if self.list.first()?.literal().get(..self.common)? != common {
            return None;
        }
        self.list.iter().find(|granted| granted.matches_from(self.common, rest, topic))
    }

    fn covering(&self, filter: &TopicFilter) -> Option<&Granted> {
        self.list.iter().find(|granted| granted.filter.covers(filter))
    }
}

/// Each session has some ten of these: all but the filter is shared with the profile.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Granted {
    filter: TopicFilter,
    /// Bytes before the first wildcard and the slash in front of it: most topics differ here.
    literal: usize,
    tail: Tail,
    /// Whether it matches topics on which only the hub publishes.
    reaches_reserved: bool,
    source: Arc<str>,
    permission: PermissionName,
    template: Arc<str>,
}

/// What follows the literal bytes of a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tail {
    /// Nothing.
    Nothing,
    /// `/+`
    OneLevel,
    /// `/#`
    AnyLevels,
    /// `#` alone.
    Everything,
    Other,
}

impl Granted {
    fn new(filter: TopicFilter, source: &Arc<str>, permission: &PermissionName, template: Arc<str>) -> Self {
        let before_wildcard = filter.as_str().find(['+', '#']).unwrap_or(filter.as_str().len());
        let literal = filter.as_str()[..before_wildcard].trim_end_matches('/').len();
        let tail = match &filter.as_str()[literal..] {
            "" => Tail::Nothing,
            "/+" => Tail::OneLevel,
            "/#" => Tail::AnyLevels,
            "#" => Tail::Everything,
            _ => Tail::Other,
        };
        let reaches_reserved = reaches_reserved(&filter);
        Self { filter, literal, tail, reaches_reserved, source: source.clone(), permission: permission.clone(), template }
    }

    fn literal(&self) -> &[u8] {
        self.filter.as_str().as_bytes().get(..self.literal).unwrap_or_default()
    }

    /// Like [`TopicFilter::matches`], for a topic whose first bytes are known to be those of the filter; `rest` are the others.
    fn matches_from(&self, known: usize, rest: &[u8], topic: &TopicName) -> bool {
        let literal = self.literal().get(known..).unwrap_or_default();
        // Most differ in the next byte: no need to call anything.
        if literal.first().is_some_and(|first| rest.first() != Some(first)) {
            return false;
        }
        let Some(tail) = rest.strip_prefix(literal) else { return false };
        match self.tail {
            Tail::Nothing => tail.is_empty(),
            Tail::OneLevel => tail.split_first().is_some_and(|(slash, level)| *slash == b'/' && !level.contains(&b'/')),
            Tail::AnyLevels => tail.first().is_none_or(|slash| *slash == b'/'),
            // MQTT-4.7.2-1
            Tail::Everything => !topic.as_str().starts_with('$'),
            Tail::Other => self.filter.matches(topic),
        }
    }

    fn rule(&self) -> Rule {
        Rule { source: self.source.to_string(), permission: self.permission.clone(), template: self.template.to_string() }
    }
}

/// Where a right comes from; what `hearthkey can` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// The profile, or the role of a user.
    pub source: String,
    /// The permission within it.
    pub permission: PermissionName,
    /// The filter as it was written, variables and all.
    pub template: String,
}

/// Proof that a principal may publish to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishPermit {
    topic: TopicName,
}

/// Proof that a principal may subscribe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribePermit {
    subscription: SubscriptionFilter,
}

/// Proof that a message on a topic may be handed to a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryPermit<'a> {
    topic: &'a TopicName,
}

/// Why something is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No rule grants it.
    #[error("no permission covers {action} {topic}")]
    NoRule {
        /// publish to, subscribe to, receive from, command.
        action: &'static str,
        /// What was asked for.
        topic: String,
    },
    /// Commands and desired twins come from the hub alone.
    #[error("only the hub publishes to {topic}; use `hearthkey send` or POST /api/v1/devices/<id>/commands/<name>")]
    ReservedForHub {
        /// What was asked for.
        topic: String,
    },
}

impl Rights {
    /// The rights of a device: its profile's permissions as far as the scope names them, for itself and its children.
    #[must_use]
    pub fn of_device(profile: &Profile, scope: &Scope, device: &DeviceId, children: &[DeviceId]) -> Self {
        let (mut publish, mut subscribe) = (Vec::new(), Vec::new());
        let children = if profile.acts_for_children { children } else { &[] };
        let source: Arc<str> = rule_source(&profile.name).into();
        for (permission, grant) in profile.permissions.iter().filter(|(name, _)| scope.contains(name.as_str())) {
            for id in std::iter::once(device).chain(children) {
                let granted = |template: &crate::profile::FilterTemplate| {
                    Granted::new(template.expand(id), &source, permission, template.shared())
                };
                publish.extend(grant.publish.iter().map(granted));
                subscribe.extend(grant.subscribe.iter().map(granted));
            }
        }
        Self { publish: Grants::new(publish), subscribe: Grants::new(subscribe) }
    }

    /// Rights over given filters by one rule: users and integrations.
    #[must_use]
    pub fn granting(
        source: &str,
        permission: &PermissionName,
        publish: &[impl AsRef<str>],
        subscribe: &[impl AsRef<str>],
    ) -> Self {
        let source: Arc<str> = source.into();
        let granted = |text: &str| {
            let filter = TopicFilter::parse(text).ok()?;
            Some(Granted::new(filter, &source, permission, text.into()))
        };
        Self {
            publish: Grants::new(publish.iter().filter_map(|text| granted(text.as_ref())).collect()),
            subscribe: Grants::new(subscribe.iter().filter_map(|text| granted(text.as_ref())).collect()),
        }
    }

    /// Adds the rights of another.
    pub fn extend(&mut self, other: Self) {
        let joined = |mine: &mut Grants, theirs: Grants| Grants::new(mine.list.drain(..).chain(theirs.list).collect());
        self.publish = joined(&mut self.publish, other.publish);
        self.subscribe = joined(&mut self.subscribe, other.subscribe);
    }

    /// Proof that these rights allow a publish.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn authorize_publish(&self, topic: TopicName) -> Result<PublishPermit, Denied> {
        match self.publish.matching(&topic) {
            Some(granted) if !granted.reaches_reserved || !is_reserved_for_hub(&topic) => Ok(PublishPermit { topic }),
            Some(_) | None if is_reserved_for_hub(&topic) => Err(Denied::ReservedForHub { topic: topic.to_string() }),
            Some(_) | None => Err(Denied::NoRule { action: "publish to", topic: topic.to_string() }),
        }
    }

    /// Proof that these rights allow a subscription: one rule must cover all that the filter can match.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn authorize_subscribe(&self, subscription: SubscriptionFilter) -> Result<SubscribePermit, Denied> {
        if self.subscribe.covering(&subscription.filter).is_some() {
            Ok(SubscribePermit { subscription })
        } else {
            Err(Denied::NoRule { action: "subscribe to", topic: subscription.filter.to_string() })
        }
    }

    /// Proof that these rights allow a message on a topic to be handed over.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn authorize_delivery<'a>(&self, topic: &'a TopicName) -> Result<DeliveryPermit<'a>, Denied> {
        if self.subscribe.matching(topic).is_some() {
            Ok(DeliveryPermit { topic })
        } else {
            Err(Denied::NoRule { action: "receive from", topic: topic.to_string() })
        }
    }

    /// The rule that lets these rights publish to a topic, if one does and the topic is not the hub's.
    #[must_use]
    pub fn publish_rule(&self, topic: &TopicName) -> Option<Rule> {
        let matching = self.publish.matching(topic)?;
        (!is_reserved_for_hub(topic)).then(|| matching.rule())
    }

    /// The rule that lets these rights subscribe to a filter, if one does.
    #[must_use]
    pub fn subscribe_rule(&self, filter: &TopicFilter) -> Option<Rule> {
        self.subscribe.covering(filter).map(Granted::rule)
    }

    /// All filters that may be published to, with their rules.
    pub fn publish_filters(&self) -> impl Iterator<Item = (&TopicFilter, Rule)> {
        self.publish.list.iter().map(|granted| (&granted.filter, granted.rule()))
    }

    /// All filters that may be subscribed to, with their rules.
    pub fn subscribe_filters(&self) -> impl Iterator<Item = (&TopicFilter, Rule)> {
        self.subscribe.list.iter().map(|granted| (&granted.filter, granted.rule()))
    }
}

fn rule_source(profile: &ProfileName) -> String {
    format!("profile {profile}")
}

/// Whether only the hub publishes here: `dev/<id>/cmd/…`, `dev/<id>/twin/desired` and `$…`.
#[must_use]
pub fn is_reserved_for_hub(topic: &TopicName) -> bool {
    let topic = topic.as_str();
    let Some(below) = topic.strip_prefix("dev/") else { return topic.starts_with('$') };
    let Some((_device, below)) = below.split_once('/') else { return false };
    ["cmd", "twin/desired"]
        .iter()
        .any(|reserved| below.strip_prefix(reserved).is_some_and(|deeper| deeper.is_empty() || deeper.starts_with('/')))
}

/// Whether a filter matches a topic that [is reserved](is_reserved_for_hub).
#[must_use]
pub fn reaches_reserved(filter: &TopicFilter) -> bool {
    let have_topics_in_common = |reserved: &str| {
        let (mut levels, mut others) = (filter.as_str().split('/'), reserved.split('/'));
        loop {
            match (levels.next(), others.next()) {
                (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
                (Some(one), Some(other)) if one == other || one == "+" || other == "+" => {}
                _ => return false,
            }
        }
    };
    filter.as_str().starts_with('$') || ["dev/+/cmd/#", "dev/+/twin/desired/#"].into_iter().any(have_topics_in_common)
}

impl PublishPermit {
    /// A permit for the hub's own messages: commands, desired twins, `$SYS`. For nothing that a peer chose.
    #[must_use]
    pub fn for_hub(topic: TopicName) -> Self {
        Self { topic }
    }

    /// The topic that may be published to.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// The topic, for keeping.
    #[must_use]
    pub fn into_topic(self) -> TopicName {
        self.topic
    }
}

impl SubscribePermit {
    /// What may be subscribed to.
    #[must_use]
    pub fn subscription(&self) -> &SubscriptionFilter {
        &self.subscription
    }
}

impl<'a> DeliveryPermit<'a> {
    /// The topic whose message may be handed over.
    #[must_use]
    pub fn topic(&self) -> &'a TopicName {
        self.topic
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rights(profile: &str, device: &str, scope: &str) -> Rights {
        let profile = Profile::shipped().find(|shipped| shipped.name.as_str() == profile).expect("shipped");
        Rights::of_device(&profile, &Scope::parse(scope).expect("legal"), &DeviceId::parse(device).expect("legal"), &[])
    }

    fn publishes(rights: &Rights, topic: &str) -> bool {
        rights.authorize_publish(TopicName::parse(topic).expect("legal")).is_ok()
    }

    fn subscribes(rights: &Rights, filter: &str) -> bool {
        rights.authorize_subscribe(SubscriptionFilter::parse(filter).expect("legal")).is_ok()
    }

    fn receives(rights: &Rights, topic: &str) -> bool {
        rights.authorize_delivery(&TopicName::parse(topic).expect("legal")).is_ok()
    }

    #[test]
    fn a_device_uses_its_own_topics_and_no_others() {
        let lamp = rights("thermostat", "lamp", "telemetry commands twin");
        assert!(publishes(&lamp, "dev/lamp/tele/temperature"));
        assert!(!publishes(&lamp, "dev/oven/tele/temperature"));
        assert!(!publishes(&lamp, "dev/lamp/tele/a/b"));
        assert!(!publishes(&lamp, "dev/lamp2/tele/temperature"));
        assert!(subscribes(&lamp, "dev/lamp/cmd/+"));
        assert!(subscribes(&lamp, "dev/lamp/cmd/set-mode"));
        assert!(subscribes(&lamp, "$share/g/dev/lamp/cmd/+"));
        for wide in ["#", "dev/#", "dev/+/cmd/+", "dev/lamp/#", "dev/lamp/cmd/#", "+/lamp/cmd/+", "$share/g/#", "dev/oven/cmd/+"]
        {
            assert!(!subscribes(&lamp, wide), "{wide}");
        }
        assert!(receives(&lamp, "dev/lamp/cmd/identify") && !receives(&lamp, "dev/oven/cmd/identify"));
    }

    #[test]
    fn a_smaller_scope_gives_smaller_rights() {
        let quiet = rights("thermostat", "lamp", "commands");
        assert!(!publishes(&quiet, "dev/lamp/tele/temperature"));
        assert!(publishes(&quiet, "dev/lamp/ack/c-1"));
        let nothing = rights("thermostat", "lamp", "");
        assert_eq!(nothing, Rights::default());
    }

    #[test]
    fn nobody_but_the_hub_publishes_commands_whatever_a_profile_says() {
        let profile = Profile::from_toml("name = \"greedy\"\n[permissions.all]\npublish = [\"#\"]\n").expect("legal");
        let greedy = Rights::of_device(&profile, &profile.scope(), &DeviceId::parse("lamp").expect("legal"), &[]);
        assert!(publishes(&greedy, "anything/else"));
        for reserved in ["dev/lamp/cmd/on", "dev/oven/cmd/a/b", "dev/lamp/cmd", "dev/lamp/twin/desired", "$SYS/x"] {
            assert!(!publishes(&greedy, reserved), "{reserved}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn rights_cover_what_their_filters_match(
            filters in proptest::collection::vec("(\\+|a|ab|)(/(\\+|a|ab|)){0,3}(/#)?|#|[$]a/#", 1..4),
            topic in "(a|ab|b|[$]a|)(/(a|ab|b|)){0,3}"
        ) {
            let parsed: Option<Vec<_>> = filters.iter().map(|filter| TopicFilter::parse(filter).ok()).collect();
            if let (Some(parsed), Ok(topic)) = (parsed, TopicName::parse(&topic)) {
                let rights = Rights::granting("test", &PermissionName::parse("all").expect("legal"), &[""; 0], &filters);
                let matched = parsed.iter().any(|filter| filter.matches(&topic));
                prop_assert_eq!(rights.authorize_delivery(&topic).is_ok(), matched, "{:?} {}", filters, topic);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn whatever_filters_grant_nobody_publishes_what_is_reserved(
            filter in "(dev|a|[+])(/(lamp|[+]))?(/(cmd|twin|tele|[+]))?(/(desired|reported|[+]))?(/#)?|#|[$]a/#",
            topic in "(dev|a|[$]a)(/lamp)?(/(cmd|twin|tele|cmds))?(/(desired|reported))?(/x)?"
        ) {
            if let (Ok(parsed), Ok(topic)) = (TopicFilter::parse(&filter), TopicName::parse(&topic)) {
                let rights = Rights::granting("test", &PermissionName::parse("all").expect("legal"), &[&filter], &[""; 0]);
                let is_reserved = is_reserved_for_hub(&topic);
                let decision = rights.authorize_publish(topic.clone());
                prop_assert_eq!(decision.is_ok(), parsed.matches(&topic) && !is_reserved, "{} {}", filter, topic);
                prop_assert_eq!(matches!(decision, Err(Denied::ReservedForHub { .. })), is_reserved, "{} {}", filter, topic);
            }
        }
    }

    #[test]
    fn what_only_looks_reserved_is_not() {
        let reserved = |text| is_reserved_for_hub(&TopicName::parse(text).expect("legal"));
        for text in ["dev/lamp/cmd", "dev/lamp/cmd/x/y", "dev//cmd/x", "dev/lamp/twin/desired", "dev/lamp/twin/desired/x", "$SYS"]
        {
            assert!(reserved(text), "{text}");
        }
        for text in
            ["dev", "dev/cmd", "dev/lamp", "dev/lamp/cmds", "dev/lamp/twin", "dev/lamp/twin/desired-1", "xdev/lamp/cmd/x", "a/$b"]
        {
            assert!(!reserved(text), "{text}");
        }
    }

    #[test]
    fn a_gateway_acts_for_its_named_children_only() {
        let id = |text| DeviceId::parse(text).expect("legal");
        let profile = Profile::shipped().find(|shipped| shipped.name.as_str() == "gateway").expect("shipped");
        let gateway = Rights::of_device(&profile, &profile.scope(), &id("hub-1"), &[id("leaf")]);
        assert!(publishes(&gateway, "dev/leaf/tele/x") && publishes(&gateway, "dev/hub-1/tele/x"));
        assert!(!publishes(&gateway, "dev/other/tele/x"));
        let thermostat = Profile::shipped().find(|shipped| shipped.name.as_str() == "thermostat").expect("shipped");
        let plain = Rights::of_device(&thermostat, &thermostat.scope(), &id("hub-1"), &[id("leaf")]);
        assert!(!publishes(&plain, "dev/leaf/tele/x"), "a thermostat has no children");
    }

    #[test]
    fn a_decision_names_its_rule() {
        let lamp = rights("thermostat", "lamp", "telemetry");
        let rule = lamp.publish_rule(&TopicName::parse("dev/lamp/tele/x").expect("legal")).expect("granted");
        assert_eq!((rule.source.as_str(), rule.template.as_str()), ("profile thermostat", "dev/${device}/tele/+"));
    }
}
