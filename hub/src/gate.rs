//! What the MQTT front asks, answered by the hub.

use crate::{
    hub::{Hub, command_id},
    mqtt::{
        gate::{Admission, Ending, Gate, Happening, Noting, PersistError, Possession, Refusal, RefusalKind, SessionEvent},
        message::Message,
    },
    throttle::{Proof, SlowDown, Throttle},
};
use futures_util::{FutureExt, future};
use hearthkey_core::{
    DeviceId, UnixTime,
    audit::{AuditDraft, Outcome},
    audit_flood::AuditFlood,
    limits::{MAX_ACKNOWLEDGEMENT_BYTES, MAX_TWIN_REPORTED_BYTES},
    oauth::{ErrorCode, OAuthError, TokenRequest},
    rights::Rights,
    session::{Authority, EndReason, Principal, Standing},
    topic::TopicName,
    write::Write,
};
use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};

/// The hub as the front sees it.
pub struct HubGate {
    hub: Arc<Hub>,
    /// Failed proofs by MQTT. Those by HTTP are counted on their own.
    failures: Throttle,
    events: mpsc::Sender<SessionEvent>,
    deliveries: mpsc::Sender<Delivered>,
    unwritten: Arc<Unwritten>,
    reports: Arc<Reports>,
    report_bell: mpsc::Sender<()>,
}

/// What devices said last of what they are: one a device, until it is written.
#[derive(Default)]
struct Reports(Mutex<HashMap<DeviceId, Report>>);

struct Report {
    payload: Vec<u8>,
    /// Becomes true when this report, or a later one, is kept.
    kept: watch::Sender<bool>,
}

/// A session has a command for a device.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Delivered {
    listener: DeviceId,
    device: DeviceId,
    id: String,
}

/// What devices have got since it was last written down: as much as waits for that.
#[derive(Default)]
struct Unwritten(Mutex<HashSet<Delivered>>);

/// Most events, and most notes of deliveries, that wait to be written. Beyond that the newest are dropped, which is logged:
/// the audit of a flood must not become one.
const MAX_WAITING: usize = 4_096;

impl HubGate {
    /// A gate, and the task that writes down what it hears; the task ends when the gate is dropped.
    pub fn new(hub: Arc<Hub>) -> (Self, impl Future<Output = ()> + Send) {
        let (events, events_inbox) = mpsc::channel(MAX_WAITING);
        let (deliveries, deliveries_inbox) = mpsc::channel(MAX_WAITING);
        let (report_bell, bell) = mpsc::channel(1);
        let reports = Arc::<Reports>::default();
        let writing = write_down(Arc::clone(&hub), events_inbox);
        let reporting = keep_reports(Arc::clone(&hub), Arc::clone(&reports), bell);
        let unwritten = Arc::<Unwritten>::default();
        let relaying = note_deliveries(Arc::clone(&hub), Arc::clone(&unwritten), deliveries_inbox);
        let both = async move {
            tokio::join!(writing, relaying, reporting);
        };
        (Self { hub, failures: Throttle::default(), events, deliveries, unwritten, reports, report_bell }, both)
    }
}

impl HubGate {
    /// The device, or its gateway. What others publish in its name is carried as far as they may, and is no word of the device.
    fn speaks_for(&self, publisher: &Principal, device: &DeviceId) -> Option<DeviceId> {
        let Principal::Device(speaker) = publisher else { return None };
        self.hub.view(|registry| registry.acts_for(speaker, device)).then(|| speaker.clone())
    }

    /// Looks at a proof unless too many failed before, and counts it if it fails; a stored secret is looked at first.
    async fn counting_failures(
        &self,
        client_identifier: &str,
        peer: SocketAddr,
        proof: Proof,
        admit: impl Future<Output = Result<Admission, OAuthError>> + Send,
    ) -> Result<Admission, Refusal> {
        let claimed = || DeviceId::of_client_identifier(client_identifier).ok().map(String::from);
        let room = || {
            let slow_down = |why: SlowDown| refusal(OAuthError::new(ErrorCode::SlowDown, why.to_string()));
            self.failures.admit(peer.ip(), claimed, Instant::now()).map_err(slow_down)
        };
        if proof == Proof::Other {
            room()?;
        }
        match admit.await {
            Ok(admission) => {
                if let Some(client) = claimed() {
                    self.failures.succeeded(peer.ip(), &client, Instant::now());
                }
                Ok(admission)
            }
            Err(error) => {
                if matches!(error.code, ErrorCode::InvalidClient | ErrorCode::InvalidToken) {
                    if proof == Proof::Stored {
                        room()?;
                    }
                    self.failures.failed(peer.ip(), claimed().as_deref(), Instant::now());
                }
                tracing::info!(source = %peer.ip(), client_identifier, evidence = error.evidence, "CONNECT refused: {error}");
                Err(refusal(error))
            }
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
        client_identifier: &str,
        _user_name: Option<&str>,
        password: &[u8],
        peer: SocketAddr,
    ) -> Result<Admission, Refusal> {
        let admit = async {
            let no_text = || OAuthError::new(ErrorCode::InvalidToken, "the password is no text");
            let bearer = std::str::from_utf8(password).map_err(|_| no_text())?;
            let (authority, standing) = self.hub.admit_from(bearer, peer.ip()).await?;
            Ok(Admission { authority, standing, token_response: None })
        };
        self.counting_failures(client_identifier, peer, Proof::of(password), admit).await
    }

    async fn admit_by_token_request(&self, client_identifier: &str, form: &[u8], peer: SocketAddr) -> Result<Admission, Refusal> {
        let request = TokenRequest::parse(form).map_err(refusal)?;
        if request.get("resource").is_some_and(|resource| resource != self.hub.issuer()) {
            let why = "a session is with the hub: ask for a token for another resource at the token endpoint";
            return Err(refusal(OAuthError::new(ErrorCode::InvalidTarget, why)));
        }
        let secret = request.get("client_secret").unwrap_or_default();
        let admit = async {
            let context = self.hub.context(Some(peer.ip()), "");
            let response = self.hub.token(&request, None, &context).await?;
            let standing = self.hub.judge(&response.authority);
            let standing = standing.map_err(|end| OAuthError::new(ErrorCode::InvalidClient, end.reason_string()))?;
            Ok(Admission { authority: response.authority, standing, token_response: Some(response.json) })
        };
        self.counting_failures(client_identifier, peer, Proof::of(secret.as_bytes()), admit).await
    }

    async fn admit_by_possession(
        &self,
        client_identifier: &str,
        possession: Possession<'_>,
        peer: SocketAddr,
    ) -> Result<Admission, Refusal> {
        let admit = async {
            let no_text = || OAuthError::new(ErrorCode::InvalidToken, "the token is no text");
            let token = std::str::from_utf8(possession.token).map_err(|_| no_text())?;
            let (authority, standing) = self.hub.admit_possession(token, possession.challenge, possession.proof)?;
            Ok(Admission { authority, standing, token_response: None })
        };
        self.counting_failures(client_identifier, peer, Proof::Other, admit).await
    }

    fn judge(&self, authority: &Authority) -> Result<Standing, EndReason> {
        self.hub.judge(authority)
    }

    fn judge_will(&self, authority: &Authority) -> Result<Arc<Rights>, EndReason> {
        self.hub.judge_will(authority)
    }

    fn is_gone(&self, principal: &Principal) -> bool {
        self.hub.view(|registry| registry.is_gone(principal))
    }

    fn commands_waiting(&self, listener: &DeviceId, device: &DeviceId) -> Vec<(TopicName, Message)> {
        // Before the registry is asked, which knows it before it is taken from here.
        let unwritten = self.unwritten.0.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |id: &str| unwritten.iter().any(|delivered| delivered.device == *device && delivered.id == id);
        let mut waiting = self.hub.commands_waiting(listener, device);
        waiting.retain(|(_, message)| !command_id(&message.payload).is_some_and(|id| has(&id)));
        waiting
    }

    fn command_id(&self, payload: &[u8]) -> Option<String> {
        command_id(payload)
    }

    fn acknowledged(&self, publisher: &Principal, device: &DeviceId, command_id: &str, payload: &[u8]) -> Option<Noting> {
        let speaker = self.speaks_for(publisher, device)?;
        if payload.len() > MAX_ACKNOWLEDGEMENT_BYTES {
            tracing::debug!(%device, "an answer to a command of more than {MAX_ACKNOWLEDGEMENT_BYTES} bytes is not heard");
            return None;
        }
        let (hub, device, id, payload) = (Arc::clone(&self.hub), device.clone(), command_id.to_owned(), payload.to_vec());
        let mut noting = async move { hub.acknowledge_command(&speaker, &device, &id, &payload).await }.boxed();
        // Decided at once, in the order in which answers come and whether or not anybody waits; what takes time is the disk.
        match noting.as_mut().now_or_never() {
            Some(true) => None,
            Some(false) => Some(future::ready(false).boxed()),
            None => Some(noting),
        }
    }

    fn twin_reported(&self, publisher: &Principal, device: &DeviceId, payload: &[u8]) -> Option<Noting> {
        self.speaks_for(publisher, device)?;
        if payload.len() > MAX_TWIN_REPORTED_BYTES {
            tracing::debug!(%device, "a reported twin of more than {MAX_TWIN_REPORTED_BYTES} bytes is not kept");
            return None;
        }
        let mut kept = {
            let mut reports = self.reports.0.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = || Report { payload: Vec::new(), kept: watch::Sender::new(false) };
            let report = reports.entry(device.clone()).or_insert_with(fresh);
            report.payload = payload.to_vec();
            report.kept.subscribe()
        };
        // Who is rung already will find it.
        let _ = self.report_bell.try_send(());
        Some(async move { kept.wait_for(|kept| *kept).await.is_ok() }.boxed())
    }

    fn delivered(&self, listener: &DeviceId, device: &DeviceId, payload: &[u8]) {
        let Some(id) = command_id(payload) else { return };
        // Others may listen too: whether the device has it then, is not theirs to say.
        if !self.hub.view(|registry| registry.acts_for(listener, device)) {
            return;
        }
        let delivered = Delivered { listener: listener.clone(), device: device.clone(), id };
        let mut unwritten = self.unwritten.0.lock().unwrap_or_else(PoisonError::into_inner);
        if self.deliveries.try_send(delivered.clone()).is_ok() {
            unwritten.insert(delivered);
        } else {
            tracing::warn!(%device, "a command is delivered but not noted as such: {MAX_WAITING} notes wait already");
        }
    }

    fn record(&self, event: SessionEvent) {
        if self.events.try_send(event).is_err() {
            tracing::debug!("an event of the MQTT front is not audited: {MAX_WAITING} wait already");
        }
    }

    fn refused(&self, listener: &DeviceId, device: &DeviceId, payload: &[u8], reason_code: u8) {
        let (hub, listener, device, payload) = (Arc::clone(&self.hub), listener.clone(), device.clone(), payload.to_vec());
        // No more at a time than commands wait: each message is refused once.
        tokio::spawn(async move { hub.refuse_command(&listener, &device, &payload, reason_code).await });
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
        | ErrorCode::IncompatibleAceProfiles
        | ErrorCode::InvalidToken
        | ErrorCode::InsufficientScope
        | ErrorCode::InvalidClientMetadata
        | ErrorCode::AuthorizationPending
        | ErrorCode::AccessDenied
        | ErrorCode::ExpiredToken => RefusalKind::BadCredentials,
    };
    Refusal { error: error.code.as_str().to_owned(), description: error.description, kind }
}

/// How often counted events are looked through.
const COUNTED_EVERY: Duration = Duration::from_secs(5);
/// Most events that one batch writes: what comes while the disk works is written together.
const MAX_EVENTS_AT_ONCE: usize = 256;

async fn write_down(hub: Arc<Hub>, mut inbox: mpsc::Receiver<SessionEvent>) {
    let mut flood = AuditFlood::default();
    let mut tick = tokio::time::interval(COUNTED_EVERY);
    let mut events = Vec::with_capacity(MAX_EVENTS_AT_ONCE);
    loop {
        let entries = tokio::select! {
            received = inbox.recv_many(&mut events, MAX_EVENTS_AT_ONCE) => {
                if received == 0 {
                    break;
                }
                let now = hub.now();
                let noted = events.drain(..).filter_map(|event| {
                    let source = event.peer.ip().to_canonical().to_string();
                    flood.note(entry_for(event)?, &source, now)
                });
                noted.collect()
            }
            _ = tick.tick() => flood.ended(hub.now()),
        };
        hub.record(entries).await;
    }
    hub.record(flood.ended(UnixTime(u64::MAX))).await;
}

async fn note_deliveries(hub: Arc<Hub>, unwritten: Arc<Unwritten>, mut inbox: mpsc::Receiver<Delivered>) {
    while let Some(delivered) = inbox.recv().await {
        hub.note_delivered_command(&delivered.listener, &delivered.device, &delivered.id).await;
        unwritten.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&delivered);
    }
}

async fn keep_reports(hub: Arc<Hub>, reports: Arc<Reports>, mut bell: mpsc::Receiver<()>) {
    while bell.recv().await.is_some() {
        let waiting = std::mem::take(&mut *reports.0.lock().unwrap_or_else(PoisonError::into_inner));
        let keeping = waiting.into_iter().map(async |(device, Report { payload, kept })| {
            if hub.report_twin(&device, &payload).await {
                kept.send_replace(true);
            }
        });
        // Together, as one write of the disk serves them all.
        future::join_all(keeping).await;
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
