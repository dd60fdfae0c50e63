//! The readers that stand behind TLS, flash and HTTP, for tests that feed them bytes which nobody meant. Decides nothing.

use crate::buffer::{Buffer, BufferFull};
use crate::enrolment::{self, Refusal};
use crate::http::Response;
use crate::identity::{Identity, IdentityError, Stored};
use crate::join::{self, JoinCode, JoinError};
use crate::time::{Instant, UnixTime};
use crate::tls::{self, HomeCa, TrustAnchor};
use core::time::Duration;

/// What a handshake makes of a server's certificates, leaf first; `now` as there.
///
/// # Errors
/// [`Refusal`](tls::Refusal).
pub fn judge_chain(anchor: TrustAnchor<'_>, chain: &[&[u8]], now: Option<UnixTime>) -> Result<HomeCa, tls::Refusal> {
    tls::judge_chain(anchor, chain, now).map(|(_, home_ca)| home_ca)
}

/// Reads an identity record and writes it again to `out`. The identity, if it is more than the key of an enrolment unanswered.
///
/// # Errors
/// [`IdentityError::Corrupt`] if it is no record.
pub fn identity_record(bytes: &[u8], out: &mut Buffer<'_>) -> Result<Option<Identity>, IdentityError> {
    let stored = Stored::from_bytes(bytes)?;
    stored.write(out).map_err(|BufferFull| IdentityError::Corrupt)?;
    match stored {
        Stored::Enrolled(identity) => Ok(Some(identity)),
        Stored::Pending(_) => Ok(None),
    }
}

/// The `client_id` and `issuer` of a registration that a device accepts.
#[must_use]
pub fn registration(body: &[u8]) -> Option<(impl AsRef<str>, impl AsRef<str>)> {
    enrolment::registration(body)
}

/// What a device keeps of an error answer.
#[must_use]
pub fn refusal(status: u16, body: &[u8]) -> Refusal {
    enrolment::refusal(status, body)
}

/// The hub's share of the code, how long the owner has, and the time between two polls, from the answer to a wish to join.
#[must_use]
pub fn wait(body: &[u8]) -> Option<(JoinCode, Duration, Duration)> {
    join::read_wait(body).map(|asked| (asked.hub_share, asked.expires_in, asked.interval))
}

/// Whether an answer to a poll lets the device in.
///
/// # Errors
/// [`JoinError`].
pub fn poll(response: Response<'_>) -> Result<bool, JoinError> {
    join::read_poll(response, Instant::from_millis(0)).map(|polled| matches!(polled, join::Polled::Granted { .. }))
}
