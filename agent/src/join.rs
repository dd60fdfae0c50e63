//! Joining without an enrolment string: the device asks a hub of which it knows only the address, shows a code, and waits until
//! the owner has found the same code at the hub and said yes (RFC 8628, docs/protocol.md).
//!
//! The CA that the device sees then is trusted on first use, and the code is what ties it to the hub: it is made of that CA, of
//! the device's key and of a share from either side. The device commits to its share before it sees the hub's, so who stands in
//! the middle cannot choose CA and key until two codes are the same: it gets one guess in 25 thousand million.
//!
//! The owner's word reaches the hub, not the device: a server that stands in for the hub altogether can say that the owner
//! agreed. So nothing counts that is said before the code was shown, and the application is asked before the device believes it.

use crate::buffer::{Buffer, BufferFull};
use crate::enrolment::{Enrolled, Refusal, Software, answer, is_plain, keep, pending_key, refusal, registration};
use crate::http::{self, Authority, HttpError, Response};
use crate::identity::{DeviceKey, HubAddress, Identity, IdentityError, MAX_HOST};
use crate::json::{JsonError, Object};
use crate::keys::{Drbg, PublicKey};
use crate::platform::{ConnectFailed, Platform, Transport as _};
use crate::time::{Clock, Instant};
use crate::tls::{Channel, HomeCa, TlsError, TrustAnchor};
use crate::workspace::{InUse, Workspace};
use core::fmt::Write as _;
use core::time::Duration;
use embassy_futures::select::{Either, select};
use heapless::String;
use rand_core::RngCore as _;
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

/// The longest device code that is kept. The hub's has 43 characters.
pub const MAX_DEVICE_CODE: usize = 64;

/// One request and its answer take no longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// What `slow_down` adds to the time between two polls (RFC 8628 section 3.5).
const SLOWER: Duration = Duration::from_secs(5);
/// The time between two polls where the hub names none (RFC 8628 section 3.2), and the longest that is believed.
const INTERVALS: core::ops::RangeInclusive<u64> = 5..=60;
/// The longest wait for the owner that is believed.
const LONGEST_WAIT: u64 = 3_600;
/// RFC 8628 section 6.1: consonants only, none that looks like another, none that makes a word.
const ALPHABET: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";

/// All that a device must know of its hub to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubLocation {
    /// DNS name or IP literal, ASCII.
    pub host: String<MAX_HOST>,
    /// Port of HTTPS.
    pub https_port: u16,
}

/// What the owner compares and types: eight letters, shown as `WDJB-MJHT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinCode([u8; 8]);

impl core::fmt::Display for JoinCode {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (place, letter) in self.0.iter().enumerate() {
            let separator = if place == 4 { "-" } else { "" };
            write!(formatter, "{separator}{}", char::from(*letter))?;
        }
        Ok(())
    }
}

impl JoinCode {
    /// The code that the hub shows as well, if it got `key` from us and has the certificate of `ca_sha256`.
    fn new(ca_sha256: &[u8; 32], key: &PublicKey, nonce: &[u8; 16], hub_share: &Self) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"hearthkey join 1");
        hash.update(ca_sha256);
        hash.update(key.coordinates());
        hash.update(nonce);
        hash.update(hub_share.0);
        let digest: [u8; 32] = hash.finalize().into();
        let mut letters = [0; 8];
        for (letter, pair) in letters.iter_mut().zip(digest.chunks_exact(2)) {
            let number = pair.iter().fold(0_usize, |number, byte| number << 8 | usize::from(*byte));
            *letter = ALPHABET.get(number % ALPHABET.len()).copied().unwrap_or_default();
        }
        Self(letters)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut letters = [0; 8];
        let (left, right) = text.split_once('-').filter(|(left, right)| left.len() == 4 && right.len() == 4)?;
        for (letter, byte) in letters.iter_mut().zip(left.bytes().chain(right.bytes())) {
            *letter = *ALPHABET.iter().find(|legal| **legal == byte)?;
        }
        Some(Self(letters))
    }
}

/// How far a join has come, for a display or a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joining {
    /// The hub waits for its owner. Show the code: `hearthkey approve CODE` lets the device in only if it is the hub's as well.
    Compare {
        /// The code.
        code: JoinCode,
        /// How long the owner has.
        expires_in: Duration,
    },
    /// The hub could not be asked just now; it will be asked again.
    Interrupted,
}

/// Why a device did not join. Trying again is safe in every case; the code is another then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinError {
    /// The device is enrolled already; [erase](Identity::erase) its identity first.
    AlreadyEnrolled,
    /// The identity record cannot be read or written.
    Identity(IdentityError),
    /// `software_id` or `software_version` is too long or not plain ASCII.
    Software,
    /// No connection to the hub.
    Connect(ConnectFailed),
    /// The server shows no certificate of a hub, or the connection broke.
    Tls(TlsError),
    /// The answer is not HTTP that we read.
    Http(HttpError),
    /// The hub did not answer within a minute.
    TimedOut,
    /// The hub takes nobody in now: the owner has not opened a window, or too many wait. See [`Refusal::description`].
    Refused(Refusal),
    /// The owner said no.
    Denied,
    /// The owner said nothing in time.
    Expired,
    /// The server let the device in before anybody could compare the code: that is no hub.
    NotCompared,
    /// The application did not confirm what the server said.
    NotConfirmed,
    /// The hub's answer makes no sense.
    BadAnswer,
}

impl core::fmt::Display for JoinError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::AlreadyEnrolled => formatter.write_str("this device is enrolled already; erase its identity to join anew"),
            Self::Identity(error) => write!(formatter, "the identity record cannot be used: {error:?}"),
            Self::Software => formatter.write_str("software id and version must be short printable ASCII without quotes"),
            Self::Connect(error) => {
                write!(formatter, "no connection to the hub: {error:?}; is it running, and reachable from here?")
            }
            Self::Tls(error) => write!(formatter, "the server is no hub, or the connection broke: {error:?}"),
            Self::Http(error) => write!(formatter, "the answer is not one of a hub: {error:?}"),
            Self::TimedOut => formatter.write_str("the hub did not answer within 60 s; try again"),
            Self::Refused(refusal) => {
                write!(formatter, "the hub refused ({}): {}: {}", refusal.status, refusal.error, refusal.description)
            }
            Self::Denied => formatter.write_str("the owner turned this device away"),
            Self::Expired => {
                formatter.write_str("nobody approved in time; the owner opens a window with `hearthkey join`, then try again")
            }
            Self::NotCompared => formatter.write_str(
                "the server let this device in before it showed its code: it is not the hub; use an enrolment string instead",
            ),
            Self::NotConfirmed => formatter.write_str(
                "nobody confirmed at the device that the owner let it in; if `hearthkey approve` knew no such code, the server was not the hub",
            ),
            Self::BadAnswer => formatter.write_str("the hub's answer to the wish to join makes no sense"),
        }
    }
}

impl core::error::Error for JoinError {}

impl From<IdentityError> for JoinError {
    fn from(error: IdentityError) -> Self {
        Self::Identity(error)
    }
}

impl From<TlsError> for JoinError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

impl From<HttpError> for JoinError {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}

impl JoinError {
    /// Whether the hub may answer the same poll a little later.
    fn may_pass(&self) -> bool {
        match self {
            // A name that has no address just now as well: a resolver starts again, too.
            Self::Connect(_) | Self::TimedOut => true,
            Self::Tls(error) => error.is_broken_connection(),
            Self::Refused(refusal) => refusal.status == 429 || refusal.status >= 500,
            Self::AlreadyEnrolled
            | Self::Identity(_)
            | Self::Software
            | Self::Http(_)
            | Self::Denied
            | Self::Expired
            | Self::NotCompared
            | Self::NotConfirmed
            | Self::BadAnswer => false,
        }
    }
}

/// Whom a request is for.
#[derive(Clone, Copy)]
struct Server<'a> {
    location: &'a HubLocation,
    anchor: TrustAnchor<'a>,
}

/// A CA that was seen, and its SHA-256.
struct Seen {
    home_ca: HomeCa,
    ca_sha256: [u8; 32],
}

/// What the device keeps of an answer by RFC 8628 section 3.2.
pub(crate) struct Asked {
    device_code: Zeroizing<DeviceCode>,
    pub(crate) hub_share: JoinCode,
    pub(crate) expires_in: Duration,
    pub(crate) interval: Duration,
}

#[derive(Default)]
struct DeviceCode(String<MAX_DEVICE_CODE>);

impl zeroize::Zeroize for DeviceCode {
    fn zeroize(&mut self) {
        let mut bytes = core::mem::take(&mut self.0).into_bytes();
        bytes.as_mut_slice().zeroize();
    }
}

/// Asks to join, tells `progress` the code to show, and waits for the owner's word: until the hub gives up, some ten minutes.
/// Makes a key (and stores it before anything is sent), and stores the identity. Dropping the future gives up.
///
/// `confirm` is asked, with the code, once the server says that the owner agreed; nothing of the server's is stored unless it
/// returns true. A device with a button has the owner press it: who only answers in the hub's place cannot. A device without one
/// can but believe: `async |_| true`.
///
/// # Errors
/// [`JoinError`].
pub async fn join<P: Platform>(
    platform: &mut P,
    hub: &HubLocation,
    software: Software<'_>,
    workspace: &mut Workspace,
    mut progress: impl FnMut(Joining),
    confirm: impl AsyncFnOnce(JoinCode) -> bool,
) -> Result<Enrolled, JoinError> {
    let in_use = &mut InUse(workspace);
    let workspace = &mut *in_use.0;
    let mut seed = Zeroizing::new([0; 32]);
    platform.entropy(&mut *seed);
    let mut random = Drbg::from_seed(&seed, "hearthkey join");
    let key = pending_key(platform, &mut random)?.ok_or(JoinError::AlreadyEnrolled)?;
    let mut nonce = [0; 16];
    random.fill_bytes(&mut nonce);

    let mut form = [0; 768];
    let mut form = Buffer::new(&mut form);
    write_wish(&mut form, &key, software, &nonce).map_err(|BufferFull| JoinError::Software)?;
    let first = Server { location: hub, anchor: TrustAnchor::FirstSeen };
    let path = "/oauth2/device_authorization";
    let (seen, length) = request(platform, first, path, form.written(), workspace, &mut random).await?;
    let asked = match response(workspace, length)? {
        Response { status: 200, body, .. } => read_wait(body).ok_or(JoinError::BadAnswer)?,
        Response { status, body, .. } => return Err(JoinError::Refused(refusal(status, body))),
    };
    workspace.incoming.zeroize();

    let until = platform.now().after(asked.expires_in);
    let code = JoinCode::new(&seen.ca_sha256, &key.public, &nonce, &asked.hub_share);
    let mut is_shown = false;
    let mut form = Zeroizing::new([0; 384]);
    let mut form = Buffer::new(&mut *form);
    write_poll(&mut form, &asked.device_code.0, &nonce).map_err(|BufferFull| JoinError::BadAnswer)?;
    // From here on it must be the server of which the code tells.
    let same = Server { location: hub, anchor: TrustAnchor::Pinned(&seen.ca_sha256) };
    let mut interval = asked.interval;
    loop {
        let polled = request(platform, same, "/oauth2/token", form.written(), workspace, &mut random).await;
        let polled = polled.and_then(|(_, length)| read_poll(response(workspace, length)?, platform.now()));
        match polled {
            Ok(Polled::Granted { .. }) if !is_shown => return Err(JoinError::NotCompared),
            Ok(Polled::Granted { registered: (client_id, issuer), mqtt_port, clock }) => {
                workspace.wipe();
                if !confirm(code).await {
                    return Err(JoinError::NotConfirmed);
                }
                let HubLocation { host, https_port } = hub.clone();
                let hub = HubAddress { host, https_port, mqtt_port };
                let identity = keep(platform, Identity { key, client_id, issuer, hub, home_ca: seen.home_ca })?;
                return Ok(Enrolled { identity, clock });
            }
            // The hub knows our share of the code from the first poll on.
            Ok(Polled::Pending) => {
                if !core::mem::replace(&mut is_shown, true) {
                    progress(Joining::Compare { code, expires_in: asked.expires_in });
                }
            }
            Ok(Polled::SlowDown) => interval = interval.saturating_add(SLOWER),
            Err(error) if error.may_pass() => progress(Joining::Interrupted),
            Err(error) => return Err(error),
        }
        let next = platform.now().after(interval);
        if next >= until {
            return Err(JoinError::Expired);
        }
        platform.sleep_until(next).await;
    }
}

/// One request and its answer, which stays in the workspace; its length is returned.
async fn request<P: Platform>(
    platform: &P,
    server: Server<'_>,
    path: &str,
    form: &[u8],
    workspace: &mut Workspace,
    random: &mut Drbg,
) -> Result<(Seen, usize), JoinError> {
    let HubLocation { host, https_port } = server.location;
    let Workspace { tls, incoming, outgoing } = workspace;
    let exchange = async {
        let mut transport = platform.connect(host, *https_port).await.map_err(JoinError::Connect)?;
        let (reader, writer) = transport.split();
        let mut channel = Channel::new(reader, writer, tls);
        let mut connection = channel.authenticated(server.anchor, None, random).await?;
        let mut request = Buffer::new(outgoing);
        let authority = Authority { host, port: *https_port };
        http::write_form(&mut request, path, authority, form).map_err(|BufferFull| JoinError::Software)?;
        connection.write(request.written()).await?;
        let length = answer::<_, _, JoinError>(&mut connection, incoming).await?;
        Ok((Seen { home_ca: connection.home_ca().clone(), ca_sha256: *connection.ca_sha256() }, length))
    };
    let exchanged = match select(exchange, platform.sleep_until(platform.now().after(PATIENCE))).await {
        Either::First(exchanged) => exchanged,
        Either::Second(()) => Err(JoinError::TimedOut),
    };
    outgoing.zeroize();
    exchanged
}

fn response(workspace: &Workspace, length: usize) -> Result<Response<'_>, JoinError> {
    let received = workspace.incoming.get(..length).unwrap_or_default();
    http::read_response(received, workspace.incoming.len())?.ok_or(JoinError::BadAnswer)
}

/// The wish to join: key, software and commitment.
fn write_wish(out: &mut Buffer<'_>, key: &DeviceKey, software: Software<'_>, nonce: &[u8; 16]) -> Result<(), BufferFull> {
    if !is_plain(software.id, 64) || !is_plain(software.version, 32) {
        return Err(BufferFull);
    }
    let [x, y] = key.public.jwk_coordinates();
    out.push(b"client_id=hearthkey-join&jwk=%7B%22kty%22%3A%22EC%22%2C%22crv%22%3A%22P-256%22%2C%22x%22%3A%22")?;
    out.push(&x)?;
    out.push(b"%22%2C%22y%22%3A%22")?;
    out.push(&y)?;
    out.push(b"%22%7D&software=")?;
    push_percent_encoded(out, software.id)?;
    out.push(b"+")?;
    push_percent_encoded(out, software.version)?;
    out.push(b"&commitment=")?;
    out.push_base64url(&Sha256::digest(nonce))
}

fn write_poll(out: &mut Buffer<'_>, device_code: &str, nonce: &[u8; 16]) -> Result<(), BufferFull> {
    out.push(b"grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code&client_id=hearthkey-join&device_code=")?;
    push_percent_encoded(out, device_code)?;
    out.push(b"&nonce=")?;
    out.push_base64url(nonce)
}

/// application/x-www-form-urlencoded.
fn push_percent_encoded(out: &mut Buffer<'_>, text: &str) -> Result<(), BufferFull> {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => out.push(&[byte])?,
            byte => write!(out, "%{byte:02X}")?,
        }
    }
    Ok(())
}

pub(crate) fn read_wait(body: &[u8]) -> Option<Asked> {
    let answer = Object::parse(body).ok()?;
    let interval = answer.number("interval").unwrap_or(*INTERVALS.start()).clamp(*INTERVALS.start(), *INTERVALS.end());
    Some(Asked {
        device_code: Zeroizing::new(DeviceCode(String::try_from(answer.text("device_code")?).ok()?)),
        hub_share: JoinCode::parse(answer.text("user_code")?)?,
        expires_in: Duration::from_secs(answer.number("expires_in")?.min(LONGEST_WAIT)),
        interval: Duration::from_secs(interval),
    })
}

/// What a poll came to.
pub(crate) enum Polled {
    Pending,
    SlowDown,
    Granted {
        registered: (String<{ crate::identity::MAX_CLIENT_ID }>, String<{ crate::identity::MAX_ISSUER }>),
        mqtt_port: u16,
        clock: Clock,
    },
}

/// RFC 8628 section 3.5.
pub(crate) fn read_poll(response: Response<'_>, now: Instant) -> Result<Polled, JoinError> {
    let Response { status, date, body } = response;
    if status == 200 {
        // Where the device finds the broker, beside what a registration says.
        let granted = Object::parse(body).map_err(|JsonError| JoinError::BadAnswer)?;
        let mqtt_port = granted.number("mqtts_port").and_then(|port| u16::try_from(port).ok()).ok_or(JoinError::BadAnswer)?;
        let registered = registration(body).ok_or(JoinError::BadAnswer)?;
        let mut clock = Clock::unset();
        if let Some(date) = date {
            clock.learn(now, date);
        }
        return Ok(Polled::Granted { registered, mqtt_port, clock });
    }
    let refusal = refusal(status, body);
    match (status, refusal.error.as_str()) {
        (400, "authorization_pending") => Ok(Polled::Pending),
        (400, "slow_down") => Ok(Polled::SlowDown),
        (400, "access_denied") => Err(JoinError::Denied),
        (400, "expired_token") => Err(JoinError::Expired),
        _ => Err(JoinError::Refused(refusal)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString as _;
    use std::vec::Vec;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        let byte = |place: usize| u8::from_str_radix(&text[2 * place..2 * place + 2], 16).expect("hexadecimal");
        core::array::from_fn(byte)
    }

    #[test]
    fn the_code_is_the_one_of_the_golden_vectors() {
        let vectors = include_str!("../../tests/vectors/join.txt").lines().filter(|line| !line.starts_with('#'));
        let mut read = 0;
        for line in vectors {
            let words: Vec<&str> = line.split(' ').collect();
            let (ca, point, nonce) = (hex(words[0]), PublicKey::from_coordinates(hex(words[1])), hex(words[2]));
            let mut commitment = [0; 43];
            let mut encoded = Buffer::new(&mut commitment);
            encoded.push_base64url(&Sha256::digest(nonce)).expect("fits");
            assert_eq!(encoded.written(), words[3].as_bytes(), "{line}");
            let share = JoinCode::parse(words[4]).expect("a code");
            assert_eq!(JoinCode::new(&ca, &point, &nonce, &share).to_string(), words[5], "{line}");
            read += 1;
        }
        assert!(read >= 5, "{read} vectors");
    }

    #[test]
    fn what_is_no_code_is_refused() {
        for bad in ["", "BCDF", "BCDFGHJK", "BCDF-GHJ", "BCDF-GHJKL", "bcdf-ghjk", "AEIO-UYAA", "BCDF-GH-K", "BCDÄ-GHJ"] {
            assert_eq!(JoinCode::parse(bad), None, "{bad}");
        }
        assert_eq!(JoinCode::parse("BCDF-GHJK").expect("a code").to_string(), "BCDF-GHJK");
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_no_wait() {
        let whole = r#"{"device_code":"d","user_code":"BCDF-GHJK","expires_in":600,"interval":5}"#;
        let asked = read_wait(whole.as_bytes()).expect("a wait");
        assert_eq!((asked.interval, asked.expires_in), (Duration::from_secs(5), Duration::from_secs(600)));
        let greedy = whole.replace(":600", ":99999999999").replace(":5}", ":0}");
        let asked = read_wait(greedy.as_bytes()).expect("a wait");
        assert_eq!((asked.interval, asked.expires_in), (Duration::from_secs(5), Duration::from_secs(3_600)));
        assert!(read_wait(whole.replace(r#","interval":5"#, "").as_bytes()).is_some(), "5 s by default");
        for bad in [
            whole.replace("BCDF", "ABCD"),
            whole.replace(r#""d""#, &std::format!("\"{}\"", "d".repeat(MAX_DEVICE_CODE + 1))),
            whole.replace("600", "-1"),
            whole.replace("user_code", "code"),
            whole[..40].to_string(),
        ] {
            assert!(read_wait(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn each_answer_to_a_poll_means_one_thing() {
        let read = |status, body: &str| {
            let response = Response { status, date: None, body: body.as_bytes() };
            read_poll(response, Instant::from_millis(0)).map(|polled| matches!(polled, Polled::Granted { .. }))
        };
        let granted = r#"{"access_token":"t","client_id":"lamp","issuer":"https://hub:8443","mqtts_port":8883}"#;
        assert_eq!(read(200, granted), Ok(true));
        for bad in [granted.replace("lamp", "L"), granted.replace("https", "http"), granted.replace("8883", "65536")] {
            assert_eq!(read(200, &bad), Err(JoinError::BadAnswer), "{bad}");
        }
        let error = |name: &str| std::format!(r#"{{"error":"{name}","error_description":"why"}}"#);
        for name in ["authorization_pending", "slow_down"] {
            assert_eq!(read(400, &error(name)), Ok(false));
        }
        assert_eq!(read(400, &error("access_denied")), Err(JoinError::Denied));
        assert_eq!(read(400, &error("expired_token")), Err(JoinError::Expired));
        for (status, error, passes) in
            [(503, error("temporarily_unavailable"), true), (429, error("slow_down"), true), (404, error("x"), false)]
        {
            let refused = read(status, &error).expect_err("refused");
            assert_eq!(refused.may_pass(), passes, "{refused}");
        }
    }

    #[test]
    fn a_form_holds_nothing_that_ends_a_parameter() {
        let mut bytes = [0; 64];
        let mut out = Buffer::new(&mut bytes);
        push_percent_encoded(&mut out, "a b&c=d+%~").expect("fits");
        assert_eq!(out.written(), b"a%20b%26c%3Dd%2B%25%7E");
    }
}
