//! The brokers under test, each a process of its own.

use crate::load::Transport;
use hearthkey_certs::{HomeCa, HubNames, SerialNumber};
use rumqttd::{Config, ConnectionSettings, RouterConfig, ServerSettings};
use rustls::pki_types::{PrivateKeyDer, UnixTime, pem::PemObject};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Mutex,
    time::Duration,
};
use tokio::net::TcpStream;

/// All brokers: mosquitto, rumqttd's own server, and the hub on each fabric.
pub(crate) const NAMES: [&str; 4] = ["mosquitto", "stock", "router", "native"];

/// What a broker of ours says first, as one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Serving {
    pub(crate) tcp: SocketAddr,
    pub(crate) tls: Option<SocketAddr>,
    pub(crate) ca_pem: String,
}

pub(crate) struct Broker {
    pub(crate) name: &'static str,
    process: Child,
    /// To ask a hub for tokens and revocations.
    line: Option<Mutex<(ChildStdin, BufReader<ChildStdout>)>>,
    pub(crate) serving: Serving,
    _files: Option<tempfile::TempDir>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Broker {
    /// Freshly started, those of these names, in their order; the one to compare with is the first of [`NAMES`].
    pub(crate) async fn started(names: &[&'static str]) -> Vec<Self> {
        let mut brokers = Vec::new();
        for name in names {
            match *name {
                "mosquitto" => match Self::mosquitto().await {
                    Some(mosquitto) => brokers.push(mosquitto),
                    None => println!("\n!!! mosquitto is NOT INSTALLED: nothing to compare with (Debian: mosquitto) !!!\n"),
                },
                "stock" => brokers.push(Self::stock().await),
                fabric => brokers.push(Self::hub(fabric).await),
            }
        }
        brokers
    }

    pub(crate) fn offers(&self, transport: Transport) -> bool {
        transport == Transport::Tcp || self.serving.tls.is_some()
    }

    pub(crate) async fn hub(fabric: &'static str) -> Self {
        let (mut process, mut line) = serve(fabric);
        let serving = serde_json::from_str(&read_line(&mut line)).unwrap();
        let input = process.stdin.take().unwrap();
        Self { name: fabric, process, line: Some(Mutex::new((input, line))), serving, _files: None }
    }

    async fn stock() -> Self {
        let (process, mut line) = serve("stock");
        let serving: Serving = serde_json::from_str(&read_line(&mut line)).unwrap();
        until_it_listens(serving.tcp).await;
        Self { name: "stock", process, line: None, serving, _files: None }
    }

    async fn mosquitto() -> Option<Self> {
        let program = ["mosquitto", "/usr/sbin/mosquitto"]
            .into_iter()
            .find(|program| Command::new(program).arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok())?;
        let files = tempfile::tempdir().unwrap();
        let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("passwords"), "lamp:lamp\nowner:owner\n").unwrap();
        assert!(Command::new("mosquitto_passwd").args(["-U", &path("passwords")]).status().unwrap().success());
        let acl = "user owner\ntopic readwrite #\npattern write dev/%u/tele/#\npattern read dev/%u/cmd/#\n";
        std::fs::write(path("acl"), acl).unwrap();
        let ca = HomeCa::create(&files.path().join("ca"), UnixTime::now()).unwrap();
        let serial = SerialNumber::from_random([7; 16]);
        let certificate = ca.issue_hub_certificate(&HubNames::default(), serial, UnixTime::now()).unwrap();
        let chain: String = certificate.chain().iter().map(|der| pem("CERTIFICATE", der)).collect();
        std::fs::write(path("chain.pem"), chain).unwrap();
        std::fs::write(path("key.pem"), pem("PRIVATE KEY", certificate.private_key().secret_der())).unwrap();
        assert!(PrivateKeyDer::from_pem_file(path("key.pem")).is_ok());
        let (tcp, tls) = (free_address(), free_address());
        let mut configuration = std::fs::File::create(path("mosquitto.conf")).unwrap();
        write!(
            configuration,
            "user root\nallow_anonymous false\npassword_file {}\nacl_file {}\npersistence false\nset_tcp_nodelay true\n\
             max_queued_messages 0\nmax_inflight_messages 256\nlog_type error\nlistener {} 127.0.0.1\n\
             listener {} 127.0.0.1\ncertfile {}\nkeyfile {}\ntls_version tlsv1.3\n",
            path("passwords"),
            path("acl"),
            tcp.port(),
            tls.port(),
            path("chain.pem"),
            path("key.pem"),
        )
        .unwrap();
        let process = Command::new(program).args(["-c", &path("mosquitto.conf")]).stderr(Stdio::null()).spawn().unwrap();
        let serving = Serving { tcp, tls: Some(tls), ca_pem: ca.certificate_pem().to_owned() };
        until_it_listens(tcp).await;
        Some(Self { name: "mosquitto", process, line: None, serving, _files: Some(files) })
    }

    /// What a client of this name sends as password. A device's access token lasts minutes: each connection gets its own.
    pub(crate) fn password(&self, name: &str) -> String {
        if self.line.is_some() { self.ask(&format!("password {name}")) } else { name.to_owned() }
    }

    /// The name of a further connection of the lamp: ours wants a slash behind the device's name, rumqttd refuses slashes.
    pub(crate) fn client_identifier(&self, number: impl std::fmt::Display) -> String {
        if self.line.is_some() { format!("lamp/{number}") } else { format!("lamp-{number}") }
    }

    /// Asks a hub.
    pub(crate) fn ask(&self, question: &str) -> String {
        let mut line = self.line.as_ref().unwrap().lock().unwrap();
        writeln!(line.0, "{question}").unwrap();
        read_line(&mut line.1)
    }

    /// User and system time of the process.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    pub(crate) fn resident_kilobytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

fn serve(kind: &str) -> (Child, BufReader<ChildStdout>) {
    let program = std::env::current_exe().unwrap();
    let mut process = Command::new(program).args(["serve", kind]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let line = BufReader::new(process.stdout.take().unwrap());
    (process, line)
}

fn read_line(line: &mut BufReader<ChildStdout>) -> String {
    let mut text = String::new();
    line.read_line(&mut text).unwrap();
    text.trim().to_owned()
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn until_it_listens(address: SocketAddr) {
    for _ in 0..500 {
        if TcpStream::connect(address).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nothing listens on {address}");
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64ct::{Base64, Encoding};
    let text = Base64::encode_string(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// rumqttd's own server, as its documentation shows it, until the parent kills it.
pub(crate) fn serve_stock() {
    let listen = free_address();
    let connections = ConnectionSettings {
        connection_timeout_ms: 60_000,
        max_payload_size: 256 * 1024,
        max_inflight_count: 100,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings { name: "v5".to_owned(), listen, tls: None, next_connection_delay_ms: 0, connections };
    let router = RouterConfig {
        max_connections: 10_010,
        max_outgoing_packet_count: 200,
        max_segment_size: 100 * 1024 * 1024,
        max_segment_count: 10,
        ..RouterConfig::default()
    };
    let config = Config { router, v5: Some(HashMap::from([("1".to_owned(), server)])), ..Config::default() };
    println!("{}", serde_json::to_string(&Serving { tcp: listen, tls: None, ca_pem: String::new() }).unwrap());
    rumqttd::Broker::new(config).start().unwrap();
}
