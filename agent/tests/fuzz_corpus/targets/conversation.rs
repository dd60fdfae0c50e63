//! A hub that says anything to a device in a fixed state, and an honest one afterwards.

use super::{Reading, mqtt};
use hearthkey_agent::mqtt::codec::{self, Packet};
use hearthkey_agent::mqtt::{MAX_INCOMING_PACKET, MAX_OUTGOING_PACKET};
use hearthkey_agent::sans_io::{After, SansIo};
use hearthkey_agent::tls::TlsError;
use hearthkey_agent::{
    Application, Buffer, BufferFull, Command, Config, Ending, Event, Farewell, Identity, Instant, Now, Outbox, Outcome, Qos,
    Reply, Turn, json,
};
use mqtt::FromClient;
use std::collections::{BTreeSet, VecDeque};

/// In what the honest hub says to begin with; no device has a use for it.
const TOKEN: &str = "eyJ.kept-from-everyone";
const DATE: u64 = 1_800_000_000;
/// Packets that one packet of the hub may cause: an acknowledgement, three answers to a command, a report, telemetry, a
/// renewal, a ping; and what waited for room in the queue.
const MAX_ANSWERS: usize = 16;

/// The first byte says in which state the device is and how much time passes between two packets; the rest is what the hub says.
pub(crate) fn conversation(data: &[u8]) -> Reading {
    conversation_with(|_| {}, data)
}

/// The same, with `mangle` between the device and those who judge what it sends.
pub(crate) fn conversation_with(mangle: fn(&mut Vec<u8>), data: &[u8]) -> Reading {
    let Some((&head, said)) = data.split_first() else { return Reading::Refused };
    let talk = |pieces: Vec<&[u8]>| {
        let mut world = World::prepared(head, mangle);
        let ending = pieces.into_iter().try_for_each(|piece| world.hear(piece)).err();
        let shown = format!("{:?} {:?}", world.core, world.device.events);
        let numbers = format!("{:?}", TOKEN.as_bytes());
        let is_shown = shown.contains(TOKEN) || shown.contains(numbers.trim_matches(['[', ']']));
        assert!(!is_shown, "a secret: {shown}");
        let outcome = (ending, world.sent.clone(), world.device.events.clone());
        (outcome, world)
    };
    let (whole, world) = talk(vec![said]);
    assert_eq!(whole, talk(said.chunks(1).collect()).0, "in single bytes");
    assert_eq!(whole, talk(said.chunks(7).collect()).0, "in sevens");
    let reading = if world.heard > 0 { Reading::Taken } else { Reading::Refused };
    world.finds_an_honest_hub(whole.0, said);
    reading
}

/// A device, and what is known of its conversation.
struct World {
    core: SansIo,
    device: Thermostat,
    now: u64,
    step: u64,
    incoming: Vec<u8>,
    heard: usize,
    sent: Vec<Vec<u8>>,
    mangle: fn(&mut Vec<u8>),
    /// Packet identifiers of the device's publishes, and of the hub's, that await acknowledgement.
    in_flight: BTreeSet<u16>,
    owed: VecDeque<u16>,
    receive_maximum: usize,
}

impl World {
    fn prepared(head: u8, mangle: fn(&mut Vec<u8>)) -> Self {
        let (client_id, issuer) = match head & 0x80 {
            0 => ("lamp".to_owned(), "https://hub:8443".to_owned()),
            _ => ("l".repeat(32), format!("https://{}", "h".repeat(88))),
        };
        let identity = Identity::simulated(&[1; 32], &client_id, &issuer).expect("short");
        let mut world = Self {
            core: SansIo::new(identity, Config::DEFAULT, Some(3)),
            device: Thermostat::default(),
            now: 1_000,
            step: 0,
            incoming: Vec::new(),
            heard: 0,
            sent: Vec::new(),
            mangle,
            in_flight: BTreeSet::new(),
            owed: VecDeque::new(),
            receive_maximum: usize::MAX,
        };
        world.prepare(head & 7).expect("an honest hub");
        world.heard = 0;
        world.step = [0, 1_000, 20_000, 70_000][usize::from(head >> 3 & 3)];
        world
    }

    fn prepare(&mut self, state: u8) -> Result<(), Ending> {
        self.connect(&[2; 32])?;
        if state == 0 {
            return Ok(()); // CONNECT is unanswered.
        }
        self.hear(&challenge())?;
        if state == 1 {
            return Ok(()); // So is the token request.
        }
        self.hear(&welcome(false))?;
        if state == 2 {
            return Ok(()); // Online; nothing is acknowledged.
        }
        self.honestly(4)?;
        match state {
            3 => self.device.leaves = true,
            4 => {
                self.now += 201_000;
                self.turn()?; // A renewal is unanswered.
            }
            5 => {
                self.core.ended(&broken(), Instant::from_millis(self.now));
                self.connect(&[3; 32])?; // Again, with a session and what it left unacknowledged.
                self.hear(&welcome(true))?;
            }
            6 => self.hear(&command(5, "slow"))?, // A command is carried out.
            _ => {}
        }
        self.turn()
    }

    fn connect(&mut self, seed: &[u8; 32]) -> Result<(), Ending> {
        self.in_flight.clear();
        self.owed.clear();
        self.incoming.clear();
        self.core.reseed(seed);
        self.core.begin(Instant::from_millis(self.now));
        self.turn()
    }

    /// As the agent's shell: collects bytes, takes whole packets, and answers.
    fn hear(&mut self, mut piece: &[u8]) -> Result<(), Ending> {
        while !piece.is_empty() {
            let (now, later) = piece.split_at(piece.len().min(MAX_INCOMING_PACKET - self.incoming.len()));
            self.incoming.extend(now);
            piece = later;
            while let Some(length) = self.packet_length()? {
                let packet: Vec<u8> = self.incoming.drain(..length).collect();
                self.note(&packet);
                self.now += self.step;
                self.core.receive(&packet, Instant::from_millis(self.now), &mut self.device, |_| true)?;
                self.heard += 1;
                self.turn()?;
            }
        }
        Ok(())
    }

    fn packet_length(&self) -> Result<Option<usize>, Ending> {
        let length = codec::packet_length(&self.incoming, MAX_INCOMING_PACKET).map_err(Ending::BadPacket)?;
        Ok(length.filter(|length| *length <= self.incoming.len()))
    }

    fn note(&mut self, packet: &[u8]) {
        match codec::decode(packet) {
            Ok(Packet::PubAck(puback)) => drop(self.in_flight.remove(&puback.packet_id)),
            Ok(Packet::Publish(publish)) => self.owed.extend(publish.packet_id),
            Ok(Packet::ConnAck(connack)) => self.receive_maximum = connack.receive_maximum.into(),
            _ => {}
        }
    }

    /// What is due: the application, then all packets that want to go out.
    fn turn(&mut self) -> Result<(), Ending> {
        let now = Instant::from_millis(self.now);
        self.core.tick(now)?;
        if let Turn::Stop(farewell) = self.core.poll_application(&mut self.device, now) {
            self.core.leave(farewell, now)?;
        }
        for answers in 0.. {
            let mut bytes = [0; MAX_OUTGOING_PACKET];
            let mut out = Buffer::new(&mut bytes);
            if !self.core.next_packet(now, &mut self.device, &mut out)? {
                break;
            }
            assert!(answers < MAX_ANSWERS, "a flood");
            let mut packet = out.written().to_vec();
            (self.mangle)(&mut packet);
            self.judge(&packet);
            self.sent.push(packet);
        }
        Ok(())
    }

    /// An independent reader must understand what the device sends, and find it where it belongs.
    fn judge(&mut self, packet: &[u8]) {
        match mqtt::parse(packet) {
            FromClient::PubAck { packet_id, .. } => assert_eq!(self.owed.pop_front(), Some(packet_id), "out of order"),
            FromClient::Publish { topic, payload, packet_id, .. } => {
                assert!(topic.starts_with("dev/l") && payload.len() <= 512, "{topic}");
                if let Some(packet_id) = packet_id {
                    assert!(packet_id > 0 && self.in_flight.insert(packet_id), "{packet_id} is in use");
                }
                assert!(self.in_flight.len() <= self.receive_maximum, "beyond the hub's Receive Maximum");
            }
            FromClient::Connect(connect) => assert_eq!(connect.method.as_deref(), Some("client_credentials")),
            FromClient::Auth { reason, method, data } => {
                assert!(matches!(reason, 0x18 | 0x19) && method == "client_credentials" && data.starts_with(b"grant_type="));
            }
            FromClient::Subscribe { filters, .. } => assert_eq!(filters.len(), 2),
            FromClient::PingReq | FromClient::Disconnect(_) => {}
        }
    }

    /// Whatever was said before: unless it was a revocation, the device comes back, and an honest hub has it online.
    fn finds_an_honest_hub(mut self, ending: Option<Ending>, said: &[u8]) {
        let ending = ending.unwrap_or_else(broken);
        match self.core.ended(&ending, Instant::from_millis(self.now)) {
            After::Connect(delay) => {
                assert!(delay <= Config::DEFAULT.backoff.slow, "{delay:?}");
                self.now += delay.as_millis() as u64;
            }
            After::Revoked => {
                assert!(said.windows(7).any(|window| window == b"revoked"), "nobody revoked it: {ending:?}");
                return;
            }
            After::Left => {
                assert!(self.device.leaves, "it did not want to leave: {ending:?}");
            }
        }
        self.device.leaves = false;
        self.step = 10;
        self.sent.clear();
        self.connect(&[4; 32]).expect("a CONNECT");
        let Some(FromClient::Connect(connect)) = self.sent.last().map(|packet| mqtt::parse(packet)) else {
            panic!("not a CONNECT")
        };
        if connect.data.is_some_and(|data| data.is_empty()) {
            self.hear(&challenge()).expect("a token request");
        }
        self.hear(&welcome(false)).expect("online");
        self.honestly(40).expect("an honest hub offends nobody");
        let is_announced = |packet: &Vec<u8>| matches!(mqtt::parse(packet), FromClient::Publish { topic, payload, .. } if topic.ends_with("/status") && payload == b"online");
        assert!(self.sent.iter().any(is_announced), "not online: {:?}", self.device.events);
        let subscribes = |packet: &Vec<u8>| matches!(mqtt::parse(packet), FromClient::Subscribe { .. });
        assert!(self.sent.iter().any(subscribes), "not subscribed");
    }

    /// Acknowledges the last packets that await it.
    fn honestly(&mut self, rounds: usize) -> Result<(), Ending> {
        let mut answered = self.sent.iter().rposition(|packet| packet.first() == Some(&0x10)).unwrap_or(0);
        for _ in 0..rounds {
            let waiting: Vec<_> = self.sent[answered..].iter().map(|packet| mqtt::parse(packet)).collect();
            answered = self.sent.len();
            for packet in waiting {
                match packet {
                    FromClient::Subscribe { packet_id, .. } => self.hear(&mqtt::suback(packet_id, &[1, 1]))?,
                    FromClient::Publish { packet_id: Some(packet_id), .. } => self.hear(&mqtt::puback(packet_id, 0, ""))?,
                    FromClient::PingReq => self.hear(&mqtt::PINGRESP)?,
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn challenge() -> Vec<u8> {
    mqtt::auth(0x18, format!(r#"{{"issuer":"https://hub:8443","date":{DATE}}}"#).as_bytes(), None)
}

fn welcome(session_present: bool) -> Vec<u8> {
    let response = format!(r#"{{"access_token":"{TOKEN}","token_type":"Bearer","expires_in":300,"scope":"telemetry"}}"#);
    mqtt::connack(session_present, response.as_bytes(), DATE, &[])
}

fn command(sequence: u64, name: &str) -> Vec<u8> {
    let body = format!(r#"{{"id":"c-{sequence}","seq":{sequence},"ttl_s":30}}"#);
    mqtt::publish(&format!("dev/lamp/cmd/{name}"), &body, 9, false, None)
}

fn broken() -> Ending {
    Ending::Tls(TlsError::Closed)
}

/// Measures at every turn, begins commands, writes down what happens.
#[derive(Default)]
struct Thermostat {
    events: Vec<String>,
    leaves: bool,
    busy_for: u8,
}

impl Application for Thermostat {
    fn about(&mut self, out: &mut Buffer<'_>) -> Result<(), BufferFull> {
        out.push(br#"{"model":"fuzzed"}"#)
    }

    fn poll(&mut self, now: Now, outbox: &mut Outbox<'_>) -> Turn {
        if self.leaves {
            return Turn::Stop(Farewell::Clean);
        }
        // At most one each minute: the queue must not be full for this alone.
        if outbox.is_online() && now.instant.as_millis() % 60_000 < 1_000 {
            let _ = outbox.telemetry("temperature", b"21.5", Qos::AtLeastOnce);
        }
        if self.busy_for > 0 {
            self.busy_for -= 1;
            if self.busy_for == 0 {
                outbox.finish_command(Outcome::Succeeded);
            }
        }
        Turn::Idle
    }

    fn command(&mut self, command: &Command<'_>, _: Now) -> Reply {
        if command.name() == "slow" {
            self.busy_for = 3;
            return Reply::Begun;
        }
        Reply::Done(Outcome::rejected(command.args().map_or("no arguments", |args| args.as_raw())))
    }

    fn twin_desired(&mut self, desired: json::Object<'_>, outbox: &mut Outbox<'_>) {
        let _ = outbox.twin_reported(desired.as_str().as_bytes());
    }

    fn event(&mut self, event: Event<'_>) {
        self.events.push(format!("{event:?}"));
    }
}
