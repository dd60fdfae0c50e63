//! What becomes of tokens after they were issued: revocation (RFC 7009) and introspection (RFC 7662).

use super::{
    Http,
    extract::challenge_of,
    oauth::{self, Form, Refused, invalid_request},
    request::Peer,
};
use crate::clock;
use axum::{
    Extension, Json,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use hearthkey_core::{
    oauth::{ErrorCode, OAuthError},
    registry::{IntrospectTokens, NotPermitted, Registry, UserPermit},
    session::Authority,
};
use serde_json::json;
use std::sync::Arc;

/// `POST /oauth2/revoke`.
pub(super) async fn revoke(State(http): State<Arc<Http>>, Extension(peer): Extension<Peer>, request: Request) -> Response {
    let method = request.method().clone();
    match answer_revocation(&http, &peer, request).await {
        // RFC 7009 2.2: the body says nothing.
        Ok(()) => StatusCode::OK.into_response(),
        Err(refused) => refused.answer(&http, &peer, "token.revoke", &method),
    }
}

async fn answer_revocation(http: &Arc<Http>, peer: &Peer, request: Request) -> Result<(), Refused> {
    let form = Form::read(request).await?;
    let Some(bearer) = form.bearer.as_deref() else {
        return form
            .by_client(http, peer, async |request, basic, context| http.hub.revoke_token(request, basic, context).await)
            .await;
    };
    // A person's token and an integration's key prove themselves and end themselves.
    let token = form.required("token")?;
    let authority = oauth::authenticate(http, peer, bearer).await?;
    if token != bearer {
        let why = "a bearer credential revokes only itself; `token` must be the same";
        return Err(OAuthError::new(ErrorCode::UnauthorizedClient, why).into());
    }
    if !bearer.starts_with("hk_") {
        let why = "a client revokes an access token with its client authentication, not with the token";
        return Err(OAuthError::new(ErrorCode::InvalidClient, why).into());
    }
    let _turn = http.turn().await?;
    let context = http.hub.context(Some(peer.source), &peer.request_id);
    http.hub.revoke_itself(&authority, &context).await.map_err(|why| {
        let description = "the hub cannot write to its store now; try again shortly".to_owned();
        OAuthError { code: ErrorCode::TemporarilyUnavailable, description, evidence: why }.into()
    })
}

/// `POST /oauth2/introspect`.
pub(super) async fn introspect(State(http): State<Arc<Http>>, Extension(peer): Extension<Peer>, request: Request) -> Response {
    let method = request.method().clone();
    match answer_introspection(&http, &peer, request).await {
        Ok(response) => response,
        Err(refused) => refused.answer(&http, &peer, "token.introspect", &method),
    }
}

async fn answer_introspection(http: &Arc<Http>, peer: &Peer, request: Request) -> Result<Response, Refused> {
    let form = Form::read(request).await?;
    let told = match form.bearer.as_deref() {
        Some(bearer) => {
            let authority = oauth::authenticate(http, peer, bearer).await?;
            http.hub.introspect(form.required("token")?, |registry| may_introspect(registry, &authority))?
        }
        None => {
            form.by_client(http, peer, async |request, basic, context| {
                http.hub.introspect_for_client(request, basic, context).await
            })
            .await?
        }
    };
    let mut response = match told {
        Some(introspection) => Json(introspection).into_response(),
        // RFC 7662 2.2: exactly this, whatever the reason.
        None => Json(json!({ "active": false })).into_response(),
    };
    response.headers_mut().insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    Ok(response)
}

fn may_introspect<'a>(registry: &'a Registry, authority: &Authority) -> Result<UserPermit<'a, IntrospectTokens>, Refused> {
    registry.permit_user(authority, clock::now()).map_err(|not_permitted| {
        let code = match not_permitted {
            NotPermitted::Ended(_) => ErrorCode::InvalidToken,
            NotPermitted::Missing(_) => ErrorCode::InsufficientScope,
        };
        let error = OAuthError::new(code, not_permitted.to_string());
        Refused { challenge: challenge_of(&not_permitted), ..error.into() }
    })
}

impl Form {
    fn required(&self, name: &str) -> Result<&str, Refused> {
        self.parameters.get(name).ok_or_else(|| invalid_request(&format!("{name} is missing")).into())
    }
}
