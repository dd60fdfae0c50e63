//! A hub with its HTTPS listener on a free port, and devices that talk to it.

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use hearthkey::{
    data_dir::DataDir,
    enrolment_string::Address,
    entropy,
    gate::HubGate,
    http::{self, Surroundings, Transport},
    hub::{Foundation, Hub, ShownOnce},
    mqtt::{Front, Limits},
    store::{SledStore, Store},
    tls::{self, CertificateInUse},
};
use hearthkey_certs::{HomeCa, HubNames, SerialNumber};
use hearthkey_core::{
    DeviceId, jwt,
    oauth::JWT_BEARER,
    registry::{Change, Context, DeviceRecord, DeviceRefused, ManageDevices, NewDevice, Registry, UserPermit},
};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};
use std::{net::SocketAddr, sync::Arc};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

pub(crate) const TOKEN: &str = "/oauth2/token";
pub(crate) const REGISTER: &str = "/oauth2/register";

pub(crate) struct Home {
    pub(crate) hub: Arc<Hub>,
    pub(crate) address: SocketAddr,
    pub(crate) base: String,
    pub(crate) client: Client,
    pub(crate) ca: HomeCa,
    /// A personal access token of the owner.
    pub(crate) owner: String,
    pub(crate) certificate: Arc<CertificateInUse>,
    pub(crate) front: Front<HubGate>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) server: JoinHandle<std::io::Result<()>>,
    _data: TempDir,
}

/// What has a P-256 key.
pub(crate) struct Device {
    pub(crate) id: String,
    pub(crate) key: EcdsaKeyPair,
}

impl Home {
    pub(crate) async fn open() -> Self {
        Self::open_over(|store| Arc::new(store)).await
    }

    /// A home whose hub stands on what is made of its store.
    pub(crate) async fn open_over(over: impl FnOnce(SledStore) -> Arc<dyn Store>) -> Self {
        open_many_files();
        let data = tempfile::tempdir().expect("a temporary directory");
        let root = data.path().join("data");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let base = format!("https://localhost:{}", address.port());

        let dir = DataDir::open(&root).expect("a data directory");
        let now = rustls::pki_types::UnixTime::now();
        let ca = HomeCa::load_or_create(&dir.ca(), now).expect("a CA");
        let certificate = ca
            .issue_hub_certificate(&HubNames::default(), SerialNumber::from_random(entropy::random()), now)
            .expect("a certificate");
        let certificate = CertificateInUse::new(&certificate).expect("a usable certificate");
        let foundation = Foundation {
            store: over(SledStore::open(&root).expect("a store").store),
            data: dir,
            ca_sha256: ca.sha256(),
            issuers: vec![base.clone()],
            address: Address { host: "localhost".to_owned(), https_port: address.port(), mqtts_port: 8883 },
            tokens_per_minute: Limits::default().tokens_per_minute,
        };
        let (hub, _) = Hub::start(foundation).expect("a hub");
        let owner = hub.own_locally(None).await.expect("kept").expect("made").expose().to_owned();

        let (gate, writing_down) = HubGate::new(hub.clone());
        tokio::spawn(writing_down);
        let front = Front::new(Arc::new(gate), Limits::default(), Vec::new());
        let (stop, stopped) = watch::channel(false);
        let transport = Transport::Tls(tls::server_config(certificate.clone(), &tls::HTTPS_PROTOCOLS).expect("TLS"));
        let surroundings =
            Surroundings { ca_pem: ca.certificate_pem().to_owned(), front: Some(front.clone()), ..Surroundings::default() };
        let server = tokio::spawn(http::serve(hub.clone(), surroundings, listener, transport, stopped));
        let client = client(&ca, |builder| builder);
        Self { hub, address, base, client, ca, owner, certificate, front, stop, server, _data: data }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(self.url(path))
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    /// What the owner does at the hub with `device add`: the enrolment string or the client secret.
    pub(crate) async fn add(&self, id: &str, profile: &str, with_secret: bool) -> String {
        let authority = self.hub.admit(&self.owner).expect("the owner").0;
        let (enrolment, shown) = if with_secret { self.hub.new_client_secret() } else { self.hub.new_enrolment() };
        let name = |text| DeviceId::parse(text).expect("legal");
        let new = NewDevice { id: name(id), profile: name(profile), children: Vec::new() };
        self.hub.add_device(&authority, new, enrolment, &self.hub.context(None, "")).await.expect("added");
        match shown {
            ShownOnce::EnrolmentString(secret) | ShownOnce::ClientSecret(secret) => secret.expose().to_owned(),
        }
    }

    /// A device that has enrolled with a key.
    pub(crate) async fn enrolled(&self, id: &str) -> Device {
        let code = code_of(&self.add(id, "thermostat", false).await);
        let device = Device::new(id);
        let answer = self.post(REGISTER).bearer_auth(code).json(&device.metadata()).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::CREATED);
        device
    }

    pub(crate) async fn token_request(&self, form: &[(&str, &str)]) -> Response {
        self.post(TOKEN).form(form).send().await.expect("an answer")
    }

    pub(crate) async fn by_assertion(&self, assertion: &str) -> Response {
        self.token_request(&[
            ("grant_type", "client_credentials"),
            ("client_assertion_type", JWT_BEARER),
            ("client_assertion", assertion),
        ])
        .await
    }

    /// What an owner's change does, by its path below `/api/v1/devices`.
    pub(crate) fn change(
        &self,
        change: impl FnOnce(&Registry, &UserPermit<'_, ManageDevices>, &Context) -> Decided,
    ) -> impl Future<Output = ()> {
        let authority = self.hub.admit(&self.owner).expect("the owner").0;
        let context = self.hub.context(None, "");
        async move {
            let decision = |registry: &Registry| {
                change(registry, &registry.permit_user(&authority, context.now).expect("the owner may"), &context)
            };
            self.hub.decide(decision).await.expect("decided");
        }
    }
}

type Decided = Result<Change<DeviceRecord>, DeviceRefused>;

impl Device {
    pub(crate) fn new(id: &str) -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).expect("a key");
        Self { id: id.to_owned(), key }
    }

    pub(crate) fn jwk(&self) -> Value {
        let point = self.key.public_key().as_ref();
        let encode = Base64UrlUnpadded::encode_string;
        json!({"kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..])})
    }

    pub(crate) fn metadata(&self) -> Value {
        json!({
            "grant_types": ["client_credentials"],
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks": {"keys": [self.jwk()]},
            "software_id": "acme-thermostat",
            "software_version": "1.0.0",
        })
    }

    pub(crate) fn claims(&self, home: &Home) -> Value {
        let now = home.hub.now().0;
        let jti = entropy::unique_name();
        json!({"iss": self.id, "sub": self.id, "aud": home.base, "jti": jti, "iat": now, "exp": now + 120})
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let input = jwt::signing_input("JWT", &self.thumbprint(), claims);
        let signature = self.key.sign(&SystemRandom::new(), input.as_bytes()).expect("signed");
        jwt::join(&input, signature.as_ref())
    }

    pub(crate) fn assertion(&self, home: &Home) -> String {
        self.sign(&self.claims(home))
    }

    fn thumbprint(&self) -> String {
        let key: jwt::Jwk = serde_json::from_value(self.jwk()).expect("a JWK");
        key.to_public_key().expect("a key").thumbprint().to_string()
    }
}

pub(crate) fn client(ca: &HomeCa, configure: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let root = reqwest::Certificate::from_der(ca.certificate_der()).expect("a certificate");
    configure(Client::builder().tls_certs_only([root]).no_proxy()).build().expect("a client")
}

/// The one-time code in an enrolment string, as a device sends it.
pub(crate) fn code_of(enrolment: &str) -> String {
    let bytes = Base64UrlUnpadded::decode_vec(enrolment.strip_prefix("hk1.").expect("hk1.")).expect("base64url");
    Base64UrlUnpadded::encode_string(&bytes[32..48])
}

pub(crate) fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", Base64::encode_string(format!("{id}:{secret}").as_bytes()))
}

/// Status and error code of an OAuth refusal, after a look at what every refusal must have.
pub(crate) async fn refusal(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    assert_eq!(header(&response, "content-type"), "application/json");
    assert_eq!(header(&response, "cache-control"), "no-store");
    assert!(response.headers().contains_key("date"));
    let document: Value = response.json().await.expect("JSON");
    assert!(!document["error_description"].as_str().expect("a description").is_empty());
    (status, document["error"].as_str().expect("an error code").to_owned())
}

pub(crate) fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().expect("ASCII"))
}

/// Lets this process open as many files as the system allows: most give a program 1,024 to begin with, and both ends of a
/// thousand connections are here.
fn open_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("up to the hard limit");
}
