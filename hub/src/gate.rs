//! What the MQTT front asks, answered by the hub.

use crate::{
    hub::Hub,
    mqtt::gate::{Admission, Ending, Gate, Happening, PersistError, Refusal, RefusalKind, SessionEvent},
};
use hearthkey_core::{
    DeviceId, UnixTime,
    audit::{AuditDraft, Outcome},
    oauth::{ErrorCode, OAuthError, TokenRequest},
    session::{Authority, EndReason, Standing},
    write::Write,
};
use std::{net::SocketAddr, sync::Arc};
use tokio::sync::mpsc;

/// The hub as the front sees it.
pub struct HubGate {
    hub: Arc<Hub>,
    observed: mpsc::Sender<Observed>,
}

/// What the front told and nobody waits for.
enum Observed {
    Acknowledged { device: DeviceId, command_id: String, payload: Vec<u8> },
    Event(SessionEvent),
}

/// Most observations that wait to be written. At the bound the newest are dropped and their number is logged: the audit of
/// a flood must not become a flood.
const MAX_OBSERVED: usize = 4_096;

impl HubGate {
    /// A gate, and the task that writes down what it hears; the task ends when the gate is dropped.
    pub fn new(hub: Arc<Hub>) -> (Self, impl Future<Output = ()> + Send) {
        let (observed, inbox) = mpsc::channel(MAX_OBSERVED);
        (Self { hub: Arc::clone(&hub), observed }, write_down(hub, inbox))
    }

    fn observe(&self, observed: Observed) {
        if self.observed.try_send(observed).is_err() {
            tracing::warn!("an observation of the MQTT front is dropped: {MAX_OBSERVED} wait already");
        }
    }
}

impl Gate for HubGate {
    fn now(&self) -> UnixTime {
        self.hub.now()
    }

    fn issuer(&self) -> &str {
        self.hub.issuer()
    }

    async fn admit_by_password(
        &self,
        _client_identifier: &str,
        _user_name: Option<&str>,
        password: &[u8],
        _peer: SocketAddr,
    ) -> Result<Admission, Refusal> {
        let bearer = std::str::from_utf8(password)
            .map_err(|_| refusal(OAuthError::new(ErrorCode::InvalidToken, "the password is no text")))?;
        let (authority, standing) = self.hub.admit(bearer).map_err(refusal)?;
        Ok(Admission { authority, standing, token_response: None })
    }

    async fn admit_by_token_request(
        &self,
        _client_identifier: &str,
        form: &[u8],
        peer: SocketAddr,
    ) -> Result<Admission, Refusal> {
        let context = self.hub.context(Some(peer.ip()), "");
        let request = TokenRequest::parse(form).map_err(refusal)?;
        let response = self.hub.token(&request, None, &context).await.map_err(refusal)?;
        let standing = self.hub.judge(&response.authority);
        let standing = standing.map_err(|end| refusal(OAuthError::new(ErrorCode::InvalidClient, end.reason_string())))?;
        Ok(Admission { authority: response.authority, standing, token_response: Some(response.json) })
    }

    fn judge(&self, authority: &Authority) -> Result<Standing, EndReason> {
        self.hub.judge(authority)
    }

    fn acknowledged(&self, device: &DeviceId, command_id: &str, payload: &[u8]) {
        self.observe(Observed::Acknowledged {
            device: device.clone(),
            command_id: command_id.to_owned(),
            payload: payload.to_vec(),
        });
    }

    fn record(&self, event: SessionEvent) {
        self.observe(Observed::Event(event));
    }

    async fn persist(&self, writes: Vec<Write>) -> Result<(), PersistError> {
        self.hub.keep(writes).await.map_err(PersistError)
    }
}

fn refusal(error: OAuthError) -> Refusal {
    let kind = match error.code {
        ErrorCode::SlowDown => RefusalKind::RateLimited,
        ErrorCode::TemporarilyUnavailable => RefusalKind::Unavailable,
        ErrorCode::InvalidRequest
        | ErrorCode::InvalidClient
        | ErrorCode::UnauthorizedClient
        | ErrorCode::UnsupportedGrantType
        | ErrorCode::InvalidScope
        | ErrorCode::InvalidTarget
        | ErrorCode::InvalidToken
        | ErrorCode::InsufficientScope
        | ErrorCode::InvalidClientMetadata => RefusalKind::BadCredentials,
    };
    Refusal { error: error.code.as_str().to_owned(), description: error.description, kind }
}

async fn write_down(hub: Arc<Hub>, mut inbox: mpsc::Receiver<Observed>) {
    while let Some(observed) = inbox.recv().await {
        match observed {
            Observed::Acknowledged { device, command_id, payload } => {
                hub.acknowledge_command(&device, &command_id, &payload).await
            }
            Observed::Event(event) => {
                let context = hub.context(Some(event.peer.ip()), "");
                if let Some(entry) = entry_for(event) {
                    hub.record(vec![entry], &context).await;
                }
            }
        }
    }
}

fn entry_for(event: SessionEvent) -> Option<AuditDraft> {
    let SessionEvent { client_identifier, principal, what, .. } = event;
    let actor = principal.map_or_else(|| "anonymous".to_owned(), |principal| principal.to_string());
    let client = format!("client {client_identifier}");
    let entry = |action, target, outcome, reason| AuditDraft { actor: actor.clone(), action, target, outcome, reason, count: 1 };
    Some(match what {
        Happening::Connected { .. } => entry("mqtt.connect", client, Outcome::Success, String::new()),
        Happening::Refused { reason, .. } => entry("mqtt.connect", client, Outcome::Denied, reason),
        Happening::Ended(ending) => {
            let outcome = match &ending {
                Ending::ByClient { reason_code: 0 } | Ending::ByHub(EndReason::HubStopping) => Outcome::Success,
                Ending::ByHub(_) => Outcome::Denied,
                Ending::ByClient { .. } | Ending::ConnectionLost | Ending::KeepAliveTimeout | Ending::Fault { .. } => {
                    Outcome::Failure
                }
            };
            let reason = match &ending {
                Ending::Fault { reason, .. } => format!("{}: {reason}", ending.word()),
                other => other.word().to_owned(),
            };
            entry("mqtt.disconnect", client, outcome, reason)
        }
        Happening::Denied(denied) => entry("mqtt.authorize", client, Outcome::Denied, denied.to_string()),
        Happening::Limited { limit } => entry("mqtt.limit", client, Outcome::Failure, limit),
        // The issuance of the token is on record already.
        Happening::Renewed => return None,
    })
}
