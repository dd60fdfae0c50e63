//! `mosquitto_pub` and `mosquitto_sub` as clients of a hub: MQTT as others wrote it.

use std::path::PathBuf;

use tokio::process::Command;

use crate::hub::{Hub, Ports};
use crate::process::{Ran, Running, run};

/// A client identity that mosquitto's tools take on.
#[derive(Clone, Debug)]
pub struct Mosquitto {
    ports: Ports,
    ca_file: PathBuf,
    home: PathBuf,
    client_identifier: String,
    password: String,
    version: &'static str,
    tls: bool,
}

/// A message as `mosquitto_sub` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// QoS.
    pub qos: u8,
    /// Whether it was retained.
    pub retain: bool,
    /// The topic.
    pub topic: String,
    /// The payload.
    pub payload: String,
}

impl Mosquitto {
    /// A client that speaks MQTT 5 over TLS.
    pub fn new(hub: &Hub, client_identifier: &str, password: &str) -> Self {
        Self {
            ports: hub.ports(),
            ca_file: hub.ca_file(),
            home: hub.beside().to_owned(),
            client_identifier: client_identifier.to_owned(),
            password: password.to_owned(),
            version: "mqttv5",
            tls: true,
        }
    }

    /// The owner, with the token of the local context.
    pub fn owner(hub: &Hub, client_identifier: &str) -> Self {
        Self::new(hub, client_identifier, &hub.owner_token())
    }

    /// The same under another client identifier.
    #[must_use]
    pub fn named(self, client_identifier: &str) -> Self {
        Self { client_identifier: client_identifier.to_owned(), ..self }
    }

    /// The same in MQTT 3.1.1.
    #[must_use]
    pub fn v311(self) -> Self {
        Self { version: "mqttv311", ..self }
    }

    /// The same without TLS.
    #[must_use]
    pub fn plain(self) -> Self {
        Self { tls: false, ..self }
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        // Into a pipe the tools print by the block, not by the line.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", program]);
        // The tools read options from there as well.
        command.env("XDG_CONFIG_HOME", &self.home).env("HOME", &self.home);
        command.args(["-h", "localhost", "-V", self.version, "-i", &self.client_identifier]);
        command.args(["-u", self.client_identifier.split('/').next().unwrap_or_default(), "-P", &self.password]);
        let port = if self.tls { self.ports.mqtts } else { self.ports.mqtt };
        command.args(["-p", &port.to_string()]);
        if self.tls {
            command.arg("--cafile").arg(&self.ca_file);
        }
        command.args(arguments);
        command
    }

    /// `mosquitto_pub`, to its end.
    pub async fn publish(&self, arguments: &[&str]) -> Ran {
        run(self.command("mosquitto_pub", arguments), "").await
    }

    /// `mosquitto_pub -l`: one message a line of standard input.
    pub async fn publish_lines(&self, arguments: &[&str], lines: &[&str]) -> Ran {
        run(self.command("mosquitto_pub", arguments), &format!("{}\n", lines.join("\n"))).await
    }

    /// `mosquitto_rr`, started: it publishes a request and prints the answer.
    pub fn request(&self, arguments: &[&str]) -> Running {
        Running::start(self.command("mosquitto_rr", arguments))
    }

    /// `mosquitto_pub` that must find no fault.
    ///
    /// # Panics
    /// When it does.
    pub async fn publishes(&self, topic: &str, payload: &str, further: &[&str]) {
        let ran = self.publish(&[&["-t", topic, "-m", payload], further].concat()).await;
        assert_eq!((ran.exit, ran.err.as_str()), (0, ""), "{ran:?}");
    }

    /// `mosquitto_sub`, started; it shows messages for [`shown`].
    pub fn subscribe(&self, arguments: &[&str]) -> Running {
        Running::start(self.command("mosquitto_sub", &[&["-d", "-F", "message %q %r %t %p"], arguments].concat()))
    }

    /// `mosquitto_sub` that the hub has answered: what is published from now on reaches it.
    ///
    /// # Panics
    /// When the hub does not.
    pub async fn subscribed(&self, arguments: &[&str]) -> Running {
        let mut running = self.subscribe(arguments);
        running.line("that it is subscribed", |line| line.starts_with("Subscribed").then_some(())).await;
        running
    }
}

/// A message, if the line shows one.
pub fn shown(line: &str) -> Option<Shown> {
    let mut words = line.strip_prefix("message ")?.splitn(4, ' ');
    Some(Shown {
        qos: words.next()?.parse().ok()?,
        retain: words.next()? == "1",
        topic: words.next()?.to_owned(),
        payload: words.next()?.to_owned(),
    })
}
