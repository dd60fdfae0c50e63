//! Profiles: named permissions and the topics and commands that each expands to. Owners write them in TOML.

use crate::{
    DeviceId, Seconds,
    limits::{
        ACCESS_TOKEN_LIFETIME, ACCESS_TOKEN_LIFETIME_RANGE, MAX_FILTERS_PER_PROFILE, MAX_PERMISSIONS_PER_PROFILE,
        MAX_PROFILE_BYTES, MAX_RESOURCE_BYTES, MAX_RESOURCES_PER_PROFILE, MAX_SCOPE_BYTES_PER_PROFILE,
    },
    scope::{PermissionName, Scope},
    topic::{InvalidTopic, TopicFilter},
    write::MAX_VALUE_BYTES,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

/// The name of a profile; the alphabet of a device id.
pub type ProfileName = DeviceId;

/// What devices of one kind may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What `device add --profile` says.
    pub name: ProfileName,
    /// One line for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Life of an access token, in seconds; [`ACCESS_TOKEN_LIFETIME_RANGE`].
    #[serde(default = "default_lifetime")]
    pub token_lifetime_s: u64,
    /// Whether the rights also hold for the children that the owner named for a device (a gateway).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub acts_for_children: bool,
    /// Whether the hub takes an access token from whoever shows it.
    #[serde(default, skip_serializing_if = "ProofOfPossession::is_optional")]
    pub proof: ProofOfPossession,
    /// Other servers for which tokens may be asked (RFC 8707 `resource`); at most [`MAX_RESOURCES_PER_PROFILE`]. The hub itself
    /// does not take such tokens, and tells those servers what they amount to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<ResourceUri>,
    /// The permissions by name; a token's scope lists names.
    pub permissions: BTreeMap<PermissionName, Grant>,
}

/// Whether an access token is good for whoever shows it, or only with a proof of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProofOfPossession {
    /// For whoever shows it, unless it was asked for otherwise (`ace_profile`).
    #[default]
    Optional,
    /// Only by MQTT and with a proof: method `ace`, or `client_credentials`, where what asks for the token is the proof.
    Required,
}

/// What one permission allows. Everything else stays forbidden.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Topics that the device may publish to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<FilterTemplate>,
    /// Topics that the device may subscribe to and receive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subscribe: Vec<FilterTemplate>,
    /// Commands that the device takes; `*` for any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<CommandPattern>,
    /// Permissions of the HTTP API, for services and integrations: `devices:read`, `commands:send`, `tokens:introspect`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub api: Vec<PermissionName>,
}

/// A topic filter in which a level may be the variable `${device}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FilterTemplate(Arc<str>);

/// A resource server as RFC 8707 section 2 names it: an absolute URI of visible ASCII without a fragment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourceUri(Box<str>);

/// The name of a command, `[a-z0-9_-]{1,32}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommandName(Box<str>);

/// One command or, as `*`, each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CommandPattern {
    /// Any command.
    Any,
    /// This command.
    Named(CommandName),
}

/// Why a profile file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidProfile {
    /// Not TOML, or not of the shape of a profile; the text names line and column.
    #[error("{0}")]
    Syntax(String),
    /// Larger than a stored row.
    #[error("a profile has at most {MAX_PROFILE_BYTES} bytes, fewer if its description is full of quotes and line breaks")]
    TooLarge,
    /// A bound on the number of permissions or filters.
    #[error("a profile has at most {MAX_PERMISSIONS_PER_PROFILE} permissions and {MAX_FILTERS_PER_PROFILE} topic filters")]
    TooMany,
    /// Names that would make tokens too large for small devices.
    #[error(
        "the names of a profile's permissions have at most {MAX_SCOPE_BYTES_PER_PROFILE} bytes together; choose shorter ones"
    )]
    ScopeTooLong,
    /// The life of tokens is out of range.
    #[error("token_lifetime_s is {0}; it must be from {start} to {end} seconds", start = ACCESS_TOKEN_LIFETIME_RANGE.start(), end = ACCESS_TOKEN_LIFETIME_RANGE.end())]
    Lifetime(u64),
}

/// Why a text is no filter template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// The filter itself.
    #[error("{0}")]
    Filter(#[from] InvalidTopic),
    /// Another variable than `${device}`, or `${device}` as a part of a level.
    #[error("`${{device}}` is the only variable and stands for a whole level, as in dev/${{device}}/tele/#")]
    Variable,
    /// The hub's own topics and shared groups are not for profiles.
    #[error("a profile grants no topic that begins with `$`")]
    Reserved,
}

/// Why a text is no resource.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a resource is an absolute URI without a fragment, at most {MAX_RESOURCE_BYTES} bytes, such as https://grafana.local")]
pub struct InvalidResource;

/// Why a text is no command name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a command name has 1 to 32 characters of a-z, 0-9, _ and -, such as `set-setpoint`")]
pub struct InvalidCommandName;

const VARIABLE: &str = "${device}";

fn default_lifetime() -> u64 {
    ACCESS_TOKEN_LIFETIME.0
}

impl Profile {
    /// Reads a profile file.
    ///
    /// # Errors
    /// [`InvalidProfile`], with line and column where the file is at fault.
    pub fn from_toml(text: &str) -> Result<Self, InvalidProfile> {
        if text.len() > MAX_PROFILE_BYTES {
            return Err(InvalidProfile::TooLarge);
        }
        let profile: Self = toml::from_str(text).map_err(|error| InvalidProfile::Syntax(error.to_string()))?;
        profile.checked()
    }

    /// The profile as the file that would make it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("names, texts and numbers all have a TOML form")
    }

    fn checked(self) -> Result<Self, InvalidProfile> {
        let filters: usize =
            self.permissions.values().map(|grant| grant.publish.len() + grant.subscribe.len() + grant.commands.len()).sum();
        if self.permissions.len() > MAX_PERMISSIONS_PER_PROFILE
            || filters > MAX_FILTERS_PER_PROFILE
            || self.resources.len() > MAX_RESOURCES_PER_PROFILE
        {
            return Err(InvalidProfile::TooMany);
        }
        // JSON escapes what TOML does not.
        let row = serde_json::to_vec(&self).map_err(|error| InvalidProfile::Syntax(error.to_string()))?;
        if row.len() > MAX_VALUE_BYTES {
            return Err(InvalidProfile::TooLarge);
        }
        if self.scope().to_string().len() > MAX_SCOPE_BYTES_PER_PROFILE {
            return Err(InvalidProfile::ScopeTooLong);
        }
        if !ACCESS_TOKEN_LIFETIME_RANGE.contains(&self.token_lifetime_s) {
            return Err(InvalidProfile::Lifetime(self.token_lifetime_s));
        }
        Ok(self)
    }

    /// All permissions of the profile.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.permissions.keys().cloned().collect()
    }

    /// Life of an access token.
    #[must_use]
    pub fn token_lifetime(&self) -> Seconds {
        Seconds(self.token_lifetime_s)
    }

    /// The permission that lets a device take a command, if one does.
    #[must_use]
    pub fn permission_for_command(&self, command: &CommandName) -> Option<&PermissionName> {
        let takes = |pattern: &CommandPattern| match pattern {
            CommandPattern::Any => true,
            CommandPattern::Named(name) => name == command,
        };
        self.permissions.iter().find(|(_, grant)| grant.commands.iter().any(takes)).map(|(name, _)| name)
    }

    /// The commands that the profile names, for help texts.
    pub fn commands(&self) -> impl Iterator<Item = &CommandPattern> {
        self.permissions.values().flat_map(|grant| &grant.commands)
    }

    /// The profiles that ship with the hub.
    ///
    /// # Panics
    /// Never: a test reads each.
    pub fn shipped() -> impl Iterator<Item = Self> {
        SHIPPED.iter().map(|text| Self::from_toml(text).expect("shipped profiles are tested"))
    }
}

const SHIPPED: [&str; 7] = [
    include_str!("../profiles/thermostat.toml"),
    include_str!("../profiles/sensor.toml"),
    include_str!("../profiles/switch.toml"),
    include_str!("../profiles/gateway.toml"),
    include_str!("../profiles/tasmota.toml"),
    include_str!("../profiles/home-assistant.toml"),
    include_str!("../profiles/service.toml"),
];

impl ProofOfPossession {
    /// Whether nothing is demanded.
    #[must_use]
    pub fn is_optional(&self) -> bool {
        *self == Self::Optional
    }
}

impl ResourceUri {
    /// Parses a resource.
    ///
    /// # Errors
    /// [`InvalidResource`].
    pub fn parse(text: &str) -> Result<Self, InvalidResource> {
        let (scheme, rest) = text.split_once(':').ok_or(InvalidResource)?;
        let legal_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let legal = legal_scheme && rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"#\"\\<>".contains(&byte));
        if legal && !rest.is_empty() && text.len() <= MAX_RESOURCE_BYTES { Ok(Self(text.into())) } else { Err(InvalidResource) }
    }

    /// The URI as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ResourceUri {
    type Error = InvalidResource;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<ResourceUri> for String {
    fn from(resource: ResourceUri) -> Self {
        resource.0.into()
    }
}

impl FilterTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// [`InvalidTemplate`].
    pub fn parse(text: &str) -> Result<Self, InvalidTemplate> {
        if text.starts_with('$') && !text.starts_with(VARIABLE) {
            return Err(InvalidTemplate::Reserved);
        }
        if text.split('/').any(|level| level != VARIABLE && level.contains(['$', '{', '}'])) {
            return Err(InvalidTemplate::Variable);
        }
        // The longest id must still fit, so that no expansion can fail.
        TopicFilter::parse(&text.replace(VARIABLE, &"x".repeat(DeviceId::MAX_BYTES)))?;
        Ok(Self(text.into()))
    }

    /// The filter for one device.
    ///
    /// # Panics
    /// Never: a device id holds no wildcard and no separator, and parsing has tried the longest one.
    #[must_use]
    pub fn expand(&self, device: &DeviceId) -> TopicFilter {
        TopicFilter::parse(&self.0.replace(VARIABLE, device.as_str())).expect("an id is a legal level, and the longest was tried")
    }

    /// Whether it stays among the topics that are a device's own by its name: the name stands behind the name of the scheme,
    /// before any wildcard, and right behind `dev` where the scheme is ours.
    #[must_use]
    pub fn is_about_itself(&self) -> bool {
        match self.0.split_once('/') {
            Some(("dev", rest)) => rest.split('/').next() == Some(VARIABLE),
            // A device could be called what another scheme is.
            Some((VARIABLE, _)) | None => false,
            Some(_) => self.0.split('/').take_while(|level| !matches!(*level, "+" | "#")).any(|level| level == VARIABLE),
        }
    }

    /// The template as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same text, held together with this.
    pub(crate) fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl CommandName {
    /// Parses a command name.
    ///
    /// # Errors
    /// [`InvalidCommandName`].
    pub fn parse(text: &str) -> Result<Self, InvalidCommandName> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
        if (1..=32).contains(&text.len()) && text.bytes().all(legal) { Ok(Self(text.into())) } else { Err(InvalidCommandName) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CommandName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for CommandName {
    type Err = InvalidCommandName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for CommandName {
    type Error = InvalidCommandName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<CommandName> for String {
    fn from(name: CommandName) -> Self {
        name.0.into()
    }
}

impl TryFrom<String> for CommandPattern {
    type Error = InvalidCommandName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "*" { Ok(Self::Any) } else { CommandName::parse(&text).map(Self::Named) }
    }
}

impl From<CommandPattern> for String {
    fn from(pattern: CommandPattern) -> Self {
        match pattern {
            CommandPattern::Any => "*".to_owned(),
            CommandPattern::Named(name) => name.into(),
        }
    }
}

impl TryFrom<String> for FilterTemplate {
    type Error = InvalidTemplate;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<FilterTemplate> for String {
    fn from(template: FilterTemplate) -> Self {
        template.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::TopicName;
    use proptest::prelude::*;

    #[test]
    fn each_shipped_profile_is_legal_and_reads_back() {
        for profile in Profile::shipped() {
            assert_eq!(Profile::from_toml(&profile.to_toml()), Ok(profile));
        }
    }

    #[test]
    fn only_a_whole_level_may_be_the_variable() {
        for good in ["dev/${device}/tele/#", "${device}/x", "dev/+/status"] {
            assert!(FilterTemplate::parse(good).is_ok(), "{good}");
        }
        for bad in ["dev/x${device}/y", "dev/${device}#", "dev/${user}/x", "dev/$device", "$SYS/#", "$share/g/a", "dev/{device}"]
        {
            assert!(FilterTemplate::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_faulty_file_is_told_where_it_is_wrong() {
        let error = Profile::from_toml("name = \"lamp\"\n[permissions.light]\npublish = [\"dev/x${device}\"]\n")
            .expect_err("a variable inside a level");
        assert!(error.to_string().contains("line 3"), "{error}");
        assert!(Profile::from_toml("name = \"lamp\"\nsurprise = 1\n[permissions]\n").is_err());
        assert_eq!(
            Profile::from_toml("name = \"lamp\"\ntoken_lifetime_s = 1\n[permissions]\n"),
            Err(InvalidProfile::Lifetime(1))
        );
        assert_eq!(Profile::from_toml(&"#".repeat(MAX_PROFILE_BYTES + 1)), Err(InvalidProfile::TooLarge));
    }

    proptest! {
        #[test]
        fn no_expansion_of_an_id_escapes_its_own_subtree(id in "[a-z0-9+#/$\\{\\}.-]{1,34}", other in "[a-z]{1,8}", rest in "[a-z/]{0,12}") {
            let template = FilterTemplate::parse("dev/${device}/tele/#").expect("legal");
            if let Ok(id) = DeviceId::parse(&id) && id.as_str() != other {
                let filter = template.expand(&id);
                let foreign = TopicName::parse(&format!("dev/{other}/{rest}")).expect("legal");
                prop_assert!(!filter.matches(&foreign));
                let own = TopicFilter::parse(&format!("dev/{id}/#")).expect("legal");
                prop_assert!(own.covers(&filter));
            }
        }
    }
}
