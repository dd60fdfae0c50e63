//! Connections: TLS, HTTP as such, the end of a hub.

use crate::home::{Home, client, header};
use hearthkey::entropy;
use hearthkey_certs::{HubNames, SerialNumber};
use std::process::Command;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart() {
    let home = Home::open().await;
    let now = rustls::pki_types::UnixTime::now();
    let mut names = HubNames::default();
    names.add("renewed.example").expect("a name");
    let serial = SerialNumber::from_random(entropy::random());
    let renewed = home.ca.issue_hub_certificate(&names, serial, now).expect("a certificate");
    let address = home.address;
    let elsewhere = client(&home.ca, |builder| builder.resolve("renewed.example", address));
    let url = format!("https://renewed.example:{}/healthz", address.port());
    assert!(elsewhere.get(&url).send().await.is_err(), "not in the certificate yet");
    home.certificate.replace(&renewed).expect("usable");
    assert_eq!(elsewhere.get(&url).send().await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn a_hub_that_is_told_to_stop_ends_open_connections_and_returns() {
    let home = Home::open().await;
    assert_eq!(home.get("/readyz").send().await.expect("an answer").status(), 200);
    let mut silent = TcpStream::connect(home.address).await.expect("connected");
    home.stop.send(true).expect("the server listens");
    home.server.await.expect("no panic").expect("no error");
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap_or(0), 0, "closed");
    assert!(TcpStream::connect(home.address).await.is_err(), "nobody listens");
}

#[tokio::test]
async fn what_is_not_tls_is_closed_and_others_are_served() {
    let home = Home::open().await;
    let mut plain = TcpStream::connect(home.address).await.expect("connected");
    plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"), "nothing is said without TLS");
    assert_eq!(home.get("/healthz").send().await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn a_refusal_that_needs_no_body_leaves_the_connection_to_the_next_request() {
    let home = Home::open().await;
    let mut stream = home.tls().await;
    for number in 0..100 {
        // Header and body in packets of their own, as Python's `requests` sends them.
        let head = format!("PUT /nothing HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {number}\r\nContent-Length: 47\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        stream.flush().await.expect("sent");
        tokio::task::yield_now().await;
        stream.write_all(&[b'x'; 47]).await.expect("sent");
        let answer = head_of_answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains(&format!("x-request-id: {number}\r\n")), "{answer}");
        assert!(!answer.contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn a_refusal_that_cannot_wait_for_the_body_says_that_the_connection_ends() {
    let home = Home::open().await;
    for length in [47, 1_000_000] {
        let mut stream = home.tls().await;
        let head = format!("PUT /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        stream.write_all(&vec![b'x'; length / 2]).await.expect("sent");
        stream.flush().await.expect("sent");
        let answer = head_of_answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("connection: close\r\n"), "{length}: {answer}");
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0, "{length}: closed");
    }
}

/// The header of the next answer; its body is read too.
async fn head_of_answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    let head = String::from_utf8(head).expect("ASCII");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    stream.read_exact(&mut vec![0; length.parse().expect("a number")]).await.expect("a body");
    head
}

#[tokio::test]
async fn every_answer_has_a_date_an_id_and_is_kept_from_caches() {
    let home = Home::open().await;
    for path in ["/healthz", "/nothing", "/readyz", "/ca.pem"] {
        let answer = home.get(path).send().await.expect("an answer");
        for name in ["date", "x-request-id", "x-content-type-options", "cache-control"] {
            assert!(!header(&answer, name).is_empty(), "{path} {name}");
        }
    }
    let sane = home.get("/healthz").header("x-request-id", "Night-7.a_b").send().await.expect("an answer");
    assert_eq!(header(&sane, "x-request-id"), "Night-7.a_b");
    for strange in ["a b", "", "x\u{e9}", "<script>", &"x".repeat(65)] {
        let answer = home.get("/healthz").header("x-request-id", strange).send().await.expect("an answer");
        assert_ne!(header(&answer, "x-request-id"), strange);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_served_over_both_versions_of_http() {
    let home = Home::open().await;
    let pem = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(pem.path(), home.get("/ca.pem").send().await.expect("an answer").bytes().await.expect("a body"))
        .expect("written");
    for (version, shown) in [("--http1.1", "HTTP/1.1 200"), ("--http2", "HTTP/2 200")] {
        let run = Command::new("curl").args(["-sSi", version, "--cacert"]).arg(pem.path()).arg(home.url("/healthz")).output();
        let run = run.expect("curl is installed");
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(
            said.starts_with(shown) && said.to_lowercase().contains("\ndate: "),
            "{said} {}",
            String::from_utf8_lossy(&run.stderr)
        );
    }
}
