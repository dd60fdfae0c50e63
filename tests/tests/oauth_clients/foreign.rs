//! The programs of tests/clients as children. A secret goes to them by standard input, never by argument.

use std::path::PathBuf;

use hearthkey_tests::hub::Hub;
use hearthkey_tests::process::{Running, run};
use serde_json::{Value, json};
use tokio::process::Command;

/// An OAuth client library in its own language.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Library {
    /// `oauth4webapi`, from npm.
    Oauth4webapi,
    /// `Authlib`, from PyPI.
    Authlib,
}

impl Library {
    fn command(self, hub: &Hub, action: &str) -> Command {
        let (mut command, program) = match self {
            Self::Oauth4webapi => (client_program("node"), "oauth4webapi.mjs"),
            Self::Authlib => (client_program(".venv/bin/python"), "authlib_client.py"),
        };
        // Node 18 tries the first address of a name alone; hubs of tests listen on that of IPv4.
        command.env("NODE_OPTIONS", "--dns-result-order=ipv4first");
        command.args([program, action]).env("NODE_EXTRA_CA_CERTS", hub.ca_file());
        command
    }

    /// What the library makes of an action with what it is told.
    pub(crate) async fn does(self, hub: &Hub, action: &str, told: &Value) -> Value {
        let ran = run(self.command(hub, action), &with_place(hub, told).to_string()).await;
        assert_eq!(ran.exit, 0, "{self:?} {action}: {ran:?}");
        for name in ["access_token", "client_secret"] {
            if let Some(secret) = ran.json()["token"][name].as_str() {
                hub.remember_secret(secret);
            }
        }
        ran.json()
    }

    /// Starts an action that tells something before it is done.
    pub(crate) fn starts(self, hub: &Hub, action: &str, told: &Value) -> Running {
        Running::start_with_input(self.command(hub, action), &with_place(hub, told).to_string())
    }

    /// A client of the hub whose key the library made and registered: what to tell the library to act as it.
    pub(crate) async fn registered(self, hub: &Hub, id: &str, profile: &str) -> Value {
        let code = hearthkey_tests::hub::code_of(&hub.add(id, profile).await);
        let answer = self.does(hub, "register", &json!({ "code": code })).await;
        assert_eq!(answer["registered"]["client_id"], id, "{answer}");
        assert_eq!(answer["registered"]["token_endpoint_auth_method"], "private_key_jwt", "{answer}");
        json!({ "client_id": id, "method": "private_key_jwt", "private_jwk": answer["private_jwk"] })
    }
}

/// A client with a secret: what to tell a library to act as it.
pub(crate) async fn with_secret(hub: &Hub, id: &str, profile: &str, method: &str) -> Value {
    json!({ "client_id": id, "method": method, "client_secret": hub.add_with_secret(id, profile).await })
}

/// `told` and one thing more.
pub(crate) fn and(told: &Value, name: &str, value: impl Into<Value>) -> Value {
    let mut told = told.clone();
    told[name] = value.into();
    told
}

fn with_place(hub: &Hub, told: &Value) -> Value {
    and(&and(told, "issuer", hub.url("")), "ca", hub.ca_file().display().to_string())
}

/// A program in tests/clients, or one that runs what lies there.
pub(crate) fn client_program(program: &str) -> Command {
    for installed in ["node_modules/installed", ".venv/installed"] {
        assert!(clients().join(installed).exists(), "tests/clients/{installed} is missing; run `.ci/setup test`");
    }
    let is_ours = program.starts_with('.');
    let mut command = Command::new(if is_ours { clients().join(program) } else { program.into() });
    command.current_dir(clients());
    command
}

/// Where the programs lie, and what they stand on.
pub(crate) fn clients() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clients")
}
