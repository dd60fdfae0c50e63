//! The hub's configuration file: where it listens, under which names, what it logs. Reads text and opens nothing.
//!
//! Everything is optional; a hub without a file listens on loopback. What the file says is checked here, with line
//! numbers, so that `hearthkey check FILE` and `hearthkey up` agree.

mod limits;

pub use limits::{LimitsConfig, OutOfRange, Within};

use crate::mqtt::FabricKind;
use hearthkey_certs::{HubNames, InvalidHubName};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// A configuration is a page of text; more is another file.
pub const MAX_CONFIG_BYTES: usize = 64 * 1024;

/// The default ports (docs/architecture.md).
const HTTPS_PORT: u16 = 8443;
const MQTTS_PORT: u16 = 8883;
const MQTT_PORT: u16 = 1883;

/// What an owner may configure.
///
/// ```toml
/// lan = true                                # HTTPS and MQTT over TLS on all interfaces
/// names = ["hub.local", "192.168.1.10"]     # further names in the hub's certificate; devices are told the first
/// issuer = "https://hub.local:8443"         # what tokens and the metadata name; the first name and port by default
///
/// [listeners]
/// https = "127.0.0.1:8443"
/// mqtts = "127.0.0.1:8883"
/// mqtt = "off"                              # MQTT without TLS; 127.0.0.1:1883 by default
///
/// [mqtt]
/// fabric = "native"                         # what carries messages: native (Hearthkey's own), router (rumqttd's)
///
/// [websocket]
/// origins = ["https://panel.home"]          # whose pages may open MQTT over WebSocket, besides the hub's own
///
/// [limits]
/// connections = 5000                        # docs/limits.md has all
///
/// [log]
/// level = "info"                            # error, warn, info, debug, trace
/// format = "text"                           # text, json
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whether other machines may reach the TLS listeners.
    pub lan: bool,
    /// DNS names and addresses that the hub's certificate holds beside the fixed ones.
    pub names: Vec<HubName>,
    /// Who issues the tokens (RFC 8414); the one of the first start if there is none here.
    pub issuer: Option<IssuerUrl>,
    /// Where the hub listens.
    pub listeners: ListenerConfig,
    /// The MQTT front.
    pub mqtt: MqttConfig,
    /// MQTT over WebSocket.
    pub websocket: WebSocketConfig,
    /// Bounds of the MQTT front.
    pub limits: LimitsConfig,
    /// What the hub logs.
    pub log: LogConfig,
}

/// The MQTT front.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MqttConfig {
    /// What carries messages from publishers to subscribers.
    pub fabric: FabricKind,
}

/// MQTT over WebSocket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebSocketConfig {
    /// Whose pages may open one in a browser, besides the hub's own.
    pub origins: Vec<Origin>,
}

/// Addresses that differ from the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerConfig {
    /// HTTPS: token endpoint, API, pages.
    pub https: Option<ListenAddress>,
    /// MQTT over TLS.
    pub mqtts: Option<ListenAddress>,
    /// MQTT without TLS, or off.
    pub mqtt: Option<PlainListener>,
}

/// What the hub logs and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// The least severe level that is written.
    pub level: LogLevel,
    /// Lines for people or objects for programs.
    pub format: LogFormat,
}

/// Severity, the most severe first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What stopped.
    Error,
    /// What an owner should look at.
    Warn,
    /// What happened.
    #[default]
    Info,
    /// What was decided, and why.
    Debug,
    /// Each packet.
    Trace,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A DNS name or address that a certificate can hold.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HubName(String);

/// An issuer: `https`, a host and a port that is not 443, and nothing behind.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct IssuerUrl(String);

/// Where a page in a browser comes from, as browsers say it: scheme, host and port (RFC 6454).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Origin(String);

/// An address and port to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ListenAddress(pub SocketAddr);

/// Where MQTT without TLS listens, if it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum PlainListener {
    /// Nowhere.
    Off,
    /// Here.
    At(ListenAddress),
}

/// Where the hub listens, all said and done. Port 0 is any free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Listeners {
    /// HTTPS.
    pub https: SocketAddr,
    /// MQTT over TLS.
    pub mqtts: SocketAddr,
    /// MQTT without TLS, or off.
    pub mqtt: Option<SocketAddr>,
}

/// Ports given on the command line; they go before the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ports {
    /// HTTPS.
    pub https: Option<u16>,
    /// MQTT over TLS.
    pub mqtts: Option<u16>,
    /// MQTT without TLS.
    pub mqtt: Option<u16>,
}

/// Why a configuration file is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfig {
    /// Not TOML, or not a configuration; the text names line and column.
    #[error("{0}")]
    Syntax(String),
    /// Larger than [`MAX_CONFIG_BYTES`].
    #[error("a configuration has at most {MAX_CONFIG_BYTES} bytes")]
    TooLarge,
    /// More names than a certificate holds.
    #[error("names: {0}")]
    Names(#[from] InvalidHubName),
    /// Bounds that do not go together.
    #[error("{0}")]
    Limits(String),
    /// Two listeners on one address.
    #[error("listeners.{first} and listeners.{second} are both {address}; give each its own port")]
    SameAddress {
        /// The one.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// Where both would listen.
        address: SocketAddr,
    },
}

/// Why a text is no [`ListenAddress`].
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is no address to listen on; write address and port, such as \"127.0.0.1:8443\", or \"[::]:8443\" for all interfaces"
)]
pub struct InvalidListenAddress(String);

/// Why a text is no [`IssuerUrl`].
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no issuer; write \"https://\", host and port and nothing behind, such as \"https://hub.local:8443\"")]
pub struct InvalidIssuer(String);

/// Why a text is no [`Origin`].
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no origin of a web page; write scheme, host and port if any, such as \"https://panel.home\", without a path")]
pub struct InvalidOrigin(String);

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// [`InvalidConfig`], with line and column where the file is at fault.
    pub fn from_toml(text: &str) -> Result<Self, InvalidConfig> {
        if text.len() > MAX_CONFIG_BYTES {
            return Err(InvalidConfig::TooLarge);
        }
        let config: Self =
            toml::from_str(text).map_err(|error| InvalidConfig::Syntax(error.to_string().trim_end().to_owned()))?;
        config.hub_names()?;
        config.limits.limits()?;
        config.listeners(false, Ports::default()).each_has_its_own_address()?;
        Ok(config)
    }

    /// All names and addresses of the hub's certificate.
    ///
    /// # Errors
    /// [`InvalidHubName::TooMany`].
    pub fn hub_names(&self) -> Result<HubNames, InvalidHubName> {
        let mut names = HubNames::default();
        self.names.iter().try_for_each(|name| names.add(&name.0))?;
        Ok(names)
    }

    /// Where the hub listens: defaults, then the file, then `--lan`, then ports of the command line.
    ///
    /// With `--lan` the TLS listeners leave loopback; MQTT without TLS never does unless the file names another address.
    #[must_use]
    pub fn listeners(&self, lan: bool, ports: Ports) -> Listeners {
        let reach = |configured: Option<ListenAddress>, default_port, port: Option<u16>| {
            let mut address = configured.map_or(SocketAddr::from((Ipv4Addr::LOCALHOST, default_port)), |address| address.0);
            if (lan || self.lan) && address.ip().is_loopback() {
                address.set_ip(match address.ip() {
                    IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                });
            }
            address.set_port(port.unwrap_or(address.port()));
            address
        };
        let mqtt = match self.listeners.mqtt {
            Some(PlainListener::Off) => None,
            Some(PlainListener::At(address)) => Some(address.0),
            None => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, MQTT_PORT))),
        };
        Listeners {
            https: reach(self.listeners.https, HTTPS_PORT, ports.https),
            mqtts: reach(self.listeners.mqtts, MQTTS_PORT, ports.mqtts),
            mqtt: mqtt.map(|address| SocketAddr::new(address.ip(), ports.mqtt.unwrap_or(address.port()))),
        }
    }

    /// What is legal, and yet an owner should know of.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        match self.listeners.mqtt {
            Some(PlainListener::At(ListenAddress(address))) if !address.ip().is_loopback() => vec![format!(
                "listeners.mqtt is {address}: MQTT without TLS lets anyone on that network read tokens and telemetry"
            )],
            _ => Vec::new(),
        }
    }
}

impl Listeners {
    fn each_has_its_own_address(&self) -> Result<(), InvalidConfig> {
        let listeners = [("https", Some(self.https)), ("mqtts", Some(self.mqtts)), ("mqtt", self.mqtt)];
        for (index, (second, address)) in listeners.iter().enumerate() {
            let Some(address) = address.filter(|address| address.port() != 0) else { continue };
            if let Some((first, _)) = listeners[..index].iter().find(|(_, other)| *other == Some(address)) {
                return Err(InvalidConfig::SameAddress { first, second, address });
            }
        }
        Ok(())
    }
}

impl LogLevel {
    /// The word in the file, which tracing knows too.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl HubName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for HubName {
    type Error = InvalidHubName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        HubNames::default().add(&text)?;
        Ok(Self(text))
    }
}

impl IssuerUrl {
    /// The issuer as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for IssuerUrl {
    type Error = InvalidIssuer;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let origin = reqwest::Url::parse(&text).ok().filter(|url| url.scheme() == "https").map(|url| url.origin());
        // RFC 8414: compared byte by byte, so it must be written as everyone else would write it.
        match origin.is_some_and(|origin| origin.ascii_serialization() == text) {
            true => Ok(Self(text)),
            false => Err(InvalidIssuer(text)),
        }
    }
}

impl Origin {
    /// As a browser says it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Origin {
    type Error = InvalidOrigin;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let Ok(url) = reqwest::Url::parse(&text) else { return Err(InvalidOrigin(text)) };
        let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        if !matches!(url.scheme(), "http" | "https") || !is_bare || url.password().is_some() {
            return Err(InvalidOrigin(text));
        }
        Ok(Self(url.origin().ascii_serialization()))
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = InvalidListenAddress;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self).map_err(|_| InvalidListenAddress(text))
    }
}

impl TryFrom<String> for PlainListener {
    type Error = InvalidListenAddress;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "off" { Ok(Self::Off) } else { ListenAddress::try_from(text).map(Self::At) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::from_toml(text).expect(text)
    }

    fn refusal(text: &str) -> String {
        Config::from_toml(text).expect_err(text).to_string()
    }

    #[test]
    fn an_empty_file_listens_on_loopback() {
        let listeners = config("").listeners(false, Ports::default());
        let all = [listeners.https, listeners.mqtts, listeners.mqtt.expect("on by default")];
        assert_eq!(all.map(|address| address.port()), [8443, 8883, 1883]);
        assert!(all.iter().all(|address| address.ip().is_loopback()));
    }

    #[test]
    fn lan_opens_what_has_tls_and_nothing_else() {
        for listeners in [config("").listeners(true, Ports::default()), config("lan = true").listeners(false, Ports::default())] {
            assert!(listeners.https.ip().is_unspecified());
            assert!(listeners.mqtts.ip().is_unspecified());
            assert!(listeners.mqtt.expect("on").ip().is_loopback());
        }
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let config = config("[listeners]\nhttps = \"[::1]:9443\"\nmqtt = \"off\"\n");
        let ports = Ports { https: Some(0), mqtts: None, mqtt: Some(0) };
        let listeners = config.listeners(false, ports);
        assert_eq!(listeners.https.to_string(), "[::1]:0");
        assert_eq!(listeners.mqtt, None);
    }

    #[test]
    fn a_mistake_is_told_with_its_line_and_the_remedy() {
        let unknown = refusal("lan = true\n[listener]\n");
        assert!(unknown.contains("line 2") && unknown.contains("listeners"), "{unknown}");
        let address = refusal("[listeners]\n\nhttps = \"8443\"\n");
        assert!(address.contains("line 3") && address.contains("\"127.0.0.1:8443\""), "{address}");
        let name = refusal("names = [\"https://hub\"]");
        assert!(name.contains("line 1") && name.contains("without scheme"), "{name}");
        for wrong in
            ["http://hub.local", "https://hub.local/", "https://hub.local:443", "hub.local", "https://Hub.local", "https://a@b"]
        {
            let issuer = refusal(&format!("issuer = \"{wrong}\""));
            assert!(issuer.contains("line 1") && issuer.contains("https://hub.local:8443"), "{issuer}");
        }
        assert_eq!(config("issuer = \"https://[fd00::1]:8443\"").issuer.expect("one").as_str(), "https://[fd00::1]:8443");
        assert!(refusal("[log]\nlevel = \"loud\"").contains("`debug`"));
        assert!(refusal("lan = \"yes\"").contains("boolean"));
    }

    #[test]
    fn two_listeners_never_share_an_address() {
        let shared = refusal("[listeners]\nmqtts = \"127.0.0.1:8443\"\n");
        assert!(shared.contains("listeners.https and listeners.mqtts"), "{shared}");
        config("[listeners]\nhttps = \"127.0.0.1:0\"\nmqtts = \"127.0.0.1:0\"\n");
    }

    #[test]
    fn mqtt_without_tls_beyond_loopback_is_warned_of() {
        assert_eq!(config("[listeners]\nmqtt = \"127.0.0.1:1884\"").warnings(), Vec::<String>::new());
        assert_eq!(config("[listeners]\nmqtt = \"0.0.0.0:1883\"").warnings().len(), 1);
    }

    #[test]
    fn the_fabric_is_one_of_two() {
        assert_eq!(config("").mqtt.fabric, FabricKind::Native);
        assert_eq!(config("[mqtt]\nfabric = \"router\"").mqtt.fabric, FabricKind::Router);
        let unknown = refusal("[mqtt]\nfabric = \"kafka\"");
        assert!(unknown.contains("line 2") && unknown.contains("`native`"), "{unknown}");
    }

    #[test]
    fn an_origin_is_read_as_browsers_say_it() {
        let origins = config("[websocket]\norigins = [\"https://Panel.home:443/\", \"http://[::1]:3000\"]").websocket.origins;
        assert_eq!(origins.iter().map(Origin::as_str).collect::<Vec<_>>(), ["https://panel.home", "http://[::1]:3000"]);
        for wrong in ["*", "panel.home", "https://panel.home/x", "https://me@panel.home", "wss://panel.home", "null"] {
            let refused = refusal(&format!("[websocket]\norigins = [{wrong:?}]"));
            assert!(refused.contains("line 2") && refused.contains("https://panel.home"), "{refused}");
        }
    }

    #[test]
    fn bounds_hold() {
        assert_eq!(Config::from_toml(&"#".repeat(MAX_CONFIG_BYTES + 1)), Err(InvalidConfig::TooLarge));
        let names: Vec<String> = (0..40).map(|n| format!("\"hub{n}.local\"")).collect();
        assert!(refusal(&format!("names = [{}]", names.join(","))).contains("names"));
    }
}
