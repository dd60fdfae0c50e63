//! What the front asks of the hub: who a client is, whether a session may go on, and to keep and record things.
//! Knows nothing of tokens, registries or files; the hub implements [`Gate`], tests implement it by hand.

use super::message::Message;
use futures_util::future::BoxFuture;
use hearthkey_core::{
    DeviceId, UnixTime,
    rights::{Denied, Rights},
    session::{Authority, EndReason, Principal, Standing},
    topic::TopicName,
    write::Write,
};
use std::{future::Future, net::SocketAddr, sync::Arc};

/// Becomes true when what a device said is kept, as far as it is to be kept; false if it could not be kept. It goes on whether
/// or not anybody waits.
pub type Noting = BoxFuture<'static, bool>;

/// The hub, as far as the MQTT front needs it.
pub trait Gate: Send + Sync + 'static {
    /// Wall-clock time.
    fn now(&self) -> UnixTime;

    /// The issuer of access tokens; told in the challenge so that a device can name its audience.
    fn issuer(&self) -> &str;

    /// Decides on a CONNECT whose password is an access token, a personal access token or an API key.
    ///
    /// # Errors
    /// [`Refusal`]: unknown, expired or revoked credential, or too many attempts.
    fn admit_by_password(
        &self,
        client_identifier: &str,
        user_name: Option<&str>,
        password: &[u8],
        peer: SocketAddr,
    ) -> impl Future<Output = Result<Admission, Refusal>> + Send;

    /// Decides on authentication data that is the form body of a token request: CONNECT and AUTH 0x19.
    ///
    /// # Errors
    /// [`Refusal`], with the error of the token endpoint.
    fn admit_by_token_request(
        &self,
        client_identifier: &str,
        form: &[u8],
        peer: SocketAddr,
    ) -> impl Future<Output = Result<Admission, Refusal>> + Send;

    /// Decides on an access token whose holder has signed `challenge` with the key that the token is bound to: method `ace` of
    /// CONNECT and AUTH 0x19. A gate that knows no keys refuses all.
    ///
    /// # Errors
    /// [`Refusal`]: the token is not good, it is bound to no key, or the signature is not that key's.
    fn admit_by_possession(
        &self,
        client_identifier: &str,
        possession: Possession<'_>,
        peer: SocketAddr,
    ) -> impl Future<Output = Result<Admission, Refusal>> + Send {
        let _ = (client_identifier, possession, peer);
        std::future::ready(Err(Refusal {
            error: "invalid_token".to_owned(),
            description: "no keys are known here".to_owned(),
            kind: RefusalKind::BadCredentials,
        }))
    }

    /// What an authority amounts to now. Level-triggered: the same question at the same moment has the same answer.
    ///
    /// # Errors
    /// The reason for which a session on this authority ends.
    fn judge(&self, authority: &Authority) -> Result<Standing, EndReason>;

    /// The rights for the will of a connection that is gone: as [`Gate::judge`], but that the credential has run out meanwhile does
    /// not count.
    ///
    /// # Errors
    /// The reason for which there are none.
    fn judge_will(&self, authority: &Authority) -> Result<Arc<Rights>, EndReason>;

    /// Whether a principal is there no more, so that whoever gets its name later is another one: its sessions are not kept for that
    /// one.
    fn is_gone(&self, principal: &Principal) -> bool {
        let _ = principal;
        false
    }

    /// The commands that `device` has not answered and may still begin, in their order, with the topics under which they
    /// were sent: a session of `listener` that begins to listen gets those that came before it, if the listener is the device
    /// or acts for it, and one that goes on gets those that it has lost. None that was [`Gate::delivered`].
    fn commands_waiting(&self, listener: &DeviceId, device: &DeviceId) -> Vec<(TopicName, Message)>;

    /// The id in the message of a command: by it the session knows that one that waits is one that it has.
    fn command_id(&self, payload: &[u8]) -> Option<String> {
        let _ = payload;
        None
    }

    /// A session of `listener` has a command for `device`, as far as MQTT can tell: it acknowledged the message, or the message
    /// was sent with QoS 0. Whether the device has it then is the hub's to say: others may listen too.
    fn delivered(&self, listener: &DeviceId, device: &DeviceId, payload: &[u8]) {
        let _ = (listener, device, payload);
    }

    /// An authorized publish to `dev/<device>/ack/<command_id>` arrived; told after it was handed to subscribers. Whether its
    /// publisher speaks for the device is the hub's to say. The publish is acknowledged when the answer is kept; `None` if there
    /// is nothing to wait for.
    fn acknowledged(&self, publisher: &Principal, device: &DeviceId, command_id: &str, payload: &[u8]) -> Option<Noting>;

    /// An authorized publish to `dev/<device>/twin/reported` arrived; told after it was handed to subscribers. Of several in
    /// quick succession the last one counts. The publish is acknowledged as with [`Gate::acknowledged`].
    fn twin_reported(&self, publisher: &Principal, device: &DeviceId, payload: &[u8]) -> Option<Noting> {
        let _ = (publisher, device, payload);
        None
    }

    /// A session of `listener` refused the message of a command for `device`, by the reason code of its PUBACK or PUBREC. Told
    /// after [`Gate::delivered`].
    fn refused(&self, listener: &DeviceId, device: &DeviceId, payload: &[u8], reason_code: u8) {
        let _ = (listener, device, payload, reason_code);
    }

    /// Something that the audit log should know. Called at most [`crate::mqtt::limits::DENIALS_PER_SECOND`] times a second
    /// and connection for denials.
    fn record(&self, event: SessionEvent);

    /// Stores rows of [`hearthkey_core::write::Table::Mqtt`], all or none; when this returns they survive a power cut.
    /// Batches are handed over one after another.
    ///
    /// # Errors
    /// [`PersistError`]: nothing of the batch is kept.
    fn persist(&self, writes: Vec<Write>) -> impl Future<Output = Result<(), PersistError>> + Send;
}

/// An access token, and the proof that its key is held (RFC 9431 section 2.2.4.2).
#[derive(Clone, Copy)]
pub struct Possession<'a> {
    /// The token as it came.
    pub token: &'a [u8],
    /// What was to be signed: the hub's nonce and the client's.
    pub challenge: &'a [u8],
    /// A signature (ES256 or Ed25519) or a MAC (HS256): which, the token's `cnf` says and not the client.
    pub proof: &'a [u8],
}

/// A client may come in.
#[derive(Debug, Clone)]
pub struct Admission {
    /// Who it is and by what.
    pub authority: Authority,
    /// What that amounts to now.
    pub standing: Standing,
    /// The JSON of the token response for CONNACK or AUTH 0x00; only for token requests.
    pub token_response: Option<Vec<u8>>,
}

/// A client may not come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error code of RFC 6749 section 5.2, e.g. `invalid_client`.
    pub error: String,
    /// For the person who reads the device's log; no secret.
    pub description: String,
    /// What kind of refusal, for the reason code.
    pub kind: RefusalKind,
}

/// What kind of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The credential or request is wrong: MQTT 5 0x87, MQTT 3.1.1 return code 5.
    BadCredentials,
    /// Too many attempts: MQTT 5 0x97, MQTT 3.1.1 return code 3.
    RateLimited,
    /// The hub cannot decide now: MQTT 5 0x88, MQTT 3.1.1 return code 3.
    Unavailable,
}

/// Rows could not be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the MQTT front's rows could not be stored: {0}")]
pub struct PersistError(pub String);

/// Whose sessions a change concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Affected {
    /// All sessions of one principal.
    Principal(Principal),
    /// The session that rests on the access token of this `jti`.
    AccessToken(Box<str>),
    /// All sessions: a profile or the clock changed.
    Everything,
}

/// Something that happened to a connection, for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionEvent {
    /// The MQTT client identifier; empty if none was given.
    pub client_identifier: Box<str>,
    /// Who it was, as far as that was proven.
    pub principal: Option<Principal>,
    /// Where it came from.
    pub peer: SocketAddr,
    /// What happened.
    pub what: Happening,
}

/// What happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// CONNACK 0x00 was sent.
    Connected {
        /// Whether an earlier session goes on.
        session_present: bool,
    },
    /// A CONNECT or a renewal was refused.
    Refused {
        /// The MQTT 5 reason code, also where MQTT 3.1.1 was told less.
        reason_code: u8,
        /// The reason in words.
        reason: String,
    },
    /// The access token of the session was replaced by a newer one.
    Renewed,
    /// The connection ended after CONNACK.
    Ended(Ending),
    /// A publish, subscription or delivery was denied.
    Denied(Denied),
    /// A limit of the front was reached and something was refused or lost.
    Limited {
        /// Which one, in words.
        limit: String,
    },
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The hub ended it.
    ByHub(EndReason),
    /// The client said DISCONNECT.
    ByClient {
        /// The reason code that it gave: 0x00 suppresses the will.
        reason_code: u8,
    },
    /// The network connection broke or closed.
    ConnectionLost,
    /// Nothing was heard for one and a half times the keep alive.
    KeepAliveTimeout,
    /// The client broke the protocol or a limit.
    Fault {
        /// The MQTT 5 reason code.
        reason_code: u8,
        /// What was wrong.
        reason: String,
    },
}

impl RefusalKind {
    /// The MQTT 5 reason code of CONNACK or DISCONNECT.
    #[must_use]
    pub const fn reason_code(self) -> u8 {
        match self {
            Self::BadCredentials => 0x87,
            Self::RateLimited => 0x97,
            Self::Unavailable => 0x88,
        }
    }

    /// The MQTT 3.1.1 CONNACK return code.
    #[must_use]
    pub const fn return_code(self) -> u8 {
        match self {
            Self::BadCredentials => 5,
            Self::RateLimited | Self::Unavailable => 3,
        }
    }
}

impl Ending {
    /// One word for the audit log.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::ByHub(reason) => reason.word(),
            Self::ByClient { .. } => "disconnected",
            Self::ConnectionLost => "connection_lost",
            Self::KeepAliveTimeout => "keep_alive_timeout",
            Self::Fault { .. } => "fault",
        }
    }
}
