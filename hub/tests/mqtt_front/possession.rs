//! Method `ace`: an access token is good only with a signature by the key that it is bound to.

use crate::support::*;
use hearthkey_core::jwt::PublicKey;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};

fn key() -> EcdsaKeyPair {
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap()
}

fn auth(reason_code: u8, data: &[u8]) -> Vec<u8> {
    let mut held = vec![0x15];
    held.extend(string("ace"));
    held.push(0x16);
    held.extend(binary(data));
    packet(0xF0, &[&[reason_code][..], &properties(&held)].concat())
}

/// The client's nonce and its signature over both.
fn answer_to(nonce: &[u8], key: &EcdsaKeyPair) -> Vec<u8> {
    let challenge = [nonce, b"clients1"].concat();
    [b"clients1", key.sign(&SystemRandom::new(), &challenge).unwrap().as_ref()].concat()
}

impl Client {
    /// The nonce of AUTH 0x18, which is the last of its properties.
    async fn challenge(&mut self) -> Vec<u8> {
        let auth = self.receive().await;
        assert_eq!((auth.first, auth.body[0]), (0xF0, 0x18), "{auth:?}");
        assert_eq!(auth.body[auth.body.len() - 11..][..3], [0x16, 0, 8]);
        auth.body[auth.body.len() - 8..].to_vec()
    }
}

/// The device `lamp`, to whose key the tokens `lamp`, `newer` and, of another device, `oven` are bound.
async fn bound() -> (Home, EcdsaKeyPair) {
    let home = Home::new().await;
    let key = key();
    let public = PublicKey::from_point(key.public_key().as_ref()).unwrap();
    home.gate.grant("newer", device("lamp"), rights(&["newer/#"], &[]), None);
    let tokens = ["lamp", "newer", "oven"].map(|token| (token.to_owned(), public.clone()));
    home.gate.state.lock().unwrap().keys.extend(tokens);
    (home, key)
}

async fn asked(home: &Home, data: &[u8]) -> (Client, Vec<u8>) {
    let mut client = home.stranger().await;
    client.send(&Connect::by_method("lamp", "ace", data).packet()).await;
    let nonce = client.challenge().await;
    (client, nonce)
}

async fn refused(mut client: Client) -> u8 {
    let connack = client.receive().await;
    assert_eq!(connack.first, 0x20);
    client.closed().await;
    connack.body[1]
}

#[tokio::test]
async fn the_holder_of_the_key_comes_in_and_renews_in_place() {
    let (home, key) = bound().await;
    // The token alone, or after its length.
    for data in [&b"lamp"[..], b"\x00\x04lamp"] {
        let (mut lamp, nonce) = asked(&home, data).await;
        lamp.send(&auth(0x18, &answer_to(&nonce, &key))).await;
        let connack = lamp.receive().await;
        assert_eq!((connack.first, connack.body[1]), (0x20, 0), "{connack:?}");
        assert!(String::from_utf8_lossy(&connack.body).contains("ace"));
        assert_eq!(lamp.publish1("newer/x", "x").await, 0x87);
        lamp.send(&auth(0x19, b"newer")).await;
        let nonce = lamp.challenge().await;
        // The session goes on meanwhile.
        assert_eq!(lamp.publish1("dev/lamp/tele/x", "x").await, 0);
        lamp.send(&auth(0x18, &answer_to(&nonce, &key))).await;
        let renewed = lamp.receive().await;
        assert_eq!((renewed.first, renewed.body[0]), (0xF0, 0));
        assert_eq!(lamp.publish1("newer/x", "x").await, 0);
    }
}

#[tokio::test]
async fn a_stolen_token_is_useless_without_the_key() {
    let (home, key) = bound().await;
    let thief = self::key();
    let (mut client, nonce) = asked(&home, b"lamp").await;
    client.send(&auth(0x18, &answer_to(&nonce, &thief))).await;
    assert_eq!(refused(client).await, 0x87);
    // An answer that was overheard is good for its own challenge only.
    let (overheard, nonce) = asked(&home, b"lamp").await;
    let answer = answer_to(&nonce, &key);
    drop(overheard);
    let (mut client, _) = asked(&home, b"lamp").await;
    client.send(&auth(0x18, &answer)).await;
    assert_eq!(refused(client).await, 0x87);
    // The signature must be over the nonce that is shown beside it.
    let (mut client, nonce) = asked(&home, b"lamp").await;
    let mut answer = answer_to(&nonce, &key);
    answer[0] ^= 1;
    client.send(&auth(0x18, &answer)).await;
    assert_eq!(refused(client).await, 0x87);
    let unbound = asked(&home, b"owner").await;
    let (mut client, nonce) = unbound;
    client.send(&auth(0x18, &answer_to(&nonce, &key))).await;
    assert_eq!(refused(client).await, 0x87, "a token without a key");
}

#[tokio::test]
async fn what_does_not_follow_the_method_is_refused() {
    let (home, key) = bound().await;
    assert_eq!(home.refusal(Connect::by_method("lamp", "ace", b"")).await.0, 0x87);
    for answer in [vec![0; 71], vec![0; 73], vec![0; 39], vec![0; 41], vec![0; 72], vec![0; 40], vec![0; 8], Vec::new()] {
        let (mut client, _) = asked(&home, b"lamp").await;
        client.send(&auth(0x18, &answer)).await;
        assert_eq!(refused(client).await, 0x87, "{}", answer.len());
    }
    let (mut client, nonce) = asked(&home, b"lamp").await;
    client.send(&auth(0x19, &answer_to(&nonce, &key))).await;
    assert_eq!(refused(client).await, 0x82);
}

#[tokio::test]
async fn a_renewal_without_the_key_or_of_another_subject_ends_the_session() {
    let (home, key) = bound().await;
    let thief = self::key();
    for (token, signer, code) in [(&b"newer"[..], &thief, 0x87), (b"oven", &key, 0x87)] {
        let (mut lamp, nonce) = asked(&home, b"lamp").await;
        lamp.send(&auth(0x18, &answer_to(&nonce, &key))).await;
        assert_eq!(lamp.receive().await.body[1], 0);
        lamp.send(&auth(0x19, token)).await;
        let nonce = lamp.challenge().await;
        lamp.send(&auth(0x18, &answer_to(&nonce, signer))).await;
        assert_eq!(lamp.disconnected().await.0, code);
    }
    let (mut lamp, nonce) = asked(&home, b"lamp").await;
    lamp.send(&auth(0x18, &answer_to(&nonce, &key))).await;
    assert_eq!(lamp.receive().await.body[1], 0);
    lamp.send(&auth(0x19, b"newer")).await;
    lamp.challenge().await;
    lamp.send(&auth(0x18, b"short")).await;
    assert_eq!(lamp.disconnected().await.0, 0x87, "an answer of another form");
    let (mut lamp, nonce) = asked(&home, b"lamp").await;
    lamp.send(&auth(0x18, &answer_to(&nonce, &key))).await;
    assert_eq!(lamp.receive().await.body[1], 0);
    lamp.send(&auth(0x18, &answer_to(&nonce, &key))).await;
    assert_eq!(lamp.disconnected().await.0, 0x82, "an answer without a challenge");
}
