//! What the hub agrees with devices on (tests/vectors): token requests, and what the shipped profiles allow.

use hearthkey_core::{
    DeviceId,
    claims::AssertionClaims,
    device_authorization::{JoinCommitment, UserCode},
    hex,
    jwt::{Jwk, UnverifiedJwt},
    oauth::TokenRequest,
    profile::Profile,
    rights::Rights,
};
use std::collections::BTreeSet;

fn token_request(name: &str) -> &'static str {
    let vectors = include_str!("../../../tests/vectors/token_request.txt");
    vectors.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).expect(name)
}

#[test]
fn the_token_request_of_an_agent_is_understood_and_verifies() {
    let text = |text: &str| text.to_owned();
    let (x, y) = (text(token_request("x")), text(token_request("y")));
    let jwk = Jwk { kty: text("EC"), crv: text("P-256"), x, y: Some(y), kid: None, alg: None, use_: None };
    let key = jwk.to_public_key().expect("a point of P-256");
    assert_eq!(&*key.thumbprint(), token_request("thumbprint"));
    let form = TokenRequest::parse(token_request("body").as_bytes()).expect("a form");
    assert_eq!(form.get("grant_type"), Some("client_credentials"));
    assert_eq!(form.get("client_assertion_type"), Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer"));
    let assertion = form.get("client_assertion").expect("an assertion");
    let claims: AssertionClaims = UnverifiedJwt::parse(assertion).and_then(|jwt| jwt.verify(&key)).expect("signed by the key");
    assert_eq!((claims.iss.as_str(), claims.sub.as_str()), ("lamp", "lamp"));
    assert!(claims.aud.names_only(&[text("https://hub:8443")]));
    assert_eq!((claims.iat.map(|iat| iat.0), claims.exp.0), (Some(1_780_000_000), 1_780_000_120));

    // Whatever is altered in what was signed, it does not verify.
    let signed = assertion.rfind('.').expect("three parts");
    for place in (0..signed).filter(|place| assertion.as_bytes()[*place] != b'.') {
        let mut altered = assertion.to_owned();
        altered.replace_range(place..=place, if &assertion[place..=place] == "A" { "B" } else { "A" });
        let verified = UnverifiedJwt::parse(&altered).and_then(|jwt| jwt.verify::<AssertionClaims>(&key));
        assert!(verified.is_err(), "altered at {place}");
    }
}

#[test]
fn the_shipped_profiles_allow_what_is_written_down_and_nothing_else() {
    let mut written: BTreeSet<String> = include_str!("../../../tests/vectors/profiles.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    let id = |text: &str| DeviceId::parse(text).expect("legal");
    for profile in Profile::shipped() {
        let (device, children) = if profile.acts_for_children { (id("bridge"), vec![id("child")]) } else { (id("lamp"), vec![]) };
        let rights = Rights::of_device(&profile, &profile.scope(), &device, &children);
        let publish = rights.publish_filters().map(|(filter, _)| ("publish", filter));
        let subscribe = rights.subscribe_filters().map(|(filter, _)| ("subscribe", filter));
        for (action, filter) in publish.chain(subscribe) {
            let row = format!("{} {action} {filter}", profile.name);
            assert!(written.remove(&row), "not written down: {row}");
        }
    }
    assert_eq!(written, BTreeSet::new(), "written down and not allowed");
}

#[test]
fn the_code_of_a_joining_device_is_the_one_that_the_device_shows() {
    let vectors = include_str!("../../../tests/vectors/join.txt").lines().filter(|line| !line.starts_with('#'));
    let mut read = 0;
    for line in vectors {
        let [ca, point, nonce, commitment, share, code] = line.split(' ').collect::<Vec<_>>().try_into().expect("six words");
        let commitment = JoinCommitment::parse(commitment).expect("a commitment");
        let (ca, point, nonce) = (hex::decode(ca), hex::decode::<64>(point), hex::decode(nonce));
        let (ca, point, nonce) = (ca.expect("32 bytes"), point.expect("64 bytes"), nonce.expect("16 bytes"));
        let shown = commitment.code(&ca, &point, &nonce, &UserCode::parse(share).expect("a code")).expect("its nonce");
        assert_eq!(shown.to_string(), code, "{line}");
        read += 1;
    }
    assert!(read >= 5, "{read} vectors");
}
