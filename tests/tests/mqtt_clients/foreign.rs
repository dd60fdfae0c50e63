//! The MQTT programs of tests/clients as children. A credential goes to them by standard input, never by argument.

use std::path::PathBuf;

use hearthkey_tests::hub::Hub;
use hearthkey_tests::process::Running;
use serde_json::{Value, json};
use tokio::process::Command;

/// An MQTT client library in its own language.
#[derive(Clone, Copy, Debug)]
enum Library {
    /// `paho-mqtt`, from PyPI.
    Paho,
    /// `mqtt`, from npm.
    MqttJs,
    /// `rumqttc`, a program of ours.
    Rumqttc,
}

#[derive(Clone, Copy, Debug)]
enum Transport {
    Tls,
    WebSocket,
}

/// A library, the dialect that it speaks, and over what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Which(Library, Dialect, Transport);

/// MQTT 5 or MQTT 3.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Five,
    Three,
}

/// Who tells the stories of both dialects.
pub(crate) const ALL: [Which; 9] = [
    Which(Library::Paho, Dialect::Five, Transport::Tls),
    Which(Library::MqttJs, Dialect::Five, Transport::Tls),
    Which(Library::Rumqttc, Dialect::Five, Transport::Tls),
    Which(Library::Paho, Dialect::Five, Transport::WebSocket),
    Which(Library::MqttJs, Dialect::Five, Transport::WebSocket),
    Which(Library::Rumqttc, Dialect::Five, Transport::WebSocket),
    Which(Library::Paho, Dialect::Three, Transport::WebSocket),
    Which(Library::MqttJs, Dialect::Three, Transport::Tls),
    Which(Library::Rumqttc, Dialect::Three, Transport::Tls),
];

/// Who tells those of MQTT 5, and another library that it meets there.
pub(crate) const FIVE: [(Which, Which); 3] = [(ALL[0], ALL[4]), (ALL[1], ALL[5]), (ALL[2], ALL[3])];

impl Which {
    pub(crate) const fn dialect(self) -> Dialect {
        self.1
    }
}

impl Library {
    fn command(self) -> Command {
        let clients = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clients");
        let (installed, program, script) = match self {
            Self::Paho => (".venv/installed", clients.join(".venv/bin/python"), "paho_client.py"),
            Self::MqttJs => ("node_modules/installed", "node".into(), "mqttjs_client.mjs"),
            Self::Rumqttc => return Command::new(env!("CARGO_BIN_EXE_rumqttc-client")),
        };
        assert!(clients.join(installed).exists(), "tests/clients/{installed} is missing; run `.ci/setup test`");
        let mut command = Command::new(program);
        // Node 18 tries the first address of a name alone; hubs of tests listen on that of IPv4.
        command.arg(script).current_dir(clients).env("NODE_OPTIONS", "--dns-result-order=ipv4first");
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
    /// With a clean start, to end with its connection.
    pub(crate) fn new(hub: &Hub, Which(library, dialect, transport): Which, client_id: &str, password: &str) -> Self {
        let mut told = json!({
            "ca": hub.ca_file().display().to_string(), "version": if dialect == Dialect::Five { 5 } else { 4 },
            "client_id": client_id, "password": password, "clean": true, "session_expiry": 0,
        });
        match transport {
            Transport::Tls => told["port"] = hub.ports().mqtts.into(),
            Transport::WebSocket => (told["port"], told["path"]) = (hub.ports().https.into(), "/mqtt".into()),
        }
        Self { library, told }
    }

    /// To outlive its connection for so many seconds, and to go on if it is there (MQTT 3.1.1 knows no seconds).
    pub(crate) fn kept_for(self, seconds: u32) -> Self {
        self.and("clean", false).and("session_expiry", seconds)
    }

    /// With one more thing that the programs are told.
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
        self.publish_with(topic, payload, qos, json!({ "retain": retain })).await
    }

    /// The same with what only MQTT 5 says: `expiry` in seconds, `alias`, `response_topic`, `correlation`.
    pub(crate) async fn publish_with(&mut self, topic: &str, payload: &str, qos: u8, further: Value) -> u64 {
        let mut command = json!({ "publish": topic, "payload": payload, "qos": qos, "retain": false });
        if let (Some(command), Value::Object(mut further)) = (command.as_object_mut(), further) {
            command.append(&mut further);
        }
        self.tell(&command).await;
        self.event("published").await["published"].as_u64().expect("a code")
    }

    /// The granted QoS or the reason code.
    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8) -> u64 {
        self.tell(&json!({ "subscribe": filter, "qos": qos })).await;
        self.event("subscribed").await["subscribed"][0].as_u64().expect("a code")
    }

    /// The next message: topic, payload, QoS, RETAIN.
    pub(crate) async fn message(&mut self) -> (String, String, u64, bool) {
        let message = self.whole_message().await;
        let text = |name: &str| message[name].as_str().expect("text").to_owned();
        (text("topic"), text("payload"), message["qos"].as_u64().expect("QoS"), message["retain"].as_bool().expect("RETAIN"))
    }

    /// The next message with its properties.
    pub(crate) async fn whole_message(&mut self) -> Value {
        self.event("message").await["message"].take()
    }

    /// The payload of the next message.
    pub(crate) async fn payload(&mut self) -> String {
        self.message().await.1
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
