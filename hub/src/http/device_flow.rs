//! Device authorization (RFC 8628): who has no credential asks for a code, a person approves it, the token endpoint answers.

use super::{
    Http,
    oauth::{Form, Refused, invalid_request},
    request::Peer,
};
use crate::approvals::{JOIN_CLIENT, LOGIN_CLIENT, Wanted};
use axum::{
    Extension, Json,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hearthkey_core::{
    device_authorization::JoinCommitment,
    jwt::Jwk,
    limits::MAX_SOFTWARE_CHARACTERS,
    oauth::{ErrorCode, OAuthError, TokenRequest},
};
use serde::Serialize;
use serde_json::Value;
use std::{sync::Arc, time::Instant};

/// `grant_type` of who polls for an approval.
pub(super) const DEVICE_CODE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// Where a person is told how to approve; there is no form behind it, as approving needs a credential.
pub(super) const VERIFICATION_PATH: &str = "/approve";

/// RFC 8628 section 3.2.
#[derive(Serialize)]
struct Waits {
    device_code: String,
    user_code: String,
    verification_uri: String,
    expires_in: u64,
    interval: u64,
}

/// `POST /oauth2/device_authorization`.
pub(super) async fn ask(State(http): State<Arc<Http>>, Extension(peer): Extension<Peer>, request: Request) -> Response {
    let method = request.method().clone();
    match answer(&http, &peer, request).await {
        Ok(waits) => Json(waits).into_response(),
        Err(refused) => refused.answer(&http, &peer, "approval.ask", &method),
    }
}

async fn answer(http: &Http, peer: &Peer, request: Request) -> Result<Waits, Refused> {
    let form = Form::read(request).await?.parameters;
    let source = peer.source.to_canonical().to_string();
    let wanted = match form.get("client_id") {
        Some(LOGIN_CLIENT) => Wanted::Login { source },
        Some(JOIN_CLIENT) => joining(&form, source)?,
        Some(_) => return Err(OAuthError::client_authentication_failed("unknown client of the device flow").into()),
        None => return Err(invalid_request("client_id is missing").into()),
    };
    // Each request is counted, as each is something that a person has to look at.
    http.approval_requests.admit(peer.source, || None, Instant::now())?;
    http.approval_requests.failed(peer.source, None, Instant::now());
    let started = http.hub.ask_for_approval(wanted)?;
    Ok(Waits {
        device_code: started.device_code.expose().to_owned(),
        user_code: started.user_code.to_string(),
        verification_uri: format!("{}{VERIFICATION_PATH}", http.hub.issuer()),
        expires_in: started.expires_in.0,
        interval: started.interval.0,
    })
}

fn joining(form: &TokenRequest, source: String) -> Result<Wanted, OAuthError> {
    let metadata = |why: &str| OAuthError::new(ErrorCode::InvalidClientMetadata, why);
    let jwk = form.get("jwk").ok_or_else(|| metadata("jwk is missing: the device's public key (RFC 7517), as JSON"))?;
    let value: Value = serde_json::from_str(jwk).map_err(|_| metadata("jwk is not JSON"))?;
    if value.get("d").is_some() {
        return Err(metadata("jwk holds a private key (`d`); make another key and send only its public part"));
    }
    let key = serde_json::from_value::<Jwk>(value).ok().and_then(|jwk| jwk.to_public_key());
    // The code that people compare is made of its coordinates.
    let of_p256 = key.and_then(|key| Some((*key.point()?, key)));
    let (point, public_key) = of_p256.ok_or_else(|| metadata("jwk must be one P-256 key for ES256"))?;
    hearthkey_certs::DevicePublicKey::from_uncompressed_point(&point).map_err(|_| metadata("the key is no point of P-256"))?;
    let software = form.get("software").unwrap_or_default();
    let software = software.chars().filter(|c| !c.is_control()).take(MAX_SOFTWARE_CHARACTERS).collect();
    let commitment = match form.get("commitment") {
        Some(text) => {
            let why = "commitment must be the SHA-256 of the nonce, base64url without padding";
            Some(JoinCommitment::parse(text).ok_or_else(|| metadata(why))?)
        }
        None => None,
    };
    Ok(Wanted::Join { public_key, software, source, commitment })
}

/// The token endpoint's answer to a poll.
pub(super) async fn poll(http: &Arc<Http>, peer: &Peer, form: &TokenRequest) -> Result<Vec<u8>, Refused> {
    let device_code = form.get("device_code").ok_or_else(|| invalid_request("device_code is missing"))?;
    let client_id = form.get("client_id").ok_or_else(|| invalid_request("client_id is missing"))?;
    http.approval_requests.admit(peer.source, || None, Instant::now())?;
    let context = http.hub.context(Some(peer.source), &peer.request_id);
    match http.hub.poll_approval(client_id, device_code, form.get("nonce"), &context).await {
        Ok(response) => Ok(response.json),
        Err(error) => {
            // RFC 8628 3.5: as RFC 6749 5.2 has it, so 400 here, unlike the hub's own slow_down.
            let poll = matches!(error.code, ErrorCode::SlowDown);
            let refused = Refused::from(error);
            Err(if poll { Refused { status: StatusCode::BAD_REQUEST, ..refused } } else { refused })
        }
    }
}

/// `GET /approve`: what a person who follows the address is to do.
pub(super) async fn how_to_approve() -> &'static str {
    "Compare the code that the device or the other machine shows. Then, on the hub's machine or wherever you are logged in:\n\
     \n\
     \x20   hearthkey approve                                    lists who waits\n\
     \x20   hearthkey approve CODE                               lets a login in, with your rights\n\
     \x20   hearthkey approve CODE --name NAME --profile P       lets a device in\n\
     \x20   hearthkey deny CODE                                  if you did not expect it\n"
}
