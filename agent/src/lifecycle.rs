//! Decides what follows when a connection ends: try again at once, later, much later, or never.
//! Follows the table of docs/protocol.md. Reads no clock and sleeps nowhere.

use crate::application::Farewell;
use crate::enrolment::cut;
use crate::keys::Drbg;
use crate::mqtt::codec::DecodeError;
use crate::mqtt::reason::ReasonCode;
use crate::oauth::AssertionError;
use crate::platform::ConnectFailed;
use crate::tls::TlsError;
use core::time::Duration;
use heapless::String;
use rand_core::RngCore as _;

/// The longest reason of the hub that is kept.
pub const MAX_HUB_REASON: usize = 128;

/// Why a connection ended, or did not come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The hub cannot be reached.
    ConnectFailed(ConnectFailed),
    /// TLS failed: the server is not our hub, or the connection broke.
    Tls(TlsError),
    /// The hub did not answer in time.
    TimedOut(Awaited),
    /// The hub refused CONNECT.
    Refused {
        /// Why.
        reason_code: ReasonCode,
        /// Why, in words.
        reason: String<MAX_HUB_REASON>,
    },
    /// The hub sent DISCONNECT.
    Disconnected {
        /// Why.
        reason_code: ReasonCode,
        /// Why, in words.
        reason: String<MAX_HUB_REASON>,
    },
    /// The hub sent a packet that breaks the protocol.
    BadPacket(DecodeError),
    /// The hub authenticated otherwise than agreed, or its answer is no token response.
    BadAuthentication,
    /// The token request could not be made.
    Assertion(AssertionError),
    /// The application wanted to leave.
    Left(Farewell),
}

impl Ending {
    pub(crate) fn refused(reason_code: ReasonCode, reason: &str) -> Self {
        Self::Refused { reason_code, reason: cut(reason) }
    }

    pub(crate) fn disconnected(reason_code: ReasonCode, reason: &str) -> Self {
        Self::Disconnected { reason_code, reason: cut(reason) }
    }

    /// Whether the hub said that this device is revoked.
    #[must_use]
    pub fn is_revocation(&self) -> bool {
        match self {
            // At the door, or when a renewal is refused.
            Self::Refused { reason_code: ReasonCode::NOT_AUTHORIZED, reason }
            | Self::Disconnected { reason_code: ReasonCode::NOT_AUTHORIZED, reason } => reason.ends_with("is revoked"),
            Self::Disconnected { reason_code: ReasonCode::ADMINISTRATIVE_ACTION, reason } => reason.starts_with("revoked"),
            _ => false,
        }
    }
}

/// For people. Firmware that shows an ending so needs no `Debug` of text, and none of its Unicode tables.
impl core::fmt::Display for Ending {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::ConnectFailed(error) => write!(formatter, "no connection to the hub: {error:?}"),
            Self::Tls(error) => write!(formatter, "the server is not the hub, or the connection broke: {error:?}"),
            Self::TimedOut(awaited) => write!(formatter, "the hub took too long: {awaited:?}"),
            Self::Refused { reason_code, reason } => write!(formatter, "refused: {reason_code}: {reason}"),
            Self::Disconnected { reason_code, reason } => write!(formatter, "the hub hung up: {reason_code}: {reason}"),
            Self::BadPacket(error) => write!(formatter, "the hub sent a bad packet: {error}"),
            Self::BadAuthentication => formatter.write_str("the hub authenticated otherwise than agreed"),
            Self::Assertion(error) => write!(formatter, "no assertion: {error:?}"),
            Self::Left(_) => formatter.write_str("left"),
        }
    }
}

/// What a silent hub was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// TCP.
    Connection,
    /// TLS handshake.
    Handshake,
    /// CONNACK.
    ConnAck,
    /// The answer to a renewal.
    Renewal,
    /// PINGRESP.
    PingResp,
    /// PUBACK or SUBACK.
    Acknowledgement,
    /// Room to send: the hub takes no more bytes.
    Reading,
}

/// How patient the agent is. The defaults suit a home; simulations may want less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first delay is drawn between zero and this; each failure doubles it.
    pub base: Duration,
    /// Delays are drawn from no more than this.
    pub cap: Duration,
    /// A disabled device, or one whose place was taken, waits between half of this and all of it.
    pub slow: Duration,
}

impl Backoff {
    /// 1 s, at most 60 s, slow 5 min.
    pub const DEFAULT: Self = Self { base: Duration::from_secs(1), cap: Duration::from_secs(60), slow: Duration::from_secs(300) };
}

impl Backoff {
    /// How long to wait after `failures` earlier failures in a row: full jitter, anywhere between now and the exponential
    /// limit, so that a thousand devices do not come back as one. `random` is 64 even bits.
    #[must_use]
    pub fn delay(&self, failures: u32, random: u64) -> Duration {
        let limit = self.base.saturating_mul(1 << failures.min(20)).min(self.cap);
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX - 1);
        Duration::from_millis(((u128::from(random) * (u128::from(limit) + 1)) >> 64) as u64)
    }
}

/// A connection that lasted this long was a success: the next failure starts from the first delay.
const SETTLED: Duration = Duration::from_secs(10);
/// A whole fleet hears of a policy change at once, and reconnects spread over this.
const SPREAD: Duration = Duration::from_secs(1);

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    ConnectAfter(Duration),
    /// The hub revoked this device; asking again would only tell the same.
    StopRevoked,
    StopLeft,
}

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(crate) struct Lifecycle {
    failures: u32,
}

enum Course {
    Stop(Next),
    AtOnce,
    Spread,
    Backoff,
    Slow,
}

impl Lifecycle {
    pub(crate) const fn new() -> Self {
        Self { failures: 0 }
    }

    /// Decides. `lasted` is how long the session was accepted by the hub, `None` if it never was.
    pub(crate) fn after(&mut self, ending: &Ending, lasted: Option<Duration>, backoff: &Backoff, random: &mut Drbg) -> Next {
        let settled = lasted.is_some_and(|lasted| lasted >= SETTLED);
        if settled {
            self.failures = 0;
        }
        let course = match course(ending) {
            // Something cuts us off as soon as we connect: do not hammer.
            Course::AtOnce | Course::Spread if !settled && self.failures > 0 => Course::Backoff,
            course => course,
        };
        if let Course::Stop(next) = course {
            return next;
        }
        self.failures = self.failures.saturating_add(1);
        let draw = |random: &mut Drbg, limit: Duration| {
            Duration::from_millis(random.up_to(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)))
        };
        Next::ConnectAfter(match course {
            Course::Stop(_) | Course::AtOnce => Duration::ZERO,
            Course::Spread => draw(random, SPREAD),
            Course::Backoff => backoff.delay(self.failures - 1, random.next_u64()),
            Course::Slow => backoff.slow / 2 + draw(random, backoff.slow / 2),
        })
    }
}

fn course(ending: &Ending) -> Course {
    if ending.is_revocation() {
        return Course::Stop(Next::StopRevoked);
    }
    match ending {
        Ending::Left(_) => Course::Stop(Next::StopLeft),
        // At the door, or when a renewal is refused.
        Ending::Refused { reason_code: ReasonCode::NOT_AUTHORIZED, reason }
        | Ending::Disconnected { reason_code: ReasonCode::NOT_AUTHORIZED, reason } => {
            // Otherwise the clock or the issuer may be wrong: the next attempt asks the hub for both.
            if reason.ends_with("is disabled") { Course::Slow } else { Course::Backoff }
        }
        Ending::Disconnected { reason_code, reason } => match *reason_code {
            ReasonCode::MAXIMUM_CONNECT_TIME => Course::AtOnce,
            ReasonCode::ADMINISTRATIVE_ACTION if reason.starts_with("policy changed") => Course::Spread,
            ReasonCode::ADMINISTRATIVE_ACTION | ReasonCode::SESSION_TAKEN_OVER => Course::Slow,
            _ => Course::Backoff,
        },
        Ending::Refused { reason_code, .. } => match *reason_code {
            ReasonCode::BAD_AUTHENTICATION_METHOD
            | ReasonCode::BANNED
            | ReasonCode::CLIENT_IDENTIFIER_NOT_VALID
            | ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => Course::Slow,
            _ => Course::Backoff,
        },
        Ending::ConnectFailed(_)
        | Ending::Tls(_)
        | Ending::TimedOut(_)
        | Ending::BadPacket(_)
        | Ending::BadAuthentication
        | Ending::Assertion(_) => Course::Backoff,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Option<Duration> = Some(Duration::from_secs(300));

    fn after(ending: &Ending, lasted: Option<Duration>) -> Next {
        let mut random = Drbg::from_seed(&[1; 32], "test");
        Lifecycle::new().after(ending, lasted, &Backoff::DEFAULT, &mut random)
    }

    fn delay(next: Next) -> Duration {
        match next {
            Next::ConnectAfter(delay) => delay,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_ending_says_in_words_who_ended_it_and_why() {
        use std::string::ToString as _;
        let endings = [
            (Ending::refused(ReasonCode::NOT_AUTHORIZED, "lamp is revoked"), "refused: 0x87 Not authorized: lamp is revoked"),
            (Ending::disconnected(ReasonCode::SERVER_BUSY, "later"), "the hub hung up: 0x89 Server busy: later"),
            (Ending::BadPacket(DecodeError::Malformed("packet ends early")), "the hub sent a bad packet: packet ends early"),
            (Ending::ConnectFailed(ConnectFailed::HostNotFound), "no connection to the hub: HostNotFound"),
        ];
        for (ending, words) in endings {
            assert_eq!(ending.to_string(), words);
        }
    }

    #[test]
    fn each_ending_of_the_protocol_has_its_course() {
        let said = |code, reason| after(&Ending::disconnected(code, reason), LONG);
        let slow = Duration::from_secs(150)..=Duration::from_secs(300);
        assert_eq!(said(ReasonCode::MAXIMUM_CONNECT_TIME, "access token expired"), Next::ConnectAfter(Duration::ZERO));
        assert_eq!(said(ReasonCode::ADMINISTRATIVE_ACTION, "revoked"), Next::StopRevoked);
        assert!(slow.contains(&delay(said(ReasonCode::ADMINISTRATIVE_ACTION, "disabled"))));
        assert!(delay(said(ReasonCode::ADMINISTRATIVE_ACTION, "policy changed")) <= SPREAD);
        assert!(slow.contains(&delay(said(ReasonCode::SESSION_TAKEN_OVER, "taken over"))));
        assert!(slow.contains(&delay(said(ReasonCode::NOT_AUTHORIZED, "invalid_client: client lamp is disabled"))));
        let late = "invalid_client: the assertion expired 300 s ago by the hub's clock";
        assert!(delay(said(ReasonCode::NOT_AUTHORIZED, late)) <= Backoff::DEFAULT.base);
        for code in [ReasonCode::SERVER_SHUTTING_DOWN, ReasonCode::CONNECTION_RATE_EXCEEDED, ReasonCode::QUOTA_EXCEEDED] {
            assert!(delay(said(code, "")) <= Backoff::DEFAULT.base);
        }
        let refused = |reason| after(&Ending::refused(ReasonCode::NOT_AUTHORIZED, reason), None);
        assert_eq!(refused("invalid_client: client lamp is revoked"), Next::StopRevoked);
        assert!(slow.contains(&delay(refused("invalid_client: client lamp is disabled"))));
        assert!(delay(refused("invalid_client: client authentication failed")) <= Backoff::DEFAULT.base);
        assert_eq!(after(&Ending::Left(Farewell::Clean), LONG), Next::StopLeft);
    }

    #[test]
    fn only_the_hub_can_revoke_not_whoever_closes_the_socket() {
        assert!(!Ending::Tls(TlsError::Closed).is_revocation());
        assert!(!Ending::disconnected(ReasonCode::NOT_AUTHORIZED, "revoked").is_revocation());
        assert!(!Ending::refused(ReasonCode::SERVER_BUSY, "is revoked").is_revocation());
        let renewal = "invalid_client: client lamp is revoked";
        assert!(Ending::disconnected(ReasonCode::NOT_AUTHORIZED, renewal).is_revocation());
    }

    #[test]
    fn failures_in_a_row_spread_out_up_to_the_cap_and_a_settled_session_starts_anew() {
        let mut random = Drbg::from_seed(&[1; 32], "test");
        let mut lifecycle = Lifecycle::new();
        let unreachable = Ending::ConnectFailed(ConnectFailed::Unreachable);
        let mut longest = Duration::ZERO;
        for failure in 0..40_u32 {
            let delay = delay(lifecycle.after(&unreachable, None, &Backoff::DEFAULT, &mut random));
            let limit = Backoff::DEFAULT.base.saturating_mul(1 << failure.min(10)).min(Backoff::DEFAULT.cap);
            assert!(delay <= limit, "failure {failure}: {delay:?}");
            longest = longest.max(delay);
        }
        assert!(longest > Duration::from_secs(40), "{longest:?}");
        assert!(delay(lifecycle.after(&unreachable, LONG, &Backoff::DEFAULT, &mut random)) <= Backoff::DEFAULT.base);
    }

    #[test]
    fn a_hub_that_expires_every_token_at_once_is_not_hammered() {
        let mut random = Drbg::from_seed(&[1; 32], "test");
        let mut lifecycle = Lifecycle::new();
        let expired = Ending::disconnected(ReasonCode::MAXIMUM_CONNECT_TIME, "access token expired");
        let mut total = Duration::ZERO;
        for _ in 0..10 {
            total += delay(lifecycle.after(&expired, Some(Duration::from_millis(5)), &Backoff::DEFAULT, &mut random));
        }
        assert!(total > Duration::from_secs(30), "{total:?}");
    }
}
