//! `/metrics`: how the hub stands, for Prometheus (OpenMetrics text). Each bounded thing is shown beside its bound.
//!
//! Programs on this machine read it without a credential, others with the permission `metrics:read`. Names of labels and
//! their values are the hub's own: no peer adds one, and nothing here is secret.

use super::{Http, extract::Caller, limits, problem::Problem, request::Peer};
use crate::{mqtt::Stats, throttle::MAX_TRACKED};
use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use hearthkey_core::{limits::MAX_AUDIT_RECORDS, registry::ReadMetrics};
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        info::Info,
    },
    registry::Registry,
};
use std::sync::Arc;

const OPEN_METRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
/// What a proxy adds: then the peer's address says nothing about who asks.
const FORWARDED: [HeaderName; 2] = [header::FORWARDED, HeaderName::from_static("x-forwarded-for")];

/// `GET /metrics`.
pub(super) async fn serve(
    State(http): State<Arc<Http>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    caller: Result<Caller, Problem>,
) -> Result<Response, Problem> {
    let is_local = peer.source.is_loopback() && !FORWARDED.iter().any(|name| headers.contains_key(name));
    if !is_local {
        caller?.may_for_all::<ReadMetrics>(&http)?;
    }
    let mut text = String::new();
    encode(&mut text, &page(&http).0).map_err(|_| Problem::unavailable("the figures could not be written down"))?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

/// Figures by name.
struct Page(Registry);

type Labels = Vec<(&'static str, String)>;

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: impl TryInto<i64>) {
        self.0.register(name, help, ConstGauge::new(value.try_into().unwrap_or(i64::MAX)));
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.0.register(name, help, ConstCounter::new(value));
    }

    /// A figure and its bound, as `name` and `name_limit`.
    fn bounded(&mut self, name: &str, help: &str, value: usize, limit: usize) {
        self.gauge(name, help, value);
        self.gauge(&format!("{name}_limit"), &format!("Bound of {name}"), limit);
    }

    fn counters(&mut self, name: &str, help: &str, label: &'static str, values: impl IntoIterator<Item = (String, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (word, count) in values {
            family.get_or_create(&vec![(label, word)]).inc_by(count);
        }
        self.0.register(name, help, family);
    }

    fn gauges(&mut self, name: &str, help: &str, label: &'static str, values: impl IntoIterator<Item = (String, u64)>) {
        let family = Family::<Labels, Gauge>::default();
        for (word, value) in values {
            family.get_or_create(&vec![(label, word)]).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        self.0.register(name, help, family);
    }
}

fn page(http: &Http) -> Page {
    let mut page = Page(Registry::with_prefix("hearthkey"));
    page.0.register("build", "What runs", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
    page.gauge("uptime_seconds", "Seconds since the start", http.started.elapsed().as_secs());
    page.gauge("ready", "Whether the hub can write to its store", i64::from(http.hub.ready().is_ok()));
    if let Some(front) = &http.surroundings.front {
        mqtt(&mut page, &front.stats(), front.limits());
    }
    web(&mut page, http);
    registry(&mut page, http);
    page
}

fn mqtt(page: &mut Page, now: &Stats, limits: &crate::mqtt::Limits) {
    page.bounded("mqtt_connections", "Admitted MQTT connections", now.connections, limits.max_connections);
    page.bounded("mqtt_half_open", "MQTT connections without a finished CONNECT", now.half_open, limits.max_half_open);
    page.gauge("mqtt_sessions", "MQTT sessions, connected or kept", now.sessions);
    page.bounded(
        "mqtt_kept_sessions",
        "MQTT sessions that outlive their connection",
        now.kept_sessions,
        limits.max_kept_sessions,
    );
    page.gauge("mqtt_subscriptions", "Subscriptions of all sessions", now.subscriptions);
    page.gauge("mqtt_queued_messages", "Messages that wait for a client or for its acknowledgement", now.queued_messages);
    page.bounded("mqtt_retained_messages", "Retained messages", now.retained_messages, limits.max_retained_messages);
    page.bounded("mqtt_retained_bytes", "Bytes of retained messages", now.retained_bytes, limits.max_retained_bytes);
    page.counter("mqtt_connections_accepted", "Connections admitted", now.accepted);
    let refused = now.refused_by_code.iter().map(|(code, count)| (format!("0x{code:02x}"), *count));
    page.counters("mqtt_connections_refused", "Connections refused, by MQTT 5 reason code", "reason_code", refused);
    let ended = now.ended_by_word.iter().map(|(word, count)| ((*word).to_owned(), *count));
    page.counters("mqtt_connections_ended", "Connections that ended after CONNACK", "reason", ended);
    page.counter("mqtt_messages_published", "Publishes accepted from clients", now.published);
    page.counter("mqtt_messages_delivered", "Messages handed to clients", now.delivered);
    page.counter("mqtt_denied", "Publishes, subscriptions and deliveries denied", now.denied);
    page.counter("mqtt_messages_lost", "Messages dropped at a bound", now.lost);
    page.counter("mqtt_router_replacements", "Times that a router that died was replaced", now.router_replacements);
    let values = limits.values().map(|(name, value)| (name.to_owned(), value));
    page.gauges("mqtt_limit", "Bounds of the MQTT front as configured (docs/limits.md)", "name", values);
}

fn web(page: &mut Page, http: &Http) {
    page.bounded("http_connections", "HTTPS connections", http.door.count(), limits::MAX_CONNECTIONS);
    page.bounded("websockets", "WebSockets, also counted as HTTPS connections", http.websockets.taken(), limits::MAX_WEBSOCKETS);
    page.bounded("http_streams", "Event streams and waiting requests", http.streams.count(), limits::MAX_STREAMS);
    let free = http.decisions.available_permits();
    let most = limits::MAX_CONCURRENT_DECISIONS;
    page.bounded("http_decisions", "Requests that wait for the disk", most.saturating_sub(free), most);
    let throttles = [
        ("token", &http.token_failures),
        ("registration", &http.registration_failures),
        ("bearer", &http.bearer_failures),
        ("login", &http.login_failures),
        ("approval", &http.approval_failures),
        ("approval_request", &http.approval_requests),
    ];
    let tracked = throttles.map(|(name, throttle)| (name.to_owned(), throttle.tracked() as u64));
    page.gauges("throttle_entries", "Sources and clients that are remembered for failures or proofs", "of", tracked);
    // Sources, clients, pairs and known pairs.
    page.gauge("throttle_entries_limit", "Bound of throttle_entries, each", 4 * MAX_TRACKED);
}

fn registry(page: &mut Page, http: &Http) {
    let hub = &http.hub;
    page.counter("tokens_issued", "Access tokens issued, by HTTP or MQTT", hub.tallies().tokens_issued());
    let refused = hub.tallies().token_refusals().into_iter().map(|(error, count)| (error.to_owned(), count));
    page.counters("token_requests_refused", "Token requests refused, by error code of RFC 6749", "error", refused);
    let sizes = hub.view(|registry| registry.sizes());
    let counts = sizes.iter().map(|size| (size.kind.to_owned(), size.count as u64));
    page.gauges("registry_entries", "What the registry holds", "kind", counts);
    let bounds = sizes.iter().map(|size| (size.kind.to_owned(), size.most as u64));
    page.gauges("registry_entries_limit", "Bounds of registry_entries", "kind", bounds);
    page.counter("store_commits", "Batches that were ever made durable", hub.durable_sequence().0);
    let (anchor, head) = hub.audit_chain();
    page.counter("audit_entries", "Audit entries ever written", head.seq);
    page.gauge("audit_entries_kept", "Audit entries that are kept", head.seq.saturating_sub(anchor.seq));
    page.gauge("audit_entries_kept_limit", "Bound of audit_entries_kept", MAX_AUDIT_RECORDS);
}
