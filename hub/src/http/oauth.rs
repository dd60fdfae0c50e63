//! The OAuth endpoints: token (RFC 6749), registration (RFC 7591), keys (RFC 7517), metadata (RFC 8414).
//! Reads requests to the letter and writes answers so; the hub decides.

use super::{
    Full, Http,
    device_flow::{self, DEVICE_CODE_GRANT},
    extract::{NotProved, prove},
    limits::{MAX_REGISTRATION_BYTES, MAX_SOFTWARE_CHARACTERS, RETRY_AFTER_FULL},
    problem::retry_after,
    request::{self, BodyFault, Peer, has_media_type, read_body, shown},
};
use crate::throttle::{Proof, SlowDown};
use axum::{
    Extension, Json,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use hearthkey_core::{
    claims::AssertionClaims,
    jwt::{Algorithm, Jwk, UnverifiedJwt},
    limits::MAX_FORM_BYTES,
    oauth::{BasicCredentials, ErrorCode, OAuthError, TokenRequest},
    registry::Context,
    session::{Authority, Principal},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tracing::info;

const FORM: &str = "application/x-www-form-urlencoded";
/// How a client proves itself, at each endpoint where it does. `none`, for who polls for an approval, proves nothing.
const CLIENT_AUTHENTICATION: [&str; 3] = ["private_key_jwt", "client_secret_basic", "client_secret_post"];
const BASIC_CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"hearthkey\", charset=\"UTF-8\"");
const BEARER_CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"hearthkey\"");
const BEARER_INVALID: HeaderValue = HeaderValue::from_static("Bearer realm=\"hearthkey\", error=\"invalid_token\"");

/// A refusal on its way out.
pub(super) struct Refused {
    pub(super) error: OAuthError,
    pub(super) status: StatusCode,
    pub(super) challenge: Option<HeaderValue>,
    pub(super) retry_after: Option<Duration>,
}

/// `POST /oauth2/token`.
pub(super) async fn token(State(http): State<Arc<Http>>, Extension(peer): Extension<Peer>, request: Request) -> Response {
    let method = request.method().clone();
    match answer_token_request(&http, &peer, request).await {
        Ok(json) => {
            let mut response = json.into_response();
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
            response
        }
        Err(refused) => refused.answer(&http, &peer, "token.issue", &method),
    }
}

async fn answer_token_request(http: &Arc<Http>, peer: &Peer, request: Request) -> Result<Vec<u8>, Refused> {
    let form = Form::read(request).await?;
    if form.bearer.is_some() {
        return Err(Refused::from(not_basic()).because_of_basic());
    }
    if form.parameters.get("grant_type") == Some(DEVICE_CODE_GRANT) && form.basic.is_none() {
        return device_flow::poll(http, peer, &form.parameters).await;
    }
    form.by_client(http, peer, async |request, basic, context| {
        let response = http.hub.token(request, basic, context).await?;
        if let Principal::Device(client) = &response.authority.principal {
            http.token_failures.succeeded(peer.source, client.as_str(), now());
        }
        Ok(response.json)
    })
    .await
}

/// A form as the OAuth endpoints take it, and the one credential in the header, if there is one.
pub(super) struct Form {
    pub(super) parameters: TokenRequest,
    pub(super) basic: Option<BasicCredentials>,
    pub(super) bearer: Option<String>,
}

impl Form {
    /// Reads a request strictly (RFC 6749 sections 2.3.1 and 3.2).
    pub(super) async fn read(request: Request) -> Result<Self, Refused> {
        let (parts, body) = request.into_parts();
        only_post(&parts.method)?;
        if parts.uri.query().is_some_and(|query| !query.is_empty()) {
            // RFC 6749 2.3.1: credentials never stand in the URI, where logs and histories keep them.
            return Err(invalid_request("parameters belong into the body; a secret sent in the URI should be replaced").into());
        }
        if !has_media_type(&parts.headers, FORM) {
            return Err(invalid_request(&format!("the body must be of the type {FORM}")).into());
        }
        let bearer = request::bearer(&parts.headers).ok().flatten().map(str::to_owned);
        let basic = if bearer.is_some() { None } else { basic_credentials(&parts.headers)? };
        let body = read_body(body, MAX_FORM_BYTES).await.map_err(|fault| body_refused(fault, MAX_FORM_BYTES))?;
        let parameters = TokenRequest::parse(&body)
            .map_err(|error| if basic.is_some() { Refused::from(error).because_of_basic() } else { error.into() })?;
        Ok(Self { parameters, basic, bearer })
    }

    /// Lets the hub decide on a request in which a client authenticates; failures to do so are counted.
    pub(super) async fn by_client<T>(
        &self,
        http: &Http,
        peer: &Peer,
        decide: impl AsyncFnOnce(&TokenRequest, Option<&BasicCredentials>, &Context) -> Result<T, OAuthError>,
    ) -> Result<T, Refused> {
        let claimed = || claimed_client(&self.parameters, self.basic.as_ref());
        let room = || http.token_failures.admit(peer.source, claimed, now());
        let secret =
            self.basic.as_ref().map(|basic| basic.client_secret.as_str()).or_else(|| self.parameters.get("client_secret"));
        let proof = Proof::of(secret.unwrap_or_default().as_bytes());
        if proof == Proof::Other {
            room()?;
        }
        let _turn = http.turn().await?;
        let context = http.hub.context(Some(peer.source), &peer.request_id);
        decide(&self.parameters, self.basic.as_ref(), &context).await.map_err(|error| {
            if error.code == ErrorCode::InvalidClient {
                if proof == Proof::Stored
                    && let Err(slow_down) = room()
                {
                    return slow_down.into();
                }
                http.token_failures.failed(peer.source, claimed().as_deref(), now());
            }
            let refused = Refused::from(error);
            if self.basic.is_some() { refused.because_of_basic() } else { refused }
        })
    }
}

/// Who holds a bearer credential at an OAuth endpoint.
pub(super) async fn authenticate(http: &Http, peer: &Peer, bearer: &str) -> Result<Authority, Refused> {
    prove(http, peer.source, bearer).await.map_err(|why| match why {
        NotProved::SlowDown(slow_down) => slow_down.into(),
        NotProved::Refused(error) => error.into(),
    })
}

/// Whom a request claims to come from, for counting failures only.
fn claimed_client(form: &TokenRequest, basic: Option<&BasicCredentials>) -> Option<String> {
    let plain = basic.map(|basic| basic.client_id.as_str()).or_else(|| form.get("client_id"));
    plain.map(str::to_owned).or_else(|| {
        let jwt = UnverifiedJwt::parse(form.get("client_assertion")?).ok()?;
        jwt.unverified_claims::<AssertionClaims>().ok().map(|claims| claims.iss)
    })
}

fn basic_credentials(headers: &HeaderMap) -> Result<Option<BasicCredentials>, Refused> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid_request("the header field Authorization is given more than once").into());
    }
    let basic = value.to_str().ok().and_then(BasicCredentials::from_header);
    let basic = basic.unwrap_or_else(|| Err(not_basic()));
    basic.map(Some).map_err(|error| Refused::from(error).because_of_basic())
}

fn not_basic() -> OAuthError {
    let use_basic = "the client authenticates by Basic, by client_secret or by client_assertion, not by another Authorization";
    OAuthError::new(ErrorCode::InvalidClient, use_basic)
}

/// `POST /oauth2/register`.
pub(super) async fn register(State(http): State<Arc<Http>>, Extension(peer): Extension<Peer>, request: Request) -> Response {
    let method = request.method().clone();
    match answer_registration(&http, &peer, request).await {
        Ok(answer) => {
            let mut response = (StatusCode::CREATED, Json(answer)).into_response();
            response.headers_mut().insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
            response
        }
        Err(refused) => refused.answer(&http, &peer, "device.enrol", &method),
    }
}

async fn answer_registration(http: &Http, peer: &Peer, request: Request) -> Result<Registration, Refused> {
    let (parts, body) = request.into_parts();
    only_post(&parts.method)?;
    let no_code = || {
        let needed = "registration needs the one-time code of an enrolment string as Authorization: Bearer; \
                      `hearthkey device add` prints one";
        // RFC 6750 3.1: no error code when no credentials came; the body still helps.
        Refused { challenge: Some(BEARER_CHALLENGE), ..Refused::from(OAuthError::new(ErrorCode::InvalidToken, needed)) }
    };
    let code = request::bearer(&parts.headers).ok().flatten().filter(|code| !code.is_empty()).ok_or_else(no_code)?;
    http.registration_failures.admit(peer.source, || None, now())?;
    if !has_media_type(&parts.headers, "application/json") {
        return Err(invalid_metadata("the body must be of the type application/json").into());
    }
    let body = read_body(body, MAX_REGISTRATION_BYTES).await.map_err(|fault| body_refused(fault, MAX_REGISTRATION_BYTES))?;
    let (jwk, software) = read_metadata(&body)?;
    let _turn = http.turn().await?;
    let context = http.hub.context(Some(peer.source), &peer.request_id);
    let registered = http.hub.register(code, &jwk, software.shown(), &context).await.inspect_err(|error| {
        if error.code == ErrorCode::InvalidToken {
            http.registration_failures.failed(peer.source, None, now());
        }
    })?;
    Ok(Registration {
        client_id: registered.client_id.to_string(),
        client_id_issued_at: registered.issued_at.0,
        grant_types: ["client_credentials"],
        token_endpoint_auth_method: "private_key_jwt",
        jwks: json!({ "keys": [Jwk { kid: None, alg: None, use_: None, ..jwk }] }),
        software_id: software.id,
        software_version: software.version,
        scope: registered.scope.to_string(),
        issuer: http.hub.issuer().to_owned(),
    })
}

/// RFC 7591 section 2; members that we do not know are ignored.
#[derive(Deserialize)]
struct ClientMetadata {
    grant_types: Option<Vec<String>>,
    token_endpoint_auth_method: Option<String>,
    jwks: Option<KeySet>,
    software_id: Option<String>,
    software_version: Option<String>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// What a client says that it runs: [`MAX_SOFTWARE_CHARACTERS`] without control characters are kept of both together.
struct Software {
    id: Option<String>,
    version: Option<String>,
}

impl Software {
    fn kept(mut self) -> Self {
        let mut room = MAX_SOFTWARE_CHARACTERS;
        for text in [&mut self.id, &mut self.version].into_iter().flatten() {
            *text = text.chars().filter(|c| !c.is_control()).take(room).collect();
            // And the space between them.
            room = room.saturating_sub(text.chars().count() + 1);
        }
        self
    }

    /// In one line, for people.
    fn shown(&self) -> String {
        [&self.id, &self.version].into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" ").trim_end().to_owned()
    }
}

/// RFC 7591 section 3.2.1: all that is registered, as it was registered.
#[derive(Serialize)]
struct Registration {
    client_id: String,
    client_id_issued_at: u64,
    grant_types: [&'static str; 1],
    token_endpoint_auth_method: &'static str,
    jwks: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    software_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    software_version: Option<String>,
    scope: String,
    issuer: String,
}

fn read_metadata(body: &[u8]) -> Result<(Jwk, Software), OAuthError> {
    let metadata: ClientMetadata =
        serde_json::from_slice(body).map_err(|error| invalid_metadata(&format!("the body is no client metadata: {error}")))?;
    if metadata.grant_types.is_some_and(|grants| grants.iter().any(|grant| grant != "client_credentials")) {
        return Err(invalid_metadata("the only grant type is client_credentials"));
    }
    if metadata.token_endpoint_auth_method.is_some_and(|method| method != "private_key_jwt") {
        return Err(invalid_metadata("a client registers with token_endpoint_auth_method private_key_jwt"));
    }
    let keys = metadata.jwks.ok_or_else(|| invalid_metadata("jwks is missing: the client's public key (RFC 7517)"))?.keys;
    if keys.iter().any(|key| key.get("d").is_some()) {
        return Err(invalid_metadata("jwks holds a private key (`d`); make another key and send only its public part"));
    }
    // RFC 7517 section 5: keys that are not understood are ignored.
    let mut usable = keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
    match (usable.next(), usable.next()) {
        (Some(key), None) => Ok((key, Software { id: metadata.software_id, version: metadata.software_version }.kept())),
        (None, _) => Err(invalid_metadata("jwks must hold one key: P-256 for ES256, or Ed25519")),
        (Some(_), Some(_)) => Err(invalid_metadata("jwks must hold exactly one key: P-256 for ES256, or Ed25519")),
    }
}

/// `GET /oauth2/jwks`.
pub(super) async fn jwks(State(http): State<Arc<Http>>) -> Response {
    let cache = HeaderValue::from_static("public, max-age=300");
    let content_type = HeaderValue::from_static("application/jwk-set+json");
    ([(header::CACHE_CONTROL, cache), (header::CONTENT_TYPE, content_type)], http.hub.jwks().to_string()).into_response()
}

/// `GET /.well-known/oauth-authorization-server`: what exists, and nothing else.
pub(super) async fn metadata(State(http): State<Arc<Http>>) -> Response {
    let issuer = http.hub.issuer();
    let scopes: BTreeSet<String> = http.hub.view(|registry| {
        registry.profiles().flat_map(|profile| profile.permissions.keys()).map(|name| name.as_str().to_owned()).collect()
    });
    let document = json!({
        "issuer": issuer,
        "token_endpoint": format!("{issuer}/oauth2/token"),
        "device_authorization_endpoint": format!("{issuer}/oauth2/device_authorization"),
        "revocation_endpoint": format!("{issuer}/oauth2/revoke"),
        "introspection_endpoint": format!("{issuer}/oauth2/introspect"),
        "registration_endpoint": format!("{issuer}/oauth2/register"),
        "jwks_uri": format!("{issuer}/oauth2/jwks"),
        "scopes_supported": scopes,
        "response_types_supported": [],
        "grant_types_supported": ["client_credentials", DEVICE_CODE_GRANT],
        "token_endpoint_auth_methods_supported": CLIENT_AUTHENTICATION,
        "token_endpoint_auth_signing_alg_values_supported": Algorithm::NAMES,
        "revocation_endpoint_auth_methods_supported": CLIENT_AUTHENTICATION,
        "revocation_endpoint_auth_signing_alg_values_supported": Algorithm::NAMES,
        "introspection_endpoint_auth_methods_supported": CLIENT_AUTHENTICATION,
        "introspection_endpoint_auth_signing_alg_values_supported": Algorithm::NAMES,
        "service_documentation": format!("{issuer}/api/v1/openapi.json"),

    });
    let cache = HeaderValue::from_static("public, max-age=300");
    ([(header::CACHE_CONTROL, cache)], Json(document)).into_response()
}

fn only_post(method: &Method) -> Result<(), Refused> {
    if method == Method::POST {
        return Ok(());
    }
    let status = StatusCode::METHOD_NOT_ALLOWED;
    Err(Refused { status, ..Refused::from(invalid_request("use POST")) })
}

pub(super) fn invalid_request(why: &str) -> OAuthError {
    OAuthError::new(ErrorCode::InvalidRequest, why)
}

fn invalid_metadata(why: &str) -> OAuthError {
    OAuthError::new(ErrorCode::InvalidClientMetadata, why)
}

fn body_refused(fault: BodyFault, most: usize) -> Refused {
    match fault {
        BodyFault::TooLarge => invalid_request(&format!("the body is larger than {most} bytes")).into(),
        BodyFault::Broken => invalid_request("the body broke off").into(),
        BodyFault::TooSlow => {
            let status = StatusCode::REQUEST_TIMEOUT;
            Refused { status, ..invalid_request("the body did not arrive in time").into() }
        }
    }
}

fn now() -> std::time::Instant {
    std::time::Instant::now()
}

impl From<OAuthError> for Refused {
    fn from(error: OAuthError) -> Self {
        let (status, challenge, retry_after) = match error.code {
            ErrorCode::InvalidRequest
            | ErrorCode::InvalidClient
            | ErrorCode::UnauthorizedClient
            | ErrorCode::UnsupportedGrantType
            | ErrorCode::InvalidScope
            | ErrorCode::InvalidTarget
            | ErrorCode::IncompatibleAceProfiles
            | ErrorCode::InvalidClientMetadata
            | ErrorCode::AuthorizationPending
            | ErrorCode::AccessDenied
            | ErrorCode::ExpiredToken => (StatusCode::BAD_REQUEST, None, None),
            ErrorCode::InvalidToken => (StatusCode::UNAUTHORIZED, Some(BEARER_INVALID), None),
            ErrorCode::InsufficientScope => (StatusCode::FORBIDDEN, None, None),
            ErrorCode::SlowDown => (StatusCode::TOO_MANY_REQUESTS, None, Some(RETRY_AFTER_FULL)),
            ErrorCode::TemporarilyUnavailable => (StatusCode::SERVICE_UNAVAILABLE, None, Some(RETRY_AFTER_FULL)),
        };
        Self { error, status, challenge, retry_after }
    }
}

impl From<SlowDown> for Refused {
    fn from(slow_down: SlowDown) -> Self {
        let error = OAuthError::new(ErrorCode::SlowDown, slow_down.to_string());
        Self { retry_after: Some(slow_down.0), ..Self::from(error) }
    }
}

impl From<Full> for Refused {
    fn from(_: Full) -> Self {
        let why = "the hub has more to decide than it can; try again shortly";
        OAuthError::new(ErrorCode::TemporarilyUnavailable, why).into()
    }
}

impl Refused {
    /// RFC 6749 5.2: who tried Basic is challenged by Basic.
    fn because_of_basic(self) -> Self {
        if self.error.code == ErrorCode::InvalidClient {
            Self { status: StatusCode::UNAUTHORIZED, challenge: Some(BASIC_CHALLENGE), ..self }
        } else {
            self
        }
    }

    /// The answer, once the logs know.
    pub(super) fn answer(self, http: &Http, peer: &Peer, action: &'static str, method: &Method) -> Response {
        self.log(http, peer, action);
        self.into_response_to(method)
    }

    /// Tells the operator's log all, and the audit log that a proof was refused.
    fn log(&self, http: &Http, peer: &Peer, action: &'static str) {
        let OAuthError { code, description, evidence } = &self.error;
        let (error, evidence) = (code.as_str(), shown(evidence));
        info!(action, source = %peer.source, request_id = &*peer.request_id, error, description, evidence, "refused");
        if matches!(code, ErrorCode::InvalidClient | ErrorCode::InvalidToken) {
            http.refusals.note(action, "OAuth endpoint", &self.error, peer.source);
        }
    }

    fn into_response_to(self, method: &Method) -> Response {
        let document = json!({ "error": self.error.code, "error_description": error_description(&self.error.description) });
        let mut response = (self.status, Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
        if method != Method::POST {
            headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(span) = self.retry_after {
            headers.insert(header::RETRY_AFTER, retry_after(span));
        }
        response
    }
}

/// RFC 6749 5.2: `%x20-21 / %x23-5B / %x5D-7E` only.
fn error_description(text: &str) -> String {
    let legal = |c: char| matches!(c, ' '..='!' | '#'..='[' | ']'..='~');
    text.chars().map(|c| if legal(c) { c } else { '\'' }).collect()
}
