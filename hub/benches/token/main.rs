//! Token requests per second, and what each costs the hub in CPU time, beside an axum hello world in the same run.
//! `cargo bench -p hearthkey --bench token`
//!
//! Servers run as processes of their own, so that the clients' CPU time is not counted. The hub has everything on: store with
//! fdatasync, audit, limits, MQTT front.

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use hearthkey::{
    config::Listeners,
    entropy,
    http::{self, Surroundings, Transport},
    hub::{Hub, ShownOnce},
    server::{Server, Settings},
};
use hearthkey_core::{
    DeviceId, jwt,
    oauth::JWT_BEARER,
    registry::{ManageDevices, NewDevice},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::pem::PemObject};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::watch};

const CONNECTIONS: usize = 32;
/// One client may use 256 assertions within their life (`MAX_USED_ASSERTIONS_PER_CLIENT`).
const CLIENTS: usize = 128;
const ASSERTIONS_PER_CLIENT: usize = 125;
const REQUESTS_BY_SECRET: usize = 16_000;
const HELLOS: usize = 64_000;
const ROLE: &str = "HEARTHKEY_BENCH_ROLE";

/// What a server tells its parent, as one line of JSON.
#[derive(Serialize, Deserialize)]
struct Serving {
    plain: SocketAddr,
    tls: Option<SocketAddr>,
    issuer: String,
    ca_pem: String,
    clients: Vec<Client>,
}

#[derive(Serialize, Deserialize)]
struct Client {
    id: String,
    secret: String,
    key: String,
}

fn main() {
    match std::env::var(ROLE).as_deref() {
        Ok("hub") => runtime().block_on(serve_hub()),
        Ok(_) => runtime().block_on(serve_hello()),
        Err(_) => measure(),
    }
}

fn measure() {
    let mut out = std::io::stdout().lock();
    let mut row = |what: &str, measured: &Measured, hello: &Measured| {
        let (rate, cpu) = (measured.per_second, measured.cpu_us);
        let _ = writeln!(out, "{what:<34} {rate:>8.0}/s  {cpu:>6.1} us CPU  {:>5.1} x hello", cpu / hello.cpu_us);
    };
    let (mut child, serving) = start("hello");
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
    let hello = run(&child, &spread(vec![request; HELLOS]), |_| plain(serving.plain));
    stop(&mut child);
    row("axum hello world, TCP", &hello, &hello);

    let (mut child, serving) = start("hub");
    let tls = tls_config(&serving.ca_pem);
    let tls_address = serving.tls.expect("the hub offers TLS");
    let by_secret = || {
        let request = |number: usize| {
            let Client { id, secret, .. } = &serving.clients[number % CLIENTS];
            post(&format!("grant_type=client_credentials&client_id={id}&client_secret={secret}"))
        };
        spread((0..REQUESTS_BY_SECRET).map(request).collect())
    };
    let by_assertion = || {
        let request = |number: usize| post(&assertion_form(&serving.clients[number % CLIENTS], &serving.issuer));
        spread((0..CLIENTS * ASSERTIONS_PER_CLIENT).map(request).collect())
    };
    run(&child, &by_secret(), |_| plain(serving.plain));
    row("client_secret_post, TCP", &run(&child, &by_secret(), |_| plain(serving.plain)), &hello);
    row("private_key_jwt, TCP", &run(&child, &by_assertion(), |_| plain(serving.plain)), &hello);
    row("client_secret_post, TLS keep-alive", &run(&child, &by_secret(), |_| secured(tls_address, &tls)), &hello);
    row("private_key_jwt, TLS keep-alive", &run(&child, &by_assertion(), |_| secured(tls_address, &tls)), &hello);
    let memory = memory_mb(&child);
    stop(&mut child);
    let requests = 3 * REQUESTS_BY_SECRET + 2 * CLIENTS * ASSERTIONS_PER_CLIENT;
    let _ = writeln!(out, "the hub holds {memory:.0} MB after {requests} tokens; {CONNECTIONS} connections each");
}

struct Measured {
    per_second: f64,
    /// CPU time of the server, user and system, per request.
    cpu_us: f64,
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

fn run(server: &Child, requests: &[Vec<Vec<u8>>], connect: impl Fn(usize) -> Box<dyn Stream> + Sync) -> Measured {
    let ready = Barrier::new(requests.len() + 1);
    let (mut started, mut cpu_before) = (Instant::now(), 0.0);
    thread::scope(|scope| {
        for (number, requests) in requests.iter().enumerate() {
            let (ready, connect) = (&ready, &connect);
            scope.spawn(move || {
                let mut stream = connect(number);
                // The handshake is over before the clock starts.
                exchange(&mut *stream, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
                ready.wait();
                for request in requests {
                    let status = exchange(&mut *stream, request);
                    assert_eq!(status, 200);
                }
            });
        }
        ready.wait();
        (started, cpu_before) = (Instant::now(), cpu_us(server));
    });
    let count: usize = requests.iter().map(Vec::len).sum();
    let (elapsed, cpu) = (started.elapsed(), cpu_us(server) - cpu_before);
    Measured { per_second: count as f64 / elapsed.as_secs_f64(), cpu_us: cpu / count as f64 }
}

/// One request and its answer, whose body has a Content-Length; returns the status.
fn exchange(stream: &mut dyn Stream, request: &[u8]) -> u16 {
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
            return head[9..12].parse().expect("a status");
        }
    }
}

fn post(form: &str) -> Vec<u8> {
    let length = form.len();
    format!(
        "POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {length}\r\n\r\n{form}"
    )
    .into_bytes()
}

fn assertion_form(client: &Client, issuer: &str) -> String {
    let random = SystemRandom::new();
    let document = Base64::decode_vec(&client.key).expect("base64");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &document, &random).expect("a key");
    let now = hearthkey::clock::now().0;
    let (id, jti) = (&client.id, entropy::unique_name());
    let claims = json!({"iss": id, "sub": id, "aud": issuer, "jti": jti, "iat": now, "exp": now + 240});
    let input = jwt::signing_input("JWT", &thumbprint(&key), &claims);
    let signature = key.sign(&random, input.as_bytes()).expect("signed");
    let assertion = jwt::join(&input, signature.as_ref());
    let kind = JWT_BEARER.replace(':', "%3A");
    format!("grant_type=client_credentials&client_assertion_type={kind}&client_assertion={assertion}")
}

fn jwk(key: &EcdsaKeyPair) -> jwt::Jwk {
    let point = key.public_key().as_ref();
    let encode = Base64UrlUnpadded::encode_string;
    let jwk = json!({"kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..])});
    serde_json::from_value(jwk).expect("a JWK")
}

fn thumbprint(key: &EcdsaKeyPair) -> String {
    jwk(key).to_public_key().expect("a key").thumbprint().to_string()
}

fn spread(requests: Vec<Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
    let mut by_connection = vec![Vec::new(); CONNECTIONS];
    for (number, request) in requests.into_iter().enumerate() {
        by_connection[number % CONNECTIONS].push(request);
    }
    by_connection
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
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(ca_pem.as_bytes()).expect("PEM")).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("TLS 1.3");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

fn start(role: &str) -> (Child, Serving) {
    let this = std::env::current_exe().expect("this program");
    let mut child = Command::new(this).env(ROLE, role).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a server");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    (child, serde_json::from_str(&line).expect("what it serves"))
}

fn stop(child: &mut Child) {
    drop(child.stdin.take());
    child.wait().expect("ended");
}

/// User and system time of a process so far, in clock ticks of 10 ms.
fn cpu_us(server: &Child) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.id())).expect("Linux");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().expect("a number")).sum();
    ticks * 10_000.0
}

fn memory_mb(server: &Child) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).expect("a number").parse::<f64>().expect("a number") / 1_024.0
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

/// Serves until the parent closes our standard input.
async fn parent_says_stop() {
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await;
}

fn announce(serving: &Serving) {
    let _ = writeln!(std::io::stdout(), "{}", serde_json::to_string(serving).expect("JSON"));
}

async fn serve_hello() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let plain = listener.local_addr().expect("bound");
    announce(&Serving { plain, tls: None, issuer: String::new(), ca_pem: String::new(), clients: Vec::new() });
    let hello = || axum::routing::get(async || "Hello, World!");
    let router = axum::Router::new().route("/", hello()).route("/healthz", hello());
    axum::serve(listener, router).with_graceful_shutdown(parent_says_stop()).await.expect("served");
}

async fn serve_hub() {
    let data = tempfile::tempdir().expect("a directory");
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let settings = Settings::new(data.path().join("data"), Listeners { https: free, mqtts: free, mqtt: None });
    let server = Server::start(settings).await.expect("a hub");
    let hub = server.hub().clone();
    let root = data.path().join("data");
    let ca = hearthkey::data_dir::DataDir::open(&root).expect("a data directory").ca();
    let ca_pem = fs::read_to_string(ca.join(hearthkey_certs::CERTIFICATE_FILE)).expect("a CA certificate");
    let token = fs::read_to_string(root.join("contexts").join("local.token")).expect("the owner's token");
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        clients.push(provision(&hub, token.trim(), &format!("client-{number}")).await);
    }
    let listener = TcpListener::bind(free).await.expect("a port");
    let plain = listener.local_addr().expect("bound");
    let (stop, stopped) = watch::channel(false);
    let surroundings = Surroundings { ca_pem: ca_pem.clone(), ..Surroundings::default() };
    let serving = tokio::spawn(http::serve(hub.clone(), surroundings, listener, Transport::PlainLoopback, stopped));
    let issuer = hub.issuer().to_owned();
    announce(&Serving { plain, tls: Some(server.addresses().https), issuer, ca_pem, clients });
    drop(hub);
    parent_says_stop().await;
    stop.send_replace(true);
    serving.await.expect("no panic").expect("served");
    tokio::time::timeout(Duration::from_secs(20), server.stop()).await.expect("stopped");
}

/// A client with a secret and a registered key.
async fn provision(hub: &Arc<Hub>, owner: &str, id: &str) -> Client {
    let source = IpAddr::from(Ipv4Addr::LOCALHOST);
    let authority = hub.authenticate_bearer(owner, source).expect("the owner");
    let permit = hub.view(|registry| registry.permit_user::<ManageDevices>(&authority, hub.now())).expect("the owner may");
    let name = |text: &str| DeviceId::parse(text).expect("legal");
    let new = NewDevice { id: name(id), profile: name("thermostat"), children: Vec::new() };
    let context = hub.context(None, "");
    let (enrolment, shown) = hub.new_client_secret();
    hub.decide(|registry| registry.add_device(&permit, new, enrolment, &context)).await.expect("added");
    let secret = exposed(&shown);
    let (enrolment, shown) = hub.new_enrolment();
    hub.decide(|registry| registry.rotate_device(&permit, &name(id), enrolment, None, &context)).await.expect("rotated");
    let string = exposed(&shown);
    let bytes = Base64UrlUnpadded::decode_vec(string.strip_prefix("hk1.").expect("hk1.")).expect("base64url");
    let code = Base64UrlUnpadded::encode_string(&bytes[32..48]);
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).expect("a key");
    hub.register(&code, &jwk(&key), String::new(), &context).await.expect("registered");
    Client { id: id.to_owned(), secret, key: Base64::encode_string(document.as_ref()) }
}

fn exposed(shown: &ShownOnce) -> String {
    match shown {
        ShownOnce::EnrolmentString(secret) | ShownOnce::ClientSecret(secret) => secret.expose().to_owned(),
    }
}
