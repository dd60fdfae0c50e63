//! Method `ace` at a whole hub: what a thief has who reads a device's access token.

use crate::{
    device::{Device, code_of},
    home::{Answer, Home, ask},
};
use base64ct::{Base64UrlUnpadded, Encoding};
use hearthkey_core::oauth::JWT_BEARER;
use reqwest::Method;
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};

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
    home.owns(Method::POST, "/devices/lamp/revoke", json!({})).await;
    assert_eq!(session.ended().await, 0x98);
    assert_eq!(home.possess("lamp", &token, |nonce| sign(&lamp, nonce)).await.err(), Some(0x87));
}

/// A device with an Ed25519 key.
struct Edwards {
    key: Ed25519KeyPair,
}

impl Edwards {
    async fn enrolled(home: &Home, id: &str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        let device = Self { key: Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("a key") };
        let added = home.owns(Method::POST, "/devices", json!({"id": id, "profile": "thermostat"})).await;
        let code = code_of(added.body["enrolment"]["string"].as_str().expect("an enrolment string"));
        let metadata = json!({"jwks": {"keys": [device.jwk()]}});
        let request = home.request(Method::POST, "/oauth2/register").bearer_auth(code).json(&metadata);
        let answer = ask(request).await;
        assert_eq!((answer.status, &answer.body["jwks"]["keys"][0]), (201, &device.jwk()), "{answer:?}");
        device
    }

    fn public(&self) -> &[u8] {
        self.key.public_key().as_ref()
    }

    fn jwk(&self) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "x": Base64UrlUnpadded::encode_string(self.public())})
    }

    /// An assertion with this algorithm in its header, signed by Ed25519 whatever it says.
    fn assertion(&self, home: &Home, id: &str, alg: &str) -> String {
        let now = home.server.hub().now().0;
        let claims = json!({"iss": id, "sub": id, "aud": home.base, "jti": format!("{alg}-{now}"), "iat": now, "exp": now + 60});
        let input = [json!({"alg": alg}), claims].map(|part| Base64UrlUnpadded::encode_string(part.to_string().as_bytes()));
        let input = input.join(".");
        format!("{input}.{}", Base64UrlUnpadded::encode_string(self.key.sign(input.as_bytes()).as_ref()))
    }

    fn sign(&self, nonce: &[u8]) -> Vec<u8> {
        [b"mynonce8", self.key.sign(&[nonce, b"mynonce8"].concat()).as_ref()].concat()
    }
}

fn mac(key: &[u8], nonce: &[u8]) -> Vec<u8> {
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &[nonce, b"mynonce8"].concat());
    [b"mynonce8", mac.as_ref()].concat()
}

#[tokio::test]
async fn a_device_with_an_ed25519_key_gets_its_token_and_proves_it_by_that_key_alone() {
    let home = Home::open().await;
    let lamp = Edwards::enrolled(&home, "lamp").await;
    let other = Edwards::enrolled(&home, "other").await;
    let token = async |assertion: String, ace: &str| {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_assertion_type", JWT_BEARER),
            ("client_assertion", &assertion),
            ("ace_profile", ace),
        ];
        home.oauth("token", &form).await
    };
    for (signer, alg) in [(&lamp, "ES256"), (&lamp, "HS256"), (&other, "EdDSA")] {
        let answer = token(signer.assertion(&home, "lamp", alg), "").await;
        assert_eq!(answer.refusal(), (400, "invalid_client"), "{alg}");
    }
    let bearer = token(lamp.assertion(&home, "lamp", "Ed25519"), "").await;
    assert_eq!(bearer.body["token_type"], "Bearer", "{bearer:?}");
    let answer = token(lamp.assertion(&home, "lamp", "EdDSA"), "mqtt_tls").await;
    assert_eq!((&answer.body["token_type"], &answer.body["ace_profile"]), (&json!("PoP"), &json!("mqtt_tls")), "{answer:?}");
    assert!(answer.body.get("cnf").is_none(), "the client has its key");
    let token = answer.body["access_token"].as_str().expect("a token");

    assert_eq!(home.possess("lamp", token, |nonce| other.sign(nonce)).await.err(), Some(0x87), "another device's key");
    assert_eq!(
        home.possess("lamp", token, |nonce| mac(lamp.public(), nonce)).await.err(),
        Some(0x87),
        "a public key is no secret"
    );
    let point = lamp.jwk()["x"].as_str().expect("text").to_owned();
    assert_eq!(home.possess("lamp", token, |nonce| mac(point.as_bytes(), nonce)).await.err(), Some(0x87), "nor as text");
    assert_eq!(home.possess("lamp", token, |_| lamp.sign(b"another1")).await.err(), Some(0x87), "another challenge");
    assert_eq!(home.connect("lamp", token).await.err(), Some(0x87), "shown, not proved");
    let mut overheard = Vec::new();
    let mut session = home
        .possess("lamp", token, |nonce| {
            overheard = lamp.sign(nonce);
            overheard.clone()
        })
        .await
        .expect("the holder");
    assert!(session.is_alive().await);
    assert_eq!(home.possess("lamp", token, |_| overheard).await.err(), Some(0x87), "an answer counts once");
}

#[tokio::test]
async fn a_client_with_a_secret_shares_a_key_for_each_token_that_is_good_only_with_it() {
    let says_what_to_do = |answer: &Answer| answer.body.to_string().contains("must be proven: connect by MQTT 5 with");
    let home = Home::open().await;
    let lamp = home.enrolled("lamp", "thermostat").await;
    let [meter, plug] = [home.with_secret("meter", "thermostat").await, home.with_secret("plug", "thermostat").await];
    let token = async |id: &str, secret: &str| {
        let credentials = [("client_id", id), ("client_secret", secret)];
        let form = [&[("grant_type", "client_credentials"), ("ace_profile", "mqtt_tls")], credentials.as_slice()].concat();
        let answer = home.oauth("token", &form).await;
        assert_eq!((&answer.body["token_type"], &answer.body["ace_profile"]), (&json!("PoP"), &json!("mqtt_tls")), "{answer:?}");
        let jwk = &answer.body["cnf"]["jwk"];
        assert_eq!((&jwk["kty"], &jwk["alg"]), (&json!("oct"), &json!("HS256")));
        let key = Base64UrlUnpadded::decode_vec(jwk["k"].as_str().expect("a key")).expect("base64url");
        assert_eq!(key.len(), 32);
        let token = answer.body["access_token"].as_str().expect("a token").to_owned();
        let claims = Base64UrlUnpadded::decode_vec(token.split('.').nth(1).expect("claims")).expect("base64url");
        let claims: Value = serde_json::from_slice(&claims).expect("JSON");
        assert_eq!(claims["cnf"], json!({"kid": jwk["kid"]}), "the token names the key and does not hold it");
        (token, key)
    };
    let (first, key) = token("meter", &meter).await;
    let (second, newer) = token("meter", &meter).await;
    let (_, of_plug) = token("plug", &plug).await;
    assert!(key != newer && key != of_plug, "each token has its own");
    for (wrong, why) in [(&newer, "that of another token"), (&of_plug, "that of another client"), (&vec![0; 32], "none")] {
        assert_eq!(home.possess("meter", &first, |nonce| mac(wrong, nonce)).await.err(), Some(0x87), "{why}");
    }
    assert_eq!(home.possess("meter", &first, |_| mac(&key, b"another1")).await.err(), Some(0x87), "another challenge");
    assert_eq!(home.possess("meter", &first, |nonce| sign(&lamp, nonce)).await.err(), Some(0x87), "a signature");
    assert_eq!(home.possess("meter", &first, |nonce| mac(&key, nonce)[..39].to_vec()).await.err(), Some(0x87), "cut short");
    assert_eq!(home.possess("lamp", &first, |nonce| mac(&key, nonce)).await.err(), Some(0x85), "another's name");
    for (token, key) in [(&first, &key), (&second, &newer)] {
        assert_eq!(home.connect("meter", token).await.err(), Some(0x87), "shown, not proved");
        let by_https = home.get("/devices", token).await;
        assert_eq!(by_https.refusal(), (401, "invalid_token"), "by HTTPS neither");
        assert!(says_what_to_do(&by_https), "{by_https:?}");
        let forged = format!("{}AAAA", &token[..token.len() - 4]);
        assert!(!says_what_to_do(&home.get("/devices", &forged).await), "who made it up learns nothing");
        let mut session = home.possess("meter", token, |nonce| mac(key, nonce)).await.expect("the holder");
        assert!(session.is_alive().await);
    }
    let form = [("grant_type", "client_credentials"), ("client_id", "meter"), ("client_secret", meter.as_str())];
    let answer = home.oauth("token", &[&form[..], &[("ace_profile", "coap_dtls")]].concat()).await;
    assert_eq!(answer.refusal(), (400, "incompatible_ace_profiles"));
    // The hub needs to remember nothing for it.
    let home = home.restarted().await;
    home.possess("meter", &second, |nonce| mac(&newer, nonce)).await.expect("the holder");
}

#[tokio::test]
async fn a_profile_may_demand_that_a_token_is_proven_wherever_it_is_used() {
    let home = Home::open().await;
    let (lamp, oven) = (home.enrolled("lamp", "thermostat").await, home.enrolled("oven", "thermostat").await);
    let given_before = token_of(&home, &lamp).await;
    home.connect("lamp", &given_before).await.expect("a bearer token");
    let shown = home.api(Method::GET, "/profiles/thermostat", &home.owner).header("accept", "application/toml");
    let profile = shown.send().await.expect("an answer").text().await.expect("TOML");
    let guarded = format!("proof = \"required\"\n{profile}");
    let put = home.api(Method::PUT, "/profiles/thermostat", &home.owner).header("content-type", "application/toml").body(guarded);
    assert_eq!(ask(put).await.status, 200);
    for (device, token) in [(&lamp, given_before), (&oven, token_of(&home, &oven).await)] {
        assert_eq!(home.connect(&device.id, &token).await.err(), Some(0x87), "shown, not proved");
        let by_https = home.get("/devices", &token).await;
        assert!(by_https.status == 401 && by_https.body.to_string().contains("must be proven"), "{by_https:?}");
        home.possess(&device.id, &token, |nonce| sign(device, nonce)).await.expect("the holder");
    }
}
