//! A hub in a process of its own, on ports and in a directory of its own, and its owner's command line.
//!
//! Remembers every secret that passes through, and looks for them in all that the hub writes.

use std::collections::HashSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use base64ct::{Base64UrlUnpadded, Encoding as _};
use hearthkey_sim::Storage;
use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::agent::Agent;
use crate::process::{self, Ran, Running};

/// A profile for devices that ask each other.
pub const TALKER: &str = r#"
name = "talker"
[permissions.talk]
publish = ["rpc/+/requests", "rpc/+/answers"]
subscribe = ["rpc/${device}/+"]
"#;

/// A running hub; killed when dropped.
#[derive(Debug)]
pub struct Hub {
    home: TempDir,
    ports: Ports,
    /// The program that starts it, with arguments, if it is started by another.
    wrapper: Vec<String>,
    arguments: Vec<String>,
    process: Option<Running>,
    started: Value,
    /// What it logged in earlier lives.
    earlier_log: String,
    secrets: Mutex<Vec<String>>,
}

/// Where a hub listens, on loopback.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// HTTPS.
    pub https: u16,
    /// MQTT over TLS.
    pub mqtts: u16,
    /// MQTT without TLS.
    pub mqtt: u16,
}

impl Hub {
    /// Starts a hub in a new directory.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> Self {
        Self::start_under(&[], &[]).await
    }

    /// Starts a hub in a new directory with a configuration file of this text.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_with(configuration: &str) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let file = home.path().join("hub.toml");
        std::fs::write(&file, configuration).expect("a configuration file");
        Self::start_in(home, &[], &["--config", file.to_str().expect("UTF-8")]).await
    }

    /// Starts a hub in a new directory, by another program, and with further arguments of `hearthkey up`.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_under(wrapper: &[&str], arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary directory"), wrapper, arguments).await
    }

    async fn start_in(home: TempDir, wrapper: &[&str], arguments: &[&str]) -> Self {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let mut hub = Self {
            home,
            ports: Ports::free(),
            wrapper: owned(wrapper),
            arguments: owned(arguments),
            process: None,
            started: Value::Null,
            earlier_log: String::new(),
            secrets: Mutex::default(),
        };
        hub.start_again().await;
        let token = std::fs::read_to_string(hub.data().join("contexts/local.token")).expect("the owner's token");
        hub.remember_secret(token.trim());
        hub
    }

    /// Starts it again with the same directory and ports.
    ///
    /// # Panics
    /// When it runs, or does not start.
    pub async fn start_again(&mut self) {
        assert!(self.process.is_none(), "it runs");
        let mut running = Running::start(self.up());
        let started = running.json("that it started", |line| (line["event"] == "started").then(|| line.clone())).await;
        for (listener, port) in [("https", self.ports.https), ("mqtts", self.ports.mqtts), ("mqtt", self.ports.mqtt)] {
            let address = started["listeners"][listener].as_str().expect("an address");
            assert_eq!(address, format!("127.0.0.1:{port}"));
        }
        self.process = Some(running);
        self.started = started;
    }

    /// What it said when it started last.
    pub fn started(&self) -> &Value {
        &self.started
    }

    /// `hearthkey up` for this directory and these ports.
    pub fn up(&self) -> Command {
        let mut command = self.command(&["up", "-o", "json"]);
        let Ports { https, mqtts, mqtt } = self.ports;
        for (name, port) in [("--https-port", https), ("--mqtts-port", mqtts), ("--mqtt-port", mqtt)] {
            command.args([name, &port.to_string()]);
        }
        command.args(&self.arguments);
        let Some((program, options)) = self.wrapper.split_first() else { return command };
        let mut wrapped = Command::new(program);
        wrapped.args(options).arg(command.as_std().get_program()).args(command.as_std().get_args());
        wrapped
    }

    /// Asks it to stop, as a service manager does, and waits for its clean end.
    ///
    /// # Panics
    /// When it ends otherwise.
    pub async fn stop(&mut self) {
        let exit = self.end(Signal::TERM).await;
        assert_eq!(exit, 0, "{}", self.log());
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        self.end(Signal::KILL).await;
    }

    /// Stops and starts.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    async fn end(&mut self, signal: Signal) -> i32 {
        let mut running = self.process.take().expect("it runs");
        running.signal(signal);
        let exit = running.ended().await;
        self.earlier_log.push_str(&running.err());
        exit
    }

    /// Ends a test: the hub was healthy to its end, and wrote no secret into its log or audit log.
    ///
    /// # Panics
    /// When that is not so.
    pub async fn finish(mut self) {
        let ready = self.http().get(self.url("/readyz")).send().await.expect("the hub answers");
        assert_eq!(ready.status(), 200);
        let audit = self.ran(&["audit", "tail", "--no-follow", "-n", "1000", "-o", "json"]).await;
        self.assert_shows_no_secret("the audit log", &audit.out);
        self.stop().await;
        let log = self.log();
        assert!(!log.contains("panicked"), "{log}");
        self.assert_shows_no_secret("the log", &log);
    }

    /// Its process.
    ///
    /// # Panics
    /// When it does not run.
    pub fn process_id(&self) -> u32 {
        self.process.as_ref().and_then(Running::id).expect("it runs")
    }

    /// Where it listens.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// A directory that goes with the hub, for what the test keeps beside it.
    pub fn beside(&self) -> &Path {
        self.home.path()
    }

    /// Where a device of the test keeps its identity; it goes with the hub.
    ///
    /// # Panics
    /// When the device is still running.
    pub fn storage_of(&self, device: &str) -> Storage {
        Storage::directory(self.home.path().join(device)).expect("a directory that no running device uses")
    }

    /// An address below it.
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.ports.https)
    }

    /// The certificate of the home CA, for clients that want a file.
    pub fn ca_file(&self) -> PathBuf {
        self.data().join("ca/ca.crt")
    }

    /// All that it has logged, in all its lives.
    pub fn log(&self) -> String {
        let current = self.process.as_ref().map(Running::err).unwrap_or_default();
        format!("{}{current}", self.earlier_log)
    }

    /// TLS 1.3 that trusts the home CA and nothing else.
    ///
    /// # Panics
    /// When the CA is no CA.
    pub fn tls(&self) -> Arc<ClientConfig> {
        tls_under(&self.ca_file())
    }

    /// An HTTPS client that trusts the home CA and nothing else.
    ///
    /// # Panics
    /// When the CA is no CA.
    pub fn http(&self) -> reqwest::Client {
        let builder = reqwest::Client::builder().tls_backend_preconfigured((*self.tls()).clone()).no_proxy();
        builder.build().expect("a client")
    }

    /// The owner's command line.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = process::binary("hearthkey");
        command.args(arguments).arg("--data").arg(self.data());
        command
    }

    /// Runs a command of the owner.
    pub async fn ran(&self, arguments: &[&str]) -> Ran {
        process::run(self.command(arguments), "").await
    }

    /// Runs a command of the owner that must succeed, and answers what it printed, as JSON.
    ///
    /// # Panics
    /// When it fails.
    pub async fn told(&self, arguments: &[&str]) -> Value {
        let ran = self.ran(&[arguments, &["-o", "json"]].concat()).await;
        assert_eq!(ran.exit, 0, "{arguments:?}: {ran:?}");
        ran.json()
    }

    /// Starts a command that follows something.
    pub fn follow(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(&[arguments, &["-o", "json"]].concat()))
    }

    /// The audit log so far, oldest entry first.
    ///
    /// # Panics
    /// When it cannot be read.
    pub async fn audit(&self) -> Vec<Value> {
        let ran = self.ran(&["audit", "tail", "--no-follow", "-n", "1000", "-o", "json"]).await;
        assert_eq!(ran.exit, 0, "{ran:?}");
        ran.out.lines().map(|line| serde_json::from_str(line).expect("an entry")).collect()
    }

    /// Waits for an entry of the audit log.
    pub async fn audited(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        crate::patience::until(what, async || self.audit().await.into_iter().find(&is_it)).await
    }

    /// `device add`: the enrolment string.
    ///
    /// # Panics
    /// When the hub refuses.
    pub async fn add(&self, name: &str, profile: &str) -> String {
        let answer = self.told(&["device", "add", name, "--profile", profile]).await;
        self.enrolment_string(&answer)
    }

    /// The enrolment string in an answer; a secret from now on.
    ///
    /// # Panics
    /// When there is none.
    pub fn enrolment_string(&self, answer: &Value) -> String {
        let string = answer["enrolment"]["string"].as_str().expect("an enrolment string").to_owned();
        self.remember_secret(&string);
        self.remember_secret(&code_of(&string));
        string
    }

    /// `device add --secret`: the client secret.
    ///
    /// # Panics
    /// When the hub refuses.
    pub async fn add_with_secret(&self, name: &str, profile: &str) -> String {
        let answer = self.told(&["device", "add", name, "--profile", profile, "--secret"]).await;
        let secret = answer["client_secret"].as_str().expect("a client secret").to_owned();
        self.remember_secret(&secret);
        secret
    }

    /// Adds a device and starts the real agent with its enrolment string.
    pub async fn agent(&self, name: &str, profile: &str) -> Agent {
        Agent::enrol(&self.add(name, profile).await)
    }

    /// `profile apply`: what it changes holds when this returns.
    ///
    /// # Panics
    /// When the hub refuses.
    pub async fn apply_profile(&self, toml: &str) {
        let ran = process::run(self.command(&["profile", "apply", "-"]), toml).await;
        assert_eq!(ran.exit, 0, "{ran:?}");
    }

    /// `device show`.
    pub async fn device(&self, name: &str) -> Value {
        self.told(&["device", "show", name]).await
    }

    /// The owner's personal access token.
    ///
    /// # Panics
    /// When there is none.
    pub fn owner_token(&self) -> String {
        let token = std::fs::read_to_string(self.data().join("contexts/local.token")).expect("the owner's token");
        token.trim().to_owned()
    }

    /// Has [`Self::finish`] look for it.
    pub fn remember_secret(&self, secret: &str) {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).push(secret.to_owned());
    }

    /// Whatever secret there was, it is not in `text`.
    ///
    /// # Panics
    /// When one is.
    pub fn assert_shows_no_secret(&self, what: &str, text: &str) {
        for secret in self.secrets.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            assert!(!text.contains(secret), "{what} shows the secret {secret}: {text}");
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "what the hub saw of a test that failed")]
            {
                eprintln!("--- the hub's log ---\n{}--- end of the hub's log ---", self.log());
            }
        }
    }
}

impl Ports {
    /// Ports that nobody uses, below those that the system hands out: a hub that starts again finds them free.
    /// No two calls of one process give the same.
    pub fn free() -> Self {
        static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        let [https, mqtts, mqtt] = std::array::from_fn(|_| {
            loop {
                let port = fastrand::u16(10_000..32_000);
                if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
                    given.insert(port);
                    return port;
                }
            }
        });
        Self { https, mqtts, mqtt }
    }
}

/// TLS 1.3 that trusts one CA, given as a PEM file.
///
/// # Panics
/// When it is no CA.
pub fn tls_under(ca_file: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca_file).expect("a certificate")).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider knows TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// The one-time code in an enrolment string, as a device sends it (docs/protocol.md).
///
/// # Panics
/// When it is no enrolment string.
pub fn code_of(enrolment_string: &str) -> String {
    let bytes = enrolment_string.strip_prefix("hk1.").and_then(|rest| Base64UrlUnpadded::decode_vec(rest).ok());
    Base64UrlUnpadded::encode_string(&bytes.expect("an enrolment string")[32..48])
}
