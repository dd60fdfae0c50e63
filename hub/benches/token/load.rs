//! Requests by many connections at once.

use crate::server::{KeyClient, Serving};
use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use hearthkey::entropy;
use hearthkey_core::{jwt, oauth::JWT_BEARER};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::CertificateDer, pki_types::pem::PemObject};
use serde_json::json;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

const CONNECTIONS: usize = 32;
/// Life of an assertion: so long that none is forgotten during a run.
const ASSERTION_SECONDS: u64 = 300;

/// How requests reach the server; connections are kept alive.
#[derive(Clone, Copy)]
pub(crate) enum Connection {
    Plain,
    Tls,
}

/// Makes the request of a number.
pub(crate) struct Load<'a>(Box<dyn Fn(usize) -> Vec<u8> + Sync + 'a>);

impl<'a> Load<'a> {
    pub(crate) fn hello() -> Self {
        Self(Box::new(|_| b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()))
    }

    pub(crate) fn by_secret(serving: &'a Serving) -> Self {
        Self(Box::new(|number| {
            let client = &serving.by_secret[number % serving.by_secret.len()];
            let (id, secret) = (&client.id, &client.secret);
            post(serving, &format!("grant_type=client_credentials&client_id={id}&client_secret={secret}"))
        }))
    }

    pub(crate) fn by_assertion(serving: &'a Serving) -> Self {
        let signers: Vec<Signer> = serving.by_key.iter().map(Signer::new).collect();
        Self(Box::new(move |number| post(serving, &signers[number % signers.len()].form(&serving.issuer))))
    }

    /// Sends `count` requests, each of which succeeds, and returns how long it took from `started`.
    pub(crate) fn run(&self, serving: &Serving, count: usize, how: Connection, started: impl FnOnce()) -> Duration {
        let ready = Barrier::new(CONNECTIONS + 1);
        let tls = matches!(how, Connection::Tls).then(|| tls_config(&serving.ca_pem));
        let mut begin = Instant::now();
        thread::scope(|scope| {
            for first in 0..CONNECTIONS {
                let (ready, tls) = (&ready, &tls);
                scope.spawn(move || {
                    let mut stream = match tls {
                        None => plain(serving.plain),
                        Some(config) => secured(serving.tls.expect("the server offers TLS"), config),
                    };
                    // The handshake is over before the clock starts.
                    exchange(&mut *stream, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
                    ready.wait();
                    for number in (first..count).step_by(CONNECTIONS) {
                        let (status, answer) = exchange(&mut *stream, &(self.0)(number));
                        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
                    }
                });
            }
            ready.wait();
            started();
            begin = Instant::now();
        });
        begin.elapsed()
    }
}

struct Signer {
    id: String,
    key: EcdsaKeyPair,
    thumbprint: String,
}

impl Signer {
    fn new(client: &KeyClient) -> Self {
        let document = Base64::decode_vec(&client.key).expect("base64");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &document, &SystemRandom::new()).expect("a key");
        let thumbprint = jwk(&key).to_public_key().expect("a key").thumbprint().to_string();
        Self { id: client.id.clone(), key, thumbprint }
    }

    /// A token request with a fresh assertion.
    fn form(&self, issuer: &str) -> String {
        let (id, jti, now) = (&self.id, entropy::unique_name(), hearthkey::clock::now().0);
        let claims = json!({"iss": id, "sub": id, "aud": issuer, "jti": jti, "iat": now, "exp": now + ASSERTION_SECONDS});
        let input = jwt::signing_input("JWT", &self.thumbprint, &claims);
        let signature = self.key.sign(&SystemRandom::new(), input.as_bytes()).expect("signed");
        let assertion = jwt::join(&input, signature.as_ref());
        let kind = JWT_BEARER.replace(':', "%3A");
        format!("grant_type=client_credentials&client_id={id}&client_assertion_type={kind}&client_assertion={assertion}")
    }
}

pub(crate) fn jwk(key: &EcdsaKeyPair) -> jwt::Jwk {
    let point = key.public_key().as_ref();
    let encode = Base64UrlUnpadded::encode_string;
    let jwk = json!({"kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..])});
    serde_json::from_value(jwk).expect("a JWK")
}

fn post(serving: &Serving, form: &str) -> Vec<u8> {
    let (path, length) = (&serving.token_path, form.len());
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {length}\r\n\r\n{form}"
    )
    .into_bytes()
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

/// One request and its answer, whose body has a Content-Length: status, and head and body.
fn exchange(stream: &mut dyn Stream, request: &[u8]) -> (u16, Vec<u8>) {
    stream.write_all(request).and_then(|()| stream.flush()).expect("sent");
    let mut answer = Vec::with_capacity(2_048);
    let mut chunk = [0; 2_048];
    loop {
        let read = stream.read(&mut chunk).expect("an answer");
        assert_ne!(read, 0, "the server closed");
        answer.extend_from_slice(&chunk[..read]);
        let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&answer[..end]).expect("ASCII").to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        if answer.len() == end + 4 + length.parse::<usize>().expect("a number") {
            return (head[9..12].parse().expect("a status"), answer);
        }
    }
}

fn plain(address: SocketAddr) -> Box<dyn Stream> {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_nodelay(true).expect("a socket");
    Box::new(stream)
}

fn secured(address: SocketAddr, config: &Arc<ClientConfig>) -> Box<dyn Stream> {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_nodelay(true).expect("a socket");
    let connection = ClientConnection::new(config.clone(), "localhost".try_into().expect("a name")).expect("a connection");
    Box::new(StreamOwned::new(connection, stream))
}

fn tls_config(ca_pem: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).expect("PEM")).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("TLS 1.3");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}
