//! What a hostile neighbour could try with what it overheard or stole, and with nothing at all. Each attempt says whether the
//! hub held.

use std::time::Duration;

use hearthkey_agent::keys::Drbg;
use hearthkey_agent::{Buffer, Enrolment, Software, UnixTime, Workspace, enrol, oauth};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, Packet, PubAckReason, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::fleet::Fleet;
use crate::handle::PublishError;
use crate::host::Host;
use crate::owner::Owner;
use crate::storage::Storage;

/// How long the hub may take to answer an attempt on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(30);
const NO_ANSWER: &str = "the hub did not answer in time";
/// Longer than all attempts of one kind may take together: a session that is to outlast them is not heard of meanwhile.
const KEEP_ALIVE: Duration = Duration::from_secs(1_800);
/// How many of the fleet's devices reach for what is not theirs.
const INTRUDERS: usize = 5;
/// Connections of a flood that send garbage, and how many of them at a time.
const GARBAGE: usize = 300;
const GARBAGE_AT_ONCE: usize = 50;
/// How long the hub may look at garbage until it closes: its own bound is 15 s.
const GARBAGE_PATIENCE: Duration = Duration::from_secs(20);
/// Wrong passwords of a flood.
const WRONG_PASSWORDS: usize = 60;
/// A form with a client assertion is shorter.
const MAX_FORM_BYTES: usize = 2_048;

/// Where the attacker stands.
pub(super) struct Battlefield<'a> {
    pub(super) owner: &'a Owner,
    pub(super) fleet: &'a Fleet,
    /// Host, HTTPS port and MQTT over TLS port of the hub itself, whatever network its devices have.
    pub(super) host: &'a str,
    pub(super) ports: [u16; 2],
    pub(super) prefix: &'a str,
    pub(super) profile: &'a str,
    pub(super) seed: u64,
}

/// What was tried, and what the hub did.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// What the hub let through, in words: nothing, if it held.
    pub(super) let_through: Vec<String>,
    /// How many were made.
    pub(super) made: usize,
    /// Publishes of the fleet that were refused, as they should be.
    pub(super) refused_publishes: u64,
    /// How long a stolen token went on after its device was revoked.
    pub(super) cut_after: Option<Duration>,
}

impl Attempts {
    fn hold(&mut self, held: bool, what: impl FnOnce() -> String) {
        self.made += 1;
        if !held {
            self.let_through.push(what());
        }
    }
}

impl Battlefield<'_> {
    /// A token in the wrong hands can do what its device may and no more, and ends when its device is revoked.
    pub(super) async fn stolen_token(&self) -> Result<Attempts, String> {
        let mut attempts = Attempts::default();
        let victim = format!("{}-victim", self.prefix);
        let added = json!({ "id": victim, "profile": self.profile, "authentication": "secret" });
        let added = self.owner.ask("add a victim", reqwest::Method::POST, "devices", Some(added)).await.map_err(in_words)?;
        let secret = added["client_secret"].as_str().ok_or("the hub gave the victim no secret")?;
        let form = b"grant_type=client_credentials".to_vec();
        let (_, answer) = self.owner.form("/oauth2/token", Some((&victim, secret)), form).await.map_err(in_words)?;
        let token = answer["access_token"].as_str().ok_or("the hub gave the victim no token")?;

        let mut thief = self.connect(&victim, token);
        if let Some(code) = refusal(&mut thief.1).await? {
            return Err(format!("a bearer token is good for a session, but the hub refused it: {code:?}"));
        }
        for topic in ["dev/somebody-else/tele/temperature".to_owned(), format!("dev/{victim}/cmd/identify")] {
            thief.0.publish(topic.as_str(), QoS::AtLeastOnce, false, "99").await.map_err(in_words)?;
            let answer = packet(&mut thief.1, |packet| match packet {
                Packet::PubAck(puback) => Some(puback.reason),
                _ => None,
            });
            let held = answer.await? == PubAckReason::NotAuthorized;
            attempts.hold(held, || format!("a stolen token published to {topic}"));
        }
        for filter in ["dev/#", "#", "$share/thieves/dev/+/state"] {
            thief.0.subscribe(filter, QoS::AtLeastOnce).await.map_err(in_words)?;
            let answer = packet(&mut thief.1, |packet| match packet {
                Packet::SubAck(suback) => Some(matches!(suback.return_codes.first(), Some(SubscribeReasonCode::Success(_)))),
                _ => None,
            });
            attempts.hold(!answer.await?, || format!("a stolen token subscribed to {filter}"));
        }
        if let Some(other) = self.fleet.states().iter().find_map(|device| device.id.clone()) {
            let mut impostor = self.connect(&other, token);
            let held = refusal(&mut impostor.1).await?.is_some();
            attempts.hold(held, || format!("the victim's token opened a session of {other}"));
        }
        let revoked = Instant::now();
        self.owner.revoke_device(&victim).await.map_err(in_words)?;
        let cut = tokio::time::timeout(PATIENCE, async {
            while let Ok(event) = thief.1.poll().await {
                if matches!(event, Event::Incoming(Packet::Disconnect(_))) {
                    break;
                }
            }
        });
        attempts.hold(cut.await.is_ok(), || "a stolen token outlived its device".to_owned());
        attempts.cut_after = Some(revoked.elapsed());
        let mut again = self.connect(&victim, token);
        let held = refusal(&mut again.1).await?.is_some();
        attempts.hold(held, || "a stolen token of a revoked device was let in".to_owned());
        Ok(attempts)
    }

    /// An assertion is good once, for whom it was made, as it was made: over HTTP, over MQTT (method `client_credentials`), and
    /// once over both together.
    pub(super) async fn replayed_assertion(&self) -> Result<Attempts, String> {
        let mut attempts = Attempts::default();
        let id = format!("{}-overheard", self.prefix);
        let string = self.owner.add_device(&id, self.profile).await.map_err(in_words)?;
        let enrolment = Enrolment::parse(string.as_str()).map_err(in_words)?;
        let (mut storage, mut workspace) = (Storage::memory(), Box::new(Workspace::new()));
        let mut host = Host::new(&mut storage);
        let software = Software { id: "hearthkey-sim-overheard", version: env!("CARGO_PKG_VERSION") };
        let enrolled = enrol(&mut host, &enrolment, software, &mut workspace).await.map_err(in_words)?;
        let identity = enrolled.identity;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_err(in_words)?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(in_words)?;
        let mut random = Drbg::from_seed(&seed, "an overheard assertion");
        let mut form = |date: u64| {
            let mut bytes = [0; MAX_FORM_BYTES];
            let mut out = Buffer::new(&mut bytes);
            let issuer = identity.issuer();
            let written = oauth::write_token_request(&mut out, &identity, issuer, UnixTime::from_secs(date), &mut random);
            written.map(|()| out.written().to_vec()).map_err(|error| format!("{error:?}"))
        };
        let now = now.as_secs();
        let over_http = async |form: Vec<u8>| self.owner.form("/oauth2/token", None, form).await.map_err(in_words);
        let used_over_http = form(now)?;
        let (status, answer) = over_http(used_over_http.clone()).await?;
        if status != 200 {
            return Err(format!("the first use of an assertion should give a token: {status} {answer}"));
        }
        let used_over_mqtt = form(now)?;
        let mut session = self.connect_with_form(&id, used_over_mqtt.clone());
        if let Some(code) = refusal(&mut session.1).await? {
            return Err(format!("the first use of an assertion should open a session, but the hub refused it: {code:?}"));
        }
        // Each way gets bad ones of its own: what the one refused, the other has not seen.
        let mut bad = || {
            let mut altered = form(now)?;
            if let Some(last) = altered.iter_mut().rev().nth(4) {
                *last = if *last == b'A' { b'B' } else { b'A' };
            }
            Ok::<_, String>([
                ("an assertion that was used over HTTP", used_over_http.clone()),
                ("an assertion that was used over MQTT", used_over_mqtt.clone()),
                ("an altered signature", altered),
                ("an old assertion", form(now - 86_400)?),
                ("a future assertion", form(now + 86_400)?),
            ])
        };
        for (what, form) in bad()? {
            let (status, _) = over_http(form).await?;
            attempts.hold(status == 400, || format!("{what} was taken over HTTP ({status})"));
        }
        for (what, form) in bad()? {
            let (_client, mut events) = self.connect_with_form(&id, form);
            let held = match refusal(&mut events).await? {
                None => false,
                Some(ConnectReturnCode::NotAuthorized) => true,
                Some(code) => return Err(format!("the hub did not look at {what}: {code:?}")),
            };
            attempts.hold(held, || format!("{what} was taken over MQTT"));
        }
        // Whoever replays does not take the session over either.
        session.0.publish(format!("dev/{id}/tele/temperature"), QoS::AtLeastOnce, false, "20").await.map_err(in_words)?;
        let acknowledged = async {
            loop {
                match session.1.poll().await {
                    Ok(Event::Incoming(Packet::PubAck(_))) => return Ok(()),
                    Ok(_) => {}
                    Err(error) => return Err(error),
                }
            }
        };
        let lasted = tokio::time::timeout(PATIENCE, acknowledged).await.map_err(|_| NO_ANSWER)?;
        attempts.hold(lasted.is_ok(), || format!("a replayed assertion ended the session of its device ({lasted:?})"));
        Ok(attempts)
    }

    /// Devices whose firmware was replaced reach for their neighbours' topics and the hub's own.
    pub(super) async fn foreign_topics(&self) -> Result<Attempts, String> {
        let mut attempts = Attempts::default();
        let ids: Vec<_> = self.fleet.states().into_iter().filter_map(|device| device.id).collect();
        for (index, id) in ids.iter().enumerate().take(INTRUDERS) {
            let Some(device) = self.fleet.device(index) else { continue };
            let neighbour = ids.iter().find(|other| *other != id).map_or("somebody-else", |other| other);
            for topic in [
                format!("dev/{neighbour}/tele/temperature"),
                format!("dev/{neighbour}/status"),
                format!("dev/{neighbour}/cmd/identify"),
                format!("dev/{id}/cmd/identify"),
                format!("dev/{id}/twin/desired"),
                "home/door".to_owned(),
            ] {
                let answer = tokio::time::timeout(PATIENCE, device.publish(topic.clone(), "{}")).await;
                let held = matches!(answer, Ok(Err(PublishError::Refused { code: 0x87, .. })));
                attempts.refused_publishes += u64::from(held);
                attempts.hold(held, || format!("{id} published to {topic}: {answer:?}"));
            }
        }
        Ok(attempts)
    }

    /// Garbage and wrong passwords; the hub must go on for those who prove themselves.
    pub(super) async fn flood(&self) -> Result<Attempts, String> {
        let mut attempts = Attempts::default();
        let mut random = fastrand::Rng::with_seed(self.seed);
        for _ in 0..GARBAGE / GARBAGE_AT_ONCE {
            let streams = (0..GARBAGE_AT_ONCE).map(|index| {
                let garbage: Vec<u8> = (0..random.usize(1..600)).map(|_| random.u8(..)).collect();
                garbage_to(self.host, self.ports[index % 2], garbage)
            });
            for held in futures_util::future::join_all(streams).await {
                attempts
                    .hold(held, || "the hub took no connection any more, or bore garbage for longer than it allows".to_owned());
            }
        }
        for number in 0..WRONG_PASSWORDS {
            let id = format!("stranger-{number}");
            let form = b"grant_type=client_credentials".to_vec();
            let (status, _) = self.owner.form("/oauth2/token", Some((&id, "hk_sec_wrong")), form).await.map_err(in_words)?;
            attempts.hold((400..500).contains(&status), || format!("a wrong secret got {status}"));
            let mut stranger = self.connect(&id, "wrong");
            // In a flood the hub may close without a word as well.
            let held = !matches!(refusal(&mut stranger.1).await, Ok(None));
            attempts.hold(held, || "a wrong password opened a session".to_owned());
        }
        let before = self.fleet.summary().acknowledged;
        let acknowledged = async {
            while self.fleet.summary().acknowledged <= before {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let served = tokio::time::timeout(PATIENCE, acknowledged).await.is_ok();
        attempts.hold(served, || "after a flood the hub acknowledged nothing any more".to_owned());
        Ok(attempts)
    }

    fn connect(&self, client_identifier: &str, password: &str) -> (AsyncClient, EventLoop) {
        let mut options = MqttOptions::new(client_identifier, self.host, self.ports[1]);
        options.set_credentials(client_identifier, password);
        self.client(options)
    }

    /// As an agent connects: the token request is in CONNECT.
    fn connect_with_form(&self, client_identifier: &str, form: Vec<u8>) -> (AsyncClient, EventLoop) {
        let mut options = MqttOptions::new(client_identifier, self.host, self.ports[1]);
        options.set_authentication_method(Some("client_credentials".to_owned()));
        options.set_authentication_data(Some(form.into()));
        self.client(options)
    }

    fn client(&self, mut options: MqttOptions) -> (AsyncClient, EventLoop) {
        options.set_connection_timeout(PATIENCE.as_secs()).set_keep_alive(KEEP_ALIVE);
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(self.owner.tls())));
        AsyncClient::new(options, 16)
    }
}

/// Why the hub refused a session, or `None` if it let the client in. `Err` if it did neither: then nothing is known.
async fn refusal(events: &mut EventLoop) -> Result<Option<ConnectReturnCode>, String> {
    match tokio::time::timeout(PATIENCE, events.poll()).await {
        Ok(Ok(Event::Incoming(Packet::ConnAck(_)))) => Ok(None),
        Ok(Err(ConnectionError::ConnectionRefused(code))) => Ok(Some(code)),
        other => Err(format!("the hub neither let a client in nor refused it: {other:?}")),
    }
}

/// What `look` sees in the packets that come; `Err` if the session ends before, or nothing comes.
async fn packet<T>(events: &mut EventLoop, look: impl Fn(&Packet) -> Option<T>) -> Result<T, String> {
    let waiting = async {
        loop {
            if let Event::Incoming(packet) = events.poll().await.map_err(in_words)?
                && let Some(seen) = look(&packet)
            {
                return Ok(seen);
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.map_err(|_| NO_ANSWER)?
}

/// Whether the hub closed in time.
async fn garbage_to(host: &str, port: u16, garbage: Vec<u8>) -> bool {
    // A hub that listens no more has not held.
    let Ok(mut stream) = TcpStream::connect((host, port)).await else { return false };
    // The hub may have closed already.
    let _ = stream.write_all(&garbage).await;
    let mut sink = Vec::new();
    tokio::time::timeout(GARBAGE_PATIENCE, stream.read_to_end(&mut sink)).await.is_ok()
}

fn in_words(error: impl std::fmt::Display) -> String {
    error.to_string()
}
