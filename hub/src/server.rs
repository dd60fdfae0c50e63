//! A hub that listens: data directory, CA, certificate, store, registry, HTTP and MQTT, put together and taken down.
//!
//! Owns the order of starting and stopping. Decides nothing.

use crate::{
    cli::{ContextFile, local_context_file},
    clock,
    config::{Listeners, Origin},
    data_dir::{DataDir, DataDirError, replace_file},
    enrolment_string::Address,
    entropy,
    gate::HubGate,
    http,
    hub::{Foundation, Hub, Outlet, StartError},
    mqtt::{FabricKind, front::Front, gate::Affected, limits::Limits, message::Message},
    store::{Closed, RestoredFromBackup, SledStore, StoreError},
    sys_topics,
    tls::{self, CertificateInUse, WithoutCa},
};
use hearthkey_certs::{HomeCa, HubCertificate, HubNames, SerialNumber};
use hearthkey_core::{
    rights::PublishPermit,
    session::Principal,
    topic::{TopicFilter, TopicName},
};
use rustls::pki_types::UnixTime;
use std::{
    fs, io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

/// How often the hub looks whether its certificate should be renewed.
const CERTIFICATE_CHECK_EVERY: Duration = Duration::from_secs(60 * 60);
/// How often everything durable is written to `DATA/backups`: a damaged store is restored from there.
const BACKUP_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long what was observed may take to be written down when the hub stops.
const WRITING_DOWN_PATIENCE: Duration = Duration::from_secs(5);
/// How long whoever still works with the store, such as a backup, may take when the hub stops.
const CLOSING_PATIENCE: Duration = Duration::from_secs(30);

/// What a hub is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The data directory.
    pub data: PathBuf,
    /// Where to listen; port 0 is any free one.
    pub listeners: Listeners,
    /// The names in the hub's certificate.
    pub names: HubNames,
    /// The host that devices are told to connect to.
    pub host: String,
    /// The issuer to use from now on; none keeps the one there is, as [`DataDir::issuers`] says.
    pub issuer: Option<String>,
    /// What carries MQTT messages.
    pub fabric: FabricKind,
    /// Whose pages may open MQTT over WebSocket, besides the hub's own.
    pub websocket_origins: Vec<Origin>,
    /// Bounds of the MQTT front.
    pub limits: Limits,
}

/// A hub that listens.
pub struct Server {
    hub: Arc<Hub>,
    front: Front<HubGate>,
    /// The hub holds it weakly: with the server it goes.
    outlet: Arc<dyn Outlet>,
    addresses: Listeners,
    reachable: String,
    first_start: bool,
    restored: Option<RestoredFromBackup>,
    stop: watch::Sender<bool>,
    listeners: JoinSet<()>,
    writing_down: JoinHandle<()>,
    housekeeping: JoinSet<()>,
    store_closed: Closed,
}

/// Why a hub does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A listener.
    #[error("cannot listen on {address} for {what}: {source}{hint}")]
    Listen {
        /// Which listener.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// The data directory.
    #[error("{0}")]
    DataDir(#[from] DataDirError),
    /// The store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The home CA.
    #[error("{0}")]
    Ca(#[from] hearthkey_certs::Error),
    /// The registry.
    #[error("{0}")]
    Start(#[from] StartError),
    /// TLS.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The owner's credential cannot be kept.
    #[error("{0}")]
    Owner(String),
}

impl Settings {
    /// A hub for this machine.
    #[must_use]
    pub fn new(data: PathBuf, listeners: Listeners) -> Self {
        Self {
            data,
            listeners,
            names: HubNames::default(),
            host: "localhost".to_owned(),
            issuer: None,
            fabric: FabricKind::default(),
            websocket_origins: Vec::new(),
            limits: Limits::default(),
        }
    }
}

impl Server {
    /// Starts a hub: makes what is missing, listens, serves.
    ///
    /// # Errors
    /// [`ServerError`]; nothing is left running.
    pub async fn start(settings: Settings) -> Result<Self, ServerError> {
        let https = bind("HTTPS", settings.listeners.https).await?;
        let mqtts = bind("MQTT over TLS", settings.listeners.mqtts).await?;
        let mqtt = match settings.listeners.mqtt {
            Some(address) => Some(bind("MQTT", address).await?),
            None => None,
        };
        let local = |listener: &TcpListener, asked: SocketAddr| listener.local_addr().unwrap_or(asked);
        let addresses = Listeners {
            https: local(&https, settings.listeners.https),
            mqtts: local(&mqtts, settings.listeners.mqtts),
            mqtt: mqtt.as_ref().zip(settings.listeners.mqtt).map(|(listener, asked)| local(listener, asked)),
        };

        let root = std::path::absolute(&settings.data).unwrap_or(settings.data);
        let data = DataDir::open(&root)?;
        let opened = SledStore::open(&root)?;
        let store = Arc::new(opened.store);
        let ca = Arc::new(HomeCa::load_or_create(&data.ca(), pki_now())?);
        let certificate = issue(&ca, &settings.names, pki_now())?;
        let in_use = CertificateInUse::new(&certificate)?;
        let address =
            Address { host: settings.host.clone(), https_port: addresses.https.port(), mqtts_port: addresses.mqtts.port() };
        let reachable = format!("https://{}:{}", url_host(&settings.host), addresses.https.port());
        let issuers = data.issuers(settings.issuer.as_deref(), &reachable)?;
        let foundation = Foundation {
            store: store.clone(),
            data: data.clone(),
            ca_sha256: ca.sha256(),
            issuers,
            address,
            tokens_per_minute: settings.limits.tokens_per_minute,
        };
        let (hub, mqtt_rows) = Hub::start(foundation)?;
        write_local_context(&hub, &data, addresses.https).await?;

        let (gate, writing_down) = HubGate::new(Arc::clone(&hub));
        let restored_rows = mqtt_rows.into_iter().map(|row| (row.key, row.value));
        let front = Front::on(settings.fabric, Arc::new(gate), settings.limits, restored_rows);
        let outlet: Arc<dyn Outlet> = Arc::new(FrontOutlet(front.clone()));
        hub.connect_outlet(Arc::downgrade(&outlet));

        let (stop, stopping) = watch::channel(false);
        let writing_down = tokio::spawn(writing_down);
        let mut housekeeping = JoinSet::new();
        housekeeping.spawn(Hub::keep_house(Arc::downgrade(&hub)));
        housekeeping.spawn(Hub::publish_twins(Arc::downgrade(&hub)));
        housekeeping.spawn(renew_certificate(Arc::clone(&ca), settings.names.clone(), certificate, Arc::clone(&in_use)));
        housekeeping.spawn(back_up_daily(Arc::downgrade(&store)));

        let mut listeners = JoinSet::new();
        let surroundings = http::Surroundings {
            ca_pem: ca.certificate_pem().to_owned(),
            listeners: http::Listeners {
                https: Some(addresses.https.to_string()),
                mqtts: Some(addresses.mqtts.to_string()),
                mqtt: addresses.mqtt.map(|address| address.to_string()),
            },
            data_dir: Some(root.clone()),
            front: Some(front.clone()),
            websocket_origins: settings.websocket_origins,
        };
        let transport = http::Transport::Tls(tls::server_config(Arc::clone(&in_use), &tls::HTTPS_PROTOCOLS)?);
        let serving = http::serve(Arc::clone(&hub), surroundings, https, transport, stopping.clone());
        listeners.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the HTTPS listener ended");
            }
        });
        let acceptor = TlsAcceptor::from(tls::server_config(Arc::new(WithoutCa(in_use)), &[])?);
        let (secured, ended) = (front.clone(), told(stopping.clone()));
        listeners.spawn(async move { secured.serve_tls(mqtts, acceptor, ended).await });
        listeners.spawn(sys_topics::publish(front.clone(), told(stopping.clone())));
        if let Some(mqtt) = mqtt {
            let (plain, ended) = (front.clone(), told(stopping));
            listeners.spawn(async move { plain.serve_tcp(mqtt, ended).await });
        }
        Ok(Self {
            hub,
            front,
            outlet,
            addresses,
            reachable,
            first_start: opened.created,
            restored: opened.restored,
            stop,
            listeners,
            writing_down,
            housekeeping,
            store_closed: store.closed(),
        })
    }

    /// The hub.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// The MQTT front.
    #[must_use]
    pub fn front(&self) -> &Front<HubGate> {
        &self.front
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Listeners {
        self.addresses
    }

    /// Where clients reach the hub by HTTPS.
    #[must_use]
    pub fn reachable(&self) -> &str {
        &self.reachable
    }

    /// Whether the data directory was empty.
    #[must_use]
    pub fn is_first_start(&self) -> bool {
        self.first_start
    }

    /// What was restored since the store was damaged.
    #[must_use]
    pub fn restored(&self) -> Option<&RestoredFromBackup> {
        self.restored.as_ref()
    }

    /// Stops: sessions are told, answers under way go out, what was observed is written down, the store is closed. Then the
    /// data directory is free for another hub.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        self.front.stop().await;
        while self.listeners.join_next().await.is_some() {}
        let Self { hub, front, outlet, writing_down, mut housekeeping, store_closed, .. } = self;
        // The gate goes with the front; then the writing down ends, and with the hub the housekeeping.
        drop((outlet, front, hub));
        if timeout(WRITING_DOWN_PATIENCE, writing_down).await.is_err() {
            tracing::error!("what was observed last may be missing from the audit log");
        }
        housekeeping.shutdown().await;
        // What runs on a thread of its own, a backup or a recovery, cannot be stopped: it ends, and lets go.
        if timeout(CLOSING_PATIENCE, store_closed.wait()).await.is_err() {
            tracing::error!("something still holds the store: the data directory is in use until this process ends");
        }
    }
}

/// The MQTT front as the hub sees it.
struct FrontOutlet(Front<HubGate>);

impl Outlet for FrontOutlet {
    fn reconsider(&self, affected: &Affected) {
        self.0.reconsider(affected);
    }

    fn publish(&self, permit: PublishPermit, message: Message) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async move { self.0.publish(permit, message).await.map_err(|error| error.to_string()) })
    }

    fn is_online(&self, principal: &Principal) -> bool {
        self.0.is_online(principal)
    }

    fn retained_topics(&self, filter: &TopicFilter) -> Vec<TopicName> {
        self.0.retained_topics(filter)
    }

    fn retained(&self, topic: &TopicName) -> Option<Vec<u8>> {
        self.0.retained(topic)
    }
}

/// Resolves when the hub is to stop.
async fn told(mut stop: watch::Receiver<bool>) {
    // A sender that is gone says the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|source| {
        let hint = match source.kind() {
            io::ErrorKind::AddrInUse => "; stop what uses the port, or choose another in the configuration (listeners)",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need privileges, choose a higher one",
            _ => "",
        };
        ServerError::Listen { what, address, source, hint }
    })
}

/// An address as it stands in a URL: IPv6 in brackets.
fn url_host(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn pki_now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(clock::now().0))
}

fn issue(ca: &HomeCa, names: &HubNames, now: UnixTime) -> Result<HubCertificate, hearthkey_certs::Error> {
    ca.issue_hub_certificate(names, SerialNumber::from_random(entropy::random()), now)
}

/// Replaces the hub's certificate when two thirds of its life are over; open connections go on.
async fn renew_certificate(ca: Arc<HomeCa>, names: HubNames, mut certificate: HubCertificate, in_use: Arc<CertificateInUse>) {
    loop {
        tokio::time::sleep(CERTIFICATE_CHECK_EVERY).await;
        match renewed_if_due(&ca, &names, &certificate, &in_use, pki_now()) {
            Ok(None) => {}
            Ok(Some(renewed)) => {
                tracing::info!(not_after = renewed.validity().not_after, "the hub's certificate is renewed");
                certificate = renewed;
            }
            Err(error) => tracing::error!(%error, "the hub's certificate cannot be renewed"),
        }
    }
}

fn renewed_if_due(
    ca: &HomeCa,
    names: &HubNames,
    certificate: &HubCertificate,
    in_use: &CertificateInUse,
    now: UnixTime,
) -> Result<Option<HubCertificate>, ServerError> {
    if !certificate.validity().renewal_due(now) {
        return Ok(None);
    }
    let renewed = issue(ca, names, now)?;
    in_use.replace(&renewed)?;
    Ok(Some(renewed))
}

async fn back_up_daily(store: Weak<SledStore>) {
    let mut due = tokio::time::interval(BACKUP_EVERY);
    loop {
        due.tick().await;
        let Some(store) = store.upgrade() else { return };
        match tokio::task::spawn_blocking(move || store.back_up()).await {
            Ok(Ok(path)) => tracing::debug!(path = %path.display(), "backed up"),
            Ok(Err(error)) => tracing::error!(%error, "the daily backup failed"),
            Err(_) => return,
        }
    }
}

/// Writes what the command line on this machine needs: where the hub is, whom to trust, the owner's token.
async fn write_local_context(hub: &Arc<Hub>, data: &DataDir, https: SocketAddr) -> Result<(), ServerError> {
    let token_file = data.contexts().join("local.token");
    let token = fs::read_to_string(&token_file).ok().map(Zeroizing::new);
    let fresh = hub.own_locally(token.as_ref().map(|token| token.trim())).await;
    if let Some(secret) = fresh.map_err(ServerError::Owner)? {
        replace_file(&token_file, secret.expose().as_bytes())?;
    }
    let ca_file = data.ca().join(hearthkey_certs::CERTIFICATE_FILE);
    let context = ContextFile { url: format!("https://localhost:{}", https.port()), ca_file, token_file };
    let text = toml::to_string(&context).map_err(|error| ServerError::Owner(error.to_string()))?;
    Ok(replace_file(&local_context_file(data.root()), text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hub_that_has_stopped_leaves_its_directory_to_the_next_whoever_still_held_the_store() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let temp = tempfile::tempdir().expect("a temporary directory");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let settings = Settings::new(temp.path().join("data"), Listeners { https: any, mqtts: any, mqtt: None });
        let server = Server::start(settings.clone()).await.expect("a hub");
        let address = server.addresses().https;
        let held = Arc::clone(server.hub());
        let stopping = tokio::spawn(server.stop());
        // Until after the listeners are gone, and for as many turns as all else may take.
        while tokio::net::TcpStream::connect(address).await.is_ok() {}
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        drop(held);
        stopping.await.expect("stopped");
        Server::start(settings).await.expect("the directory is free").stop().await;
    }

    #[test]
    fn the_hub_renews_its_certificate_when_two_thirds_of_its_life_are_over_and_not_before() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let begin = UnixTime::since_unix_epoch(Duration::from_secs(1_780_000_000));
        let ca = HomeCa::create(&temp.path().join("ca"), begin).expect("a CA");
        let names = HubNames::default();
        let certificate = issue(&ca, &names, begin).expect("issued");
        let in_use = CertificateInUse::new(&certificate).expect("taken");
        let shown = |in_use: &CertificateInUse| in_use.chain();
        let before = shown(&in_use);
        let validity = certificate.validity();
        let due = validity.not_after - (validity.not_after - validity.not_before) / 3;
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        assert!(renewed_if_due(&ca, &names, &certificate, &in_use, at(due - 1)).expect("nothing to do").is_none());
        assert_eq!(shown(&in_use), before);
        let renewed = renewed_if_due(&ca, &names, &certificate, &in_use, at(due)).expect("renewed").expect("due");
        assert!(renewed.validity().not_after > validity.not_after);
        assert_eq!(shown(&in_use), renewed.chain());
    }
}
