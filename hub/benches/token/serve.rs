//! What the child processes serve.

use crate::{
    load::jwk,
    server::{CLIENTS, KeyClient, SecretClient, Serving},
};
use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use hearthkey::{
    config::Listeners,
    http::{self, Surroundings, Transport},
    hub::{Hub, ShownOnce},
    mqtt::Limits,
    server::{Server, Settings},
};
use hearthkey_core::{DeviceId, registry::NewDevice};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch};

/// The least that axum does for a request.
pub(crate) fn hello() {
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let plain = listener.local_addr().expect("bound");
        announce(&Serving {
            name: "axum".to_owned(),
            plain,
            token_path: String::new(),
            issuer: String::new(),
            by_secret: Vec::new(),
            by_key: Vec::new(),
            tls: None,
            ca_pem: String::new(),
        });
        let hello = || axum::routing::get(async || "Hello, World!");
        let router = axum::Router::new().route("/", hello()).route("/healthz", hello());
        axum::serve(listener, router).with_graceful_shutdown(parent_says_stop()).await.expect("served");
    });
}

/// A whole hub.
pub(crate) fn hub() {
    runtime().block_on(serve_hub());
}

async fn serve_hub() {
    let data = tempfile::tempdir().expect("a directory");
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let limits = Limits { tokens_per_minute: 100_000_000, ..Limits::default() };
    let settings =
        Settings { limits, ..Settings::new(data.path().join("data"), Listeners { https: free, mqtts: free, mqtt: None }) };
    let server = Server::start(settings).await.expect("a hub");
    let hub = server.hub().clone();
    let root = data.path().join("data");
    let ca = hearthkey::data_dir::DataDir::open(&root).expect("a data directory").ca();
    let ca_pem = fs::read_to_string(ca.join(hearthkey_certs::CERTIFICATE_FILE)).expect("a CA certificate");
    let token = fs::read_to_string(root.join("contexts").join("local.token")).expect("the owner's token");
    let (mut by_secret, mut by_key) = (Vec::new(), Vec::new());
    for number in 0..CLIENTS {
        let (secret, key) = provision(&hub, token.trim(), &format!("client-{number}")).await;
        by_secret.push(secret);
        by_key.push(key);
    }
    let listener = TcpListener::bind(free).await.expect("a port");
    let plain = listener.local_addr().expect("bound");
    let (stop, stopped) = watch::channel(false);
    let surroundings = Surroundings { ca_pem: ca_pem.clone(), ..Surroundings::default() };
    let serving = tokio::spawn(http::serve(hub.clone(), surroundings, listener, Transport::PlainLoopback, stopped));
    announce(&Serving {
        name: "hearthkey".to_owned(),
        plain,
        token_path: "/oauth2/token".to_owned(),
        issuer: hub.issuer().to_owned(),
        by_secret,
        by_key,
        tls: Some(server.addresses().https),
        ca_pem,
    });
    drop(hub);
    parent_says_stop().await;
    stop.send_replace(true);
    serving.await.expect("no panic").expect("served");
    tokio::time::timeout(Duration::from_secs(20), server.stop()).await.expect("stopped");
}

/// A client with a secret and a registered key.
async fn provision(hub: &Arc<Hub>, owner: &str, id: &str) -> (SecretClient, KeyClient) {
    let authority = hub.admit(owner).expect("the owner").0;
    let name = |text: &str| DeviceId::parse(text).expect("legal");
    let new = NewDevice { id: name(id), profile: name("thermostat"), children: Vec::new() };
    let context = hub.context(None, "");
    let (enrolment, shown) = hub.new_client_secret();
    hub.add_device(&authority, new, enrolment, &context).await.expect("added");
    let secret = exposed(&shown);
    let (enrolment, shown) = hub.new_enrolment();
    let rotated = hub.decide(|registry| {
        let permit = registry.permit_user(&authority, context.now).expect("the owner may");
        registry.rotate_device(&permit, &name(id), enrolment, None, &context)
    });
    rotated.await.expect("rotated");
    let string = exposed(&shown);
    let bytes = Base64UrlUnpadded::decode_vec(string.strip_prefix("hk1.").expect("hk1.")).expect("base64url");
    let code = Base64UrlUnpadded::encode_string(&bytes[32..48]);
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).expect("a key");
    hub.register(&code, &jwk(&key), String::new(), &context).await.expect("registered");
    let key = Base64::encode_string(document.as_ref());
    (SecretClient { id: id.to_owned(), secret }, KeyClient { id: id.to_owned(), key })
}

fn exposed(shown: &ShownOnce) -> String {
    match shown {
        ShownOnce::EnrolmentString(secret) | ShownOnce::ClientSecret(secret) => secret.expose().to_owned(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

fn announce(serving: &Serving) {
    let _ = writeln!(std::io::stdout(), "{}", serde_json::to_string(serving).expect("JSON"));
}

/// Serves until the parent closes our standard input.
async fn parent_says_stop() {
    let _ = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await;
}
