//! Peers that are slow, many, broken or malicious: each gets an error or a close, and everybody else goes on.

use crate::home::{Home, TOKEN, refusal};
use hearthkey::http::limits::{
    BODY_TIMEOUT, HEADER_TIMEOUT, IDLE_TIMEOUT, MAX_CONNECTIONS_PER_SOURCE, MAX_HEADER_BYTES, MAX_HEADER_FIELDS,
    STREAM_HEARTBEAT, TLS_HANDSHAKE_TIMEOUT,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

impl Home {
    /// A TLS connection on which nothing was said yet.
    pub(crate) async fn tls(&self) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.certificate_der().clone()).expect("a CA certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await.expect("connected");
        let name = "hub.hearthkey.home.arpa".try_into().expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake")
    }

    /// What the hub answers to bytes, until it closes.
    async fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.tls().await;
        let _ = stream.write_all(bytes).await;
        heard(&mut stream).await
    }

    /// The same by a peer that closes its side at once.
    async fn say_and_leave(&self, bytes: &[u8]) -> String {
        let mut stream = self.tls().await;
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        heard(&mut stream).await
    }

    async fn serves_a_device(&self, secret: &str) {
        let form = [("grant_type", "client_credentials"), ("client_id", "plug"), ("client_secret", secret)];
        assert_eq!(self.token_request(&form).await.status(), 200);
    }
}

async fn heard(stream: &mut TlsStream<TcpStream>) -> String {
    let mut answer = Vec::new();
    // A close without close_notify is a close too.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Repeatable bytes (xorshift).
struct Garbage(u64);

impl Garbage {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        (0..self.next() % most).map(|_| self.next() as u8).collect()
    }
}

#[tokio::test]
async fn a_thousand_half_open_connections_neither_block_nor_starve_a_device() {
    let home = Home::open().await;
    let secret = home.add("plug", "switch", true).await;
    let mut half_open = Vec::new();
    for number in 0..1_000 {
        let mut stream = TcpStream::connect(home.address).await.expect("connected");
        // Some say nothing, some begin a ClientHello and stop.
        if number % 2 == 0 {
            let _ = stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await;
        }
        half_open.push(stream);
        if number % 250 == 249 {
            home.serves_a_device(&secret).await;
        }
    }
    home.serves_a_device(&secret).await;
    for (number, stream) in half_open.iter_mut().take(1_000 - MAX_CONNECTIONS_PER_SOURCE).enumerate() {
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0, "{number} of the oldest had to leave");
    }
}

#[tokio::test]
async fn a_thousand_connections_that_never_end_their_request_do_not_either() {
    let home = Home::open().await;
    let secret = home.add("plug", "switch", true).await;
    let mut slow = Vec::new();
    for _ in 0..1_000 {
        let mut stream = home.tls().await;
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow:").await;
        slow.push(stream);
    }
    home.serves_a_device(&secret).await;
    assert_eq!(heard(&mut slow[0]).await, "", "the oldest had to leave");
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_given_up() {
    let home = Home::open().await;
    let mut silent = TcpStream::connect(home.address).await.expect("connected");
    home.tls().await;
    time::pause();
    time::advance(TLS_HANDSHAKE_TIMEOUT + Duration::from_secs(1)).await;
    assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_header_that_does_not_end_is_given_up() {
    let home = Home::open().await;
    let mut slow = home.tls().await;
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: local").await.expect("sent");
    time::pause();
    time::advance(HEADER_TIMEOUT + Duration::from_secs(1)).await;
    assert!(!heard(&mut slow).await.contains("200 OK"));
}

#[tokio::test]
async fn a_body_that_does_not_end_is_given_up() {
    let home = Home::open().await;
    let mut slow = home.tls().await;
    let head = "POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                Content-Length: 100\r\nExpect: 100-continue\r\n\r\n";
    slow.write_all(head.as_bytes()).await.expect("sent");
    let mut asked_for = [0; 25];
    slow.read_exact(&mut asked_for).await.expect("an answer");
    assert_eq!(&asked_for, b"HTTP/1.1 100 Continue\r\n\r\n", "the hub waits for the body");
    slow.write_all(b"grant").await.expect("sent");
    time::pause();
    time::advance(BODY_TIMEOUT + Duration::from_secs(1)).await;
    let answer = heard(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
}

#[tokio::test]
async fn a_silent_event_stream_shows_that_it_lives() {
    let home = Home::open().await;
    let mut stream = home.tls().await;
    let head = format!("GET /api/v1/audit/tail HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n", home.owner);
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut heard = Vec::new();
    while !heard.ends_with(b"\r\n\r\n") {
        heard.push(stream.read_u8().await.expect("an answer"));
    }
    time::pause();
    time::advance(STREAM_HEARTBEAT + Duration::from_secs(1)).await;
    let mut heartbeat = [0; 6];
    stream.read_exact(&mut heartbeat).await.expect("a chunk");
    assert_eq!(&heartbeat, b"3\r\n:\n\n");
}

#[tokio::test]
async fn a_connection_without_requests_is_closed_after_a_while() {
    let home = Home::open().await;
    let mut idle = home.tls().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("sent");
    let mut answer = [0; 15];
    idle.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    time::pause();
    time::advance(IDLE_TIMEOUT + Duration::from_secs(1)).await;
    heard(&mut idle).await;
}

#[tokio::test]
async fn what_is_not_http_gets_400_or_a_close() {
    let home = Home::open().await;
    let secret = home.add("plug", "switch", true).await;
    let post = "POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n";
    let form = format!("grant_type=client_credentials&client_id=plug&client_secret={secret}");
    let good = format!("{post}Connection: close\r\nContent-Length: {}\r\n\r\n{form}", form.len());
    assert!(home.say(good.as_bytes()).await.starts_with("HTTP/1.1 200 OK"), "the opposite");
    let before = home.hub.audit_chain().1.seq;
    for bytes in [
        "GET".to_owned(),
        // The body is cut short: what came so far is a complete form, and must not count.
        format!("{post}Content-Length: {}\r\n\r\n{form}", form.len() + 1),
        format!("{post}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{form}\r\n", form.len()),
    ] {
        let answer = home.say_and_leave(bytes.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{bytes:?} {answer}");
    }
    for bytes in [
        "\0\0\0\0\r\n\r\n".to_owned(),
        "GET /healthz\r\n\r\n".to_owned(),
        "GET /healthz HTTP/9.9\r\n\r\n".to_owned(),
        "GET /heal\u{7f}thz HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.1\r\nHost x\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.1\r\nHo st: x\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        format!("{post}Content-Length: -1\r\n\r\n{form}"),
        format!("{post}Content-Length: 1\r\nContent-Length: {}\r\n\r\n{form}", form.len()),
        format!("{post}Content-Length: 99999999999999999999999999\r\n\r\n{form}"),
        format!("{post}Transfer-Encoding: chunked\r\n\r\nzz\r\n{form}\r\n0\r\n\r\n"),
        format!("{post}Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{form}"),
        format!("{post}Transfer-Encoding: gzip\r\n\r\n{form}"),
    ] {
        let answer = home.say(bytes.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{bytes:?} {answer}");
        assert!(!answer.contains("access_token"));
    }
    assert_eq!(home.hub.audit_chain().1.seq, before, "nothing was issued");
    home.serves_a_device(&secret).await;
}

#[tokio::test]
async fn a_header_or_target_beyond_the_bound_is_refused() {
    let home = Home::open().await;
    let fields: String = (0..=MAX_HEADER_FIELDS).map(|number| format!("X-{number}: y\r\n")).collect();
    for (bytes, status) in [
        (format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{fields}\r\n"), "431"),
        (format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "y".repeat(MAX_HEADER_BYTES)), "431"),
        (format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "y".repeat(2 * MAX_HEADER_BYTES)), "431"),
    ] {
        let answer = home.say(bytes.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{status} {answer}");
    }
    let long =
        format!("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Long: {}\r\n\r\n", "y".repeat(MAX_HEADER_BYTES / 2));
    assert!(home.say(long.as_bytes()).await.starts_with("HTTP/1.1 200"), "half of it is fine");
}

#[tokio::test]
async fn broken_tls_gets_a_close() {
    let home = Home::open().await;
    let secret = home.add("plug", "switch", true).await;
    let hello = client_hello();
    let mut garbage = Garbage(0x5eed);
    for round in 0..200 {
        let mut bytes = hello.clone();
        match round % 4 {
            // Truncated, altered, preceded by what comes later, nothing like it.
            0 => bytes.truncate(garbage.next() as usize % hello.len()),
            1 => {
                let at = garbage.next() as usize % hello.len();
                bytes[at] ^= 1 << (garbage.next() % 8);
            }
            2 => bytes = [&[0x17, 3, 3, 0, 5][..], b"early", &hello].concat(),
            _ => bytes = garbage.bytes(600),
        }
        let mut stream = TcpStream::connect(home.address).await.expect("connected");
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/"), "round {round}");
    }
    home.serves_a_device(&secret).await;
}

#[tokio::test]
async fn an_older_version_of_tls_is_refused() {
    let home = Home::open().await;
    let mut hello = client_hello();
    // The extension supported_versions (43) becomes an unknown one: what is left offers TLS 1.2 only.
    let at = hello.windows(6).position(|window| window[..3] == [0, 43, 0] && window[3] == window[4] + 1).expect("the extension");
    hello[at + 1] = 0xfe;
    let mut stream = TcpStream::connect(home.address).await.expect("connected");
    stream.write_all(&hello).await.expect("sent");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert_eq!((answer[0], answer[5], answer[6]), (0x15, 2, 70), "alert: fatal, protocol_version");
}

#[tokio::test]
async fn garbage_at_the_token_endpoint_is_answered_to_the_letter() {
    let home = Home::open().await;
    let secret = home.add("plug", "switch", true).await;
    let good = format!("grant_type=client_credentials&client_id=plug&client_secret={secret}&scope=telemetry");
    let mut garbage = Garbage(0xdecade);
    for round in 0..300 {
        let mut body = good.clone().into_bytes();
        for _ in 0..=garbage.next() % 4 {
            let at = garbage.next() as usize % body.len();
            match garbage.next() % 3 {
                0 => body[at] = garbage.next() as u8,
                1 => drop(body.remove(at)),
                _ => drop(body.splice(at..at, garbage.bytes(20))),
            }
        }
        let request = home.post(TOKEN).header("content-type", "application/x-www-form-urlencoded").body(body.clone());
        let answer = request.send().await.expect("an answer");
        match answer.status().as_u16() {
            200 => {}
            _ => {
                let (status, error) = refusal(answer).await;
                assert!([400, 429].contains(&status), "round {round}: {status} {error} {}", String::from_utf8_lossy(&body));
            }
        }
    }
}

/// What a client of ours says first.
fn client_hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS 1.3")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "hub.hearthkey.home.arpa".try_into().expect("a name");
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).expect("a connection");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("a vector takes all");
    hello
}
