//! What API requests bring, read strictly: a caller, a path, parameters, a JSON body. Each fault becomes a [`Problem`].

use super::{
    Http,
    limits::MAX_API_BODY_BYTES,
    problem::Problem,
    request::{self, Peer, has_media_type, read_body, shown},
};
use crate::{
    clock,
    throttle::{Proof, SlowDown},
};
use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderValue, StatusCode, request::Parts},
};
use hearthkey_core::{
    DeviceId,
    claims::AccessTokenClaims,
    jwt::UnverifiedJwt,
    oauth::OAuthError,
    registry::{Context, DeviceRefused, NotPermitted, Permission, Registry, UserPermit},
    secret::PresentedCredential,
    session::{self, Authority, EndReason, Principal},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::error::Category;
use std::{net::IpAddr, sync::Arc, time::Instant};
use tracing::info;

const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"hearthkey\"");
const CHALLENGE_INVALID: HeaderValue = HeaderValue::from_static("Bearer realm=\"hearthkey\", error=\"invalid_token\"");

/// Who asks, proved by a bearer credential (RFC 6750) that was good when the request came.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) authority: Authority,
    pub(super) peer: Peer,
}

/// The parameters in a path.
pub(super) struct PathOf<T>(pub(super) T);

/// The parameters behind `?`.
pub(super) struct QueryOf<T>(pub(super) T);

/// A JSON body.
pub(super) struct JsonOf<T>(pub(super) T);

impl Caller {
    /// Whether the caller may do now what a permission names. Asked first, so that nothing is begun in vain; by the time that its
    /// turn has come it may have changed, so what is decided asks for a [`Caller::permit`].
    ///
    /// # Errors
    /// [`Caller::permit`]'s.
    pub(super) fn may<P: Permission>(&self, http: &Http) -> Result<(), Problem> {
        http.hub.view(|registry| self.permit::<P>(registry).map(drop))
    }

    /// As [`Caller::may`], for one device, which a limited credential may not reach.
    ///
    /// # Errors
    /// [`Caller::permit`]'s, and 403 `out_of_reach`.
    pub(super) fn may_for<P: Permission>(&self, http: &Http, device: &DeviceId) -> Result<(), Problem> {
        let covered = http.hub.view(|registry| self.permit::<P>(registry).map(|permit| permit.covers(device)))?;
        if covered { Ok(()) } else { Err(out_of_reach(DeviceRefused::OutOfReach(device.clone()))) }
    }

    /// As [`Caller::may`], for what is about the home as a whole.
    ///
    /// # Errors
    /// [`Caller::permit_for_all`]'s.
    pub(super) fn may_for_all<P: Permission>(&self, http: &Http) -> Result<(), Problem> {
        http.hub.view(|registry| self.permit_for_all::<P>(registry).map(drop))
    }

    /// Proof, by the registry that is looked at or decided upon, that the caller may do now what a permission names.
    ///
    /// # Errors
    /// 401 `invalid_token` for a credential that has ended since the request came, 403 `insufficient_scope` (RFC 6750 section 3.1).
    pub(super) fn permit<'a, P: Permission>(&self, registry: &'a Registry) -> Result<UserPermit<'a, P>, Problem> {
        Ok(registry.permit_user(&self.authority, clock::now())?)
    }

    /// Proof as of [`Caller::permit`], for what is about the home as a whole: a limited credential has none.
    ///
    /// # Errors
    /// [`Caller::permit`]'s, and 403 `out_of_reach`.
    pub(super) fn permit_for_all<'a, P: Permission>(&self, registry: &'a Registry) -> Result<UserPermit<'a, P>, Problem> {
        let permit = self.permit(registry)?;
        match permit.limited_to() {
            None => Ok(permit),
            Some(_) => Err(out_of_reach("the credential is limited to some devices, this is about all")),
        }
    }

    /// Where and when, for what is decided.
    pub(super) fn context(&self, http: &Http) -> Context {
        http.hub.context(Some(self.peer.source), &self.peer.request_id)
    }
}

/// The credential is limited to other devices.
pub(super) fn out_of_reach(detail: impl ToString) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, detail.to_string()).coded("out_of_reach")
}

/// The credential ended since the request came.
pub(super) fn ended(end: EndReason) -> Problem {
    NotPermitted::Ended(end).into()
}

/// What to tell who lacks a permit, in the header (RFC 6750 section 3).
pub(super) fn challenge_of(not_permitted: &NotPermitted) -> Option<HeaderValue> {
    match not_permitted {
        NotPermitted::Ended(_) => Some(CHALLENGE_INVALID),
        NotPermitted::Missing(name) => {
            HeaderValue::try_from(format!("Bearer realm=\"hearthkey\", error=\"insufficient_scope\", scope=\"{name}\"")).ok()
        }
    }
}

impl From<NotPermitted> for Problem {
    fn from(not_permitted: NotPermitted) -> Self {
        let (status, code) = match &not_permitted {
            NotPermitted::Ended(_) => (StatusCode::UNAUTHORIZED, "invalid_token"),
            NotPermitted::Missing(_) => (StatusCode::FORBIDDEN, "insufficient_scope"),
        };
        let problem = Self::new(status, not_permitted.to_string()).coded(code);
        match challenge_of(&not_permitted) {
            Some(challenge) => problem.challenging(challenge),
            None => problem,
        }
    }
}

impl FromRequestParts<Arc<Http>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, http: &Arc<Http>) -> Result<Self, Problem> {
        if let Some(known) = parts.extensions.get::<Self>() {
            return Ok(known.clone());
        }
        let peer = parts.extensions.get::<Peer>().cloned();
        let peer =
            peer.ok_or_else(|| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the request came without a connection"))?;
        let unauthorized = |detail: &str| Problem::new(StatusCode::UNAUTHORIZED, detail).challenging(CHALLENGE);
        let bearer = match request::bearer(&parts.headers) {
            Ok(Some(bearer)) => bearer,
            // RFC 6750 3.1: no error code where no credential came.
            Ok(None) => return Err(unauthorized("this needs a credential: Authorization: Bearer hk_pat_…")),
            Err(request::NotBearer) => {
                return Err(unauthorized("the one Authorization must be of the scheme Bearer").coded("invalid_request"));
            }
        };
        match prove(http, peer.source, bearer).await {
            Ok(authority) => Ok(Self { authority, peer }),
            Err(NotProved::SlowDown(slow_down)) => Err(slow_down.into()),
            Err(NotProved::Refused(error)) => {
                http.refusals.note("http.authenticate", "API", &error, peer.source);
                let OAuthError { description, evidence, .. } = &error;
                info!(source = %peer.source, request_id = &*peer.request_id, evidence = shown(evidence), "credential refused");
                let detail = format!("{description}; check that it is complete, or use another");
                Err(Problem::new(StatusCode::UNAUTHORIZED, detail).coded("invalid_token").challenging(CHALLENGE_INVALID))
            }
        }
    }
}

/// Why a bearer credential proves nothing.
pub(super) enum NotProved {
    /// It was not looked at: too many failures.
    SlowDown(SlowDown),
    /// It is not good.
    Refused(OAuthError),
}

/// Who holds a bearer credential. Failures are counted, and slow down whoever goes on; a stored credential is looked up first.
pub(super) async fn prove(http: &Http, source: IpAddr, bearer: &str) -> Result<Authority, NotProved> {
    let claimed = || claimed_name(bearer);
    let admit = || http.bearer_failures.admit(source, claimed, Instant::now()).map_err(NotProved::SlowDown);
    let proof = Proof::of(bearer.as_bytes());
    if proof == Proof::Other {
        admit()?;
    }
    match http.hub.authenticate_bearer(bearer, source).await {
        Ok(authority) => {
            http.bearer_failures.succeeded(source, name_of(&authority), Instant::now());
            Ok(authority)
        }
        Err(error) => {
            if proof == Proof::Stored {
                admit()?;
            }
            http.bearer_failures.failed(source, claimed().as_deref(), Instant::now());
            Err(NotProved::Refused(error))
        }
    }
}

/// Whom a bearer credential claims to be, for counting failures only.
fn claimed_name(bearer: &str) -> Option<String> {
    if bearer.starts_with("hk_") {
        return PresentedCredential::parse(bearer).ok().map(|presented| presented.id.to_owned());
    }
    let jwt = UnverifiedJwt::parse(bearer).ok()?;
    jwt.unverified_claims::<AccessTokenClaims>().ok().map(|claims| claims.sub.to_string())
}

/// What failures of a credential are counted under.
fn name_of(authority: &Authority) -> &str {
    match (&authority.proof, &authority.principal) {
        (session::Proof::Credential(id), _) => id,
        (session::Proof::AccessToken { .. }, Principal::Device(name) | Principal::User(name) | Principal::Integration(name)) => {
            name.as_str()
        }
    }
}

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<Http>> for PathOf<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, http: &Arc<Http>) -> Result<Self, Problem> {
        let path = Path::<T>::from_request_parts(parts, http).await;
        // A name that no device can have is a name that no device has.
        path.map(|Path(value)| Self(value)).map_err(|rejection| Problem::new(StatusCode::NOT_FOUND, rejection.body_text()))
    }
}

impl<T: DeserializeOwned> FromRequestParts<Arc<Http>> for QueryOf<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Http>) -> Result<Self, Problem> {
        let query = Query::<T>::try_from_uri(&parts.uri);
        query.map(|Query(value)| Self(value)).map_err(|rejection| Problem::bad_request(rejection.body_text()))
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<Http>> for JsonOf<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, http: &Arc<Http>) -> Result<Self, Problem> {
        let body = BodyOf::from_request(request, http).await?;
        if !has_media_type(&body.headers, "application/json") {
            let detail = "the body must be JSON, with Content-Type: application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        json(&body.bytes).map(Self)
    }
}

/// Reads JSON.
///
/// # Errors
/// 400 for what is no JSON, 422 for what says something else than is needed.
pub(super) fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    // The reader would take an array for an object whose members come in order.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::unprocessable("the body must be a JSON object, not an array"));
    }
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        Category::Data => Problem::unprocessable(format!("the body does not say what is needed: {error}")),
        Category::Syntax | Category::Eof | Category::Io => Problem::bad_request(format!("the body is not JSON: {error}")),
    })
}

/// A body of at most [`MAX_API_BODY_BYTES`], with the header of its request.
pub(super) struct BodyOf {
    pub(super) headers: axum::http::HeaderMap,
    pub(super) bytes: Bytes,
}

impl FromRequest<Arc<Http>> for BodyOf {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Arc<Http>) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        Ok(Self { headers: parts.headers, bytes: read_body(body, MAX_API_BODY_BYTES).await? })
    }
}
