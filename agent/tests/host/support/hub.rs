//! A small hub: real TLS, hand-made MQTT, scripted by the test. And an application that writes down what happens.

use super::mqtt::{self, Connect, FromClient};
use super::pki::{HomeCa, server_config};
use super::{TestPlatform, pki};
use hearthkey_agent::{
    Agent, Application, Buffer, BufferFull, Command, Config, Ended, Enrolment, Event, Identity, Now, Outbox, Reply, Software,
    Turn, Workspace, enrol, json,
};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Tokens live this long unless a test says otherwise.
pub const LIFETIME: u64 = 300;

/// The hub's side of the wire.
pub struct Hub {
    calls: mpsc::UnboundedReceiver<DuplexStream>,
    acceptor: TlsAcceptor,
    started: tokio::time::Instant,
}

impl Hub {
    pub fn new(calls: mpsc::UnboundedReceiver<DuplexStream>, ca: &HomeCa) -> Self {
        Self { calls, acceptor: acceptor(ca), started: tokio::time::Instant::now() }
    }

    /// The hub's clock.
    pub fn date(&self) -> u64 {
        pki::TODAY + self.started.elapsed().as_secs()
    }

    /// Waits for a call and takes it.
    pub async fn answer(&mut self) -> Call {
        let stream = self.ring().await;
        let stream = self.acceptor.accept(stream).await.expect("the device shakes hands");
        Call { stream, received: vec![] }
    }

    /// Waits for a call without taking it.
    pub async fn ring(&mut self) -> DuplexStream {
        self.calls.recv().await.expect("the device lives")
    }

    /// Takes a call and lets the device in, up to its first publishes: `online` and `about`, acknowledged.
    pub async fn let_in(&mut self) -> Call {
        let mut call = self.admit().await;
        call.settle_in().await;
        call
    }

    /// Takes a call and lets the device in, up to CONNACK.
    pub async fn admit(&mut self) -> Call {
        let mut call = self.answer().await;
        let connect = call.connect().await;
        if connect.data.as_deref() == Some(&[]) {
            call.challenge(self.date()).await;
        }
        call.welcome(!connect.clean_start, self.date(), &[]).await;
        call
    }
}

fn acceptor(ca: &HomeCa) -> TlsAcceptor {
    let leaf = ca.hub();
    let config = server_config(vec![leaf.der.clone(), ca.der.clone()], leaf.private_key());
    TlsAcceptor::from(Arc::new(config))
}

/// One connection.
pub struct Call {
    stream: TlsStream<DuplexStream>,
    received: Vec<u8>,
}

pub fn token_response(lifetime: u64) -> Vec<u8> {
    format!(
        r#"{{"access_token":"eyJ.top.secret","token_type":"Bearer","expires_in":{lifetime},"scope":"commands telemetry twin"}}"#
    )
    .into_bytes()
}

impl Call {
    /// The next packet; `None` once the device hung up.
    pub async fn next(&mut self) -> Option<FromClient> {
        loop {
            if let Some(length) = mqtt::length(&self.received).filter(|length| *length <= self.received.len()) {
                return Some(mqtt::parse(&self.received.drain(..length).collect::<Vec<_>>()));
            }
            let mut bytes = [0; 2048];
            match self.stream.read(&mut bytes).await {
                Ok(count) if count > 0 => self.received.extend(&bytes[..count]),
                _ => return None,
            }
        }
    }

    pub async fn packet(&mut self) -> FromClient {
        self.next().await.expect("a packet")
    }

    pub async fn send(&mut self, packet: &[u8]) {
        self.stream.write_all(packet).await.expect("the device reads");
        self.stream.flush().await.expect("the device reads");
    }

    pub async fn connect(&mut self) -> Connect {
        match self.packet().await {
            FromClient::Connect(connect) => connect,
            other => panic!("not a CONNECT: {other:?}"),
        }
    }

    /// Asks for the token request, and takes it.
    pub async fn challenge(&mut self, date: u64) -> Vec<u8> {
        let challenge = format!(r#"{{"issuer":"https://hub:8443","date":{date}}}"#);
        self.send(&mqtt::auth(0x18, challenge.as_bytes(), None)).await;
        match self.packet().await {
            FromClient::Auth { reason: 0x18, method, data } if method == "client_credentials" => data,
            other => panic!("not an answer to the challenge: {other:?}"),
        }
    }

    pub async fn welcome(&mut self, session_present: bool, date: u64, properties: &[u8]) {
        self.send(&mqtt::connack(session_present, &token_response(LIFETIME), date, properties)).await;
    }

    /// SUBSCRIBE, `online` and `about`, each answered. Returns the publishes.
    pub async fn settle_in(&mut self) -> Vec<FromClient> {
        let mut publishes = vec![];
        let mut subscribed = false;
        while publishes.len() < 2 || !subscribed {
            match self.packet().await {
                FromClient::Subscribe { packet_id, filters } => {
                    assert_eq!(filters, [("dev/lamp/cmd/+".to_owned(), 1), ("dev/lamp/twin/desired".to_owned(), 1)]);
                    self.send(&mqtt::suback(packet_id, &[1, 1])).await;
                    subscribed = true;
                }
                publish @ FromClient::Publish { packet_id: Some(packet_id), .. } => {
                    publishes.push(publish);
                    self.send(&mqtt::puback(packet_id, 0, "")).await;
                }
                other => panic!("not what a session begins with: {other:?}"),
            }
        }
        publishes
    }

    /// The next publish, which is acknowledged with `reason`: topic and payload.
    pub async fn publish(&mut self, reason: u8) -> (String, String) {
        match self.packet().await {
            FromClient::Publish { topic, payload, packet_id: Some(packet_id), .. } => {
                self.send(&mqtt::puback(packet_id, reason, "")).await;
                (topic, String::from_utf8(payload).unwrap())
            }
            other => panic!("not a publish of QoS 1: {other:?}"),
        }
    }

    /// Sends a command and returns what the device answers, PUBACK first, then `answers` publishes on ack.
    pub async fn command(&mut self, packet: &[u8], answers: usize) -> (u8, Vec<(String, String)>) {
        self.send(packet).await;
        let FromClient::PubAck { reason, .. } = self.packet().await else { panic!("not a PUBACK") };
        let mut said = vec![];
        for _ in 0..answers {
            said.push(self.publish(0).await);
        }
        (reason, said)
    }

    pub async fn hang_up(&mut self) {
        let _ = self.stream.shutdown().await;
    }
}

/// An application whose every move is the test's.
pub struct Lamp {
    pub events: Rc<RefCell<Vec<String>>>,
    #[allow(clippy::type_complexity)]
    pub poll: Box<dyn FnMut(Now, &mut Outbox<'_>) -> Turn>,
    #[allow(clippy::type_complexity)]
    pub command: Box<dyn FnMut(&Command<'_>, Now) -> Reply>,
}

impl Default for Lamp {
    fn default() -> Self {
        Self {
            events: Rc::default(),
            poll: Box::new(|_, _| Turn::Idle),
            command: Box::new(|_, _| Reply::Done(hearthkey_agent::Outcome::Succeeded)),
        }
    }
}

/// How many of the events say `needle`.
pub fn count(events: &Rc<RefCell<Vec<String>>>, needle: &str) -> usize {
    events.borrow().iter().filter(|event| event.contains(needle)).count()
}

/// A lamp, and what will happen to it.
pub fn lamp() -> (Lamp, Rc<RefCell<Vec<String>>>) {
    let lamp = Lamp::default();
    let events = lamp.events.clone();
    (lamp, events)
}

impl Application for Lamp {
    fn about(&mut self, out: &mut Buffer<'_>) -> Result<(), BufferFull> {
        out.push(br#"{"model":"lamp"}"#)
    }

    fn poll(&mut self, now: Now, outbox: &mut Outbox<'_>) -> Turn {
        (self.poll)(now, outbox)
    }

    fn command(&mut self, command: &Command<'_>, now: Now) -> Reply {
        (self.command)(command, now)
    }

    fn twin_desired(&mut self, desired: json::Object<'_>, outbox: &mut Outbox<'_>) {
        let _ = outbox.twin_reported(desired.as_str().as_bytes());
    }

    fn event(&mut self, event: Event<'_>) {
        self.events.borrow_mut().push(format!("{event:?}"));
    }
}

/// A home with a hub, and a device enrolled at it as `lamp`.
pub struct Home {
    pub platform: TestPlatform,
    pub hub: Hub,
    ca: HomeCa,
}

/// The enrolment string of docs/protocol.md.
pub fn enrolment_string(ca: &HomeCa, code: [u8; 16], host: &str) -> String {
    use base64ct::{Base64UrlUnpadded, Encoding};
    let mut bytes = ca.sha256().to_vec();
    bytes.extend(code);
    bytes.extend(8443_u16.to_be_bytes());
    bytes.extend(8883_u16.to_be_bytes());
    bytes.extend(host.as_bytes());
    let mut text = vec![0; 200];
    format!("hk1.{}", Base64UrlUnpadded::encode(&bytes, &mut text).unwrap())
}

pub const REGISTRATION: &str = r#"{"client_id":"lamp","client_id_issued_at":1780000000,"grant_types":["client_credentials"],"token_endpoint_auth_method":"private_key_jwt","scope":"commands telemetry twin","issuer":"https://hub:8443"}"#;

/// Reads one HTTP request: its head and body.
pub async fn http_request(stream: &mut TlsStream<DuplexStream>) -> Option<(String, String)> {
    let mut received = vec![];
    loop {
        if let Some(head) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let text = String::from_utf8(received.clone()).unwrap();
            let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
            if received.len() >= head + 4 + length.parse::<usize>().unwrap() {
                let (head, body) = text.split_at(head + 4);
                return Some((head.to_owned(), body.to_owned()));
            }
        }
        let mut bytes = [0; 1024];
        match stream.read(&mut bytes).await {
            Ok(count) if count > 0 => received.extend(&bytes[..count]),
            _ => return None,
        }
    }
}

pub fn http_response(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\ndate: Mon, 01 Jun 2026 00:00:00 GMT\r\n\r\n{body}",
        body.len()
    )
}

impl Hub {
    /// Takes a call as an HTTPS server: the request, and the stream to answer on.
    pub async fn https(&mut self) -> Option<(String, String, TlsStream<DuplexStream>)> {
        let stream = self.ring().await;
        let mut stream = self.acceptor.accept(stream).await.ok()?;
        let (head, body) = http_request(&mut stream).await?;
        Some((head, body, stream))
    }
}

impl Home {
    pub async fn new(seed: u64) -> Self {
        let ca = HomeCa::new("home");
        let (platform, calls) = TestPlatform::new(seed);
        let hub = Hub::new(calls, &ca);
        let mut home = Self { platform, hub, ca };
        home.enrol_as("lamp").await;
        home
    }

    async fn enrol_as(&mut self, client_id: &str) {
        let enrolment = Enrolment::parse(&enrolment_string(&self.ca, [7; 16], "hub")).unwrap();
        let mut workspace = Box::new(Workspace::new());
        let software = Software { id: "lamp", version: "1" };
        let registration = async {
            let (_, _, mut stream) = self.hub.https().await.unwrap();
            let body = REGISTRATION.replace("lamp", client_id);
            stream.write_all(http_response("201 Created", &body).as_bytes()).await.unwrap();
        };
        let (enrolled, ()) = tokio::join!(enrol(&mut self.platform, &enrolment, software, &mut workspace), registration);
        enrolled.expect("the device is enrolled");
    }

    /// The device is erased and enrolled anew, at the same hub.
    pub async fn rotate(&mut self) {
        Identity::erase(&mut self.platform).unwrap();
        self.enrol_as("lamp").await;
    }

    /// The device is erased and enrolled under another name, or at the hub of another home.
    pub async fn become_another(&mut self, to_another_home: bool) {
        Identity::erase(&mut self.platform).unwrap();
        if to_another_home {
            self.ca = HomeCa::new("another home");
            self.hub.acceptor = acceptor(&self.ca);
        }
        self.enrol_as(if to_another_home { "lamp" } else { "lantern" }).await;
    }

    /// Runs the lamp until it ends by itself or the script ends. What it ended with, if it did.
    pub async fn run<T>(&mut self, lamp: Lamp, script: impl AsyncFnOnce(&mut Hub) -> T) -> Option<Ended> {
        self.run_with(lamp, Config::DEFAULT, script).await
    }

    pub async fn run_with<T>(
        &mut self,
        mut lamp: Lamp,
        config: Config,
        script: impl AsyncFnOnce(&mut Hub) -> T,
    ) -> Option<Ended> {
        let identity = Identity::load(&mut self.platform).unwrap().expect("enrolled");
        let mut workspace = Box::new(Workspace::new());
        let mut agent = Agent::new(identity, config);
        let mut script = std::pin::pin!(script(&mut self.hub));
        let mut running = std::pin::pin!(agent.run(&mut self.platform, &mut lamp, &mut workspace));
        let ended = tokio::select! {
            biased;
            ended = &mut running => Some(ended),
            _ = &mut script => return None,
        };
        // The script goes on for an hour after the device ended: it may want to see how.
        let _ = tokio::time::timeout(Duration::from_secs(3_600), script).await;
        ended
    }
}
