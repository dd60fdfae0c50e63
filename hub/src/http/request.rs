//! What every request has: a source, an id, a bounded body, a line in the log; and the answers that need nobody's rights.

use super::{
    Http,
    door::InFlight,
    leftover::Leftover,
    limits::{BODY_TIMEOUT, MAX_REQUEST_ID_BYTES},
};
use crate::entropy;
use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::{net::IpAddr, sync::Arc, time::Instant};
use tokio::time::timeout;
use tracing::debug;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Who asks, as far as the connection tells, and under which id.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) source: IpAddr,
    pub(super) request_id: Arc<str>,
    /// Kept as long as something is being answered: event streams keep it too.
    _in_flight: Arc<InFlight>,
}

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyFault {
    TooLarge,
    TooSlow,
    Broken,
}

/// Gives each request its id, each answer its general header fields and the log its line. Neither query nor body is logged.
pub(super) async fn accompany(mut request: Request, next: Next) -> Response {
    let Some(in_flight) = request.extensions_mut().remove::<Arc<InFlight>>() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let peer = Peer { source: in_flight.address(), request_id: request_id(request.headers()), _in_flight: in_flight };
    let began = Instant::now();
    let asked = tracing::enabled!(tracing::Level::DEBUG).then(|| (request.method().clone(), request.uri().path().to_owned()));
    request.extensions_mut().insert(peer.clone());
    let (leftover, version) = (Leftover::default(), request.version());
    let mut response = next.run(request.map(|body| leftover.watch(body))).await;
    let taken_in = leftover.take_in().await;
    let headers = response.headers_mut();
    if !taken_in && version < Version::HTTP_2 {
        // RFC 9112 9.3: else the peer would send its next request into a connection that ends.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Ok(id) = HeaderValue::from_str(&peer.request_id) {
        headers.insert(X_REQUEST_ID, id);
    }
    // Answers hold tokens and what devices say; none is for a cache unless it says so itself.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    if let Some((method, path)) = asked {
        let status = response.status().as_u16();
        let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        debug!(%method, path = shown(&path), status, took_us, source = %peer.source, request_id = &*peer.request_id, "request");
    }
    response
}

/// Reads a body of at most `most` bytes, within [`BODY_TIMEOUT`].
pub(super) async fn read_body(body: Body, most: usize) -> Result<Bytes, BodyFault> {
    let read = timeout(BODY_TIMEOUT, Limited::new(body, most).collect()).await.map_err(|_| BodyFault::TooSlow)?;
    read.map(http_body_util::Collected::to_bytes)
        .map_err(|error| if error.is::<LengthLimitError>() { BodyFault::TooLarge } else { BodyFault::Broken })
}

/// Whether the one `Content-Type` is `media_type`; parameters such as a charset do not matter.
pub(super) fn has_media_type(headers: &HeaderMap, media_type: &str) -> bool {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let essence = value.to_str().ok().and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case(media_type))
}

/// The credential of `Authorization: Bearer`. `Err` for a header field that is there and no such thing, or twice.
pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, NotBearer> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(NotBearer);
    }
    let (scheme, credential) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or(NotBearer)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(Some(credential.trim())) } else { Err(NotBearer) }
}

/// Another scheme than Bearer.
#[derive(Debug)]
pub(super) struct NotBearer;

/// A text of a peer as the log shows it: bounded, nothing that moves a cursor.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(128).flat_map(char::escape_debug).collect()
}

/// That the process answers.
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// Whether the hub can keep what it decides.
pub(super) async fn ready(State(http): State<Arc<Http>>) -> Response {
    match http.hub.ready() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => {
            debug!(why, "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, "the hub cannot write to its store now\n").into_response()
        }
    }
}

/// The certificate of the home CA, for `curl --cacert`.
pub(super) async fn ca_pem(State(http): State<Arc<Http>>) -> Response {
    let content_type = HeaderValue::from_static("application/x-pem-file");
    ([(header::CONTENT_TYPE, content_type)], http.surroundings.ca_pem.clone()).into_response()
}

/// The peer's own request id, if it is harmless in a log, or a fresh one.
fn request_id(headers: &HeaderMap) -> Arc<str> {
    let harmless = |id: &&str| {
        (1..=MAX_REQUEST_ID_BYTES).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let own = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok()).filter(harmless);
    own.map_or_else(|| entropy::unique_name().into(), Into::into)
}
