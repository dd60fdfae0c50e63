//! Enrolment: an owner's string and a fresh key become an identity that the hub knows (RFC 7591).
//! Runs once in a device's life; safe to run again after any interruption, with the same string.

use crate::buffer::{Buffer, BufferFull};
use crate::http::{self, Authority, HttpError};
use crate::identity::{DeviceKey, HubAddress, Identity, IdentityError, MAX_CLIENT_ID, MAX_ISSUER, Stored};
use crate::json::{self, Object};
use crate::keys::{Drbg, SecretKey};
use crate::platform::{ConnectFailed, Platform, Record, Transport};
use crate::time::Clock;
use crate::tls::{Channel, Connection, HomeCa, TlsError, TrustAnchor};
use crate::workspace::{InUse, Workspace};
use base64ct::{Base64UrlUnpadded, Encoding as _};
use core::pin::pin;
use core::time::Duration;
use embassy_futures::select::{Either, select};
use embedded_io_async::{Read, Write};
use heapless::String;
use serde::Serialize;
use zeroize::Zeroizing;

/// The longest enrolment string: `hk1.` and 116 bytes in base64url.
pub const MAX_ENROLMENT_STRING: usize = 4 + 155;

/// An attempt takes no longer: a Cortex-M4 needs some 2 s for the handshake, a hub answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the owner's enrolment string says. The code in it is a secret until it is used.
pub struct Enrolment {
    ca_sha256: [u8; 32],
    code: Zeroizing<[u8; 16]>,
    hub: HubAddress,
}

impl core::fmt::Debug for Enrolment {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("Enrolment").field("hub", &self.hub).finish_non_exhaustive()
    }
}

/// Not an enrolment string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnrolmentStringError {
    /// It does not begin with `hk1.`.
    Prefix,
    /// What follows is not base64url without padding, or was cut off.
    Encoding,
    /// The hub address in it is not 1 to 64 printable ASCII characters.
    Host,
}

impl core::fmt::Display for EnrolmentStringError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(match self {
            Self::Prefix => "an enrolment string begins with hk1.; copy the whole line that `hearthkey device add` printed",
            Self::Encoding => {
                "the enrolment string is damaged or cut off; copy the whole line that `hearthkey device add` printed"
            }
            Self::Host => "the enrolment string names no hub address; create a new one with `hearthkey device add`",
        })
    }
}

impl core::error::Error for EnrolmentStringError {}

impl Enrolment {
    /// Reads an enrolment string: `hk1.` and base64url of CA hash (32 bytes), code (16), HTTPS port, MQTT port (2 each,
    /// big endian) and host (1..=64).
    ///
    /// # Errors
    /// [`EnrolmentStringError`].
    pub fn parse(text: &str) -> Result<Self, EnrolmentStringError> {
        let encoded = text.trim_ascii().strip_prefix("hk1.").ok_or(EnrolmentStringError::Prefix)?;
        let mut bytes = Zeroizing::new([0; 116]);
        let bytes = Base64UrlUnpadded::decode(encoded, &mut *bytes).map_err(|_| EnrolmentStringError::Encoding)?;
        let (fixed, host) = bytes.split_at_checked(52).ok_or(EnrolmentStringError::Encoding)?;
        let host = core::str::from_utf8(host)
            .ok()
            .filter(|host| !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic()))
            .and_then(|host| String::try_from(host).ok())
            .ok_or(EnrolmentStringError::Host)?;
        let mut enrolment = Self {
            ca_sha256: [0; 32],
            code: Zeroizing::new([0; 16]),
            hub: HubAddress {
                host,
                https_port: u16::from_be_bytes([fixed[48], fixed[49]]),
                mqtt_port: u16::from_be_bytes([fixed[50], fixed[51]]),
            },
        };
        enrolment.ca_sha256.copy_from_slice(&fixed[..32]);
        enrolment.code.copy_from_slice(&fixed[32..48]);
        Ok(enrolment)
    }

    /// Where the string says that the hub is.
    #[must_use]
    pub fn hub(&self) -> &HubAddress {
        &self.hub
    }
}

/// What software runs on the device: RFC 7591 `software_id` and `software_version`. Printable ASCII without quotes.
#[derive(Debug, Clone, Copy)]
pub struct Software<'a> {
    /// The product, at most 64 characters.
    pub id: &'a str,
    /// Its version, at most 32 characters.
    pub version: &'a str,
}

/// An enrolled device, with the date that the hub told it on the way.
#[derive(Debug)]
pub struct Enrolled {
    /// Who the device is from now on. It is in storage already.
    pub identity: Identity,
    /// The best date known.
    pub clock: Clock,
}

/// Why enrolment did not succeed. Running it again with the same string is safe in every case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnrolError {
    /// The enrolment string cannot be read.
    String(EnrolmentStringError),
    /// The device is enrolled already; [erase](Identity::erase) its identity first.
    AlreadyEnrolled,
    /// The identity record cannot be read or written.
    Identity(IdentityError),
    /// `software_id` or `software_version` is too long or not plain ASCII.
    Software,
    /// No connection to the hub.
    Connect(ConnectFailed),
    /// The server did not prove to be the hub of the enrolment string, or the connection broke.
    Tls(TlsError),
    /// The answer is not HTTP that we read.
    Http(HttpError),
    /// The hub did not answer within a minute.
    TimedOut,
    /// The hub refused; for [`Refusal::error`] see RFC 7591 3.2.2.
    Refused(Refusal),
    /// The hub's answer is not a registration.
    BadRegistration,
}

/// What the hub said when it refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// `error`, such as `invalid_token` for a code that is used up or too old.
    pub error: String<48>,
    /// `error_description`, for people.
    pub description: String<160>,
}

impl EnrolError {
    /// Whether the same attempt may succeed later: the hub is away, busy, or the connection broke.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        const TOO_MANY_REQUESTS: u16 = 429;
        match self {
            // After a power cut the resolver comes back later than the device.
            Self::Connect(_) | Self::TimedOut => true,
            Self::Tls(error) => error.is_broken_connection(),
            Self::Refused(Refusal { status, .. }) => *status == TOO_MANY_REQUESTS || *status >= 500,
            Self::String(_)
            | Self::AlreadyEnrolled
            | Self::Identity(_)
            | Self::Software
            | Self::Http(_)
            | Self::BadRegistration => false,
        }
    }
}

impl core::fmt::Display for EnrolError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::String(error) => error.fmt(formatter),
            Self::AlreadyEnrolled => formatter.write_str("this device is enrolled already; erase its identity to enrol it anew"),
            Self::Identity(error) => {
                write!(formatter, "the identity record cannot be used: {error:?}")
            }
            Self::Software => formatter.write_str("software id and version must be short printable ASCII without quotes"),
            Self::Connect(error) => {
                write!(formatter, "no connection to the hub: {error:?}; is it running, and reachable from here?")
            }
            Self::Tls(error) => {
                write!(formatter, "the server is not the hub of this enrolment string, or the connection broke: {error:?}")
            }
            Self::Http(error) => write!(formatter, "the answer is not one of a hub: {error:?}"),
            Self::TimedOut => formatter.write_str("the hub did not answer within 60 s; try again with the same string"),
            Self::Refused(refusal) => write!(
                formatter,
                "the hub refused the enrolment ({}): {}: {}; create a new string with `hearthkey device add`",
                refusal.status, refusal.error, refusal.description
            ),
            Self::BadRegistration => formatter.write_str("the hub's answer is not a registration"),
        }
    }
}

impl core::error::Error for EnrolError {}

impl From<IdentityError> for EnrolError {
    fn from(error: IdentityError) -> Self {
        Self::Identity(error)
    }
}

impl From<EnrolmentStringError> for EnrolError {
    fn from(error: EnrolmentStringError) -> Self {
        Self::String(error)
    }
}

impl From<HttpError> for EnrolError {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}

impl From<TlsError> for EnrolError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

/// Enrols the device: makes a key (and stores it before anything is sent, so that a lost answer can be asked for again),
/// registers it at the hub whose CA the string pins, and stores the identity.
///
/// # Errors
/// [`EnrolError`]; try again with the same string as long as its code lives.
pub async fn enrol<P: Platform>(
    platform: &mut P,
    enrolment: &Enrolment,
    software: Software<'_>,
    workspace: &mut Workspace,
) -> Result<Enrolled, EnrolError> {
    let in_use = &mut InUse(workspace);
    let workspace = &mut *in_use.0;
    let mut seed = Zeroizing::new([0; 32]);
    platform.entropy(&mut *seed);
    let mut random = Drbg::from_seed(&seed, "hearthkey enrolment");
    let key = pending_key(platform, &mut random)?.ok_or(EnrolError::AlreadyEnrolled)?;
    let (home_ca, length) = {
        let patience = pin!(platform.sleep_until(platform.now().after(PATIENCE)));
        let attempt = pin!(async {
            let connecting = platform.connect(&enrolment.hub.host, enrolment.hub.https_port);
            let mut transport = connecting.await.map_err(EnrolError::Connect)?;
            exchange(&mut transport, enrolment, software, &key, workspace, &mut random).await
        });
        match select(attempt, patience).await {
            Either::First(exchanged) => exchanged?,
            Either::Second(()) => return Err(EnrolError::TimedOut),
        }
    };
    conclude(platform, enrolment, key, home_ca, &workspace.incoming, length)
}

// The functions that are not to be inlined have their stack to themselves: a handshake needs most of what there is.

/// Reads the answer, the first `length` bytes of `incoming`, and stores who the device is from now on.
#[inline(never)]
fn conclude<P: Platform>(
    platform: &mut P,
    enrolment: &Enrolment,
    key: DeviceKey,
    home_ca: HomeCa,
    incoming: &[u8],
    length: usize,
) -> Result<Enrolled, EnrolError> {
    let mut clock = Clock::unset();
    let received = incoming.get(..length).unwrap_or_default();
    let response = http::read_response(received, incoming.len()).map_err(EnrolError::Http)?.ok_or(EnrolError::TimedOut)?;
    if let Some(date) = response.date {
        clock.learn(platform.now(), date);
    }
    if response.status != 201 {
        return Err(EnrolError::Refused(refusal(response.status, response.body)));
    }
    let (client_id, issuer) = registration(response.body).ok_or(EnrolError::BadRegistration)?;
    let identity = Identity { key, client_id, issuer, hub: enrolment.hub.clone(), home_ca };
    let identity = keep(platform, identity)?;
    Ok(Enrolled { identity, clock })
}

/// The key of an enrolment that has not been answered yet: the stored one, or one that is made and stored. `None` for a device
/// that is enrolled.
#[inline(never)]
pub(crate) fn pending_key<P: Platform>(platform: &mut P, random: &mut Drbg) -> Result<Option<DeviceKey>, IdentityError> {
    match Stored::load(platform)? {
        Some(Stored::Enrolled(_)) => Ok(None),
        Some(Stored::Pending(key)) => Ok(Some(key)),
        None => {
            let (secret, public) = SecretKey::generate(random);
            let pending = Stored::Pending(DeviceKey { secret, public });
            pending.store(platform)?;
            Ok(Some(pending.into_key()))
        }
    }
}

/// Stores who the device is from now on.
#[inline(never)]
pub(crate) fn keep<P: Platform>(platform: &mut P, identity: Identity) -> Result<Identity, IdentityError> {
    // A hub goes on counting the commands to a device that is enrolled anew, and offers it what it had not heard of.
    let none = identity.sequence_record(0);
    let mut stored = none;
    if platform.load(Record::CommandSequence, &mut stored)?.is_some() && stored[8..] != none[8..] {
        platform.store(Record::CommandSequence, &none)?;
    }
    let enrolled = Stored::Enrolled(identity);
    enrolled.store(platform)?;
    match enrolled {
        Stored::Enrolled(identity) => Ok(identity),
        Stored::Pending(_) => Err(IdentityError::Corrupt),
    }
}

/// One request and its answer; the answer stays in the workspace, its length is returned.
async fn exchange<T: Transport>(
    transport: &mut T,
    enrolment: &Enrolment,
    software: Software<'_>,
    key: &DeviceKey,
    workspace: &mut Workspace,
    random: &mut Drbg,
) -> Result<(HomeCa, usize), EnrolError> {
    let (reader, writer) = transport.split();
    let Workspace { tls, incoming, outgoing, .. } = workspace;
    // No date is known yet; the anchor is the pinned CA.
    let anchor = TrustAnchor::Pinned(&enrolment.ca_sha256);
    let mut channel = Channel::new(reader, writer, tls);
    let mut connection = channel.authenticated(anchor, None, random).await?;

    let mut request = Buffer::new(outgoing);
    write_request(&mut request, enrolment, key, software).map_err(|BufferFull| EnrolError::Software)?;
    connection.write(request.written()).await?;
    let length = answer::<_, _, EnrolError>(&mut connection, incoming).await?;
    Ok((connection.home_ca().clone(), length))
}

/// Reads until a whole answer stands in `incoming`; its length.
pub(crate) async fn answer<R: Read, W: Write, E: From<TlsError> + From<HttpError>>(
    connection: &mut Connection<'_, '_, R, W>,
    incoming: &mut [u8],
) -> Result<usize, E> {
    let mut length = 0;
    loop {
        let capacity = incoming.len();
        if http::read_response(incoming.get(..length).unwrap_or_default(), capacity)?.is_some() {
            return Ok(length);
        }
        length += connection.read(incoming.get_mut(length..).unwrap_or_default()).await?;
    }
}

#[inline(never)]
fn write_request(out: &mut Buffer<'_>, enrolment: &Enrolment, key: &DeviceKey, software: Software<'_>) -> Result<(), BufferFull> {
    let mut body = [0; 512];
    let mut body = Buffer::new(&mut body);
    write_registration(&mut body, key, software)?;
    let authority = Authority { host: &enrolment.hub.host, port: enrolment.hub.https_port };
    http::write_post(out, "/oauth2/register", authority, &*enrolment.code, body.written())
}

fn write_registration(out: &mut Buffer<'_>, key: &DeviceKey, software: Software<'_>) -> Result<(), BufferFull> {
    if !is_plain(software.id, 64) || !is_plain(software.version, 32) {
        return Err(BufferFull);
    }
    let [x, y] = key.public.jwk_coordinates();
    let text = |coordinate| core::str::from_utf8(coordinate).map_err(|_| BufferFull);
    let request = RegistrationRequest {
        grant_types: ["client_credentials"],
        token_endpoint_auth_method: "private_key_jwt",
        jwks: Jwks { keys: [Jwk { kty: "EC", crv: "P-256", x: text(&x)?, y: text(&y)? }] },
        software_id: software.id,
        software_version: software.version,
    };
    json::write(out, &request)
}

/// Printable ASCII without quotes, at most `longest` characters.
pub(crate) fn is_plain(text: &str, longest: usize) -> bool {
    let fits = (1..=longest).contains(&text.len());
    fits && text.bytes().all(|byte| (byte.is_ascii_graphic() || byte == b' ') && !matches!(byte, b'"' | b'\\'))
}

/// RFC 7591 section 3.1.
#[derive(Serialize)]
struct RegistrationRequest<'a> {
    grant_types: [&'a str; 1],
    token_endpoint_auth_method: &'a str,
    jwks: Jwks<'a>,
    software_id: &'a str,
    software_version: &'a str,
}

#[derive(Serialize)]
struct Jwks<'a> {
    keys: [Jwk<'a>; 1],
}

#[derive(Serialize)]
struct Jwk<'a> {
    kty: &'a str,
    crv: &'a str,
    x: &'a str,
    y: &'a str,
}

/// The client_id and issuer of a registration, if both are ones that we can live with.
pub(crate) fn registration(body: &[u8]) -> Option<(String<MAX_CLIENT_ID>, String<MAX_ISSUER>)> {
    // RFC 7591 section 3.2.1.
    let registration = Object::parse(body).ok()?;
    let (client_id, issuer) = (registration.text("client_id")?, registration.text("issuer")?);
    let legal = client_id.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if client_id.is_empty() || !legal || !is_issuer(issuer) {
        return None;
    }
    Some((String::try_from(client_id).ok()?, String::try_from(issuer).ok()?))
}

/// An https URL that needs no escaping in JSON.
pub(crate) fn is_issuer(text: &str) -> bool {
    text.starts_with("https://") && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
}

pub(crate) fn refusal(status: u16, body: &[u8]) -> Refusal {
    let object = Object::parse(body).ok();
    let text = |name| object.as_ref().and_then(|object| object.text(name)).unwrap_or_default();
    Refusal { status, error: cut(text("error")), description: cut(text("error_description")) }
}

/// As much of `text` as fits.
pub(crate) fn cut<const N: usize>(text: &str) -> String<N> {
    let mut out = String::new();
    for character in text.chars() {
        if out.push(character).is_err() {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString as _;

    #[test]
    fn an_enrolment_string_is_read_as_the_golden_vectors_say() {
        let vectors = include_str!("../../tests/vectors/enrolment.txt").lines().filter(|line| !line.starts_with('#'));
        let mut read = 0;
        for line in vectors {
            let mut words = line.split(' ');
            let mut word = || words.next().expect("six words");
            let enrolment = Enrolment::parse(word()).expect(line);
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| std::format!("{byte:02x}")).collect::<std::string::String>();
            assert_eq!((hex(&enrolment.ca_sha256).as_str(), hex(&*enrolment.code).as_str()), (word(), word()), "{line}");
            let HubAddress { host, https_port, mqtt_port } = enrolment.hub();
            assert_eq!(
                (https_port.to_string().as_str(), mqtt_port.to_string().as_str(), host.as_str()),
                (word(), word(), word())
            );
            read += 1;
        }
        assert!(read >= 5, "{read} vectors");
    }
}
