//! Reason codes of MQTT 5 (section 2.4): what the hub says when it refuses, ends or acknowledges.

/// A reason code as it stands on the wire. 0x80 and above mean failure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReasonCode(pub u8);

macro_rules! reason_codes {
    ($($constant:ident = $code:literal, $name:literal;)*) => {
        impl ReasonCode {
            $(#[doc = $name] pub const $constant: Self = Self($code);)*
        }

        const CODES: &[u8] = &[$($code),*];
        /// Line by line, in the order of [`CODES`]: a pointer to each would take more flash than the names.
        const NAMES: &str = concat!($($name, "\n"),*);
    };
}

reason_codes! {
    SUCCESS = 0x00, "Success";
    GRANTED_QOS_1 = 0x01, "Granted QoS 1";
    DISCONNECT_WITH_WILL = 0x04, "Disconnect with Will Message";
    NO_MATCHING_SUBSCRIBERS = 0x10, "No matching subscribers";
    CONTINUE_AUTHENTICATION = 0x18, "Continue authentication";
    REAUTHENTICATE = 0x19, "Re-authenticate";
    UNSPECIFIED_ERROR = 0x80, "Unspecified error";
    MALFORMED_PACKET = 0x81, "Malformed Packet";
    PROTOCOL_ERROR = 0x82, "Protocol Error";
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83, "Implementation specific error";
    UNSUPPORTED_PROTOCOL_VERSION = 0x84, "Unsupported Protocol Version";
    CLIENT_IDENTIFIER_NOT_VALID = 0x85, "Client Identifier not valid";
    BAD_USER_NAME_OR_PASSWORD = 0x86, "Bad User Name or Password";
    NOT_AUTHORIZED = 0x87, "Not authorized";
    SERVER_UNAVAILABLE = 0x88, "Server unavailable";
    SERVER_BUSY = 0x89, "Server busy";
    BANNED = 0x8a, "Banned";
    SERVER_SHUTTING_DOWN = 0x8b, "Server shutting down";
    BAD_AUTHENTICATION_METHOD = 0x8c, "Bad authentication method";
    KEEP_ALIVE_TIMEOUT = 0x8d, "Keep Alive timeout";
    SESSION_TAKEN_OVER = 0x8e, "Session taken over";
    TOPIC_FILTER_INVALID = 0x8f, "Topic Filter invalid";
    TOPIC_NAME_INVALID = 0x90, "Topic Name invalid";
    PACKET_IDENTIFIER_IN_USE = 0x91, "Packet Identifier in use";
    PACKET_IDENTIFIER_NOT_FOUND = 0x92, "Packet Identifier not found";
    RECEIVE_MAXIMUM_EXCEEDED = 0x93, "Receive Maximum exceeded";
    TOPIC_ALIAS_INVALID = 0x94, "Topic Alias invalid";
    PACKET_TOO_LARGE = 0x95, "Packet too large";
    MESSAGE_RATE_TOO_HIGH = 0x96, "Message rate too high";
    QUOTA_EXCEEDED = 0x97, "Quota exceeded";
    ADMINISTRATIVE_ACTION = 0x98, "Administrative action";
    PAYLOAD_FORMAT_INVALID = 0x99, "Payload format invalid";
    RETAIN_NOT_SUPPORTED = 0x9a, "Retain not supported";
    QOS_NOT_SUPPORTED = 0x9b, "QoS not supported";
    USE_ANOTHER_SERVER = 0x9c, "Use another server";
    SERVER_MOVED = 0x9d, "Server moved";
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9e, "Shared Subscriptions not supported";
    CONNECTION_RATE_EXCEEDED = 0x9f, "Connection rate exceeded";
    MAXIMUM_CONNECT_TIME = 0xa0, "Maximum connect time";
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xa1, "Subscription Identifiers not supported";
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xa2, "Wildcard Subscriptions not supported";
}

impl ReasonCode {
    /// The name that the standard gives it.
    #[must_use]
    pub fn name(self) -> &'static str {
        let mut names = NAMES.as_bytes().split(|byte| *byte == b'\n');
        let name = CODES.iter().position(|code| *code == self.0).and_then(|line| names.nth(line));
        name.and_then(|name| core::str::from_utf8(name).ok()).unwrap_or("Unknown reason")
    }

    /// Whether it reports a failure.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        self.0 >= 0x80
    }
}

impl core::fmt::Debug for ReasonCode {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "0x{:02X} {}", self.0, self.name())
    }
}

impl core::fmt::Display for ReasonCode {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_the_name_of_the_standard_and_an_unknown_one_has_none() {
        let names = [
            (ReasonCode::SUCCESS, "Success"),
            (ReasonCode::REAUTHENTICATE, "Re-authenticate"),
            (ReasonCode::NOT_AUTHORIZED, "Not authorized"),
            (ReasonCode::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED, "Wildcard Subscriptions not supported"),
            (ReasonCode(0x05), "Unknown reason"),
            (ReasonCode(0xff), "Unknown reason"),
        ];
        for (code, name) in names {
            assert_eq!(code.name(), name);
        }
        assert_eq!(NAMES.lines().count(), CODES.len());
    }
}
