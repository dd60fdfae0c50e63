//! From the first byte of a connection to CONNACK: who is there, and may they come in. Knows nothing of what follows.

use super::{
    challenge::{Method, Nonce, token_in},
    fabric::Fabric,
    front::{Arrival, Attachment, Busy, Inner},
    gate::{Admission, Gate, Possession, Refusal},
    limits::{MAX_CLIENT_IDENTIFIER_BYTES, MAX_CONNECT_BYTES},
    packet::{
        ClientPacket, Connect, Fault, Secret, Version, decode,
        encode::{ConnAck, Dialect},
        reason,
    },
    slot::SessionKey,
    wire::Wire,
};
use hearthkey_core::{UnixTime, session::Principal};
use std::{io, net::SocketAddr};
use tokio::io::{AsyncRead, AsyncWrite};

/// A client whose CONNECT was legible and whose credential was accepted.
pub(super) struct Guest {
    pub(super) connect: Connect,
    pub(super) dialect: Dialect,
    pub(super) method: Option<Method>,
    pub(super) admission: Admission,
}

/// Why there is no guest.
pub(super) enum NoGuest {
    /// The connection closed or broke before there was anything to answer.
    Gone,
    /// To be answered with CONNACK.
    Refused(Box<RefusedConnect>),
}

/// A CONNECT that is refused.
pub(super) struct RefusedConnect {
    /// None if no MQTT could be made out: then there is no answer.
    pub(super) dialect: Option<Dialect>,
    pub(super) client_identifier: Box<str>,
    pub(super) principal: Option<Principal>,
    pub(super) reason_code: u8,
    pub(super) return_code: u8,
    pub(super) reason: String,
}

impl From<io::Error> for NoGuest {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Reads CONNECT, and AUTH if the device asks for a challenge, and asks the gate. Nothing is changed yet, so the future may
/// be dropped at any time.
pub(super) async fn welcome<G: Gate, S: AsyncRead + AsyncWrite>(
    gate: &G,
    wire: &mut Wire<S>,
    peer: SocketAddr,
) -> Result<Guest, NoGuest> {
    let refused_unread = |version: Option<Version>, fault: Fault| {
        let return_code = if fault.code == reason::UNSUPPORTED_PROTOCOL_VERSION { 1 } else { 0 };
        // MQTT 3.1.1 section 3.1.4: a malformed CONNECT gets no answer; neither does what may not be MQTT at all.
        let speaks = version.filter(|&version| version == Version::V5 || return_code != 0);
        NoGuest::Refused(Box::new(RefusedConnect {
            dialect: speaks.map(Dialect::of_a_stranger),
            client_identifier: "".into(),
            principal: None,
            reason_code: fault.code,
            return_code,
            reason: fault.reason.to_owned(),
        }))
    };
    let frame = match wire.inbound.packet(MAX_CONNECT_BYTES).await? {
        Ok(Some(frame)) => frame,
        Ok(None) => return Err(NoGuest::Gone),
        Err(fault) => return Err(refused_unread(None, fault)),
    };
    let connect = decode::connect(frame).map_err(|unread| refused_unread(unread.version, unread.fault))?;
    let dialect = Dialect {
        version: connect.version,
        maximum_packet_size: connect.maximum_packet_size,
        problem_information: connect.problem_information,
    };
    let refused = |reason_code: u8, return_code: u8, reason: String| {
        NoGuest::Refused(Box::new(RefusedConnect {
            dialect: Some(dialect),
            client_identifier: connect.client_identifier.clone(),
            principal: None,
            reason_code,
            return_code,
            reason,
        }))
    };
    if connect.client_identifier.len() > MAX_CLIENT_IDENTIFIER_BYTES || connect.client_identifier.chars().any(char::is_control) {
        let reason = format!("a client identifier has at most {MAX_CLIENT_IDENTIFIER_BYTES} bytes and no control characters");
        return Err(refused(reason::CLIENT_IDENTIFIER_NOT_VALID, 2, reason));
    }
    let identifier = &*connect.client_identifier;
    let method = connect.authentication_method.as_deref().map(Method::named);
    let refuse = |fault: Fault| refused(fault.code, 0, fault.reason.to_owned());
    let data = connect.authentication_data.as_ref().filter(|data| !data.expose().is_empty());
    let decision = match (method, &connect.password) {
        (Some(Some(method @ Method::ClientCredentials)), _) => {
            let form = match data {
                Some(form) => form.clone(),
                None => {
                    let challenge = challenge_data(gate.issuer(), gate.now());
                    ask(wire, dialect, method, &challenge).await?.map_err(refuse)?
                }
            };
            gate.admit_by_token_request(identifier, form.expose(), peer).await
        }
        (Some(Some(method @ Method::Ace)), _) => {
            let Some(data) = data else {
                let reason = "invalid_request: method `ace` begins with an access token as authentication data".to_owned();
                return Err(refused(reason::NOT_AUTHORIZED, 5, reason));
            };
            let no_entropy = Fault { code: reason::SERVER_UNAVAILABLE, reason: "no randomness for a challenge" };
            let nonce = Nonce::fresh().ok_or(no_entropy).map_err(refuse)?;
            let answer = ask(wire, dialect, method, nonce.as_bytes()).await?.map_err(refuse)?;
            let signed = nonce.answered(answer.expose()).map_err(refuse)?;
            let token = token_in(data.expose());
            let possession = Possession { token, challenge: &signed.challenge, proof: signed.proof };
            gate.admit_by_possession(identifier, possession, peer).await
        }
        (Some(None), _) => {
            let [one, other] = Method::ALL.map(Method::as_str);
            let reason = format!("unknown authentication method; this hub knows `{one}`, `{other}`, and credentials as password");
            return Err(refused(reason::BAD_AUTHENTICATION_METHOD, 5, reason));
        }
        (None, Some(password)) => gate.admit_by_password(identifier, connect.user_name.as_deref(), password.expose(), peer).await,
        (None, None) => {
            let reason = "invalid_client: send an access token, a personal access token or an API key as password".to_owned();
            return Err(refused(reason::NOT_AUTHORIZED, 5, reason));
        }
    };
    match decision {
        Ok(admission) => Ok(Guest { dialect, method: method.flatten(), admission, connect }),
        Err(refusal) => Err(refused(refusal.kind.reason_code(), refusal.kind.return_code(), words_of(&refusal))),
    }
}

/// What a device without a clock is told so that it can sign an assertion: audience and time.
pub(super) fn challenge_data(issuer: &str, now: UnixTime) -> Vec<u8> {
    serde_json::json!({ "issuer": issuer, "date": now.0 }).to_string().into_bytes()
}

/// Sends AUTH 0x18 and waits for the answer.
async fn ask<S: AsyncRead + AsyncWrite>(
    wire: &mut Wire<S>,
    dialect: Dialect,
    method: Method,
    data: &[u8],
) -> Result<Result<Secret, Fault>, NoGuest> {
    let asked = wire.outbound.push(|out| dialect.auth(reason::CONTINUE_AUTHENTICATION, method.as_str(), Some(data), None, out));
    if asked.is_err() {
        return Ok(Err(Fault {
            code: reason::PACKET_TOO_LARGE,
            reason: "the challenge exceeds the client's maximum packet size",
        }));
    }
    while wire.outbound.is_pending() {
        wire.outbound.write_some().await?;
    }
    let frame = match wire.inbound.packet(MAX_CONNECT_BYTES).await? {
        Ok(Some(frame)) => frame,
        Ok(None) => return Err(NoGuest::Gone),
        Err(fault) => return Ok(Err(fault)),
    };
    Ok(match decode::packet(frame, dialect.version) {
        Ok(ClientPacket::Auth(auth)) if auth.reason_code == reason::CONTINUE_AUTHENTICATION => match auth.data {
            _ if &*auth.method != method.as_str() => {
                Err(Fault { code: reason::BAD_AUTHENTICATION_METHOD, reason: "another method than that of CONNECT" })
            }
            Some(form) => Ok(form),
            None => Err(Fault::protocol("AUTH without data")),
        },
        Ok(_) => Err(Fault::protocol("after a challenge comes AUTH 0x18")),
        Err(fault) => Err(fault),
    })
}

/// What the refused client reads: `<error>: <error_description>`.
pub(super) fn words_of(refusal: &Refusal) -> String {
    format!("{}: {}", refusal.error, refusal.description)
}

/// Gives a guest a session. Tells the name that was assigned to a nameless client.
pub(super) fn seat<G: Gate, F: Fabric>(
    front: &Inner<G, F>,
    guest: &Guest,
) -> Result<(Attachment, Option<Box<str>>), RefusedConnect> {
    let Guest { connect, dialect, admission, .. } = guest;
    let principal = &admission.authority.principal;
    let refused = |reason_code: u8, return_code: u8, reason: String| RefusedConnect {
        dialect: Some(*dialect),
        client_identifier: connect.client_identifier.clone(),
        principal: Some(principal.clone()),
        reason_code,
        return_code,
        reason,
    };
    let assigned = match principal {
        Principal::Device(id) => {
            let suffix = connect.client_identifier.strip_prefix(id.as_str());
            if !suffix.is_some_and(|suffix| suffix.is_empty() || suffix.starts_with('/')) {
                let reason =
                    format!("the client identifier of this device is {id}, or {id}/ and a suffix for a second connection");
                return Err(refused(reason::CLIENT_IDENTIFIER_NOT_VALID, 2, reason));
            }
            None
        }
        Principal::User(_) | Principal::Integration(_) if !connect.client_identifier.is_empty() => None,
        // MQTT-3.1.3-8
        Principal::User(_) | Principal::Integration(_) if connect.version == Version::V311 && !connect.clean_start => {
            let reason = "a session that is to be kept needs a client identifier".to_owned();
            return Err(refused(reason::CLIENT_IDENTIFIER_NOT_VALID, 2, reason));
        }
        Principal::User(_) | Principal::Integration(_) => Some(
            random_identifier()
                .map_err(|()| refused(reason::SERVER_UNAVAILABLE, 3, "no randomness for a client identifier".to_owned()))?,
        ),
    };
    if let Some(will) = &connect.will
        && let Err(denied) = admission.standing.rights.authorize_publish(will.topic.clone())
    {
        return Err(refused(reason::NOT_AUTHORIZED, 5, format!("will: {denied}")));
    }
    let arrival = Arrival {
        key: SessionKey {
            principal: principal.clone(),
            client_identifier: assigned.clone().unwrap_or_else(|| connect.client_identifier.clone()),
        },
        authority: admission.authority.clone(),
        standing: admission.standing.clone(),
        clean_start: connect.clean_start,
        session_expiry: connect.session_expiry,
        will: connect.will.clone(),
        window: usize::from(connect.receive_maximum.min(front.limits.max_in_flight)),
    };
    match front.attach(arrival) {
        Ok(attachment) => Ok((attachment, assigned)),
        Err(Busy::Full) => Err(refused(reason::SERVER_BUSY, 3, "the hub has as many connections as it takes".to_owned())),
        Err(Busy::TooMany) => {
            Err(refused(reason::QUOTA_EXCEEDED, 3, format!("{principal} has as many connections as one may have")))
        }
        Err(Busy::TooOften(wait)) => {
            let wait = wait.as_secs() + 1;
            let reason =
                format!("{principal} connects too often; try again in {wait} s, and look for a second client of that name");
            Err(refused(reason::CONNECTION_RATE_EXCEEDED, 3, reason))
        }
        Err(Busy::Stopping) => Err(refused(reason::SERVER_UNAVAILABLE, 3, "hub stopping; try again shortly".to_owned())),
    }
}

fn random_identifier() -> Result<Box<str>, ()> {
    let random = getrandom::u64().map_err(drop)?;
    Ok(format!("auto-{random:016x}").into())
}

/// CONNACK of a refusal.
pub(super) fn refusal_connack(refused: &RefusedConnect, date: UnixTime) -> ConnAck {
    ConnAck {
        reason_code: refused.reason_code,
        return_code: refused.return_code,
        reason_string: Some(refused.reason.clone()),
        date: Some(date),
        ..ConnAck::default()
    }
}
