//! The HTTP side of the hub: OAuth endpoints, the API of owners and their programs, health.
//!
//! Owns how requests come in and answers go out: connections, limits, error documents, event streams. Every decision is the
//! hub's; nothing here knows how a device is kept or a token made.

mod api;
mod connection;
mod device_flow;
mod door;
mod etag;
mod extract;
mod idempotency;
mod leftover;
pub mod limits;
mod metrics;
mod oauth;
mod openapi;
mod openapi_schemas;
mod problem;
mod refusals;
mod request;
mod revocation;
mod shares;
mod streams;
mod websocket;

pub use connection::Transport;

use self::{door::Door, idempotency::KeptAnswers, refusals::Refusals, streams::Streams, websocket::Websockets};
use crate::{config::Origin, gate::HubGate, hub::Hub, mqtt::Front, throttle::Throttle};
use axum::{Router, middleware, routing};
use serde::Serialize;
use std::{io, path::PathBuf, sync::Arc, time::Instant};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, SemaphorePermit, watch},
    time::timeout,
};

/// What the HTTP side tells about the hub that the hub itself does not know.
#[derive(Clone, Default)]
pub struct Surroundings {
    /// The certificate of the home CA, PEM.
    pub ca_pem: String,
    /// Where the hub listens.
    pub listeners: Listeners,
    /// The data directory.
    pub data_dir: Option<PathBuf>,
    /// Where messages pass, for `/watch`.
    pub front: Option<Front<HubGate>>,
    /// From which pages of others a browser may open MQTT over WebSocket, besides the hub's own.
    pub websocket_origins: Vec<Origin>,
}

/// Where the hub listens, as people read it: `127.0.0.1:8443`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Listeners {
    /// HTTPS.
    pub https: Option<String>,
    /// MQTT over TLS.
    pub mqtts: Option<String>,
    /// MQTT without TLS.
    pub mqtt: Option<String>,
}

/// What all requests share.
struct Http {
    hub: Arc<Hub>,
    surroundings: Surroundings,
    stop: watch::Receiver<bool>,
    started: Instant,
    door: Arc<Door>,
    decisions: Semaphore,
    streams: Streams,
    websockets: Arc<Websockets>,
    refusals: Refusals,
    token_failures: Throttle,
    registration_failures: Throttle,
    bearer_failures: Throttle,
    login_failures: Throttle,
    logins: api::LoginsUnderWay,
    /// Guesses at codes of those who wait.
    approval_failures: Throttle,
    /// Requests to be approved, all of them.
    approval_requests: Throttle,
    kept_answers: KeptAnswers,
    audit_readings: Semaphore,
}

/// No turn to decide within [`limits::DECISION_WAIT`].
struct Full;

/// Serves until `stop` says true, then lets the answers under way go out.
///
/// # Errors
/// When the listener is not fit for the transport. No peer can make this return.
pub async fn serve(
    hub: Arc<Hub>,
    surroundings: Surroundings,
    listener: TcpListener,
    transport: Transport,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let (refusals, writing_down) = Refusals::new(Arc::clone(&hub));
    let http = Arc::new(Http {
        hub,
        surroundings,
        stop,
        started: Instant::now(),
        door: Arc::default(),
        decisions: Semaphore::new(limits::MAX_CONCURRENT_DECISIONS),
        streams: Streams::default(),
        websockets: Websockets::new(limits::MAX_WEBSOCKETS, limits::MAX_WEBSOCKETS_PER_SOURCE),
        refusals,
        token_failures: Throttle::default(),
        registration_failures: Throttle::default(),
        bearer_failures: Throttle::default(),
        login_failures: Throttle::for_passwords(),
        logins: api::LoginsUnderWay::default(),
        approval_failures: Throttle::default(),
        approval_requests: Throttle::default(),
        kept_answers: KeptAnswers::default(),
        audit_readings: Semaphore::new(limits::MAX_AUDIT_READINGS),
    });
    let writing_down = tokio::spawn(writing_down);
    let router = router(http.clone());
    let served = connection::listen(http, router, listener, transport).await;
    // The writing ends when nothing that serves is left.
    let _ = timeout(limits::SHUTDOWN_GRACE, writing_down).await;
    served
}

fn router(http: Arc<Http>) -> Router {
    Router::new()
        .route("/oauth2/token", routing::any(oauth::token))
        .route("/oauth2/device_authorization", routing::any(device_flow::ask))
        .route("/oauth2/revoke", routing::any(revocation::revoke))
        .route("/oauth2/introspect", routing::any(revocation::introspect))
        .route(device_flow::VERIFICATION_PATH, routing::get(device_flow::how_to_approve))
        .route("/oauth2/register", routing::any(oauth::register))
        .route("/oauth2/jwks", routing::get(oauth::jwks))
        .route("/.well-known/oauth-authorization-server", routing::get(oauth::metadata))
        .nest("/api/v1", api::router(http.clone()))
        .route("/mqtt", routing::get(websocket::upgrade))
        .route("/healthz", routing::get(request::alive))
        .route("/readyz", routing::get(request::ready))
        .route("/metrics", routing::get(metrics::serve))
        .route("/ca.pem", routing::get(request::ca_pem))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(middleware::from_fn(request::accompany))
        .with_state(http)
}

impl Http {
    /// Waits for a turn to decide something.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, Full> {
        turn_of(&self.decisions).await
    }
}

async fn turn_of(decisions: &Semaphore) -> Result<SemaphorePermit<'_>, Full> {
    timeout(limits::DECISION_WAIT, decisions.acquire()).await.ok().and_then(Result::ok).ok_or(Full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_for_a_turn_is_told_so_and_the_next_one_gets_it() {
        let decisions = Semaphore::new(1);
        let first = turn_of(&decisions).await;
        assert!(first.is_ok());
        assert!(turn_of(&decisions).await.is_err(), "the disk does not answer");
        drop(first);
        assert!(turn_of(&decisions).await.is_ok());
    }
}
