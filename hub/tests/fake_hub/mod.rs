//! A hub that says what a test wrote down: real TLS under a real home CA, answers from a list, requests kept to be looked at.

#![allow(dead_code, reason = "each test binary needs its part")]

use hearthkey::tls::{CertificateInUse, server_config};
use hearthkey_certs::{CERTIFICATE_FILE, HomeCa, HubNames, SerialNumber};
use rustls::{ServerConnection, StreamOwned, pki_types::UnixTime};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::Path,
    thread::JoinHandle,
};

/// The token in the context; it may stand in a request's header and nowhere else.
pub(crate) const TOKEN: &str = "hk_pat_abc_neverprinted";

/// What the hub says to one request.
pub(crate) enum Answer {
    /// A JSON document with a status.
    Json(u16, Value),
    /// A TOML document.
    Toml(&'static str),
    /// A document of another kind.
    Text(String),
    /// Done, without a word (204).
    Nothing,
    /// Too many requests (429): to be tried again after that many seconds.
    TooMany(u32),
    /// The certificate of the hub's CA.
    CaCertificate,
    /// Events, and then the hub is gone.
    Events(&'static str),
    /// Events, and then silence until the client leaves.
    OpenEvents(&'static str),
}

/// A request as it came.
#[derive(Debug)]
pub(crate) struct Request {
    /// `GET /api/v1/devices`
    pub(crate) line: String,
    /// Header lines.
    pub(crate) headers: Vec<String>,
    /// The body.
    pub(crate) body: String,
}

/// A hub that runs in a thread of the test.
pub(crate) struct FakeHub {
    /// What `--context` takes.
    pub(crate) context: String,
    /// Where it listens.
    pub(crate) url: String,
    /// SHA-256 of its CA's certificate, hexadecimal.
    pub(crate) ca_sha256: String,
    thread: JoinHandle<Vec<Request>>,
}

impl FakeHub {
    /// Answers as many requests as there are answers, in order, one a connection.
    pub(crate) fn answering(home: &Path, answers: Vec<Answer>) -> Self {
        Self::with_trusted_ca(home, &home.join("ca"), answers)
    }

    /// The same, where the context trusts another CA than the hub's.
    pub(crate) fn with_trusted_ca(home: &Path, trusted: &Path, answers: Vec<Answer>) -> Self {
        let now = UnixTime::now();
        let ca = HomeCa::load_or_create(&home.join("ca"), now).expect("a CA");
        HomeCa::load_or_create(trusted, now).expect("a CA");
        let certificate =
            ca.issue_hub_certificate(&HubNames::default(), SerialNumber::from_random([7; 16]), now).expect("a certificate");
        let tls = server_config(CertificateInUse::new(&certificate).expect("usable"), &[b"http/1.1"]).expect("TLS");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("https://localhost:{}", listener.local_addr().expect("bound").port());
        let context = write_context(home, &url, &trusted.join(CERTIFICATE_FILE));
        let ca_sha256 = ca.sha256().iter().map(|byte| format!("{byte:02x}")).collect();
        let ca_pem = ca.certificate_pem().to_owned();
        let thread = std::thread::spawn(move || {
            let mut requests = Vec::new();
            for answer in answers {
                let (socket, _) = listener.accept().expect("a connection");
                let mut stream = StreamOwned::new(ServerConnection::new(tls.clone()).expect("a session"), socket);
                let Some(request) = read_request(&mut stream) else { break };
                requests.push(request);
                say(&mut stream, &answer, &ca_pem);
            }
            requests
        });
        Self { context, url, ca_sha256, thread }
    }

    /// What came, once all answers were given.
    pub(crate) fn requests(self) -> Vec<Request> {
        self.thread.join().expect("no panic in the hub")
    }
}

/// Writes a context with a token of mode 0600.
pub(crate) fn write_context(home: &Path, url: &str, ca_file: &Path) -> String {
    fs::write(home.join("token"), format!("{TOKEN}\n")).expect("written");
    let file = home.join("context.toml");
    fs::write(&file, format!("url = \"{url}\"\nca_file = \"{}\"\ntoken_file = \"token\"\n", ca_file.display())).expect("written");
    file.display().to_string()
}

fn read_request(stream: &mut impl Read) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        // A client that does not trust us breaks off in the handshake.
        reader.read_line(&mut line).ok()?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    if lines.is_empty() {
        return None;
    }
    let length = lines.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("the body");
    let line = lines.remove(0).trim_end_matches(" HTTP/1.1").to_owned();
    Some(Request { line, headers: lines, body: String::from_utf8(body).expect("UTF-8") })
}

fn say(stream: &mut StreamOwned<ServerConnection, std::net::TcpStream>, answer: &Answer, ca_pem: &str) {
    let (status, kind, body) = match answer {
        Answer::Json(status, body) if *status < 400 => (*status, "application/json", body.to_string()),
        Answer::Json(status, body) => (*status, "application/problem+json", body.to_string()),
        Answer::Toml(body) => (200, "application/toml", (*body).to_owned()),
        Answer::Text(body) => (200, "text/plain", body.clone()),
        Answer::TooMany(_) => (429, "application/problem+json", r#"{"detail":"too many requests"}"#.to_owned()),
        Answer::Nothing => (204, "text/plain", String::new()),
        Answer::CaCertificate => (200, "application/x-pem-file", ca_pem.to_owned()),
        Answer::Events(body) | Answer::OpenEvents(body) => (200, "text/event-stream", (*body).to_owned()),
    };
    let retry_after = if let Answer::TooMany(seconds) = answer { format!("retry-after: {seconds}\r\n") } else { String::new() };
    let head = format!("HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\n{retry_after}connection: close\r\n\r\n");
    // The client may leave before it has heard all.
    let _ = stream.write_all(format!("{head}{body}").as_bytes()).and_then(|()| stream.flush());
    if let Answer::OpenEvents(_) = answer {
        let _ = stream.read(&mut [0; 1]);
    }
    stream.conn.send_close_notify();
    let _ = stream.flush();
}
