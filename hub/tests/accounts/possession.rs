//! Method `ace` at a whole hub: what a thief has who reads a device's access token.

use crate::{device::Device, home::Home};
use hearthkey_core::oauth::JWT_BEARER;
use ring::rand::SystemRandom;
use serde_json::json;

/// The access token of a device that signs.
async fn token_of(home: &Home, device: &Device) -> String {
    let now = home.server.hub().now().0;
    let jti = format!("{now}-{}", device.id);
    let claims = json!({"iss": device.id, "sub": device.id, "aud": home.base, "jti": jti, "iat": now, "exp": now + 60});
    let assertion = device.sign(&claims);
    let form = [("grant_type", "client_credentials"), ("client_assertion_type", JWT_BEARER), ("client_assertion", &assertion)];
    let answer = home.oauth("token", &form).await;
    answer.body["access_token"].as_str().unwrap_or_else(|| panic!("a token: {answer:?}")).to_owned()
}

fn sign(device: &Device, nonce: &[u8]) -> Vec<u8> {
    let challenge = [nonce, b"mynonce8"].concat();
    [b"mynonce8", device.key.sign(&SystemRandom::new(), &challenge).expect("signed").as_ref()].concat()
}

#[tokio::test]
async fn a_token_opens_a_session_for_the_holder_of_its_key_and_nobody_else() {
    let home = Home::open().await;
    let lamp = home.enrolled("lamp", "thermostat").await;
    let oven = home.enrolled("oven", "thermostat").await;
    let token = token_of(&home, &lamp).await;
    assert_eq!(home.possess("lamp", &token, |nonce| sign(&oven, nonce)).await.err(), Some(0x87), "another device's key");
    assert_eq!(home.possess("lamp", &token, |_| sign(&lamp, b"another1")).await.err(), Some(0x87), "another challenge");
    let mut forged = token.clone();
    forged.replace_range(forged.len() - 4.., "AAAA");
    assert_eq!(home.possess("lamp", &forged, |nonce| sign(&lamp, nonce)).await.err(), Some(0x87), "another token");
    let secret = home.with_secret("meter", "thermostat").await;
    let unbound = home.access_token("meter", &secret).await;
    assert_eq!(home.possess("meter", &unbound, |nonce| sign(&lamp, nonce)).await.err(), Some(0x87), "a token without a key");
    let mut session = home.possess("lamp", &token, |nonce| sign(&lamp, nonce)).await.expect("the holder");
    assert!(session.is_alive().await);
    // The end of the device is the end of the session.
    home.owns(reqwest::Method::POST, "/devices/lamp/revoke", json!({})).await;
    assert_eq!(session.ended().await, 0x98);
    assert_eq!(home.possess("lamp", &token, |nonce| sign(&lamp, nonce)).await.err(), Some(0x87));
}
