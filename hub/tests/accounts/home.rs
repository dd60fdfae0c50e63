//! A whole hub, an owner who asks it, and MQTT sessions at it.

use crate::device::{Device, code_of};
use hearthkey::{
    config::Listeners,
    server::{Server, Settings},
};
use hearthkey_certs::CERTIFICATE_FILE;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long a test waits for what must happen before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Home {
    pub(crate) server: Server,
    pub(crate) base: String,
    client: Client,
    pub(crate) owner: String,
    root: PathBuf,
    data: TempDir,
}

/// An answer of the API: status, header, JSON (null without a body).
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Home {
    pub(crate) async fn open() -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        Self::start(data).await
    }

    async fn start(data: TempDir) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let root = data.path().join("data");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let settings = Settings::new(root.clone(), Listeners { https: any, mqtts: any, mqtt: Some(any) });
        let server = Server::start(settings).await.expect("a hub");
        let owner = std::fs::read_to_string(root.join("contexts/local.token")).expect("the owner's token");
        let pem = std::fs::read(root.join("ca").join(CERTIFICATE_FILE)).expect("the CA's certificate");
        let ca = reqwest::Certificate::from_pem(&pem).expect("a certificate");
        let client = Client::builder().tls_certs_only([ca]).no_proxy().build().expect("a client");
        let base = format!("https://localhost:{}", server.addresses().https.port());
        Self { server, base, client, owner: owner.trim().to_owned(), root, data }
    }

    /// The hub stops and starts again.
    pub(crate) async fn restarted(self) -> Self {
        self.server.stop().await;
        Self::start(self.data).await
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    /// A request to `/api/v1`, as the holder of a credential.
    pub(crate) fn api(&self, method: Method, path: &str, credential: &str) -> RequestBuilder {
        self.request(method, &format!("/api/v1{path}")).bearer_auth(credential)
    }

    pub(crate) async fn get(&self, path: &str, credential: &str) -> Answer {
        ask(self.api(Method::GET, path, credential)).await
    }

    pub(crate) async fn post(&self, path: &str, credential: &str, body: Value) -> Answer {
        ask(self.api(Method::POST, path, credential).json(&body)).await
    }

    pub(crate) async fn delete(&self, path: &str, credential: &str) -> Answer {
        ask(self.api(Method::DELETE, path, credential)).await
    }

    /// What the owner asks.
    pub(crate) async fn owns(&self, method: Method, path: &str, body: Value) -> Answer {
        ask(self.api(method, path, &self.owner).json(&body)).await
    }

    /// A person with a password; the answer is a token of theirs.
    pub(crate) async fn person(&self, name: &str, role: &str) -> String {
        let added = self.owns(Method::POST, "/users", json!({"name": name, "role": role, "password": PASSWORD})).await;
        assert_eq!(added.status, 201, "{added:?}");
        let login = self.login(name, PASSWORD).await;
        assert_eq!(login.status, 201, "{login:?}");
        login.secret()
    }

    pub(crate) async fn login(&self, user: &str, password: &str) -> Answer {
        ask(self.request(Method::POST, "/api/v1/login").json(&json!({"user": user, "password": password}))).await
    }

    /// A personal access token of who holds `credential`.
    pub(crate) async fn token(&self, credential: &str, wish: Value) -> Answer {
        self.post("/credentials/personal-access-tokens", credential, wish).await
    }

    /// A device that has enrolled with a key.
    pub(crate) async fn enrolled(&self, id: &str, profile: &str) -> Device {
        let added = self.owns(Method::POST, "/devices", json!({"id": id, "profile": profile})).await;
        let code = code_of(added.body["enrolment"]["string"].as_str().expect("an enrolment string"));
        let device = Device::new(id);
        let request = self.request(Method::POST, "/oauth2/register").bearer_auth(code).json(&device.metadata());
        assert_eq!(request.send().await.expect("an answer").status(), 201);
        device
    }

    /// The secret of a fresh device that cannot sign.
    pub(crate) async fn with_secret(&self, id: &str, profile: &str) -> String {
        let body = json!({"id": id, "profile": profile, "authentication": "secret"});
        let added = self.owns(Method::POST, "/devices", body).await;
        added.body["client_secret"].as_str().expect("a secret").to_owned()
    }

    /// Posts a form to an OAuth endpoint.
    pub(crate) async fn oauth(&self, endpoint: &str, form: &[(&str, &str)]) -> Answer {
        ask(self.request(Method::POST, &format!("/oauth2/{endpoint}")).form(form)).await
    }

    /// The access token of a client with a secret.
    pub(crate) async fn access_token(&self, id: &str, secret: &str) -> String {
        let form = [("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret)];
        let answer = self.oauth("token", &form).await;
        answer.body["access_token"].as_str().unwrap_or_else(|| panic!("a token: {answer:?}")).to_owned()
    }

    /// The first audit entry that a filter wants; what the hub only observed is written down behind the answer.
    pub(crate) async fn audited(&self, filter: &str) -> Value {
        let mut changes = self.server.hub().audit_changes();
        let found = async {
            loop {
                changes.borrow_and_update();
                if let Some(entry) = self.get(&format!("/audit?{filter}"), &self.owner).await.items().first() {
                    return entry.clone();
                }
                changes.changed().await.expect("the hub runs");
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("what must be audited was not")
    }

    /// Asks until the answer is as it must become.
    pub(crate) async fn until(&self, path: &str, is_it: impl Fn(&Value) -> bool) {
        let seen = async { while !is_it(&self.get(path, &self.owner).await.body) {} };
        tokio::time::timeout(PATIENCE, seen).await.expect("what must be seen was not");
    }

    /// The last use of a credential; it is noted behind the answer.
    pub(crate) async fn used(&self, id: &str) -> Value {
        let noted = async {
            loop {
                if let Some(last_used) = self.get(&format!("/credentials/{id}"), &self.owner).await.body.get("last_used") {
                    return last_used.clone();
                }
            }
        };
        tokio::time::timeout(PATIENCE, noted).await.expect("the use was not noted")
    }

    /// An open MQTT session by password.
    pub(crate) async fn session(&self, client_identifier: &str, password: &str) -> Session {
        self.connect(client_identifier, password).await.expect("the session is opened")
    }

    /// As [`Home::session`]; `Err` holds the reason code of a refusal.
    pub(crate) async fn connect(&self, client_identifier: &str, password: &str) -> Result<Session, u8> {
        let address = self.server.addresses().mqtt.expect("MQTT without TLS");
        let mut session = Session(TcpStream::connect(address).await.expect("connected"));
        let text = |text: &str| [&u16::try_from(text.len()).expect("short").to_be_bytes(), text.as_bytes()].concat();
        // MQTT 5, clean start, user name and password, keep alive 60 s, no properties.
        let mut body = [text("MQTT").as_slice(), &[5, 0b1100_0010, 0, 60, 0]].concat();
        for field in [client_identifier, "x", password] {
            body.extend(text(field));
        }
        session.send(0x10, &body).await;
        let (first, body) = session.receive().await.expect("an answer");
        assert_eq!(first, 0x20);
        if body[1] == 0 { Ok(session) } else { Err(body[1]) }
    }

    /// A session by method `ace`: the token, and what `sign` makes of the hub's nonce. `Err` holds the reason code of a refusal.
    pub(crate) async fn possess(
        &self,
        client_identifier: &str,
        token: &str,
        sign: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Result<Session, u8> {
        let address = self.server.addresses().mqtt.expect("MQTT without TLS");
        let mut session = Session(TcpStream::connect(address).await.expect("connected"));
        let data = |data: &[u8]| [&u16::try_from(data.len()).expect("short").to_be_bytes(), data].concat();
        let length = |length: usize| {
            let (low, high) = (u8::try_from(length % 128).expect("low"), u8::try_from(length / 128).expect("high"));
            if high == 0 { vec![low] } else { vec![low | 128, high] }
        };
        let with_length = |properties: Vec<u8>| [length(properties.len()), properties].concat();
        let method = |bytes: &[u8]| with_length([&[0x15][..], &data(b"ace"), &[0x16], &data(bytes)].concat());
        let start = [data(b"MQTT"), vec![5, 0b10, 0, 60], method(token.as_bytes()), data(client_identifier.as_bytes())].concat();
        session.send(0x10, &start).await;
        let (first, body) = session.receive().await.expect("an answer");
        assert_eq!((first, body[0]), (0xF0, 0x18), "a challenge");
        session.send(0xF0, &[vec![0x18], method(&sign(&body[body.len() - 8..]))].concat()).await;
        let (first, body) = session.receive().await.expect("an answer");
        assert_eq!(first, 0x20);
        if body[1] == 0 { Ok(session) } else { Err(body[1]) }
    }

    /// The file of what is stored: to look that no secret is in it.
    pub(crate) fn root(&self) -> &PathBuf {
        &self.root
    }
}

pub(crate) const PASSWORD: &str = "correct horse battery";

pub(crate) async fn ask(request: RequestBuilder) -> Answer {
    Answer::of(request.send().await.expect("an answer")).await
}

impl Answer {
    async fn of(response: Response) -> Self {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let path = response.url().path().to_owned();
        let text = response.text().await.expect("UTF-8");
        let body: Value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") };
        let answer = Self { status, headers, body };
        assert!(!answer.header("x-request-id").is_empty());
        if path.starts_with("/api/v1") && status >= 400 {
            assert_eq!(answer.header("content-type"), "application/problem+json");
            assert_eq!(answer.body["status"], status);
            assert!(answer.body["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
        }
        answer
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    /// Status and code of a problem, or of an OAuth error.
    pub(crate) fn refusal(&self) -> (u16, &str) {
        let code = self.body["code"].as_str().or_else(|| self.body["error"].as_str());
        (self.status, code.unwrap_or_default())
    }

    /// The secret of a credential that was made.
    pub(crate) fn secret(&self) -> String {
        self.body["secret"].as_str().unwrap_or_else(|| panic!("a secret: {self:?}")).to_owned()
    }

    /// The id of a credential that was made.
    pub(crate) fn id(&self) -> String {
        self.body["credential"]["id"].as_str().unwrap_or_else(|| panic!("an id: {self:?}")).to_owned()
    }

    pub(crate) fn items(&self) -> &[Value] {
        self.body["items"].as_array().unwrap_or_else(|| panic!("a list: {self:?}"))
    }
}

/// An MQTT 5 session, packet by packet.
pub(crate) struct Session(TcpStream);

impl Session {
    async fn send(&mut self, first: u8, body: &[u8]) {
        let (low, high) = (u8::try_from(body.len() % 128).expect("small"), u8::try_from(body.len() / 128).expect("small"));
        let length = if high == 0 { vec![low] } else { vec![low | 0x80, high] };
        self.0.write_all(&[&[first], length.as_slice(), body].concat()).await.expect("sent");
    }

    async fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        let packet = async {
            let first = self.0.read_u8().await.ok()?;
            let (mut length, mut shift) = (0, 0);
            loop {
                let byte = self.0.read_u8().await.ok()?;
                length |= usize::from(byte & 0x7F) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).await.ok()?;
            Some((first, body))
        };
        tokio::time::timeout(PATIENCE, packet).await.expect("what must happen did not happen")
    }

    /// Publishes with QoS 1; the reason code.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &str) -> u8 {
        let length = u16::try_from(topic.len()).expect("short").to_be_bytes();
        self.send(0x32, &[&length, topic.as_bytes(), &[0, 1, 0], payload.as_bytes()].concat()).await;
        match self.receive().await {
            Some((0x40, body)) => body.get(2).copied().unwrap_or(0),
            other => panic!("a PUBACK: {other:?}"),
        }
    }

    /// Subscribes with QoS 1; the reason code.
    pub(crate) async fn subscribe(&mut self, filter: &str) -> u8 {
        let length = u16::try_from(filter.len()).expect("short").to_be_bytes();
        self.send(0x82, &[&[0, 1, 0], length.as_slice(), filter.as_bytes(), &[1]].concat()).await;
        match self.receive().await {
            Some((0x90, body)) => body.last().copied().expect("a reason code"),
            other => panic!("a SUBACK: {other:?}"),
        }
    }

    /// The topic of the next message, which is acknowledged.
    pub(crate) async fn message(&mut self) -> String {
        self.answered_message(&[]).await
    }

    /// The topic of the next message, which is refused with this reason code.
    pub(crate) async fn refused_message(&mut self, reason_code: u8) -> String {
        self.answered_message(&[reason_code, 0]).await
    }

    async fn answered_message(&mut self, answer: &[u8]) -> String {
        let (first, body) = self.receive().await.expect("a message");
        assert_eq!(first & 0xF6, 0x32, "a message with QoS 1");
        let end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
        self.send(0x40, &[&body[end..end + 2], answer].concat()).await;
        String::from_utf8(body[2..end].to_vec()).expect("UTF-8")
    }

    /// That the session still lives: a PINGREQ is answered.
    pub(crate) async fn is_alive(&mut self) -> bool {
        self.send(0xC0, &[]).await;
        self.receive().await.is_some_and(|(first, _)| first == 0xD0)
    }

    /// Waits for the DISCONNECT; its reason code.
    pub(crate) async fn ended(&mut self) -> u8 {
        loop {
            match self.receive().await {
                Some((0xE0, body)) => return body.first().copied().unwrap_or(0),
                Some(_) => {}
                None => panic!("the connection ended without a reason"),
            }
        }
    }
}
