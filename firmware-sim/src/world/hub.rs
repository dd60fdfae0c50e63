//! The hub of a virtual world: the real core (registry, token endpoint, judgement, rights) behind a small front of its own.
//!
//! Real: every decision of `hearthkey-core`, its rows, and restarts from nothing but those rows. Left out: TLS, the audit
//! rows, sessions that outlive their connection, retained messages, and the signature of access tokens, which nobody here
//! reads: a session rests on the claims. The signatures of assertions are made and verified.

use std::collections::BTreeMap;
use std::sync::Arc;

use hearthkey_core::jwt::PublicKey;
use hearthkey_core::oauth::{ErrorCode, OAuthError, TokenRequest};
use hearthkey_core::profile::{CommandName, Profile};
use hearthkey_core::registry::{
    Acknowledgement, Change, Context, ManageDevices, ManageProfiles, NewDevice, NewEnrolment, Permission, RegistrationRequest,
    Registry, SendCommands, UserPermit,
};
use hearthkey_core::rights::Rights;
use hearthkey_core::secret::{CredentialKind, Pepper, Secret};
use hearthkey_core::session::{Authority, EndReason, Principal, Proof};
use hearthkey_core::topic::{SubscriptionFilter, TopicName};
use hearthkey_core::write::{Table, Write};
use hearthkey_core::{DeviceId, Seconds, UnixTime};

use super::Sabotage;
use super::wire::{self, FromAgent};

/// What devices call the hub.
pub(super) const ISSUER: &str = "https://hub.virtual:8443";
/// The longest life that a profile can give tokens: a year has hundreds of renewals of each device, not hundred thousands.
const TOKEN_LIFETIME_S: u64 = 86_400;
/// Time to live of a command.
const COMMAND_TTL: Seconds = Seconds(600);

/// A connection, by the order in which they were opened.
pub(super) type ConnectionId = u64;

/// What the hub wants done.
#[derive(Debug)]
pub(super) enum Output {
    /// Bytes for a device.
    Send(ConnectionId, Vec<u8>),
    /// Bytes for a device, then the end of the connection.
    Close(ConnectionId, Vec<u8>),
    /// A publish was accepted.
    Accepted { by: DeviceId, topic: String },
    /// A publish was refused.
    Refused,
    /// A token was issued on this request.
    Issued { to: DeviceId, request: Vec<u8> },
    /// A command has come to its end.
    CommandEnded { device: DeviceId, id: String },
}

pub(super) struct Hub {
    pub(super) registry: Registry,
    /// What would lie on the disk.
    rows: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
    pepper: Pepper,
    owner: Authority,
    audiences: Vec<String>,
    connections: BTreeMap<ConnectionId, Connection>,
    random: fastrand::Rng,
    sabotage: Option<Sabotage>,
    /// What only a sabotaged hub keeps.
    dead: Vec<Connection>,
}

struct Connection {
    keep_alive: u16,
    heard_at_ms: u64,
    session: Option<Session>,
    /// The client identifier of a CONNECT that was challenged.
    challenged: Option<String>,
    /// Who goes on publishing after it was cut, at a sabotaged hub.
    cut: Option<DeviceId>,
}

struct Session {
    device: DeviceId,
    authority: Authority,
    rights: Arc<Rights>,
    expires_at: UnixTime,
    listens: bool,
    next_packet_id: u16,
    /// The command that it has not acknowledged yet: the agent takes one at a time.
    in_flight: Option<(u16, String)>,
}

impl Hub {
    pub(super) fn new(mut random: fastrand::Rng, now: UnixTime, sabotage: Option<Sabotage>) -> Self {
        let pepper = Pepper::new(random_bytes(&mut random));
        let (id, secret) = Secret::generate(CredentialKind::PersonalAccessToken, &random_bytes(&mut random));
        let hash = pepper.hash(secret.expose().as_bytes());
        let name = DeviceId::parse("owner").expect("legal");
        let owner = Authority { principal: Principal::User(name.clone()), proof: Proof::Credential(id.clone()) };
        let audiences = vec![ISSUER.to_owned(), format!("{ISSUER}/oauth2/token")];
        let mut hub = Self {
            registry: Registry::new(),
            rows: BTreeMap::new(),
            pepper,
            owner,
            audiences,
            connections: BTreeMap::new(),
            random,
            sabotage,
            dead: Vec::new(),
        };
        let founded = hub.registry.found(name, (id, hash), &context(now));
        hub.keep(founded);
        let profile = Profile::shipped().find(|profile| profile.name.as_str() == "thermostat").expect("ships with the hub");
        let lifetime = format!("token_lifetime_s = {}", profile.token_lifetime().0);
        let text = profile.to_toml().replace(&lifetime, &format!("token_lifetime_s = {TOKEN_LIFETIME_S}"));
        let permit = hub.permit::<ManageProfiles>(now);
        let profile = Profile::from_toml(&text).expect("as it was, but for a number");
        let applied = hub.registry.apply_profile(&permit, profile, &context(now)).expect("the owner may");
        hub.keep(applied);
        hub
    }

    /// Makes a change durable, then visible.
    fn keep<T>(&mut self, mut change: Change<T>) -> T {
        if self.sabotage == Some(Sabotage::ForgetUsedAssertions) {
            change.writes.retain(|write| write.table() != Table::UsedAssertion);
        }
        self.registry.apply(&change.writes).expect("the core reads the rows that it writes");
        for write in change.writes {
            match write {
                Write::Put { table: Table::Audit, .. } | Write::Delete { table: Table::Audit, .. } => {}
                Write::Put { table, key, value } => drop(self.rows.insert((table, key), value)),
                Write::Delete { .. } if self.sabotage == Some(Sabotage::KeepEveryRow) => {}
                Write::Delete { table, key } => drop(self.rows.remove(&(table, key))),
            }
        }
        change.answer
    }

    fn permit<P: Permission>(&self, now: UnixTime) -> UserPermit<'_, P> {
        self.registry.permit_user(&self.owner, now).expect("the owner may everything")
    }

    /// All that is on the disk, and all connections: what must not grow.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.rows.len(), self.connections.len() + self.dead.len())
    }

    /// Starts again from its rows; who was connected is not any more.
    pub(super) fn restart(&mut self) {
        let mut registry = Registry::new();
        for ((table, key), value) in &self.rows {
            let put = Write::Put { table: *table, key: key.clone(), value: value.clone() };
            registry.apply(&[put]).expect("the core reads the rows that it wrote");
        }
        self.registry = registry;
        self.connections.clear();
    }

    /// Removes what has ended.
    pub(super) fn sweep(&mut self, now: UnixTime) {
        loop {
            let change = self.registry.sweep(&context(now));
            if change.writes.is_empty() {
                return;
            }
            self.keep(change);
        }
    }

    pub(super) fn add_device(&mut self, id: &DeviceId, point: &[u8; 65], now: UnixTime) {
        let hash = self.new_code();
        let permit = self.permit::<ManageDevices>(now);
        let profile = DeviceId::parse("thermostat").expect("legal");
        let new = NewDevice { id: id.clone(), profile, children: Vec::new() };
        let added = self.registry.add_device(&permit, new, NewEnrolment::Code(hash.clone()), &context(now));
        self.keep(added.expect("the owner may add it"));
        self.register(hash, point, now);
    }

    pub(super) fn rotate_device(&mut self, id: &DeviceId, point: &[u8; 65], now: UnixTime) {
        let hash = self.new_code();
        let permit = self.permit::<ManageDevices>(now);
        let rotated = self.registry.rotate_device(&permit, id, NewEnrolment::Code(hash.clone()), None, &context(now));
        self.keep(rotated.expect("it is not revoked"));
        self.register(hash, point, now);
    }

    fn register(&mut self, code: hearthkey_core::secret::SecretHash, point: &[u8; 65], now: UnixTime) {
        let public_key = PublicKey::from_point(point).expect("a key of the agent's");
        let request = RegistrationRequest { code, public_key, software: "virtual".to_owned() };
        let registered = self.registry.register(&request, &context(now));
        self.keep(registered.expect("the code is fresh"));
    }

    fn new_code(&mut self) -> hearthkey_core::secret::SecretHash {
        let code: [u8; 16] = random_bytes(&mut self.random);
        self.pepper.hash(&code)
    }

    pub(super) fn revoke(&mut self, id: &DeviceId, now: UnixTime, out: &mut Vec<Output>) {
        let permit = self.permit::<ManageDevices>(now);
        let revoked = self.registry.revoke_device(&permit, id, &context(now)).expect("there is such a device");
        self.keep(revoked);
        if self.sabotage != Some(Sabotage::KeepRevokedSessions) {
            self.reconsider(now, out);
        }
    }

    pub(super) fn set_enabled(&mut self, id: &DeviceId, enabled: bool, now: UnixTime, out: &mut Vec<Output>) {
        let permit = self.permit::<ManageDevices>(now);
        let changed = if enabled {
            self.registry.enable_device(&permit, id, &context(now))
        } else {
            self.registry.disable_device(&permit, id, &context(now))
        };
        self.keep(changed.expect("it is not revoked"));
        self.reconsider(now, out);
    }

    /// Sends a command: its id, or none if the hub cannot now.
    pub(super) fn command(&mut self, id: &DeviceId, now: UnixTime, out: &mut Vec<Output>) -> Option<String> {
        let name = CommandName::parse("identify").expect("legal");
        let randomness = random_bytes(&mut self.random);
        let permit = self.permit::<SendCommands>(now);
        let sent = self.registry.send_command(&permit, id, name, None, COMMAND_TTL, randomness, &context(now)).ok()?;
        let command = self.keep(sent);
        let listening = self
            .connections
            .iter()
            .find(|(_, connection)| connection.session.as_ref().is_some_and(|session| session.device == *id && session.listens));
        if let Some(connection) = listening.map(|(connection, _)| *connection) {
            self.deliver_next(connection, now, out);
        }
        if self.sabotage == Some(Sabotage::EndCommandsEarly) {
            out.push(Output::CommandEnded { device: id.clone(), id: command.record.id.to_string() });
        }
        let is_told = self.sabotage != Some(Sabotage::InventCommands);
        is_told.then(|| command.record.id.to_string())
    }

    /// Sends the oldest command that waits, unless one is on its way.
    fn deliver_next(&mut self, connection: ConnectionId, now: UnixTime, out: &mut Vec<Output>) {
        let session = self.connections.get_mut(&connection).and_then(|connection| connection.session.as_mut());
        let Some(session) = session.filter(|session| session.in_flight.is_none()) else { return };
        let Some(command) = self.registry.commands_waiting(&session.device, now).next() else { return };
        let topic = format!("dev/{}/cmd/{}", session.device, command.name);
        let topic = TopicName::parse(&topic).expect("ids and names are legal levels");
        if session.rights.authorize_delivery(&topic).is_err() {
            return;
        }
        session.next_packet_id = session.next_packet_id.checked_add(1).unwrap_or(1);
        session.in_flight = Some((session.next_packet_id, command.id.to_string()));
        let expiry = u32::try_from(command.expires_at.since(now).0).unwrap_or(u32::MAX);
        let publish = wire::publish(topic.as_str(), &command.payload(now), session.next_packet_id, expiry);
        out.push(Output::Send(connection, publish));
    }

    /// The device has a command: the next one may come.
    fn delivered(
        &mut self,
        id: ConnectionId,
        packet_id: u16,
        reason_code: u8,
        now: UnixTime,
        out: &mut Vec<Output>,
    ) -> Result<(), String> {
        let Some(session) = self.connections.get_mut(&id).and_then(|connection| connection.session.as_mut()) else {
            return Ok(());
        };
        let (device, in_flight) = (session.device.clone(), session.in_flight.take());
        let Some((_, command)) = in_flight.filter(|(expected, _)| *expected == packet_id) else {
            return Err(format!("{device} acknowledged a message that it did not get"));
        };
        if reason_code >= 0x80 {
            return Err(format!("{device} had no room for the command {command}: PUBACK {reason_code:#x}"));
        }
        if let Some(change) = self.registry.note_delivered_command(&device, &command, &context(now)) {
            self.keep(change);
        }
        self.deliver_next(id, now, out);
        Ok(())
    }

    /// Judges every session anew.
    pub(super) fn reconsider(&mut self, now: UnixTime, out: &mut Vec<Output>) {
        let ids: Vec<_> = self.connections.keys().copied().collect();
        for id in ids {
            self.judge(id, now, out);
        }
    }

    /// Cuts a session that may not go on.
    pub(super) fn judge(&mut self, id: ConnectionId, now: UnixTime, out: &mut Vec<Output>) {
        let Some(session) = self.connections.get_mut(&id).and_then(|connection| connection.session.as_mut()) else { return };
        match (self.registry.judge(&session.authority, now), self.sabotage) {
            (Ok(standing), _) => session.rights = standing.rights,
            (Err(EndReason::Expired { .. }), Some(Sabotage::OutliveTokens)) => {}
            (Err(EndReason::Disabled | EndReason::Revoked), Some(Sabotage::HearTheCut)) => {
                let cut = session.device.clone();
                self.connections.entry(id).and_modify(|connection| (connection.session, connection.cut) = (None, Some(cut)));
            }
            (Err(reason), _) => self.end(id, &reason, out),
        }
    }

    fn end(&mut self, id: ConnectionId, reason: &EndReason, out: &mut Vec<Output>) {
        self.connections.remove(&id);
        out.push(Output::Close(id, wire::disconnect(reason.reason_code(), &reason.reason_string())));
    }

    /// The devices with a session, each with when it must end.
    pub(super) fn sessions(&self) -> impl Iterator<Item = (&DeviceId, &Authority, UnixTime)> {
        let sessions = self.connections.values().filter_map(|connection| connection.session.as_ref());
        sessions.map(|session| (&session.device, &session.authority, session.expires_at))
    }

    pub(super) fn opened(&mut self, id: ConnectionId, now_ms: u64) {
        let connection = Connection { keep_alive: 0, heard_at_ms: now_ms, session: None, challenged: None, cut: None };
        self.connections.insert(id, connection);
    }

    pub(super) fn lost(&mut self, id: ConnectionId) {
        let lost = self.connections.remove(&id);
        if self.sabotage == Some(Sabotage::KeepDeadConnections) {
            self.dead.extend(lost);
        }
    }

    /// When the connection must end, by its token or for want of a sign of life; none if it is gone.
    pub(super) fn deadline_ms(&self, id: ConnectionId) -> Option<u64> {
        let connection = self.connections.get(&id)?;
        let silence = match connection.keep_alive {
            0 => 60_000,
            seconds => u64::from(seconds) * 1_500,
        };
        let expires = connection.session.as_ref().filter(|_| self.sabotage != Some(Sabotage::OutliveTokens));
        let expiry = expires.map_or(u64::MAX, |session| super::millis(session.expires_at));
        Some((connection.heard_at_ms + silence).min(expiry))
    }

    /// Ends the connection if its time has come.
    pub(super) fn tick(&mut self, id: ConnectionId, now_ms: u64, out: &mut Vec<Output>) {
        self.judge(id, super::date(now_ms), out);
        let is_silent = self.deadline_ms(id).is_some_and(|deadline| now_ms >= deadline);
        if is_silent {
            self.connections.remove(&id);
            out.push(Output::Close(id, Vec::new()));
        }
    }

    /// Takes a packet of a device.
    ///
    /// # Errors
    /// The packet, if it makes no sense: a bug of the agent.
    pub(super) fn receive(&mut self, id: ConnectionId, packet: &[u8], now_ms: u64, out: &mut Vec<Output>) -> Result<(), String> {
        let now = super::date(now_ms);
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        connection.heard_at_ms = now_ms;
        let packet = wire::read(packet).ok_or_else(|| format!("the agent sent what makes no sense: {packet:02x?}"))?;
        match packet {
            FromAgent::Connect { client_identifier, keep_alive, data } => {
                connection.keep_alive = keep_alive;
                if data.is_empty() {
                    connection.challenged = Some(client_identifier);
                    let challenge = format!(r#"{{"issuer":"{ISSUER}","date":{}}}"#, now.0);
                    out.push(Output::Send(id, wire::auth(0x18, challenge.as_bytes(), None)));
                } else {
                    self.admit(id, &client_identifier, data, now, out);
                }
            }
            FromAgent::Auth { data } => match (connection.challenged.take(), connection.session.is_some()) {
                (Some(client_identifier), _) => self.admit(id, &client_identifier, data, now, out),
                (None, true) => self.renew(id, data, now, out),
                (None, false) => return Err("the agent sent AUTH before CONNECT".to_owned()),
            },
            FromAgent::Publish { topic, payload, packet_id } => self.publish(id, &topic, &payload, packet_id, now, out),
            FromAgent::Subscribe { packet_id, filters } => self.subscribe(id, packet_id, &filters, now, out),
            FromAgent::PingReq => out.push(Output::Send(id, wire::PINGRESP.to_vec())),
            FromAgent::Disconnect => {
                self.connections.remove(&id);
            }
            FromAgent::PubAck { packet_id, reason_code } => self.delivered(id, packet_id, reason_code, now, out)?,
        }
        Ok(())
    }

    /// The token endpoint (the hub's `Hub::token`, without a store that can fail).
    pub(super) fn token(
        &mut self,
        form: &[u8],
        now: UnixTime,
        out: &mut Vec<Output>,
    ) -> Result<(Authority, Vec<u8>), OAuthError> {
        let request = TokenRequest::parse(form)?;
        let authentication = request.client_authentication(None)?;
        let client = self.registry.authenticate_client(&authentication, &self.audiences, &self.pepper, now)?;
        let jti: Box<str> = format!("{:032x}", u128::from_be_bytes(random_bytes(&mut self.random))).into();
        let issued = self.registry.issue_token(&client, &request, ISSUER, jti, &context(now))?;
        let issued = self.keep(issued);
        let json = serde_json::json!({
            "access_token": format!("unsigned.{}", issued.claims.jti),
            "token_type": "Bearer",
            "expires_in": issued.expires_in,
            "scope": issued.claims.scope,
        });
        out.push(Output::Issued { to: client.id().clone(), request: form.to_vec() });
        Ok((issued.authority(), json.to_string().into_bytes()))
    }

    fn admit(&mut self, id: ConnectionId, client_identifier: &str, form: Vec<u8>, now: UnixTime, out: &mut Vec<Output>) {
        let refuse = |error: &OAuthError, out: &mut Vec<Output>| {
            let code = if error.code == ErrorCode::SlowDown { 0x97 } else { 0x87 };
            let reason = format!("{}: {}", error.code.as_str(), error.description);
            out.push(Output::Close(id, wire::connack_refused(code, &reason, now.0)));
        };
        if self.sabotage == Some(Sabotage::LockOut) && client_identifier.ends_with("-1") {
            self.connections.remove(&id);
            return refuse(&OAuthError::client_authentication_failed("sabotage"), out);
        }
        let admitted = self.token(&form, now, out).and_then(|(authority, response)| {
            let standing = self.registry.judge(&authority, now);
            let standing = standing.map_err(|end| OAuthError::new(ErrorCode::InvalidClient, end.reason_string()))?;
            let device = DeviceId::parse(client_identifier).ok();
            match (device, &authority.principal) {
                (Some(device), Principal::Device(subject)) if device == *subject => Ok((device, authority, standing, response)),
                _ => Err(OAuthError::client_authentication_failed("another client's identifier")),
            }
        });
        let (device, authority, standing, response) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                self.connections.remove(&id);
                if let (Some(Sabotage::IssueToAnyone), Ok(to)) = (self.sabotage, DeviceId::parse(client_identifier)) {
                    out.push(Output::Issued { to, request: form });
                }
                return refuse(&error, out);
            }
        };
        let is_earlier = |connection: &Connection| connection.session.as_ref().is_some_and(|session| session.device == device);
        let takes_over = self.sabotage != Some(Sabotage::KeepBothSessions);
        let is_earlier = |connection: &Connection| takes_over && is_earlier(connection);
        let earlier: Vec<_> = self.connections.iter().filter(|(_, other)| is_earlier(other)).map(|(id, _)| *id).collect();
        for earlier in earlier {
            self.end(earlier, &EndReason::TakenOver, out);
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            let expires_at = standing.expires_at.unwrap_or(UnixTime(u64::MAX));
            let rights = standing.rights;
            connection.session =
                Some(Session { device, authority, rights, expires_at, listens: false, next_packet_id: 0, in_flight: None });
            out.push(Output::Send(id, wire::connack(&response, now.0)));
        }
    }

    fn renew(&mut self, id: ConnectionId, form: Vec<u8>, now: UnixTime, out: &mut Vec<Output>) {
        let renewed = self.token(&form, now, out).and_then(|(authority, response)| {
            let standing = self.registry.judge(&authority, now);
            standing
                .map(|standing| (authority, standing, response))
                .map_err(|end| OAuthError::new(ErrorCode::InvalidClient, end.reason_string()))
        });
        let session = self.connections.get_mut(&id).and_then(|connection| connection.session.as_mut());
        match (renewed, session) {
            (Ok((authority, standing, response)), Some(session)) if authority.principal == session.authority.principal => {
                if self.sabotage != Some(Sabotage::OutliveTokens) {
                    session.expires_at = standing.expires_at.unwrap_or(UnixTime(u64::MAX));
                    (session.authority, session.rights) = (authority, standing.rights);
                }
                out.push(Output::Send(id, wire::auth(0x00, &response, Some(now.0))));
            }
            (Ok(_), _) => self.close_not_authorized(id, "another subject", out),
            (Err(error), _) => self.close_not_authorized(id, &format!("{}: {}", error.code.as_str(), error.description), out),
        }
    }

    fn close_not_authorized(&mut self, id: ConnectionId, reason: &str, out: &mut Vec<Output>) {
        self.connections.remove(&id);
        out.push(Output::Close(id, wire::disconnect(0x87, reason)));
    }

    fn publish(
        &mut self,
        id: ConnectionId,
        topic: &str,
        payload: &[u8],
        packet_id: Option<u16>,
        now: UnixTime,
        out: &mut Vec<Output>,
    ) {
        let connection = self.connections.get(&id);
        if let Some(by) = connection.and_then(|connection| connection.cut.clone()) {
            return out.push(Output::Accepted { by, topic: topic.to_owned() });
        }
        let Some(session) = connection.and_then(|connection| connection.session.as_ref()) else {
            return self.close_not_authorized(id, "publish before CONNACK", out);
        };
        let device = session.device.clone();
        let permit = TopicName::parse(topic).ok().and_then(|topic| session.rights.authorize_publish(topic).ok());
        let accepted = permit.is_some() || self.sabotage == Some(Sabotage::AcceptForeignTopics);
        out.push(if accepted { Output::Accepted { by: device.clone(), topic: topic.to_owned() } } else { Output::Refused });
        if let Some(packet_id) = packet_id {
            out.push(Output::Send(id, wire::puback(packet_id, if accepted { 0x00 } else { 0x87 })));
        }
        let Some((command, answer)) = topic
            .split_once("/ack/")
            .map(|(_, command)| command)
            .filter(|_| accepted)
            .and_then(|command| Some((command.to_owned(), serde_json::from_slice::<Acknowledgement>(payload).ok()?)))
        else {
            return;
        };
        if let Some(change) = self.registry.acknowledge_command(&device, &device, &command, answer, &context(now)) {
            self.keep(change);
            if self.registry.command(&device, &command).is_some_and(|command| command.state.is_final()) {
                if self.sabotage == Some(Sabotage::EndCommandsTwice) {
                    out.push(Output::CommandEnded { device: device.clone(), id: command.clone() });
                }
                out.push(Output::CommandEnded { device, id: command });
            }
        }
    }

    fn subscribe(&mut self, id: ConnectionId, packet_id: u16, filters: &[String], now: UnixTime, out: &mut Vec<Output>) {
        let Some(session) = self.connections.get_mut(&id).and_then(|connection| connection.session.as_mut()) else {
            return self.close_not_authorized(id, "subscribe before CONNACK", out);
        };
        let grant = |filter: &String| {
            let subscription = SubscriptionFilter::parse(filter).ok();
            if subscription.is_some_and(|subscription| session.rights.authorize_subscribe(subscription).is_ok()) {
                1
            } else {
                0x87
            }
        };
        let codes: Vec<u8> = filters.iter().map(grant).collect();
        let listens = filters.iter().zip(&codes).any(|(filter, code)| *code == 1 && filter.ends_with("/cmd/+"));
        session.listens |= listens;
        out.push(Output::Send(id, wire::suback(packet_id, &codes)));
        if listens {
            self.deliver_next(id, now, out);
        }
    }
}

pub(super) fn context(now: UnixTime) -> Context {
    Context { now, source: String::new(), request_id: String::new() }
}

pub(super) fn random_bytes<const N: usize>(random: &mut fastrand::Rng) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill(&mut bytes);
    bytes
}
