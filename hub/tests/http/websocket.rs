//! MQTT over WebSocket: frames are bytes, foreign pages stay out, and nobody holds more than a share.

use crate::home::Home;
use futures_util::{SinkExt, StreamExt};
use hearthkey::http::limits::MAX_WEBSOCKETS_PER_SOURCE;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use serde_json::Value;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        http::{HeaderName, HeaderValue, Response},
        protocol::frame::coding::CloseCode,
    },
};

type Socket = WebSocketStream<TlsStream<TcpStream>>;

const CONNACK: u8 = 0x20;
const DISCONNECT: u8 = 0xe0;

async fn tls_stream(home: &Home) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(home.ca.certificate_der().clone()).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    let config = builder.expect("TLS 1.3").with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(home.address).await.expect("the hub listens");
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS")
}

async fn open(home: &Home, headers: &[(&str, &str)]) -> Result<Socket, Response<Option<Vec<u8>>>> {
    let mut request = home.url("/mqtt").replace("https", "wss").into_client_request().expect("a request");
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        request.headers_mut().append(name, HeaderValue::from_str(value).expect("a value"));
    }
    match client_async(request, tls_stream(home).await).await {
        Ok((socket, answer)) => {
            assert_eq!(answer.headers().get("sec-websocket-protocol").map(HeaderValue::as_bytes), Some(&b"mqtt"[..]));
            Ok(socket)
        }
        Err(Error::Http(answer)) => Err(*answer),
        Err(error) => panic!("{error}"),
    }
}

async fn mqtt(home: &Home) -> Socket {
    open(home, &[("sec-websocket-protocol", "mqtt")]).await.expect("opened")
}

/// CONNECT with the owner's token: MQTT 5, or 4 for MQTT 3.1.1.
fn connect_in(version: u8, home: &Home) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat();
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    let start = [&b"\0\x04MQTT"[..], &[version, 0xc2, 0, 0], properties].concat();
    let body = [start, text("panel"), text("owner"), text(&home.owner)].concat();
    let length = u8::try_from(body.len()).expect("short");
    assert!(length < 128);
    [&[0x10, length][..], &body].concat()
}

fn connect(home: &Home) -> Vec<u8> {
    connect_in(5, home)
}

/// The bytes that come next, in however many frames, up to at least `least`.
async fn read(socket: &mut Socket, least: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < least {
        match socket.next().await.expect("not the end").expect("a frame") {
            Message::Binary(frame) => bytes.extend_from_slice(&frame),
            other => panic!("{other:?}"),
        }
    }
    bytes
}

async fn close_code(socket: &mut Socket) -> Option<CloseCode> {
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Close(frame) = message {
            return frame.map(|frame| frame.code);
        }
    }
    None
}

/// 5: 6.0.0-2, 6.0.0-4 · 3.1.1: 6.0.0-2, 6.0.0-4
#[tokio::test]
async fn packets_need_not_align_with_frames() {
    let home = Home::open().await;
    for version in [5, 4] {
        let mut socket = mqtt(&home).await;
        let together = [connect_in(version, &home), vec![0xc0, 0], vec![0xc0, 0]].concat();
        let (all_but_one, last) = together.split_at(together.len() - 1);
        for byte in all_but_one {
            socket.send(Message::binary(vec![*byte])).await.expect("sent");
            socket.send(Message::binary(Vec::new())).await.expect("sent");
        }
        socket.send(Message::Ping("still there?".into())).await.expect("sent");
        assert_eq!(read_packet_type(&mut socket).await, CONNACK, "{version}");
        socket.send(Message::binary(last.to_vec())).await.expect("sent");
        socket.send(Message::binary(b"\xe0\0".to_vec())).await.expect("sent");
        assert_eq!(close_code(&mut socket).await, Some(CloseCode::Normal), "{version}");
    }
}

/// The type of the next packet, pongs apart.
async fn read_packet_type(socket: &mut Socket) -> u8 {
    loop {
        match socket.next().await.expect("not the end").expect("a frame") {
            Message::Binary(frame) => return frame[0] & 0xf0,
            Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// 5: 6.0.0-1 · 3.1.1: 6.0.0-1
#[tokio::test]
async fn a_text_frame_ends_the_connection() {
    let home = Home::open().await;
    for (version, is_connected) in [(5, false), (5, true), (4, true)] {
        let mut socket = mqtt(&home).await;
        if is_connected {
            socket.send(Message::binary(connect_in(version, &home))).await.expect("sent");
            assert_eq!(read(&mut socket, 2).await[0], CONNACK);
        }
        socket.send(Message::text("hello")).await.expect("sent");
        // Who has not said CONNECT gets no farewell.
        assert_eq!(close_code(&mut socket).await, is_connected.then_some(CloseCode::Unsupported));
    }
}

#[tokio::test]
async fn a_frame_beyond_the_largest_packet_ends_the_connection_unread() {
    let home = Home::open().await;
    let mut socket = mqtt(&home).await;
    socket.send(Message::binary(connect(&home))).await.expect("sent");
    assert_eq!(read(&mut socket, 2).await[0], CONNACK);
    let _ = socket.send(Message::binary(vec![0; home.front.limits().max_packet_bytes + 6])).await;
    // A reset may overtake the word of it.
    assert!(matches!(close_code(&mut socket).await, Some(CloseCode::Protocol) | None));
    // The hub goes on.
    let mut another = mqtt(&home).await;
    another.send(Message::binary(connect(&home))).await.expect("sent");
    assert_eq!(read(&mut another, 2).await[0], CONNACK);
}

#[tokio::test]
async fn a_hub_that_stops_says_so() {
    let home = Home::open().await;
    let mut socket = mqtt(&home).await;
    socket.send(Message::binary(connect(&home))).await.expect("sent");
    assert_eq!(read(&mut socket, 2).await[0], CONNACK);
    home.stop.send(true).expect("the server listens");
    let (farewell, ()) = tokio::join!(read(&mut socket, 3), home.front.stop());
    assert_eq!((farewell[0], farewell[2]), (DISCONNECT, 0x8b));
    assert_eq!(close_code(&mut socket).await, Some(CloseCode::Normal));
    home.server.await.expect("no panic").expect("no error");
}

/// 5: 6.0.0-3 · 3.1.1: 6.0.0-3
#[tokio::test]
async fn who_is_no_websocket_of_mqtt_is_told_what_is_needed() {
    let home = Home::open().await;
    let plain = home.get("/mqtt").send().await.expect("an answer");
    assert_eq!(plain.status(), 426);
    assert!(plain.text().await.expect("a body").contains("MQTT over WebSocket"));
    for protocols in [&[][..], &[("sec-websocket-protocol", "chat, soap")]] {
        let refused = open(&home, protocols).await.expect_err("another protocol");
        assert_eq!(refused.status(), 400);
    }
}

#[tokio::test]
async fn a_page_of_another_is_refused_and_one_of_the_hub_is_not() {
    let home = Home::open().await;
    let with_origin = async |origin: &str| open(&home, &[("sec-websocket-protocol", "mqtt"), ("origin", origin)]).await;
    let refused = with_origin("https://evil.example").await.expect_err("a page of another");
    assert_eq!(refused.status(), 403);
    let problem: Value = serde_json::from_slice(refused.body().as_ref().expect("a body")).expect("JSON");
    assert_eq!(problem["code"], "foreign_origin");
    with_origin(&home.base).await.expect("the hub's own page");
}

#[tokio::test]
async fn one_source_holds_no_more_than_its_share_and_requests_are_answered_all_the_same() {
    let home = Home::open().await;
    let mut held = Vec::new();
    for _ in 0..MAX_WEBSOCKETS_PER_SOURCE {
        held.push(mqtt(&home).await);
    }
    let refused = open(&home, &[("sec-websocket-protocol", "mqtt")]).await.expect_err("one too many");
    assert_eq!(refused.status(), 429);
    assert_eq!(home.get("/healthz").send().await.expect("an answer").status(), 200);
    held[0].close(None).await.expect("closed");
    while open(&home, &[("sec-websocket-protocol", "mqtt")]).await.is_err() {
        tokio::task::yield_now().await;
    }
}
