//! JSON of the hub, beside an independent reader: objects, token responses, the bodies of commands.

use super::Reading;
use hearthkey_agent::json::{Object, write_string};
use hearthkey_agent::mqtt::codec::Publish;
use hearthkey_agent::oauth::Grant;
use hearthkey_agent::{Buffer, CommandGate, Instant, MAX_COMMAND_ID, MAX_COMMAND_PAYLOAD};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// Deeper nesting is refused.
const MAX_DEPTH: usize = 8;

pub(crate) fn json(data: &[u8]) -> Reading {
    token_response(data);
    command(data);
    let ours = Object::parse(data);
    let theirs = serde_json::from_slice::<Members>(data);
    match (&ours, &theirs) {
        (Ok(object), Ok(Members(theirs))) => {
            let members: Vec<_> = object.members().collect();
            assert_eq!(members.len(), theirs.len());
            for ((name, value), (their_name, theirs)) in members.into_iter().zip(theirs) {
                assert_eq!(serde_json::from_str::<String>(&format!("\"{name}\"")).ok().as_ref(), Some(their_name));
                assert_eq!(serde_json::from_str::<Value>(value.as_raw()).ok().as_ref(), Some(theirs));
                assert_eq!(object.get(name), Some(value), "the one of its name");
                assert_eq!(value.as_bool(), theirs.as_bool());
                assert_eq!(value.as_object().is_some(), theirs.is_object() && Object::parse(value.as_raw().as_bytes()).is_ok());
                if let Some(text) = value.as_str() {
                    assert_eq!(Some(text), theirs.as_str());
                    reads_back(text);
                }
                if let Some(number) = value.as_u64() {
                    assert_eq!(Some(number), theirs.as_u64());
                }
                if let Some(theirs) = theirs.as_f64() {
                    // Theirs may be off by a bit in the last place.
                    let number = value.as_f64().expect("a number");
                    assert!((number - theirs).abs() <= theirs.abs() * 1e-15, "{number} and {theirs}");
                }
            }
        }
        // They refuse lone surrogates and numbers beyond a double; ours are never computed with.
        (Ok(object), Err(_)) => {
            let text = object.as_str();
            let is_long = text.split(|character: char| !character.is_ascii_digit()).any(|digits| digits.len() > 300);
            assert!(text.contains("\\u") || text.contains(['e', 'E']) || is_long, "lax: {text}");
        }
        (Err(_), Ok(theirs)) => assert!(theirs.depth() > MAX_DEPTH || theirs.has_name_twice(), "strict: {theirs:?}"),
        (Err(_), Err(_)) => {}
    }
    Reading::of(&ours)
}

fn reads_back(text: &str) {
    let mut bytes = vec![0; 6 * text.len() + 2];
    let mut out = Buffer::new(&mut bytes);
    write_string(&mut out, text).expect("no character takes more than six");
    assert_eq!(serde_json::from_slice::<String>(out.written()).ok().as_deref(), Some(text));
}

/// A token response gives a lifetime and a scope; the token itself is kept nowhere.
fn token_response(data: &[u8]) {
    let Ok(grant) = Grant::from_token_response(data) else { return };
    assert!((1..=31 * 86_400).contains(&grant.lifetime.as_secs()));
    let Ok(theirs) = serde_json::from_slice::<Value>(data) else { panic!("only ours reads it: {grant:?}") };
    assert_eq!(theirs["expires_in"].as_u64(), Some(grant.lifetime.as_secs()));
    let token = theirs["access_token"].as_str().expect("a token");
    let scope = theirs["scope"].as_str().unwrap_or_default();
    assert!(scope.contains('\\') || scope.starts_with(grant.scope.as_str()) || data.contains(&b'\\'), "{scope}");
    assert!(token.len() < 8 || scope.contains(token) || !format!("{grant:?}").contains(token), "a secret in {grant:?}");
}

/// What a gate admits is a command once, and never again.
fn command(data: &[u8]) {
    let mut gate = CommandGate::new(3);
    let now = Instant::from_millis(1_000);
    let publish = Publish {
        dup: false,
        packet_id: Some(1),
        retain: false,
        topic: "dev/lamp/cmd/set",
        message_expiry: Some(60),
        payload: data,
    };
    assert!(gate.admit("set", &Publish { retain: true, ..publish }, now, None).is_err(), "retained");
    let Some(sequence) = gate.sequence_to_store("set", &publish, now) else {
        assert!(gate.admit("set", &publish, now, None).is_err(), "not stored");
        return;
    };
    gate.stored(sequence);
    let command = gate.admit("set", &publish, now, None).expect("nothing stands against it");
    assert!(data.len() <= MAX_COMMAND_PAYLOAD && command.id().len() <= MAX_COMMAND_ID && !command.id().is_empty());
    assert!(command.sequence() > 3 && command.deadline() > now && command.deadline() <= Instant::from_millis(61_000));
    let theirs: Value = serde_json::from_slice(data).unwrap_or_default();
    if theirs.is_object() {
        assert_eq!(theirs["id"].as_str(), Some(command.id()));
        assert_eq!(theirs["seq"].as_u64(), Some(command.sequence()));
        assert_eq!(theirs.get("by").map_or(Some(""), Value::as_str), Some(command.by()));
    }
    assert!(gate.admit("set", &publish, now, None).is_err(), "again");
    assert!(CommandGate::new(command.sequence()).admit("set", &publish, now, None).is_err(), "again after a restart");
}

/// The members of an object in their order, names unescaped, names twice and all.
#[derive(Debug)]
struct Members(Vec<(String, Value)>);

impl Members {
    fn depth(&self) -> usize {
        self.0.iter().map(|(_, value)| depth(value)).max().unwrap_or(0)
    }

    fn has_name_twice(&self) -> bool {
        self.0.iter().enumerate().any(|(at, (name, _))| self.0[..at].iter().any(|(other, _)| other == name))
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 1,
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}
