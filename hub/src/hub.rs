//! The hub at work: one registry decided upon, made durable, then seen.
//!
//! A decision is taken on the *head*, under a lock, in order; its rows go to the store; when they are on the disk they are
//! applied to the *view*, sessions concerned are judged anew, and the answer leaves. All reads are of the view. When the
//! store fails, nothing more is decided until it was reopened and both were rebuilt from it.

mod commands;
mod devices;
mod tallies;
#[cfg(test)]
mod tests;
mod tokens;
mod twins;

pub(crate) use commands::command_id;
pub use tallies::Tallies;
pub use tokens::{Introspection, LoginFailed, TokenResponse};

use crate::{
    approvals::Approvals,
    clock,
    data_dir::DataDir,
    enrolment_string::{self, Address},
    entropy,
    mqtt::{gate::Affected, message::Message},
    passwords::Passwords,
    signing_key::SigningKeys,
    store::{Row, Store, StoreError},
    throttle::Pace,
};
use arc_swap::ArcSwap;
use base64ct::{Base64UrlUnpadded, Encoding};
use hearthkey_core::{
    DeviceId, UnixTime,
    audit::{AuditDraft, ChainHead, Outcome},
    audit_flood::Entry,
    claims::AccessTokenVerifier,
    jwt::Jwk,
    oauth::{ErrorCode, OAuthError},
    registry::{Change, Context, NewEnrolment, NotPermitted, Registered, RegistrationRefused, RegistrationRequest, Registry},
    rights::{PublishPermit, Rights},
    secret::{CredentialKind, Pepper, Secret, SecretHash},
    session::{Authority, CredentialId, EndReason, Principal, Standing},
    topic::{TopicFilter, TopicName},
    write::{Sequence, Table, Write},
};
use std::{
    convert::Infallible,
    net::IpAddr,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak},
    time::Duration,
};
use tokio::sync::{oneshot, watch};

/// How often the registry removes what has ended.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How long the hub waits before it tries to reopen a store that failed.
const REOPEN_AFTER: Duration = Duration::from_secs(2);
/// How many audit rows one trim reads.
const TRIMMED_AT_ONCE: usize = 256;

/// A running hub. Shared; all methods take `&self`.
pub struct Hub {
    store: Arc<dyn Store>,
    head: Mutex<Head>,
    seen: Arc<Seen>,
    pepper: Pepper,
    data: DataDir,
    signing: ArcSwap<Signing>,
    /// One rotation at a time.
    rotating: Arc<tokio::sync::Mutex<()>>,
    commanding: commands::Turns,
    issuer: String,
    passwords: Passwords,
    approvals: Approvals,
    tallies: Tallies,
    token_pace: Pace,
    /// The issuer, the token endpoint, and earlier issuers: what an assertion may name as its audience.
    audiences: Vec<String>,
    ca_sha256: [u8; 32],
    address: Address,
}

/// What signs and verifies access tokens at the moment.
struct Signing {
    keys: SigningKeys,
    verifier: AccessTokenVerifier,
}

/// What the hub stands on.
pub struct Foundation {
    /// The store, opened.
    pub store: Arc<dyn Store>,
    /// The directory that it lies in.
    pub data: DataDir,
    /// The pin of the home CA.
    pub ca_sha256: [u8; 32],
    /// The issuer, then earlier ones.
    pub issuers: Vec<String>,
    /// Where devices reach the hub.
    pub address: Address,
    /// Access tokens that one client gets a minute, and at once.
    pub tokens_per_minute: u32,
}

/// Where sessions are: the MQTT front, as far as the hub needs it.
pub trait Outlet: Send + Sync {
    /// Judges the sessions concerned anew. Does not block.
    fn reconsider(&self, affected: &Affected);
    /// Publishes a message of the hub's own; ready when what must be kept of it is kept.
    fn publish(&self, permit: PublishPermit, message: Message) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>>;
    /// Whether a principal has an open session now.
    fn is_online(&self, principal: &Principal) -> bool;
    /// The topics on which something is retained that a filter matches.
    fn retained_topics(&self, filter: &TopicFilter) -> Vec<TopicName> {
        let _ = filter;
        Vec::new()
    }
    /// What is retained on a topic, if that is known: then it is not published again.
    fn retained(&self, topic: &TopicName) -> Option<Vec<u8>> {
        let _ = topic;
        None
    }
}

struct Head {
    registry: Registry,
    sequence: Sequence,
}

/// What is durable, and who waits for it.
struct Seen {
    view: RwLock<Registry>,
    durable: watch::Sender<Durable>,
    audit_seq: watch::Sender<u64>,
    commands: watch::Sender<u64>,
    twins: watch::Sender<u64>,
    outlet: OnceLock<Weak<dyn Outlet>>,
}

#[derive(Debug, Clone, Default)]
struct Durable {
    sequence: Sequence,
    failed: Option<Arc<str>>,
}

/// Why a decision was not taken, or not kept.
#[derive(Debug, thiserror::Error)]
pub enum NotDecided<E> {
    /// Policy refused it.
    #[error("{0}")]
    Refused(E),
    /// The store cannot keep it now; nothing was done that anybody was told of.
    #[error("the hub cannot write to its store now: {0}")]
    Unavailable(String),
}

/// Why somebody is refused what not everybody may do.
#[derive(Debug, thiserror::Error)]
pub enum Refusal<E> {
    /// Who asks may not do this, or not any more.
    #[error("{0}")]
    NotPermitted(#[from] NotPermitted),
    /// Nobody may, as things are.
    #[error("{0}")]
    Policy(E),
}

/// Why a hub cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error("{0}")]
    DataDir(#[from] crate::data_dir::DataDirError),
    /// The store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A stored row.
    #[error("{0}; restore a backup, or start with another --data")]
    Row(#[from] hearthkey_core::registry::CorruptRow),
}

/// A device's new way to prove itself, to be shown once.
#[derive(Debug)]
pub enum ShownOnce {
    /// The enrolment string.
    EnrolmentString(Secret),
    /// The client secret.
    ClientSecret(Secret),
}

impl Hub {
    /// Builds the hub from what is stored. The rows of the MQTT front come back beside it.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(foundation: Foundation) -> Result<(Arc<Self>, Vec<Row>), StartError> {
        let Foundation { store, data, ca_sha256, issuers, address, tokens_per_minute } = foundation;
        let (registry, mqtt_rows) = rebuild(&*store)?;
        let now = clock::now();
        let issuer = issuers.first().cloned().unwrap_or_default();
        let signing = Signing::new(SigningKeys::load_or_create(&data, now)?, &issuer, now);
        let audiences = issuers.iter().flat_map(|issuer| [issuer.clone(), format!("{issuer}/oauth2/token")]).collect();
        let sequence = store.last_sequence();
        let seen = Seen {
            audit_seq: watch::Sender::new(registry.audit_head().seq),
            view: RwLock::new(registry.clone()),
            durable: watch::Sender::new(Durable { sequence, failed: None }),
            commands: watch::Sender::new(0),
            twins: watch::Sender::new(0),
            outlet: OnceLock::new(),
        };
        let hub = Arc::new(Self {
            store,
            head: Mutex::new(Head { registry, sequence }),
            seen: Arc::new(seen),
            pepper: Pepper::new(data.pepper()?),
            signing: ArcSwap::from_pointee(signing),
            rotating: Arc::default(),
            commanding: commands::Turns::default(),
            issuer,
            passwords: Passwords::default(),
            approvals: Approvals::default(),
            tallies: Tallies::default(),
            token_pace: Pace::each_minute(tokens_per_minute),
            data,
            audiences,
            ca_sha256,
            address,
        });
        Ok((hub, mqtt_rows))
    }

    /// What was counted since the start.
    #[must_use]
    pub fn tallies(&self) -> &Tallies {
        &self.tallies
    }

    /// The number of the last batch that is durable.
    #[must_use]
    pub fn durable_sequence(&self) -> Sequence {
        self.seen.durable.borrow().sequence
    }

    /// Tells the hub where sessions are. Once.
    pub fn connect_outlet(&self, outlet: Weak<dyn Outlet>) {
        let _ = self.seen.outlet.set(outlet);
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> UnixTime {
        clock::now()
    }

    /// The issuer of access tokens.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The pin of the home CA: SHA-256 of its certificate.
    #[must_use]
    pub fn ca_sha256(&self) -> [u8; 32] {
        self.ca_sha256
    }

    /// Where devices reach the hub.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The keyed hash of a text, for codes and secrets.
    #[must_use]
    pub fn pepper(&self) -> &Pepper {
        &self.pepper
    }

    /// The time and place of a request.
    #[must_use]
    pub fn context(&self, source: Option<IpAddr>, request_id: &str) -> Context {
        let source = source.map(|address| address.to_canonical().to_string()).unwrap_or_default();
        Context { now: clock::now(), source, request_id: request_id.to_owned() }
    }

    /// Looks at what is durable.
    pub fn view<T>(&self, look: impl FnOnce(&Registry) -> T) -> T {
        look(&self.seen.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a decision and waits until it is durable and seen.
    ///
    /// # Errors
    /// [`NotDecided`].
    pub async fn decide<T, E>(&self, decision: impl FnOnce(&Registry) -> Result<Change<T>, E>) -> Result<T, NotDecided<E>> {
        self.decide_with(Space::Ordinary, decision).await
    }

    /// As [`Hub::decide`], for a decision that takes rights away: it is kept on a disk that is too full for others.
    ///
    /// # Errors
    /// [`NotDecided`].
    pub async fn decide_to_end<T, E>(
        &self,
        decision: impl FnOnce(&Registry) -> Result<Change<T>, E>,
    ) -> Result<T, NotDecided<E>> {
        self.decide_with(Space::Reserve, decision).await
    }

    async fn decide_with<T, E>(
        &self,
        space: Space,
        decision: impl FnOnce(&Registry) -> Result<Change<T>, E>,
    ) -> Result<T, NotDecided<E>> {
        let (answer, wait) = {
            let mut head = self.lock_head();
            let Change { writes, answer } = decision(&head.registry).map_err(NotDecided::Refused)?;
            if writes.is_empty() {
                (answer, Wait::Until(head.sequence))
            } else {
                let waits = self.enqueue(&mut head, writes, space);
                (answer, Wait::Batch(waits.map_err(|error| NotDecided::Unavailable(error.to_string()))?))
            }
        };
        let kept = match wait {
            Wait::Batch(done) => done.await.unwrap_or_else(|_| Err("the store stopped".to_owned())),
            Wait::Until(sequence) => self.durable(sequence).await,
        };
        kept.map_err(NotDecided::Unavailable)?;
        Ok(answer)
    }

    /// As [`Hub::decide`], for a decision that policy never refuses.
    ///
    /// # Errors
    /// Why the store cannot keep it.
    pub async fn decide_always<T>(&self, decision: impl FnOnce(&Registry) -> Change<T>) -> Result<T, String> {
        let decided = self.decide(|registry| Ok::<_, Infallible>(decision(registry))).await;
        decided.map_err(|error| match error {
            NotDecided::Unavailable(why) => why,
            NotDecided::Refused(never) => match never {},
        })
    }

    /// Waits until a batch is durable: an answer that rests on what others decided must not leave before theirs is kept.
    async fn durable(&self, sequence: Sequence) -> Result<(), String> {
        let mut durable = self.seen.durable.subscribe();
        let state = durable.wait_for(|state| state.sequence >= sequence || state.failed.is_some()).await;
        match state {
            Ok(state) if state.sequence >= sequence => Ok(()),
            Ok(state) => Err(state.failed.as_deref().unwrap_or("the store failed").to_owned()),
            Err(_) => Err("the hub stops".to_owned()),
        }
    }

    fn enqueue(
        &self,
        head: &mut Head,
        writes: Vec<Write>,
        space: Space,
    ) -> Result<oneshot::Receiver<Result<(), String>>, StoreError> {
        let (done, wait) = oneshot::channel();
        let seen = Arc::clone(&self.seen);
        let batch = writes.clone();
        let on_done = Box::new(move |result: Result<Sequence, StoreError>| {
            let outcome = match result {
                Ok(sequence) => seen.show(&batch, sequence),
                Err(error) => Err(error.to_string()),
            };
            if let Err(why) = &outcome {
                seen.durable.send_modify(|state| state.failed = Some(why.as_str().into()));
            }
            let _ = done.send(outcome);
        });
        let sequence = match space {
            Space::Ordinary => self.store.commit(head.sequence, writes.clone(), on_done)?,
            Space::Reserve => self.store.commit_from_reserve(head.sequence, writes.clone(), on_done)?,
        };
        head.sequence = sequence;
        head.registry.apply(&writes).expect("the core reads the rows that it writes");
        Ok(wait)
    }

    fn lock_head(&self) -> MutexGuard<'_, Head> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an authority amounts to now.
    ///
    /// # Errors
    /// Why it amounts to nothing.
    pub fn judge(&self, authority: &Authority) -> Result<Standing, EndReason> {
        self.judge_at(authority, clock::now())
    }

    /// The rights for a will that fires after its connection: that its credential has run out meanwhile does not count.
    ///
    /// # Errors
    /// Why there are none.
    pub fn judge_will(&self, authority: &Authority) -> Result<Arc<Rights>, EndReason> {
        // Before any end.
        self.judge_at(authority, UnixTime(0)).map(|standing| standing.rights)
    }

    fn judge_at(&self, authority: &Authority, now: UnixTime) -> Result<Standing, EndReason> {
        self.view(|registry| registry.judge(authority, now))
    }

    /// Those who wait for a person.
    #[must_use]
    pub fn approvals(&self) -> &Approvals {
        &self.approvals
    }

    /// Registers a device's key by its enrolment code (RFC 7591).
    ///
    /// # Errors
    /// `invalid_token` for any fault of the code, `invalid_client_metadata` for one of the key.
    pub async fn register(&self, code: &str, jwk: &Jwk, software: String, context: &Context) -> Result<Registered, OAuthError> {
        let metadata = |why: &str| OAuthError::new(ErrorCode::InvalidClientMetadata, why);
        let needed = "jwks must hold one key: P-256 for ES256, or Ed25519";
        let public_key = jwk.to_public_key().ok_or_else(|| metadata(needed))?;
        if let Some(point) = public_key.point() {
            hearthkey_certs::DevicePublicKey::from_uncompressed_point(point)
                .map_err(|_| metadata("the key is no point of P-256"))?;
        }
        let request = RegistrationRequest { code: self.pepper.hash(code.as_bytes()), public_key, software };
        let refused = |why: RegistrationRefused| OAuthError {
            code: ErrorCode::InvalidToken,
            description:
                "the enrolment code is unknown, used or expired; ask the owner for a new one (`hearthkey device rotate NAME`)"
                    .to_owned(),
            evidence: why.to_string(),
        };
        self.decide(|registry| registry.register(&request, context).map_err(refused)).await.map_err(unavailable)
    }

    /// Hashes and verifies people's passwords.
    #[must_use]
    pub fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// A fresh credential: its id and hash to keep, its text to show once.
    #[must_use]
    pub fn new_credential(&self, kind: CredentialKind) -> ((CredentialId, SecretHash), Secret) {
        let (id, secret) = Secret::generate(kind, &entropy::random());
        let hash = self.pepper.hash(secret.expose().as_bytes());
        ((id, hash), secret)
    }

    /// A fresh enrolment code: what the registry keeps, and the string to show.
    #[must_use]
    pub fn new_enrolment(&self) -> (NewEnrolment, ShownOnce) {
        let code = entropy::random::<16>();
        let hash = self.pepper.hash(Base64UrlUnpadded::encode_string(&code).as_bytes());
        let shown = enrolment_string::encode(&self.ca_sha256, &code, &self.address);
        (NewEnrolment::Code(hash), ShownOnce::EnrolmentString(shown))
    }

    /// A fresh client secret: what the registry keeps, and the text to show.
    #[must_use]
    pub fn new_client_secret(&self) -> (NewEnrolment, ShownOnce) {
        let ((id, hash), secret) = self.new_credential(CredentialKind::ClientSecret);
        (NewEnrolment::Secret(id, hash), ShownOnce::ClientSecret(secret))
    }

    /// Makes sure that a bearer credential acts for the home's owner: at the first start, and when the file of the local
    /// context was lost. Who can write the data directory is the owner.
    ///
    /// # Errors
    /// When the credential cannot be kept.
    ///
    /// # Panics
    /// Never: `owner` is a legal name.
    pub async fn own_locally(self: &Arc<Self>, token: Option<&str>) -> Result<Option<Secret>, String> {
        if token.is_some_and(|token| self.admit(token).is_ok()) {
            return Ok(None);
        }
        let owner = DeviceId::parse("owner").expect("legal");
        let (fresh, secret) = self.new_credential(CredentialKind::PersonalAccessToken);
        let context = self.context(None, "");
        self.decide_always(|registry| registry.found(owner, fresh, &context)).await?;
        Ok(Some(secret))
    }

    /// Whether a principal is connected by MQTT now.
    #[must_use]
    pub fn is_connected(&self, principal: &Principal) -> bool {
        self.seen.outlet().is_some_and(|outlet| outlet.is_online(principal))
    }

    /// Appends audit entries about what the shell saw.
    pub async fn record(&self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        let now = self.now();
        if let Err(why) = self.decide_always(|registry| registry.record(entries, now)).await {
            tracing::error!(why, "audit entries could not be kept");
        }
    }

    /// Keeps an audit entry of what was done to the hub itself.
    async fn record_own(&self, actor: String, action: &'static str, context: &Context) {
        let (target, reason) = ("hub".to_owned(), String::new());
        let entry = AuditDraft { actor, action, target, outcome: Outcome::Success, reason, count: 1 };
        self.record(vec![(entry, context.source.clone())]).await;
    }

    /// Writes everything that is stored to a file of the data directory, for `actor`, who may ask for it. Returns the file, or why
    /// the store did not write it. What has begun is ended and audited, also if nobody waits for it any more.
    ///
    /// # Errors
    /// `actor`'s, and [`NotDecided::Unavailable`]: nothing was written.
    pub async fn back_up<E>(
        self: &Arc<Self>,
        actor: impl FnOnce(&Registry) -> Result<String, E>,
        context: &Context,
    ) -> Result<Result<PathBuf, StoreError>, NotDecided<E>> {
        let actor = self.decide(|registry| Ok(Change { writes: Vec::new(), answer: actor(registry)? })).await?;
        let (hub, context) = (Arc::clone(self), context.clone());
        let broke_off = |_| StoreError::Stopped("the backup broke off".into());
        let writing = tokio::spawn(async move {
            let store = Arc::clone(&hub.store);
            let file = tokio::task::spawn_blocking(move || store.back_up_as_asked()).await.map_err(broke_off)??;
            hub.record_own(actor, "backup.write", &context).await;
            Ok(file)
        });
        Ok(writing.await.unwrap_or_else(|error| Err(broke_off(error))))
    }

    /// Keeps rows that are not the registry's: those of the MQTT front.
    ///
    /// # Errors
    /// Why they are not kept.
    pub async fn keep(&self, writes: Vec<Write>) -> Result<(), String> {
        self.decide_always(|_| Change { writes, answer: () }).await
    }

    /// Stored audit rows with numbers above `after`, at most `limit`, in order.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn audit_rows(&self, after: u64, limit: usize) -> Result<Vec<Vec<u8>>, StoreError> {
        let rows = self.store.scan(Table::Audit, &(after + 1).to_be_bytes(), limit)?;
        Ok(rows.into_iter().map(|row| row.value).collect())
    }

    /// The ends of the audit chain that is kept: what it continues, and its last entry.
    #[must_use]
    pub fn audit_chain(&self) -> (ChainHead, ChainHead) {
        self.view(|registry| (registry.audit_anchor().clone(), registry.audit_head().clone()))
    }

    /// Tells the number of the last audit entry whenever there is a new one.
    #[must_use]
    pub fn audit_changes(&self) -> watch::Receiver<u64> {
        self.seen.audit_seq.subscribe()
    }

    /// Whether the hub can keep what it decides.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn ready(&self) -> Result<(), String> {
        match self.seen.durable.borrow().failed.as_deref() {
            Some(why) => Err(why.to_owned()),
            None => self.store.check_writable().map_err(|error| error.to_string()),
        }
    }

    /// Removes what has ended, and brings a failed store back. Runs until the hub is dropped.
    pub async fn keep_house(hub: Weak<Self>) {
        loop {
            let Some(hub) = hub.upgrade() else { return };
            let failed = hub.seen.durable.borrow().failed.clone();
            if failed.is_some() {
                drop(tokio::task::spawn_blocking(move || hub.recover()).await);
                tokio::time::sleep(REOPEN_AFTER).await;
                continue;
            }
            let context = hub.context(None, "");
            let mut more = false;
            if hub.view(|registry| !registry.sweep(&context).writes.is_empty()) {
                let swept = hub.decide_always(|registry| registry.sweep(&context)).await;
                more = swept.is_ok();
                if let Err(why) = swept {
                    tracing::warn!(why, "what has ended could not be removed");
                }
            }
            more |= hub.trim_audit().await;
            if hub.signing.load().keys.rotation_due(context.now)
                && let Err(why) = hub.rotate_signing_key(|_| Ok::<_, Infallible>("hub".to_owned()), &context).await
            {
                tracing::error!(%why, "the signing key could not be rotated");
            }
            drop(hub);
            // One batch at a time, so that others are served in between; but all that there is.
            if !more {
                tokio::time::sleep(SWEEP_EVERY).await;
            }
        }
    }

    /// Lets a batch of surplus audit entries go; whether there was one.
    async fn trim_audit(&self) -> bool {
        let (surplus, anchor) = self.view(|registry| (registry.surplus_audit_records(), registry.audit_anchor().seq));
        let limit = usize::try_from(surplus).unwrap_or(usize::MAX).min(TRIMMED_AT_ONCE);
        if limit == 0 {
            return false;
        }
        match self.audit_rows(anchor, limit) {
            Ok(rows) => {
                let trimmed = self.decide_always(|registry| registry.trim_audit(&rows)).await;
                trimmed.is_ok() && self.view(|registry| registry.audit_anchor().seq > anchor)
            }
            Err(error) => {
                tracing::warn!(%error, "old audit entries could not be read");
                false
            }
        }
    }

    /// Reopens the store after a failure and rebuilds head and view from what is really there.
    fn recover(&self) {
        let mut head = self.lock_head();
        let rebuilt = self.store.reopen().map_err(StartError::from).and_then(|sequence| Ok((sequence, rebuild(&*self.store)?.0)));
        match rebuilt {
            Ok((sequence, registry)) => {
                *self.seen.view.write().unwrap_or_else(PoisonError::into_inner) = registry.clone();
                *head = Head { registry, sequence };
                self.seen.durable.send_replace(Durable { sequence, failed: None });
                self.seen.reconsider(&Affected::Everything);
                tracing::warn!(sequence = sequence.0, "the store is open again");
            }
            Err(error) => tracing::error!(%error, "the store cannot be reopened yet"),
        }
    }
}

impl Signing {
    fn new(keys: SigningKeys, issuer: &str, now: UnixTime) -> Self {
        let verifier = AccessTokenVerifier {
            keys: keys.public_keys(now).cloned().collect(),
            issuer: issuer.to_owned(),
            audience: issuer.to_owned(),
        };
        Self { keys, verifier }
    }
}

/// Which space on the disk a decision may use.
#[derive(Clone, Copy)]
enum Space {
    Ordinary,
    Reserve,
}

enum Wait {
    Batch(oneshot::Receiver<Result<(), String>>),
    Until(Sequence),
}

impl Seen {
    fn outlet(&self) -> Option<Arc<dyn Outlet>> {
        self.outlet.get()?.upgrade()
    }

    fn reconsider(&self, affected: &Affected) {
        if let Some(outlet) = self.outlet() {
            outlet.reconsider(affected);
        }
    }

    /// Makes a durable batch visible. Runs on the committer's thread.
    fn show(&self, batch: &[Write], sequence: Sequence) -> Result<(), String> {
        let (affected, audit_seq) = {
            let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
            let mut affected = affected_by(batch, &view);
            view.apply(batch).map_err(|corrupt| corrupt.to_string())?;
            affected.extend(affected_by(batch, &view));
            affected.dedup();
            (affected, view.audit_head().seq)
        };
        self.durable.send_modify(|state| state.sequence = sequence);
        self.audit_seq.send_if_modified(|seen| std::mem::replace(seen, audit_seq) != audit_seq);
        if batch.iter().any(|write| write.table() == Table::Command) {
            self.commands.send_modify(|changes| *changes += 1);
        }
        if batch.iter().any(|write| write.table() == Table::DesiredTwin) {
            self.twins.send_modify(|changes| *changes += 1);
        }
        for affected in &affected {
            self.reconsider(affected);
        }
        Ok(())
    }
}

/// Whose sessions a batch concerns, as far as `registry` (before or after it) tells.
fn affected_by(batch: &[Write], registry: &Registry) -> Vec<Affected> {
    let mut affected = Vec::new();
    for write in batch {
        let key = std::str::from_utf8(write.key()).unwrap_or_default();
        match write.table() {
            Table::Device => affected.extend(DeviceId::parse(key).into_iter().flat_map(|id| {
                // Who acts for a device loses that with it.
                let gateways = registry.gateways_of(&id).cloned().collect::<Vec<_>>();
                gateways.into_iter().chain([id]).map(|id| Affected::Principal(Principal::Device(id)))
            })),
            Table::Credential => {
                affected.extend(registry.credential(key).map(|record| Affected::Principal(record.subject.clone())));
            }
            Table::DeniedToken => affected.push(Affected::AccessToken(key.into())),
            Table::Profile | Table::User => return vec![Affected::Everything],
            Table::Meta
            | Table::EnrolmentCode
            | Table::UsedAssertion
            | Table::Command
            | Table::Audit
            | Table::Mqtt
            | Table::DesiredTwin
            | Table::ReportedTwin => {}
        }
    }
    affected
}

fn rebuild(store: &dyn Store) -> Result<(Registry, Vec<Row>), StartError> {
    let mut registry = Registry::new();
    let mut mqtt_rows = Vec::new();
    // Audit entries stay on the disk: the chain's ends are rows of their own.
    for table in Table::ALL.into_iter().filter(|table| *table != Table::Audit) {
        for row in store.scan(table, &[], usize::MAX)? {
            match table {
                Table::Mqtt => mqtt_rows.push(row),
                _ => registry.apply(&[Write::Put { table, key: row.key, value: row.value }])?,
            }
        }
    }
    Ok((registry, mqtt_rows))
}

fn unavailable(error: NotDecided<OAuthError>) -> OAuthError {
    match error {
        NotDecided::Refused(error) => error,
        NotDecided::Unavailable(why) => OAuthError {
            code: ErrorCode::TemporarilyUnavailable,
            description: "the hub cannot write to its store now; try again shortly".to_owned(),
            evidence: why,
        },
    }
}
