//! TLS: handshakes in tasks of their own.

use crate::support::*;
use hearthkey::mqtt::Limits;
use rustls::{ClientConfig, RootCertStore, ServerConfig, pki_types::PrivateKeyDer};
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_hundred_unfinished_handshakes_neither_block_nor_starve_a_device() {
    let home = Home::with(FakeGate::of_a_home(), Limits::default()).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(["hub.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let front = home.front.clone();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    tokio::spawn(async move { front.serve_tls(listener, acceptor, std::future::pending()).await });

    let mut unfinished = Vec::new();
    // Both ends are in this process: 2 x 400 descriptors stay below the usual 1,024.
    for number in 0..400 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(&[0x16, 0x03, 0x01, 0x02]).await.unwrap();
        }
        unfinished.push(stream);
    }
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(client));
    let mut lamp = within(connector.connect("hub.test".try_into().unwrap(), stream)).await.unwrap();
    lamp.write_all(&Connect::v5("lamp").packet()).await.unwrap();
    assert_eq!(within(lamp.read_u8()).await.unwrap(), 0x20);
    // A stranger to TLS is closed.
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(&Connect::v5("oven").packet()).await.unwrap();
    let mut answer = Vec::new();
    let _ = within(plain.read_to_end(&mut answer)).await;
    assert!(answer.first().is_none_or(|first| *first == 0x15), "nothing, or a TLS alert: {answer:?}");
}
