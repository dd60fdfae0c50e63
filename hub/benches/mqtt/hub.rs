//! The whole hub as a broker under test. Answers its parent's questions on standard input, line by line.

use crate::brokers::Serving;
use hearthkey::{
    data_dir::DataDir,
    enrolment_string::Address,
    entropy,
    gate::HubGate,
    hub::{Foundation, Hub, Outlet, ShownOnce},
    mqtt::{FabricKind, Front, Limits, gate::Affected, message::Message},
    store::SledStore,
    tls::{self, CertificateInUse},
};
use hearthkey_certs::{HomeCa, HubNames, SerialNumber};
use hearthkey_core::{
    DeviceId,
    oauth::TokenRequest,
    registry::{NewDevice, Registry},
    rights::PublishPermit,
    session::{Authority, Principal},
};
use std::{
    collections::HashMap,
    future::pending,
    net::Ipv4Addr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Tells the front of decisions, and when it was told.
struct Watched {
    front: Front<HubGate>,
    told: Mutex<u128>,
}

impl Outlet for Watched {
    fn reconsider(&self, affected: &Affected) {
        *self.told.lock().unwrap() = now();
        self.front.reconsider(affected);
    }

    fn publish(&self, permit: PublishPermit, message: Message) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async move { self.front.publish(permit, message).await.map_err(|error| error.to_string()) })
    }

    fn is_online(&self, principal: &Principal) -> bool {
        self.front.is_online(principal)
    }
}

/// Microseconds on a clock that parent and child share.
pub(crate) fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()
}

struct Asked {
    hub: Arc<Hub>,
    owner: String,
    outlet: Arc<Watched>,
    secrets_by_device: HashMap<String, String>,
}

pub(crate) async fn serve(fabric: FabricKind) {
    let data = tempfile::tempdir().unwrap();
    let root = data.path().join("data");
    let dir = DataDir::open(&root).unwrap();
    let ca = HomeCa::load_or_create(&dir.ca(), rustls::pki_types::UnixTime::now()).unwrap();
    let serial = SerialNumber::from_random(entropy::random());
    let certificate = ca.issue_hub_certificate(&HubNames::default(), serial, rustls::pki_types::UnixTime::now()).unwrap();
    let foundation = Foundation {
        store: Arc::new(SledStore::open(&root).unwrap().store),
        data: dir,
        ca_sha256: ca.sha256(),
        issuers: vec!["https://localhost:8443".to_owned()],
        address: Address { host: "localhost".to_owned(), https_port: 8443, mqtts_port: 8883 },
        tokens_per_minute: 100_000_000,
    };
    let (hub, _) = Hub::start(foundation).unwrap();
    let owner = hub.own_locally(None).await.unwrap().unwrap().expose().to_owned();
    let (gate, writing_down) = HubGate::new(hub.clone());
    tokio::spawn(writing_down);
    let limits = Limits {
        max_connections_per_principal: 100_000,
        device_connects_per_minute: 100_000_000,
        connects_per_minute: 100_000_000,
        publish_rate: 100_000_000,
        publish_burst: 100_000_000,
        max_connections: 6_000,
        ..Limits::default()
    };
    let front = Front::on(fabric, Arc::new(gate), limits, Vec::new());
    let outlet = Arc::new(Watched { front: front.clone(), told: Mutex::new(0) });
    let weak: Arc<dyn Outlet> = outlet.clone();
    hub.connect_outlet(Arc::downgrade(&weak));
    let (tcp, secured) =
        (TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(), TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    let serving = Serving {
        tcp: tcp.local_addr().unwrap(),
        tls: Some(secured.local_addr().unwrap()),
        ca_pem: ca.certificate_pem().to_owned(),
    };
    let acceptor = TlsAcceptor::from(tls::server_config(CertificateInUse::new(&certificate).unwrap(), &[]).unwrap());
    let plain = front.clone();
    tokio::spawn(async move { plain.serve_tcp(tcp, pending()).await });
    tokio::spawn(async move { front.serve_tls(secured, acceptor, pending()).await });
    let mut asked = Asked { hub, owner, outlet, secrets_by_device: HashMap::new() };
    asked.add("lamp").await;
    println!("{}", serde_json::to_string(&serving).unwrap());
    loop {
        let read = || std::io::stdin().lines().next();
        let Some(Ok(line)) = tokio::task::spawn_blocking(read).await.unwrap() else { return };
        println!("{}", asked.answer(&line).await);
    }
}

impl Asked {
    async fn answer(&mut self, question: &str) -> String {
        match question.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["password", "owner"] => self.owner.clone(),
            ["password", device] => self.access_token(device).await,
            ["add", device] => {
                self.add(device).await;
                "added".to_owned()
            }
            ["revoke", device] => self.revoke(device).await,
            _ => format!("what is {question}?"),
        }
    }

    fn authority(&self) -> Authority {
        self.hub.admit(&self.owner).unwrap().0
    }

    async fn add(&mut self, device: &str) {
        let name = |text: &str| DeviceId::parse(text).unwrap();
        let new = NewDevice { id: name(device), profile: name("thermostat"), children: Vec::new() };
        let (enrolment, shown) = self.hub.new_client_secret();
        let context = self.hub.context(None, "");
        self.hub.add_device(&self.authority(), new, enrolment, &context).await.unwrap();
        let ShownOnce::ClientSecret(secret) = shown else { unreachable!("asked for a secret") };
        self.secrets_by_device.insert(device.to_owned(), secret.expose().to_owned());
    }

    async fn access_token(&self, device: &str) -> String {
        let secret = &self.secrets_by_device[device];
        let form = format!("grant_type=client_credentials&client_id={device}&client_secret={secret}");
        let request = TokenRequest::parse(form.as_bytes()).unwrap();
        let response = self.hub.token(&request, None, &self.hub.context(None, "")).await.unwrap();
        let json: serde_json::Value = serde_json::from_slice(&response.json).unwrap();
        json["access_token"].as_str().unwrap().to_owned()
    }

    /// When it was asked, and when the decision was durable.
    async fn revoke(&self, device: &str) -> String {
        let owner = self.authority();
        let (id, context) = (DeviceId::parse(device).unwrap(), self.hub.context(None, ""));
        let asked = now();
        let decision = |registry: &Registry| {
            let permit = registry.permit_user(&owner, context.now).unwrap();
            registry.revoke_device(&permit, &id, &context)
        };
        self.hub.decide(decision).await.unwrap();
        format!("{asked} {}", self.outlet.told.lock().unwrap())
    }
}
