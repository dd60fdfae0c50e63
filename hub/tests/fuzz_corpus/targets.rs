//! What is fuzzed: functions that take any bytes and panic where the front breaks a promise. Used by the fuzzer in tests/fuzz and by
//! the replay of its corpus.

use crate::mqtt::{
    Front, Gate, Limits,
    fabric_native::NativeFabric,
    gate::{Admission, Noting, PersistError, Refusal, SessionEvent},
    message::Message,
    packet::{Version, decode, frame},
};
use bytes::BytesMut;
use hearthkey_core::{
    DeviceId, UnixTime,
    rights::Rights,
    scope::PermissionName,
    session::{Authority, EndReason, Principal, Proof, Standing},
    topic::TopicName,
    write::Write,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Largest packet of the parsing targets.
const MAX_PACKET: usize = 64 * 1024;

/// Whatever the pieces in which bytes arrive: the same packets, the same fault, each legible or refused in both dialects.
pub(crate) fn framing(data: &[u8]) {
    let cut = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match frame::next(&mut buffer, MAX_PACKET) {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(fault) => return (frames, Some(fault)),
                }
            }
        }
        (frames, None)
    };
    let whole = cut(&mut std::iter::once(data));
    assert_eq!(whole, cut(&mut data.chunks(1)), "in single bytes");
    assert_eq!(whole, cut(&mut data.chunks(7)), "in sevens");
    for frame in whole.0 {
        for version in [Version::V311, Version::V5] {
            let _ = decode::packet(frame.clone(), version);
        }
    }
}

/// Any body of a CONNECT: what is accepted keeps what the rest of the front takes for granted.
pub(crate) fn connect(data: &[u8]) {
    let frame = frame::Frame { first: 0x10, body: bytes::Bytes::copy_from_slice(data) };
    let Ok(connect) = decode::connect(frame) else { return };
    assert!(connect.receive_maximum > 0 && connect.maximum_packet_size > 0);
    assert!(!connect.client_identifier.contains('\0'));
    assert!(connect.authentication_data.is_none() || connect.authentication_method.is_some());
    assert!(connect.version == Version::V5 || connect.authentication_method.is_none() && connect.session_expiry != 1);
}

/// Two connections of one kept session, by a client that may do all, over a whole front: the first byte says in which dialects and
/// where the first connection ends; the rest is what the client sends. All that the front says is well-formed, nothing follows
/// DISCONNECT, and every connection ends.
pub(crate) fn session(data: &[u8]) {
    let Some((&head, sent)) = data.split_first() else { return };
    let middle = sent.len() * usize::from(head >> 2) / 64;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let front = Front::with_fabric(Arc::new(OpenGate), Limits::default(), [], NativeFabric::default());
        let (first, second) = sent.split_at(middle);
        for (is_5, bytes) in [(head & 1 == 0, first), (head & 2 == 0, second)] {
            let (mut ours, theirs) = tokio::io::duplex(4096);
            let served = tokio::spawn({
                let front = front.clone();
                async move { front.serve_connection(theirs, SocketAddr::from(([127, 0, 0, 1], 1))).await }
            });
            let connect: &[u8] = if is_5 {
                b"\x10\x15\x00\x04MQTT\x05\x40\x00\x00\x05\x11\x00\x00\x0e\x10\x00\x01c\x00\x00"
            } else {
                b"\x10\x12\x00\x04MQTT\x04\xc0\x00\x00\x00\x01c\x00\x01u\x00\x00"
            };
            let (mut reader, mut writer) = tokio::io::split(&mut ours);
            let sending = async {
                // The front may close before it has read all.
                let _ = writer.write_all(connect).await;
                let _ = writer.write_all(bytes).await;
                let _ = writer.shutdown().await;
            };
            let mut said = Vec::new();
            let (_, read) = tokio::join!(sending, reader.read_to_end(&mut said));
            read.unwrap();
            assert!(said.starts_with(&[0x20]), "CONNACK is first: {said:?}");
            is_legible(&said);
            served.await.unwrap();
        }
        tokio::time::timeout(Duration::from_secs(60), front.stop()).await.expect("the front stops");
    });
}

fn is_legible(mut said: &[u8]) {
    let mut is_over = false;
    while let Some((&first, rest)) = said.split_first() {
        assert!(!is_over, "after DISCONNECT");
        assert!(matches!(first >> 4, 2..=7 | 9 | 11 | 13..=15), "{first:#04x} comes from a client");
        is_over = first == 0xE0;
        let (mut length, mut used) = (0, 0);
        loop {
            let byte = rest[used];
            length |= usize::from(byte & 0x7F) << (7 * used);
            used += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        said = &rest[used + length..];
    }
}

/// Lets everybody in and allows everything.
struct OpenGate;

fn standing() -> Standing {
    let rights = Rights::granting("fuzz", &PermissionName::parse("all").unwrap(), ["#"].as_slice(), ["#"].as_slice());
    Standing { rights: Arc::new(rights), expires_at: None }
}

fn admission() -> Admission {
    let principal = Principal::User(DeviceId::parse("fuzz").unwrap());
    let authority = Authority { principal, proof: Proof::Credential("fuzz".into()) };
    Admission { authority, standing: standing(), token_response: Some(b"{}".to_vec()) }
}

impl Gate for OpenGate {
    fn now(&self) -> UnixTime {
        UnixTime(1_780_000_000)
    }

    fn issuer(&self) -> &str {
        "https://hub:8443"
    }

    async fn admit_by_password(&self, _: &str, _: Option<&str>, _: &[u8], _: SocketAddr) -> Result<Admission, Refusal> {
        Ok(admission())
    }

    async fn admit_by_token_request(&self, _: &str, _: &[u8], _: SocketAddr) -> Result<Admission, Refusal> {
        Ok(admission())
    }

    fn judge(&self, _: &Authority) -> Result<Standing, EndReason> {
        Ok(standing())
    }

    fn judge_will(&self, _: &Authority) -> Result<Arc<Rights>, EndReason> {
        Ok(standing().rights)
    }

    fn commands_waiting(&self, _: &DeviceId, _: &DeviceId) -> Vec<(TopicName, Message)> {
        Vec::new()
    }

    fn acknowledged(&self, _: &Principal, _: &DeviceId, _: &str, _: &[u8]) -> Option<Noting> {
        None
    }

    fn record(&self, _: SessionEvent) {}

    async fn persist(&self, _: Vec<Write>) -> Result<(), PersistError> {
        Ok(())
    }
}
