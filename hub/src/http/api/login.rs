//! A token for who knows a password. Guessing is slowed down by source and by account; who has logged in from somewhere
//! before is heard from there, whatever others try elsewhere.

use super::{
    credentials::{self, Created},
    users::bad_password,
};
use crate::{
    approvals::LOGIN_LIFETIME,
    http::{
        Http,
        extract::JsonOf,
        limits::{MAX_LOGINS_PER_SOURCE, RETRY_AFTER_FULL},
        problem::Problem,
        request::Peer,
    },
    hub::LoginFailed,
};
use axum::{
    Extension,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use hearthkey_core::{
    Seconds,
    oauth::{ErrorCode, OAuthError},
    registry::LoginRefused,
};
use serde::Deserialize;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};
use tracing::info;
use zeroize::Zeroizing;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    user: String,
    password: String,
    #[serde(default)]
    expires_in_s: Option<u64>,
}

/// Logins under way by source: verifying a password takes a while, and a few at a time are enough for a household.
#[derive(Debug, Default)]
pub(in crate::http) struct LoginsUnderWay(Mutex<HashMap<IpAddr, usize>>);

/// One of them, until it is dropped.
struct UnderWay<'a>(&'a LoginsUnderWay, IpAddr);

/// `POST /login`.
pub(super) async fn log_in(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    JsonOf(Login { user, password, expires_in_s }): JsonOf<Login>,
) -> Result<Response, Problem> {
    let password = Zeroizing::new(password);
    let _under_way = http.logins.begin(peer.source)?;
    let now = Instant::now();
    http.login_failures.admit(peer.source, || Some(user.clone()), now).map_err(Problem::from)?;
    let context = http.hub.context(Some(peer.source), &peer.request_id);
    let lifetime = expires_in_s.map_or(LOGIN_LIFETIME, Seconds);
    let _turn = http.turn().await?;
    let (record, secret) = http.hub.log_in(&user, password, lifetime, &context).await.map_err(|failed| match failed {
        LoginFailed::Proof(evidence) => {
            http.login_failures.failed(peer.source, Some(&user), Instant::now());
            let user = crate::http::request::shown(&user);
            info!(source = %peer.source, request_id = &*peer.request_id, user, evidence, "login refused");
            let error = OAuthError::new(ErrorCode::AccessDenied, "unknown user or wrong password");
            http.refusals.note("user.login", "hub", &error, peer.source);
            Problem::new(StatusCode::UNAUTHORIZED, "unknown user or wrong password; the owner can set a new one")
                .coded("invalid_credentials")
        }
        LoginFailed::Password(error) => bad_password(error),
        LoginFailed::Refused(LoginRefused::Credential(why)) => credentials::refused(why),
        LoginFailed::Refused(refused @ (LoginRefused::Lifetime | LoginRefused::PasswordChanged)) => {
            Problem::unprocessable(refused.to_string()).coded("expires_in_s")
        }
        LoginFailed::Unavailable(why) => {
            tracing::error!(why, "the store does not take changes");
            Problem::unavailable("the hub cannot write to its store now; try again shortly, or look at the hub's log")
        }
    })?;
    http.login_failures.succeeded(peer.source, &user, Instant::now());
    Ok(Created::answer(record, &secret, context.now).into_response())
}

impl LoginsUnderWay {
    fn begin(&self, source: IpAddr) -> Result<UnderWay<'_>, Problem> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_default();
        if *count >= MAX_LOGINS_PER_SOURCE {
            let detail = format!("{MAX_LOGINS_PER_SOURCE} logins from {source} are being looked at already");
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).coded("slow_down").retry_after(RETRY_AFTER_FULL));
        }
        *count += 1;
        Ok(UnderWay(self, source))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}
