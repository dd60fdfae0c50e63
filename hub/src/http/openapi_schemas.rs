//! The shapes of what goes in and out, as JSON Schema, for [`super::openapi`].

use crate::{approvals::MAX_JOIN_WINDOW, passwords::MIN_PASSWORD_CHARACTERS};
use hearthkey_core::limits::{
    MAX_CHILDREN, MAX_COMMAND_TTL, MAX_CREDENTIAL_NAME, MAX_DEVICES_PER_TOKEN, MAX_LOGIN_LIFETIME, MAX_NETWORKS_PER_KEY,
    MAX_PERSONAL_ACCESS_TOKEN_LIFETIME,
};
use serde_json::{Map, Value, json};

/// An object that has no further members; names that end with `?` may be missing, or null, which is the same.
fn object(members: &[(&'static str, Value)]) -> Value {
    let nullable = |(name, schema): &(&'static str, Value)| match name.ends_with('?') {
        true => (*name, json!({ "anyOf": [schema, { "type": "null" }] })),
        false => (*name, schema.clone()),
    };
    let members: Vec<_> = members.iter().map(nullable).collect();
    let mut object = shown(&members);
    object["additionalProperties"] = json!(false);
    object
}

/// The same, open to members that later versions add.
fn shown(members: &[(&str, Value)]) -> Value {
    let properties: Map<String, Value> =
        members.iter().map(|(name, schema)| (name.trim_end_matches('?').to_owned(), schema.clone())).collect();
    let required: Vec<&str> = members.iter().map(|(name, _)| *name).filter(|name| !name.ends_with('?')).collect();
    json!({ "type": "object", "properties": properties, "required": required })
}

fn a(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn several(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

fn at_most(most: usize, items: Value) -> Value {
    json!({ "type": "array", "items": items, "maxItems": most })
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn truth() -> Value {
    json!({ "type": "boolean" })
}

fn number() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn seconds(least: u64, most: u64) -> Value {
    json!({ "type": "integer", "minimum": least, "maximum": most })
}

fn pattern(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": pattern })
}

fn one_of(words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words })
}

fn list(items: &str) -> Value {
    shown(&[("items", several(a(items))), ("next?", text())])
}

/// All shapes by name.
pub(super) fn schemas() -> Value {
    let mut all = Map::new();
    for group in [words(), devices(), people(), credentials(), approvals(), audit(), oauth()] {
        all.extend(group.into_iter().map(|(name, schema)| (name.to_owned(), schema)));
    }
    Value::Object(all)
}

fn words() -> Vec<(&'static str, Value)> {
    vec![
        ("Any", json!({ "type": "object" })),
        ("Text", text()),
        ("Name", pattern("^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")),
        ("CommandName", pattern("^[a-z0-9_-]{1,32}$")),
        ("CommandId", pattern("^c-[0-9a-f]{16}$")),
        ("CredentialId", pattern("^[0-9A-Za-z]{12}$")),
        ("UserCode", pattern("^[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}$")),
        ("Scope", pattern("^([a-z0-9:._-]{1,32}( [a-z0-9:._-]{1,32}){0,31})?$")),
        ("Permission", pattern("^[a-z0-9:._-]{1,32}$")),
        ("UnixTime", json!({ "type": "integer", "minimum": 0, "description": "Seconds since 1970-01-01T00:00:00Z" })),
        (
            "Principal",
            json!({ "oneOf": [
                object(&[("user", a("Name"))]),
                object(&[("device", a("Name"))]),
                object(&[("integration", a("Name"))]),
            ] }),
        ),
        (
            "Problem",
            shown(&[
                ("type", json!({ "const": "about:blank" })),
                ("title", text()),
                ("status", json!({ "type": "integer", "minimum": 400, "maximum": 599 })),
                ("detail", json!({ "type": "string", "description": "What was wrong, and what to do next" })),
                ("code?", json!({ "type": "string", "description": "A word for programs" })),
            ]),
        ),
        (
            "Status",
            shown(&[
                ("version", text()),
                ("issuer", text()),
                ("uptime_s", number()),
                ("devices", number()),
                ("connections", number()),
                ("listeners", json!({ "type": "object" })),
                ("data_dir?", text()),
            ]),
        ),
    ]
}

fn devices() -> Vec<(&'static str, Value)> {
    let key = shown(&[
        ("thumbprint", text()),
        ("added_at", a("UnixTime")),
        ("first_used_at?", a("UnixTime")),
        ("retires_at?", a("UnixTime")),
    ]);
    let authentication = one_of(&["key", "secret"]);
    vec![
        (
            "Device",
            shown(&[
                ("id", a("Name")),
                ("profile", a("Name")),
                ("status", one_of(&["pending", "active", "disabled", "revoked"])),
                ("connected", truth()),
                ("keys", several(key)),
                ("secrets", number()),
                ("children", several(a("Name"))),
                ("created_at", a("UnixTime")),
                ("enrolled_at?", a("UnixTime")),
                ("software?", text()),
                ("command_seq", number()),
            ]),
        ),
        ("Devices", list("Device")),
        (
            "DeviceAddition",
            object(&[
                ("id", a("Name")),
                ("profile", a("Name")),
                ("children?", at_most(MAX_CHILDREN, a("Name"))),
                ("authentication?", authentication.clone()),
            ]),
        ),
        (
            "DeviceRotation",
            object(&[("authentication?", authentication), ("overlap_s?", seconds(0, hearthkey_core::limits::MAX_OVERLAP.0))]),
        ),
        (
            "Enrolment",
            shown(&[
                ("device", a("Device")),
                ("enrolment?", shown(&[("string", pattern("^hk1\\.")), ("expires_at", a("UnixTime"))])),
                ("client_secret?", pattern("^hk_sec_")),
            ]),
        ),
        (
            "Decision",
            shown(&[
                ("allowed", truth()),
                ("reason", text()),
                ("rule?", shown(&[("source", text()), ("permission", a("Permission")), ("template", text())])),
            ]),
        ),
        ("Order", object(&[("args?", json!({})), ("ttl_s?", seconds(1, MAX_COMMAND_TTL.0))])),
        (
            "Command",
            shown(&[
                ("id", a("CommandId")),
                ("device", a("Name")),
                ("name", a("CommandName")),
                ("args?", json!({})),
                ("seq", number()),
                ("by", text()),
                ("created_at", a("UnixTime")),
                ("expires_at", a("UnixTime")),
                ("state", a("CommandState")),
                ("reason?", text()),
                ("history", several(shown(&[("state", a("CommandState")), ("at", a("UnixTime"))]))),
                ("delivered_at?", a("UnixTime")),
            ]),
        ),
        ("CommandState", one_of(&["sent", "accepted", "executing", "succeeded", "failed", "rejected", "expired"])),
        ("Commands", list("Command")),
        ("TwinBody", json!({ "type": "object" })),
        (
            "Twin",
            shown(&[
                ("device", a("Name")),
                ("desired?", shown(&[("v", number()), ("body", a("TwinBody")), ("by", text()), ("at", a("UnixTime"))])),
                ("reported?", shown(&[("v?", number()), ("body", a("TwinBody")), ("at", a("UnixTime"))])),
                ("settled", truth()),
            ]),
        ),
        (
            "ProfileSummary",
            shown(&[
                ("name", a("Name")),
                ("description", text()),
                ("token_lifetime_s", number()),
                ("permissions", several(a("Permission"))),
            ]),
        ),
        ("Profiles", list("ProfileSummary")),
        (
            "Profile",
            shown(&[
                ("name", a("Name")),
                ("description?", text()),
                ("token_lifetime_s", number()),
                ("acts_for_children?", truth()),
                ("proof?", json!({ "const": "required" })),
                ("resources?", several(text())),
                (
                    "permissions",
                    json!({ "type": "object", "additionalProperties": shown(&[
                        ("publish?", several(text())),
                        ("subscribe?", several(text())),
                        ("commands?", several(text())),
                        ("api?", several(a("Permission"))),
                    ]) }),
                ),
            ]),
        ),
        ("ProfileToml", json!({ "type": "string", "description": "TOML; its name is that of the address" })),
    ]
}

fn people() -> Vec<(&'static str, Value)> {
    let password = || json!({ "type": "string", "minLength": MIN_PASSWORD_CHARACTERS, "maxLength": 64 });
    vec![
        ("Role", one_of(&["owner", "member", "viewer"])),
        ("User", shown(&[("name", a("Name")), ("role", a("Role")), ("created_at", a("UnixTime")), ("has_password", truth())])),
        ("Users", list("User")),
        ("UserAddition", object(&[("name", a("Name")), ("role", a("Role")), ("password?", password())])),
        ("UserEdit", object(&[("role?", a("Role")), ("password?", password())])),
        ("NewPassword", object(&[("password", password())])),
        (
            "Me",
            shown(&[
                ("principal", a("Principal")),
                ("role?", a("Role")),
                ("scope", a("Scope")),
                ("devices?", several(a("Name"))),
                ("credential?", a("Credential")),
                ("expires_at?", a("UnixTime")),
            ]),
        ),
        ("Login", object(&[("user", text()), ("password", text()), ("expires_in_s?", seconds(1, MAX_LOGIN_LIFETIME.0))])),
    ]
}

fn credentials() -> Vec<(&'static str, Value)> {
    let name = || json!({ "type": "string", "minLength": 1, "maxLength": MAX_CREDENTIAL_NAME, "pattern": "\\S" });
    let key = |holder: &[(&'static str, Value)]| {
        let networks = json!({ "type": "string", "examples": ["192.168.1.0/24", "fd00::/8"] });
        let common = [
            ("name", name()),
            ("expires_in_s?", seconds(1, u64::from(u32::MAX))),
            ("networks?", at_most(MAX_NETWORKS_PER_KEY, networks)),
        ];
        object(&[common.as_slice(), holder].concat())
    };
    vec![
        ("CredentialKind", one_of(&["personal_access_token", "api_key", "client_secret"])),
        (
            "Credential",
            shown(&[
                ("id", a("CredentialId")),
                ("kind", a("CredentialKind")),
                ("name", text()),
                ("subject", a("Principal")),
                ("scope", a("Scope")),
                ("profile?", a("Name")),
                ("devices?", several(a("Name"))),
                ("networks?", several(text())),
                ("created_at", a("UnixTime")),
                ("expires_at?", a("UnixTime")),
                ("replaces?", text()),
                ("replaced_at?", a("UnixTime")),
                ("last_used?", shown(&[("at", a("UnixTime")), ("source", text())])),
                ("warnings", several(one_of(&["expires_soon", "unused"]))),
            ]),
        ),
        ("Credentials", list("Credential")),
        (
            "Created",
            shown(&[("credential", a("Credential")), ("secret", pattern("^hk_(pat|key)_[0-9A-Za-z]{12}_[0-9A-Za-z]{38}$"))]),
        ),
        (
            "TokenWish",
            object(&[
                ("name", name()),
                ("scope?", a("Scope")),
                ("devices?", at_most(MAX_DEVICES_PER_TOKEN, a("Name"))),
                ("expires_in_s?", seconds(1, MAX_PERSONAL_ACCESS_TOKEN_LIFETIME.0)),
            ]),
        ),
        (
            "KeyWish",
            json!({ "oneOf": [
            key(&[("integration", a("Name")), ("profile", a("Name")), ("scope?", a("Scope"))]),
            key(&[("device", a("Name"))]),
        ] }),
        ),
        ("Roll", object(&[("overlap_s", seconds(0, hearthkey_core::limits::MAX_OVERLAP.0))])),
    ]
}

fn approvals() -> Vec<(&'static str, Value)> {
    let join = shown(&[("software", text()), ("thumbprint", text()), ("source", text())]);
    let login = shown(&[("client", text()), ("source", text())]);
    vec![
        ("JoinSpan", object(&[("for_s", seconds(0, MAX_JOIN_WINDOW.0))])),
        ("BackupWritten", shown(&[("file", text())])),
        ("JoinWindow", shown(&[("open_until", a("UnixTime"))])),
        (
            "Approval",
            shown(&[
                ("user_code", a("UserCode")),
                ("wanted", json!({ "oneOf": [object(&[("join", join)]), object(&[("login", login)])] })),
                ("expires_at", a("UnixTime")),
            ]),
        ),
        ("Approvals", list("Approval")),
        (
            "Word",
            json!({ "anyOf": [
                object(&[("name", a("Name")), ("profile", a("Name"))]),
                object(&[("scope?", a("Scope")), ("expires_in_s?", seconds(1, MAX_PERSONAL_ACCESS_TOKEN_LIFETIME.0))]),
            ] }),
        ),
        (
            "LetIn",
            json!({ "oneOf": [a("Device"), object(&[("user_code", a("UserCode")), ("approved", json!({ "const": true }))])] }),
        ),
    ]
}

fn audit() -> Vec<(&'static str, Value)> {
    vec![
        ("Outcome", one_of(&["success", "denied", "failure"])),
        ("ChainHead", shown(&[("seq", number()), ("hash", pattern("^[0-9a-f]{64}$"))])),
        (
            "AuditRecord",
            shown(&[
                ("seq", number()),
                ("time", a("UnixTime")),
                ("actor", text()),
                ("action", text()),
                ("target", text()),
                ("outcome", a("Outcome")),
                ("reason?", text()),
                ("source?", text()),
                ("request_id?", text()),
                ("count?", number()),
                ("previous", pattern("^[0-9a-f]{64}$")),
            ]),
        ),
        (
            "AuditPage",
            shown(&[
                ("items", several(a("AuditRecord"))),
                ("head", a("ChainHead")),
                ("anchor", a("ChainHead")),
                ("next_after?", number()),
            ]),
        ),
        (
            "Verified",
            shown(&[
                ("ok", truth()),
                ("entries", number()),
                ("head", a("ChainHead")),
                ("anchor", a("ChainHead")),
                ("fault?", text()),
            ]),
        ),
    ]
}

fn oauth() -> Vec<(&'static str, Value)> {
    let client =
        [("client_id?", text()), ("client_secret?", text()), ("client_assertion_type?", text()), ("client_assertion?", text())];
    let form = |members: &[(&str, Value)]| shown(&[members, client.as_slice()].concat());
    vec![
        ("OAuthError", shown(&[("error", text()), ("error_description", text())])),
        (
            "TokenForm",
            form(&[
                ("grant_type", text()),
                ("scope?", text()),
                ("resource?", text()),
                ("ace_profile?", json!({ "const": "mqtt_tls" })),
                ("device_code?", text()),
                ("nonce?", text()),
            ]),
        ),
        (
            "TokenResponse",
            shown(&[
                ("access_token", text()),
                ("token_type", json!({ "enum": ["Bearer", "PoP"] })),
                ("expires_in", number()),
                ("scope", a("Scope")),
                ("client_id?", a("Name")),
                ("issuer?", text()),
                ("mqtts_port?", number()),
                ("ace_profile?", json!({ "const": "mqtt_tls" })),
                ("cnf?", shown(&[("jwk", json!({ "type": "object" }))])),
            ]),
        ),
        ("AskForm", shown(&[("client_id", text()), ("jwk?", text()), ("software?", text()), ("commitment?", text())])),
        (
            "Waits",
            shown(&[
                ("device_code", text()),
                ("user_code", a("UserCode")),
                ("verification_uri", text()),
                ("expires_in", number()),
                ("interval", number()),
            ]),
        ),
        ("TokenQuestion", form(&[("token", text()), ("token_type_hint?", text())])),
        (
            "Introspection",
            shown(&[
                ("active", truth()),
                ("scope?", a("Scope")),
                ("client_id?", a("Name")),
                ("username?", a("Name")),
                ("token_type?", text()),
                ("exp?", number()),
                ("iat?", number()),
                ("sub?", text()),
                ("aud?", text()),
                ("iss?", text()),
                ("jti?", text()),
                ("cnf?", shown(&[("jkt?", text()), ("kid?", text())])),
            ]),
        ),
        ("ClientMetadata", json!({ "type": "object" })),
        (
            "Registration",
            shown(&[
                ("client_id", a("Name")),
                ("client_id_issued_at", number()),
                ("grant_types", several(text())),
                ("token_endpoint_auth_method", text()),
                ("jwks", json!({ "type": "object" })),
                ("software_id?", text()),
                ("software_version?", text()),
                ("scope", a("Scope")),
                ("issuer", text()),
            ]),
        ),
    ]
}
