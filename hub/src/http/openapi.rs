//! The API described (OpenAPI 3.1): kept by hand, one line of code a route, and held to the router by tests.
//!
//! A generator would have to be told the same things beside each handler, and what `core` shows besides; here they stand
//! together and can be read. Shapes are in [`super::openapi_schemas`].

use super::{
    Http,
    limits::{MAX_AUDIT_PAGE, MAX_IDEMPOTENCY_KEY_BYTES, MAX_PAGE_ITEMS},
    openapi_schemas::schemas,
};
use axum::{
    Json,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// `GET /api/v1/openapi.json`.
pub(super) async fn serve(State(http): State<Arc<Http>>) -> Response {
    let cache = HeaderValue::from_static("public, max-age=300");
    ([(header::CACHE_CONTROL, cache)], Json(document(http.hub.issuer()))).into_response()
}

/// One method of one path.
struct Operation {
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    /// Names in [`parameters`]; those of the path are found in it.
    query: &'static [&'static str],
    /// The media type and schema of the body.
    body: Option<(&'static str, &'static str)>,
    success: u16,
    answer: Answer,
    /// Beyond those that each operation of its kind has.
    errors: &'static [u16],
    access: Access,
}

/// What a success says.
enum Answer {
    Nothing,
    Json(&'static str),
    Text(&'static str),
    JsonOrToml(&'static str),
    /// Each state as an event, where the caller accepts that.
    JsonOrEvents(&'static str),
    JwkSet,
}

/// Who may ask, and in which words a refusal comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// `/api/v1` by a bearer credential; problems.
    Bearer,
    /// `/api/v1` by anyone; problems.
    Anyone,
    /// OAuth; errors as RFC 6749 section 5.2 has them.
    OAuth,
    /// Nothing is refused.
    Open,
}

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
const PAGE: &[&str] = &["limit", "cursor"];

/// An operation of `/api/v1` without a body.
const fn api(method: &'static str, path: &'static str, id: &'static str, summary: &'static str, answer: Answer) -> Operation {
    Operation { method, path, id, summary, query: &[], body: None, success: 200, answer, errors: &[], access: Access::Bearer }
}

/// An operation of OAuth with a form.
const fn oauth(path: &'static str, id: &'static str, summary: &'static str, form: &'static str, answer: Answer) -> Operation {
    let body = Some((FORM, form));
    Operation { method: "post", path, id, summary, query: &[], body, success: 200, answer, errors: &[401], access: Access::OAuth }
}

/// What is open to all.
const fn open(path: &'static str, id: &'static str, summary: &'static str, answer: Answer) -> Operation {
    Operation { access: Access::Open, ..api("get", path, id, summary, answer) }
}

impl Operation {
    const fn query(mut self, query: &'static [&'static str]) -> Self {
        self.query = query;
        self
    }

    const fn takes(mut self, schema: &'static str) -> Self {
        self.body = Some((JSON, schema));
        self
    }

    const fn created(mut self) -> Self {
        self.success = 201;
        self
    }

    const fn succeeds(mut self, success: u16) -> Self {
        self.success = success;
        self
    }

    const fn errors(mut self, errors: &'static [u16]) -> Self {
        self.errors = errors;
        self
    }
}

/// Each route of the hub.
fn operations() -> Vec<Operation> {
    use Answer::{Json as J, JsonOrEvents, JsonOrToml, JwkSet, Nothing, Text};
    vec![
        api("get", "/api/v1/status", "status", "What runs, and since when", J("Status")),
        api("get", "/api/v1/me", "me", "Who asks, and what the credential amounts to", J("Me")),
        api("put", "/api/v1/me/password", "setOwnPassword", "Change one's own password", Nothing)
            .takes("NewPassword")
            .succeeds(204),
        api("get", "/api/v1/devices", "listDevices", "The devices that the credential covers", J("Devices")).query(PAGE),
        api("post", "/api/v1/devices", "addDevice", "Add a device; shows once how it proves itself", J("Enrolment"))
            .takes("DeviceAddition")
            .created(),
        api("get", "/api/v1/devices/{id}", "showDevice", "One device", J("Device")),
        api("post", "/api/v1/devices/{id}/disable", "disableDevice", "Pause a device; its sessions end", J("Device")),
        api("post", "/api/v1/devices/{id}/enable", "enableDevice", "Let a paused device go on", J("Device")),
        api("post", "/api/v1/devices/{id}/revoke", "revokeDevice", "End a device for good; its sessions end", J("Device")),
        api("post", "/api/v1/devices/{id}/rotate", "rotateDevice", "Give a device another way to prove itself", J("Enrolment"))
            .takes("DeviceRotation"),
        api("get", "/api/v1/devices/{id}/can", "explain", "Whether a device may do something, and why", J("Decision"))
            .query(&["action", "topic"])
            .errors(&[422]),
        api(
            "get",
            "/api/v1/can",
            "explainAny",
            "Whether a device, a person or a credential may do something, and why",
            J("Decision"),
        )
        .query(&["whose", "action", "topic"])
        .errors(&[404, 422]),
        api("get", "/api/v1/devices/{id}/commands", "listCommands", "The last commands to a device", J("Commands")).query(PAGE),
        api(
            "get",
            "/api/v1/devices/{id}/commands/{command_id}",
            "showCommand",
            "One command, at once or when it has ended, or its states as events",
            JsonOrEvents("Command"),
        )
        .query(&["wait_s"]),
        api("post", "/api/v1/devices/{id}/commands/{command}", "sendCommand", "Send a command", J("Command"))
            .takes("Order")
            .query(&["prefer"])
            .succeeds(202)
            .errors(&[200]),
        api("get", "/api/v1/devices/{id}/twin", "showTwin", "What a device is to be, and what it says it is", J("Twin")),
        api("put", "/api/v1/devices/{id}/twin", "replaceTwin", "All that a device is to be", J("Twin"))
            .takes("TwinBody")
            .errors(&[409, 412]),
        Operation {
            body: Some(("application/merge-patch+json", "TwinBody")),
            ..api("patch", "/api/v1/devices/{id}/twin", "changeTwin", "Change what a device is to be (RFC 7396)", J("Twin"))
        }
        .errors(&[409, 412]),
        api("get", "/api/v1/profiles", "listProfiles", "All profiles", J("Profiles")).query(PAGE),
        api("get", "/api/v1/profiles/{name}", "showProfile", "One profile, as JSON or as TOML", JsonOrToml("Profile")),
        Operation {
            body: Some(("application/toml", "ProfileToml")),
            ..api("put", "/api/v1/profiles/{name}", "applyProfile", "Write a profile; live sessions follow", J("Profile"))
        }
        .errors(&[201, 409, 412]),
        api("get", "/api/v1/watch", "watch", "What devices publish, as it is published", Text("text/event-stream"))
            .query(&["filter"])
            .errors(&[422]),
        api("get", "/api/v1/users", "listUsers", "All people", J("Users")).query(PAGE),
        api("post", "/api/v1/users", "addUser", "Add a person", J("User")).takes("UserAddition").created(),
        api("get", "/api/v1/users/{name}", "showUser", "One person", J("User")),
        api("patch", "/api/v1/users/{name}", "changeUser", "Change a role or a password", J("User"))
            .takes("UserEdit")
            .errors(&[409, 412]),
        api("delete", "/api/v1/users/{name}", "removeUser", "Remove a person; their tokens end", Nothing)
            .succeeds(204)
            .errors(&[409, 412]),
        api(
            "get",
            "/api/v1/credentials",
            "listCredentials",
            "One's own credentials; an owner's answer holds everyone's",
            J("Credentials"),
        )
        .query(&["limit", "cursor", "kind", "subject"]),
        api("get", "/api/v1/credentials/{credential}", "showCredential", "One credential, without its secret", J("Credential")),
        api(
            "delete",
            "/api/v1/credentials/{credential}",
            "revokeCredential",
            "End a credential and its sessions at once",
            Nothing,
        )
        .succeeds(204)
        .errors(&[409]),
        api(
            "post",
            "/api/v1/credentials/personal-access-tokens",
            "createToken",
            "Make a personal access token; shown once",
            J("Created"),
        )
        .takes("TokenWish")
        .created(),
        api("post", "/api/v1/credentials/api-keys", "createKey", "Make an API key; shown once", J("Created"))
            .takes("KeyWish")
            .created(),
        api(
            "post",
            "/api/v1/credentials/{credential}/rotate",
            "rotateToken",
            "Replace one's own token by a fresh one",
            J("Created"),
        )
        .created(),
        api(
            "post",
            "/api/v1/credentials/{credential}/roll",
            "rollKey",
            "Replace an API key; the old one works for a while more",
            J("Created"),
        )
        .takes("Roll")
        .created(),
        Operation {
            access: Access::Anyone,
            ..api("post", "/api/v1/login", "logIn", "A personal access token for who knows a password", J("Created"))
        }
        .takes("Login")
        .created()
        .errors(&[401, 409]),
        api(
            "post",
            "/api/v1/signing-keys/rotate",
            "rotateSigningKey",
            "Sign with a fresh key; tokens of the old one stay good",
            Nothing,
        )
        .succeeds(204),
        api(
            "post",
            "/api/v1/backups",
            "writeBackup",
            "Write everything that is stored to a file on the hub's machine",
            J("BackupWritten"),
        )
        .created()
        .errors(&[507]),
        api("post", "/api/v1/join", "openJoinWindow", "Let devices ask to join for a while", J("JoinWindow")).takes("JoinSpan"),
        api("get", "/api/v1/approvals", "listApprovals", "Those who wait for a person's word", J("Approvals")).query(PAGE),
        api("post", "/api/v1/approvals/{user_code}", "approve", "Let in who waits under a code", J("LetIn")).takes("Word"),
        api("delete", "/api/v1/approvals/{user_code}", "deny", "Turn away who waits under a code", Nothing).succeeds(204),
        api("get", "/api/v1/audit", "listAudit", "Entries of the audit log", J("AuditPage"))
            .query(&["after", "audit_limit", "last", "actor", "audit_action", "target", "outcome", "since", "until"])
            .errors(&[422]),
        api("get", "/api/v1/audit/tail", "tailAudit", "The audit log as it grows", Text("text/event-stream")).query(&["last"]),
        api("get", "/api/v1/audit/verify", "verifyAudit", "Prove the hash chain", J("Verified")),
        api("get", "/api/v1/audit/export", "exportAudit", "All entries as they are stored", Text("application/x-ndjson")),
        open("/api/v1/openapi.json", "openapi", "This document", J("Any")),
        oauth("/oauth2/token", "issueToken", "The token endpoint (RFC 6749, RFC 8628)", "TokenForm", J("TokenResponse")),
        oauth("/oauth2/device_authorization", "askForApproval", "Ask a person to let one in (RFC 8628)", "AskForm", J("Waits"))
            .errors(&[]),
        oauth("/oauth2/revoke", "revokeToken", "End a token (RFC 7009)", "TokenQuestion", Nothing),
        oauth("/oauth2/introspect", "introspectToken", "What a token amounts to (RFC 7662)", "TokenQuestion", J("Introspection"))
            .errors(&[401, 403]),
        Operation {
            body: Some((JSON, "ClientMetadata")),
            ..oauth("/oauth2/register", "register", "Enrol a device by its one-time code (RFC 7591)", "", J("Registration"))
        }
        .created(),
        open("/oauth2/jwks", "jwks", "The keys that verify access tokens (RFC 7517)", JwkSet),
        open("/.well-known/oauth-authorization-server", "metadata", "What the authorization server offers (RFC 8414)", J("Any")),
        open("/approve", "howToApprove", "How a person approves who waits", Text("text/plain")),
        open("/healthz", "alive", "That the process answers", Text("text/plain")),
        open("/readyz", "ready", "Whether the hub can keep what it decides", Text("text/plain")).errors(&[503]),
        api("get", "/metrics", "metrics", "How the hub stands, for Prometheus", Text("application/openmetrics-text")),
        Operation {
            access: Access::Anyone,
            ..api("get", "/mqtt", "mqtt", "MQTT over WebSocket (RFC 6455, sub-protocol mqtt)", Nothing)
        }
        .succeeds(101)
        .errors(&[403, 426]),
        open("/ca.pem", "caCertificate", "The certificate of the home CA", Text("application/x-pem-file")),
    ]
}

/// The document of a hub.
fn document(issuer: &str) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations() {
        // Two names of one place: the router knows it by the first.
        let path = operation.path.replace("{command_id}", "{command}");
        let item = paths.entry(path).or_insert_with(|| json!({}));
        item[operation.method] = described(&operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Hearthkey",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Devices prove who they are, and the home's owner decides what each may do",
            "license": { "name": "See the repository" },
        },
        "servers": [{ "url": issuer }],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "parameters": parameters(),
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer",
                    "description": "A personal access token, an API key, or a service's access token" },
                "client": { "type": "http", "scheme": "basic", "description": "client_secret_basic" },
            },
        },
    })
}

fn described(operation: &Operation) -> Value {
    let Operation { method, path, id, summary, query, body, success, answer, errors, access } = operation;
    let mut parameters: Vec<String> = path
        .split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| if path.contains("/users/") && name == "name" { "user".to_owned() } else { name.to_owned() })
        .collect();
    let addressed = !parameters.is_empty();
    parameters.extend(query.iter().map(|name| (*name).to_owned()));
    let is_edit = errors.contains(&412);
    if is_edit {
        parameters.push("if_match".to_owned());
    }
    let repeatable = *method == "post" && *access == Access::Bearer;
    if repeatable {
        parameters.push("idempotency_key".to_owned());
    }

    let mut statuses: Vec<u16> = errors.iter().copied().filter(|status| *status >= 400).collect();
    match access {
        Access::Bearer => statuses.extend([400, 401, 403, 429, 503]),
        Access::Anyone => statuses.extend([400, 429, 503]),
        Access::OAuth => statuses.extend([400, 408, 429, 503]),
        Access::Open => {}
    }
    if addressed {
        statuses.push(404);
    }
    if repeatable {
        statuses.extend([408, 409, 413, 422, 500]);
    }
    if *access != Access::OAuth && body.is_some() {
        statuses.extend([408, 413, 415, 422]);
    }
    if query.contains(&"limit") {
        statuses.push(422);
    }
    statuses.sort_unstable();
    statuses.dedup();

    let content = match answer {
        Answer::Nothing => None,
        Answer::Json(schema) => Some(json!({ JSON: { "schema": reference(schema) } })),
        Answer::JwkSet => Some(json!({ "application/jwk-set+json": { "schema": { "type": "object" } } })),
        Answer::Text(media_type) => Some(json!({ *media_type: { "schema": { "type": "string" } } })),
        Answer::JsonOrEvents(schema) => Some(json!({
            JSON: { "schema": reference(schema) },
            "text/event-stream": { "schema": { "type": "string" } },
        })),
        Answer::JsonOrToml(schema) => Some(json!({
            JSON: { "schema": reference(schema) },
            "application/toml": { "schema": { "type": "string" } },
        })),
    };
    let done = |description: &str| {
        let mut response = json!({ "description": description });
        if let Some(content) = &content {
            response["content"] = content.clone();
        }
        response
    };
    let mut responses = Map::new();
    responses.insert(success.to_string(), done("Done"));
    for other in errors.iter().filter(|status| **status < 400) {
        let description = if *other == 201 { "Done, and it is new" } else { "Done, and it has ended" };
        responses.insert(other.to_string(), done(description));
    }
    let (media_type, schema) = match (access, *path) {
        (Access::OAuth, _) => (JSON, "OAuthError"),
        (Access::Open, _) => ("text/plain", "Text"),
        (Access::Bearer | Access::Anyone, _) => ("application/problem+json", "Problem"),
    };
    for status in statuses {
        let reason = axum::http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        let response = json!({
            "description": reason.unwrap_or("Refused"),
            "content": { media_type: { "schema": reference(schema) } },
        });
        responses.insert(status.to_string(), response);
    }
    let security = match (access, *path) {
        // Programs on the hub's machine need none.
        (Access::Bearer, "/metrics") => json!([{ "bearer": [] }, {}]),
        (Access::Bearer, _) | (Access::OAuth, "/oauth2/register") => json!([{ "bearer": [] }]),
        (Access::OAuth, "/oauth2/revoke" | "/oauth2/introspect") => json!([{ "bearer": [] }, { "client": [] }, {}]),
        (Access::OAuth, "/oauth2/token") => json!([{ "client": [] }, {}]),
        (Access::OAuth | Access::Anyone | Access::Open, _) => json!([]),
    };
    let references: Vec<Value> =
        parameters.iter().map(|name| json!({ "$ref": format!("#/components/parameters/{name}") })).collect();
    let mut described = json!({
        "operationId": id,
        "summary": summary,
        "parameters": references,
        "responses": responses,
        "security": security,
    });
    if let Some((media_type, schema)) = body {
        // A command without arguments, and only that, needs no body.
        let required = *schema != "Order";
        described["requestBody"] = json!({ "required": required, "content": { *media_type: { "schema": reference(schema) } } });
    }
    described
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// What stands in paths, queries and header fields.
fn parameters() -> Value {
    let place = |place: &str, name: &str, schema: Value| json!({ "in": place, "name": name, "required": place == "path", "schema": schema });
    let path = |name: &str, schema: &str| place("path", name, reference(schema));
    let query = |name: &str, schema: Value| place("query", name, schema);
    let needed = |name: &str, schema: Value| json!({ "in": "query", "name": name, "required": true, "schema": schema });
    let number = || json!({ "type": "integer", "minimum": 0 });
    let text = || json!({ "type": "string" });
    json!({
        "id": path("id", "Name"),
        "name": path("name", "Name"),
        "user": path("name", "Name"),
        "command": path("command", "CommandName"),
        "command_id": path("command", "CommandId"),
        "credential": path("credential", "CredentialId"),
        "user_code": path("user_code", "UserCode"),
        "limit": query("limit", json!({ "type": "integer", "minimum": 1, "maximum": MAX_PAGE_ITEMS })),
        "cursor": query("cursor", json!({ "type": "string", "description": "`next` of the page before" })),
        "kind": query("kind", reference("CredentialKind")),
        "subject": query("subject", json!({ "type": "string", "description": "`ann`, or `user:ann`, `device:lamp`, `integration:ha`" })),
        "whose": needed("subject", json!({ "type": "string", "description": "`device:lamp`, `user:ann`, `credential:` and its public id" })),
        "action": needed("action", json!({ "enum": ["publish", "subscribe", "command", "api"] })),
        "topic": needed("topic", text()),
        "wait_s": query("wait_s", number()),
        "filter": query("filter", json!({ "type": "string", "default": "dev/#" })),
        "after": query("after", number()),
        "audit_limit": query("limit", json!({ "type": "integer", "minimum": 0, "maximum": MAX_AUDIT_PAGE })),
        "last": query("last", json!({ "type": "integer", "minimum": 0, "maximum": MAX_AUDIT_PAGE })),
        "actor": query("actor", text()),
        "audit_action": query("action", text()),
        "target": query("target", text()),
        "outcome": query("outcome", reference("Outcome")),
        "since": query("since", number()),
        "until": query("until", number()),
        "prefer": place("header", "Prefer", json!({ "type": "string", "description": "`wait=10`: answer when the command has ended" })),
        "if_match": place("header", "If-Match", json!({ "type": "string", "description": "`ETag` of the state that the edit rests on" })),
        "idempotency_key": place("header", "Idempotency-Key",
            json!({ "type": "string", "pattern": "^[!-~]+$", "minLength": 1, "maxLength": MAX_IDEMPOTENCY_KEY_BYTES })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The paths that a source file gives the router.
    fn routes(source: &str, prefix: &str) -> BTreeSet<String> {
        let calls = source.split(".route(").skip(1);
        calls
            .filter_map(|call| call.trim_start().strip_prefix('"')?.split('"').next())
            .map(|path| format!("{prefix}{path}"))
            .collect()
    }

    /// With all parameters called alike, as only their places matter.
    fn shape(path: &str) -> String {
        path.split('/').map(|segment| if segment.starts_with('{') { "{}" } else { segment }).collect::<Vec<_>>().join("/")
    }

    #[test]
    fn each_route_is_described_and_nothing_else() {
        let mut routed = routes(include_str!("api/mod.rs"), "/api/v1");
        routed.extend(routes(include_str!("mod.rs"), ""));
        routed.insert(super::super::device_flow::VERIFICATION_PATH.to_owned());
        let routed: BTreeSet<_> = routed.iter().map(|path| shape(path)).collect();
        let document = document("https://hub");
        let described: BTreeSet<_> = document["paths"].as_object().expect("paths").keys().map(|path| shape(path)).collect();
        assert_eq!(routed, described);
    }

    #[test]
    fn each_reference_leads_somewhere_and_each_operation_has_its_own_name() {
        fn references(value: &Value, found: &mut BTreeSet<String>) {
            match value {
                Value::Object(members) => {
                    if let Some(Value::String(target)) = members.get("$ref") {
                        found.insert(target.clone());
                    }
                    members.values().for_each(|member| references(member, found));
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let document = document("https://hub");
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for target in &found {
            assert!(document.pointer(target.strip_prefix('#').expect("local")).is_some(), "{target}");
        }
        for (kind, components) in document["components"].as_object().expect("components") {
            for name in components.as_object().expect("named").keys().filter(|_| kind != "securitySchemes") {
                assert!(found.contains(&format!("#/components/{kind}/{name}")), "nothing uses {kind}/{name}");
            }
        }
        let names: BTreeSet<_> = operations().iter().map(|operation| operation.id).collect();
        assert_eq!(names.len(), operations().len());
    }
}
