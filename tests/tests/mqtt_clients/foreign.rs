//! The MQTT programs of tests/clients as children. A credential goes to them by standard input, never by argument.

use std::path::PathBuf;

use hearthkey_tests::hub::Hub;
use hearthkey_tests::process::Running;
use serde_json::{Value, json};
use tokio::process::Command;

/// An MQTT client library in its own language.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Library {
    /// `paho-mqtt`, from PyPI.
    Paho,
    /// `mqtt`, from npm.
    MqttJs,
}

/// Each library in each dialect: MQTT 5 and, as 4, MQTT 3.1.1.
pub(crate) const ALL: [(Library, u8); 4] = [(Library::Paho, 5), (Library::Paho, 4), (Library::MqttJs, 5), (Library::MqttJs, 4)];

impl Library {
    fn command(self) -> Command {
        let clients = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clients");
        let (installed, program, script) = match self {
            Self::Paho => (".venv/installed", clients.join(".venv/bin/python"), "paho_client.py"),
            Self::MqttJs => ("node_modules/installed", "node".into(), "mqttjs_client.mjs"),
        };
        assert!(clients.join(installed).exists(), "tests/clients/{installed} is missing; run `.ci/setup test`");
        let mut command = Command::new(program);
        command.arg(script).current_dir(clients);
        command
    }
}

/// A session that one of them opens.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    library: Library,
    told: Value,
}

impl Session {
    /// Over TLS, with a clean start.
    pub(crate) fn new(hub: &Hub, (library, version): (Library, u8), client_id: &str, password: &str) -> Self {
        let told = json!({
            "ca": hub.ca_file().display().to_string(), "port": hub.ports().mqtts, "version": version,
            "client_id": client_id, "password": password, "clean": true,
        });
        Self { library, told }
    }

    pub(crate) fn and(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.told[name] = value.into();
        self
    }

    /// Starts the program and lets it connect.
    pub(crate) async fn opened(&self) -> Client {
        let mut running = Running::start_with_terminal(self.library.command());
        running.type_in(&format!("{}\n", self.told)).await;
        Client { running, passed: Vec::new() }
    }

    /// Connected; whether a kept session goes on.
    pub(crate) async fn connected(&self) -> (Client, bool) {
        let mut client = self.opened().await;
        let connected = client.event("connected").await;
        let present = connected["connected"]["session_present"].as_bool().expect("a flag");
        (client, present)
    }
}

/// A program that was told to connect.
pub(crate) struct Client {
    running: Running,
    /// Events that came before one that was waited for: a message may come before the answer to SUBSCRIBE is shown.
    passed: Vec<Value>,
}

impl Client {
    /// The next event of this name.
    pub(crate) async fn event(&mut self, name: &str) -> Value {
        if let Some(index) = self.passed.iter().position(|event| event.get(name).is_some()) {
            return self.passed.remove(index);
        }
        let passed = &mut self.passed;
        let look = |event: &Value| {
            let found = event.get(name).map(|_| event.clone());
            passed.extend(found.is_none().then(|| event.clone()));
            found
        };
        self.running.json(name, look).await
    }

    async fn tell(&mut self, command: &Value) {
        self.running.type_in(&format!("{command}\n")).await;
    }

    /// The reason code of the acknowledgement.
    pub(crate) async fn publish(&mut self, topic: &str, payload: &str, qos: u8, retain: bool) -> u64 {
        self.tell(&json!({ "publish": topic, "payload": payload, "qos": qos, "retain": retain })).await;
        self.event("published").await["published"].as_u64().expect("a code")
    }

    /// The granted QoS or the reason code.
    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8) -> u64 {
        self.tell(&json!({ "subscribe": filter, "qos": qos })).await;
        self.event("subscribed").await["subscribed"][0].as_u64().expect("a code")
    }

    /// The next message: topic, payload, QoS, RETAIN.
    pub(crate) async fn message(&mut self) -> (String, String, u64, bool) {
        let event = self.event("message").await;
        let message = &event["message"];
        let text = |name: &str| message[name].as_str().expect("text").to_owned();
        (text("topic"), text("payload"), message["qos"].as_u64().expect("QoS"), message["retain"].as_bool().expect("RETAIN"))
    }

    pub(crate) async fn leave(mut self) {
        self.tell(&json!({ "leave": true })).await;
        self.running.ended().await;
    }

    /// Without a word.
    pub(crate) async fn vanish(mut self) {
        self.running.signal(rustix::process::Signal::KILL);
        self.running.ended().await;
    }
}
