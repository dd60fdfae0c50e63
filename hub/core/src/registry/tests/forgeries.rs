//! Every way to forge a JWT that RFC 8725 and the usual lists name, tried on access tokens and on client assertions alike.
//! A forger knows all public keys and has seen valid tokens, and has keys of its own.

use super::*;
use crate::{claims::InvalidAccessToken, jwt::InvalidJwt};
use p256::ecdsa::VerifyingKey;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use ring::hmac;

/// Where a JWT is presented.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Door {
    /// As an access token, signed by the hub.
    AccessToken,
    /// As a client assertion, signed by the lamp.
    Assertion,
}

const DOORS: [Door; 2] = [Door::AccessToken, Door::Assertion];

struct Forge {
    world: World,
    door: Door,
}

impl Forge {
    fn at(door: Door) -> Self {
        Self { world: World::with_devices(&["lamp"]), door }
    }

    /// The key that a genuine JWT is signed with here.
    fn key(&self) -> SigningKey {
        match self.door {
            Door::AccessToken => key("hub"),
            Door::Assertion => key("lamp"),
        }
    }

    /// A genuine JWT, before it is signed.
    fn genuine(&mut self) -> Draft {
        match self.door {
            Door::AccessToken => {
                let token = self.world.token("lamp").expect("the key is proved");
                let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": public(&key("hub")).thumbprint()});
                Draft { header, claims: serde_json::to_value(&token.claims).expect("plain JSON") }
            }
            Door::Assertion => self.world.assertion("lamp", &key("lamp")),
        }
    }

    fn accepts(&mut self, jwt: &str) -> bool {
        match self.door {
            Door::AccessToken => verifier().verify(jwt, self.world.now).is_ok(),
            Door::Assertion => self.world.post(GRANT, jwt).is_ok(),
        }
    }
}

/// Presents at both doors what `forge` makes of a genuine draft and the genuine key.
fn refused_everywhere(what: &str, forge: impl Fn(&Draft, &SigningKey) -> String) {
    for door in DOORS {
        let mut at = Forge::at(door);
        let (genuine, key) = (at.genuine(), at.key());
        let forged = forge(&genuine, &key);
        assert!(!at.accepts(&forged), "{what} at {door:?}");
        assert!(at.accepts(&genuine.sign(&key)), "the genuine one at {door:?}");
    }
}

fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.to_string().as_bytes()))
}

#[test]
fn no_algorithm_but_es256_is_accepted_however_it_is_spelled() {
    let names = [
        "none", "None", "NONE", "nOnE", "", " ", "es256", "Es256", "ES256 ", "ES256K", "ES384", "ES512", "HS256", "HS384",
        "HS512", "RS256", "PS256", "EdDSA", "Ed25519", "ECDH-ES", "dir", "ES256\0",
    ];
    for name in names {
        refused_everywhere(name, |genuine, key| genuine.clone().header("alg", json!(name)).sign(key));
        refused_everywhere(name, |genuine, _| {
            format!("{}.", unsigned(&genuine.clone().header("alg", json!(name)).header, &genuine.claims))
        });
    }
    for odd in [json!(null), json!(["ES256"]), json!({"name": "ES256"}), json!(256), json!(true)] {
        refused_everywhere("alg", |genuine, key| genuine.clone().header("alg", odd.clone()).sign(key));
    }
    refused_everywhere("no alg", |genuine, key| genuine.clone().without("alg").sign(key));
    refused_everywhere("no signature", |genuine, _| format!("{}.", unsigned(&genuine.header, &genuine.claims)));
}

#[test]
fn a_public_key_is_no_hmac_secret() {
    let forms: [fn(&VerifyingKey) -> Vec<u8>; 4] = [
        |key| key.to_encoded_point(false).as_bytes().to_vec(),
        |key| key.to_encoded_point(true).as_bytes().to_vec(),
        |key| {
            serde_json::to_vec(&PublicKey::from_point(key.to_encoded_point(false).as_bytes()).expect("a point").to_jwk())
                .expect("plain")
        },
        |key| base64url(key.to_encoded_point(false).as_bytes()).into_bytes(),
    ];
    for secret in forms {
        for alg in ["HS256", "ES256"] {
            refused_everywhere(alg, |genuine, key| {
                let input = unsigned(&genuine.clone().header("alg", json!(alg)).header, &genuine.claims);
                let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret(key.verifying_key())), input.as_bytes());
                jwt::join(&input, mac.as_ref())
            });
        }
    }
}

#[test]
fn a_key_that_a_token_brings_along_is_not_used() {
    let thief = key("thief");
    let jwk = serde_json::to_value(public(&thief).to_jwk()).expect("plain JSON");
    let thumbprint = json!(public(&thief).thumbprint());
    for kid in [None, Some(json!("thief")), Some(thumbprint)] {
        for (member, value) in [
            ("jwk", jwk.clone()),
            ("jku", json!("https://thief.example/jwks")),
            ("x5u", json!("https://thief.example/chain.pem")),
            ("x5c", json!(["MIIB"])),
            ("x5t", json!("AAAA")),
            ("x5t#S256", json!("AAAA")),
        ] {
            refused_everywhere(member, |genuine, _| {
                let mut forged = genuine.clone().header(member, value.clone());
                if let Some(kid) = &kid {
                    forged = forged.header("kid", kid.clone());
                }
                forged.sign(&thief)
            });
        }
    }
}

#[test]
fn a_genuine_token_with_such_members_is_verified_by_our_key_alone() {
    for door in DOORS {
        let mut at = Forge::at(door);
        let key = at.key();
        let jwt = at.genuine().header("jku", json!("https://thief.example/jwks")).header("x", json!({"y": 1})).sign(&key);
        assert!(at.accepts(&jwt), "RFC 7515 section 4: what is not understood is ignored, at {door:?}");
    }
}

#[test]
fn no_kid_leads_anywhere_but_to_our_keys() {
    let long = "k".repeat(2_000);
    let kids =
        ["", "../../../../dev/null", "/dev/null", "' OR 1=1 --", "x\0y", "${jndi:ldap://thief.example}", "lamp", "0", &long];
    for kid in kids {
        refused_everywhere(kid, |genuine, key| genuine.clone().header("kid", json!(kid)).sign(key));
        refused_everywhere(kid, |genuine, _| genuine.clone().header("kid", json!(kid)).sign(&key("thief")));
    }
    for odd in [json!(7), json!(["a"]), json!({"a": 1}), json!(true)] {
        refused_everywhere("kid", |genuine, key| genuine.clone().header("kid", odd.clone()).sign(key));
    }
}

#[test]
fn a_critical_extension_is_refused_whichever_it_is() {
    for crit in [json!(["exp"]), json!(["b64"]), json!([]), json!(null), json!("b64"), json!({}), json!(false)] {
        refused_everywhere("crit", |genuine, key| genuine.clone().header("crit", crit.clone()).sign(key));
    }
    refused_everywhere("b64", |genuine, key| genuine.clone().header("b64", json!(false)).sign(key));
}

#[test]
fn an_access_token_is_no_assertion_and_an_assertion_no_access_token() {
    // Even where one key signs both.
    let mut at = Forge::at(Door::Assertion);
    for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "application/jwt", "dpop+jwt", "logout+jwt", "", "x"] {
        let jwt = at.genuine().header("typ", json!(typ)).sign(&key("lamp"));
        assert!(!at.accepts(&jwt), "{typ}");
    }
    for typ in [json!("JWT"), json!("jwt"), json!("client-authentication+jwt"), json!(null)] {
        let jwt = at.genuine().header("typ", typ.clone()).sign(&key("lamp"));
        assert!(at.accepts(&jwt), "{typ}");
    }
    let mut at = Forge::at(Door::AccessToken);
    for typ in [
        json!("JWT"),
        json!("jwt"),
        json!("client-authentication+jwt"),
        json!("id+jwt"),
        json!(""),
        json!(null),
        json!(["at+jwt"]),
    ] {
        let jwt = at.genuine().header("typ", typ.clone()).sign(&key("hub"));
        assert!(!at.accepts(&jwt), "{typ}");
    }
    let jwt = at.genuine().without("typ").sign(&key("hub"));
    assert_eq!(verifier().verify(&jwt, at.world.now), Err(InvalidAccessToken::Jwt(InvalidJwt::Type)));
    for typ in ["AT+JWT", "application/at+jwt"] {
        let jwt = at.genuine().header("typ", json!(typ)).sign(&key("hub"));
        assert!(at.accepts(&jwt), "RFC 9068 section 4: {typ}");
    }
    // The very tokens, exchanged.
    let token = at.genuine().sign(&key("hub"));
    let assertion = at.world.assertion("lamp", &key("lamp")).sign(&key("lamp"));
    assert!(at.world.post(GRANT, &token).is_err());
    assert!(verifier().verify(&assertion, at.world.now).is_err());
}

#[test]
fn a_member_given_twice_is_refused_in_header_and_claims() {
    refused_everywhere("alg twice", |genuine, key| {
        let header = genuine.header.to_string().replacen('{', "{\"alg\":\"none\",", 1);
        sign(&header, &genuine.claims.to_string(), key)
    });
    for (claim, value) in [("iss", "\"x\""), ("sub", "\"x\""), ("aud", "\"x\""), ("exp", "9999999999"), ("jti", "\"x\"")] {
        refused_everywhere(claim, |genuine, key| {
            let claims = genuine.claims.to_string().replacen('{', &format!("{{\"{claim}\":{value},"), 1);
            sign(&genuine.header.to_string(), &claims, key)
        });
        refused_everywhere(claim, |genuine, key| {
            let escaped = format!("{{\"\\u{:04x}{}\":{value},", claim.as_bytes()[0], &claim[1..]);
            sign(&genuine.header.to_string(), &genuine.claims.to_string().replacen('{', &escaped, 1), key)
        });
    }
}

#[test]
fn a_signature_is_r_then_s_and_neither_is_nothing_nor_the_order_of_the_group() {
    let order = crate::hex::decode::<32>("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551").expect("32 bytes");
    let above = [0xff_u8; 32];
    for extreme in [[0_u8; 32], order, above] {
        for place in 0..3 {
            refused_everywhere("r or s", |genuine, key| {
                let input = unsigned(&genuine.header, &genuine.claims);
                let signature: Signature = key.sign(input.as_bytes());
                let mut bytes: [u8; 64] = signature.to_bytes().into();
                if place != 1 {
                    bytes[..32].copy_from_slice(&extreme);
                }
                if place != 0 {
                    bytes[32..].copy_from_slice(&extreme);
                }
                jwt::join(&input, &bytes)
            });
        }
    }
    refused_everywhere("DER", |genuine, key| {
        let input = unsigned(&genuine.header, &genuine.claims);
        let signature: Signature = key.sign(input.as_bytes());
        jwt::join(&input, signature.to_der().as_bytes())
    });
    refused_everywhere("DER cut to 64 bytes", |genuine, key| {
        let input = unsigned(&genuine.header, &genuine.claims);
        let signature: Signature = key.sign(input.as_bytes());
        jwt::join(&input, &signature.to_der().as_bytes()[..64])
    });
    for length in [0, 1, 32, 63, 65, 96, 128] {
        refused_everywhere("length", |genuine, key| {
            let input = unsigned(&genuine.header, &genuine.claims);
            let signature: Signature = key.sign(input.as_bytes());
            let bytes: Vec<u8> = signature.to_bytes().iter().copied().cycle().take(length).collect();
            jwt::join(&input, &bytes)
        });
    }
    refused_everywhere("S then R", |genuine, key| {
        let input = unsigned(&genuine.header, &genuine.claims);
        let signature: Signature = key.sign(input.as_bytes());
        let bytes = signature.to_bytes();
        jwt::join(&input, &[&bytes[32..], &bytes[..32]].concat())
    });
}

#[test]
fn the_expiry_is_a_whole_number_in_range() {
    let odd = [
        "\"1780000060\"",
        "1780000060.5",
        "1780000060.0",
        "1.78e9",
        "-1",
        "-1780000060",
        "null",
        "[]",
        "{}",
        "true",
        "1e400",
        "18446744073709551616",
    ];
    for value in odd {
        refused_everywhere(value, |genuine, key| {
            let exp = genuine.claims["exp"].to_string();
            let claims = genuine.claims.to_string().replace(&format!("\"exp\":{exp}"), &format!("\"exp\":{value}"));
            sign(&genuine.header.to_string(), &claims, key)
        });
    }
    refused_everywhere("no exp", |genuine, key| genuine.clone().without("exp").sign(key));
    refused_everywhere("exp 0", |genuine, key| genuine.clone().claim("exp", json!(0)).sign(key));
    // The hub writes the expiry of access tokens itself; an assertion's is bounded, from `iat` where it has one.
    let mut at = Forge::at(Door::Assertion);
    let forever = at.genuine().without("iat").claim("exp", json!(u64::MAX)).sign(&key("lamp"));
    assert!(!at.accepts(&forever));
}

#[test]
fn nothing_may_stand_before_between_or_after_the_three_parts() {
    refused_everywhere("four parts", |genuine, key| genuine.sign(key) + ".AAAA");
    refused_everywhere("five parts, as a JWE", |genuine, key| genuine.sign(key) + ".AAAA.AAAA");
    refused_everywhere("two parts", |genuine, _| unsigned(&genuine.header, &genuine.claims));
    refused_everywhere("one part", |genuine, _| base64url(genuine.claims.to_string().as_bytes()));
    refused_everywhere("nothing", |_, _| String::new());
    refused_everywhere("dots", |_, _| "..".to_owned());
    refused_everywhere("a full stop at the end", |genuine, key| genuine.sign(key) + ".");
    refused_everywhere("a full stop at the start", |genuine, key| format!(".{}", genuine.sign(key)));
    for space in [" ", "\n", "\t", "\r\n", "\u{a0}", "\0", "=", "==", "A", "%20"] {
        refused_everywhere(space, |genuine, key| genuine.sign(key) + space);
        refused_everywhere(space, |genuine, key| space.to_owned() + &genuine.sign(key));
        refused_everywhere(space, |genuine, key| genuine.sign(key).replacen('.', &format!("{space}."), 1));
        refused_everywhere(space, |genuine, key| genuine.sign(key).replacen('.', &format!(".{space}"), 1));
    }
    refused_everywhere("JSON serialization", |genuine, key| {
        let jwt = genuine.sign(key);
        let parts: Vec<&str> = jwt.split('.').collect();
        json!({"protected": parts[0], "payload": parts[1], "signature": parts[2]}).to_string()
    });
}

#[test]
fn each_part_has_one_spelling() {
    // Trailing bits that a lax decoder drops: another text, the same bytes.
    for door in DOORS {
        let mut at = Forge::at(door);
        let jwt = at.genuine().sign(&at.key());
        let last = jwt.chars().last().expect("not empty");
        for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=".chars().filter(|other| *other != last)
        {
            let respelled = format!("{}{other}", &jwt[..jwt.len() - 1]);
            assert!(!at.accepts(&respelled), "{other} at {door:?}");
        }
    }
    refused_everywhere("the alphabet of base64", |genuine, key| {
        let filled = genuine.clone().claim("fill", json!("???>>>~~~"));
        let jwt = filled.sign(key);
        let standard = jwt.replace('-', "+").replace('_', "/");
        assert_ne!(jwt, standard);
        standard
    });
}

#[test]
fn header_and_claims_are_json_objects_and_nothing_follows_them() {
    let (header, claims) = (|genuine: &Draft| genuine.header.to_string(), |genuine: &Draft| genuine.claims.to_string());
    refused_everywhere("garbage after the header", |genuine, key| sign(&(header(genuine) + "x"), &claims(genuine), key));
    refused_everywhere("two headers", |genuine, key| sign(&header(genuine).repeat(2), &claims(genuine), key));
    refused_everywhere("garbage after the claims", |genuine, key| sign(&header(genuine), &(claims(genuine) + "x"), key));
    refused_everywhere("two claim sets", |genuine, key| sign(&header(genuine), &claims(genuine).repeat(2), key));
    refused_everywhere("no header", |genuine, key| sign("", &claims(genuine), key));
    refused_everywhere("no claims", |genuine, key| sign(&header(genuine), "", key));
    refused_everywhere("an array as header", |genuine, key| {
        sign(&json!(["ES256", genuine.header["typ"], genuine.header["kid"]]).to_string(), &claims(genuine), key)
    });
    let in_order = ["iss", "sub", "aud", "client_id", "iat", "exp", "jti", "scope", "epoch", "cnf"];
    refused_everywhere("an array as claims", |genuine, key| {
        let array: Vec<Value> = in_order.iter().filter_map(|claim| genuine.claims.get(*claim).cloned()).collect();
        sign(&header(genuine), &Value::from(array).to_string(), key)
    });
    for other in ["null", "7", "\"x\"", "[]", "{}", "true"] {
        refused_everywhere(other, |genuine, key| sign(other, &claims(genuine), key));
        refused_everywhere(other, |genuine, key| sign(&header(genuine), other, key));
    }
    refused_everywhere("no UTF-8", |genuine, key| {
        let input = format!("{}.{}", base64url(header(genuine).as_bytes()), base64url(b"{\"iss\":\"\xff\"}"));
        let signature: Signature = key.sign(input.as_bytes());
        jwt::join(&input, &signature.to_bytes())
    });
    refused_everywhere("nested without end", |genuine, key| {
        let deep = "[".repeat(1_000) + &"]".repeat(1_000);
        let claims = claims(genuine).replace(&format!("\"aud\":\"{ISSUER}\""), &format!("\"aud\":{deep}"));
        sign(&header(genuine), &claims, key)
    });
    refused_everywhere("very long", |genuine, key| {
        genuine.clone().claim("fill", json!("x".repeat(jwt::MAX_JWT_BYTES))).sign(key)
    });
}

#[test]
fn each_claim_altered_after_signing_is_noticed() {
    for door in DOORS {
        let mut at = Forge::at(door);
        let (genuine, key) = (at.genuine(), at.key());
        let jwt = genuine.sign(&key);
        let signature = jwt.rsplit('.').next().expect("a signature");
        for claim in genuine.claims.as_object().expect("an object").keys() {
            let altered = match &genuine.claims[claim] {
                Value::String(text) => json!(format!("{text}x")),
                Value::Number(number) => json!(number.as_u64().expect("whole") + 1),
                _ => json!({}),
            };
            let forged = format!("{}.{signature}", unsigned(&genuine.header, &genuine.clone().claim(claim, altered).claims));
            assert!(!at.accepts(&forged), "{claim} at {door:?}");
        }
        assert!(at.accepts(&jwt), "the genuine one at {door:?}");
    }
}

#[test]
fn each_required_claim_missing_is_noticed_though_the_signature_fits() {
    for door in DOORS {
        let required: &[&str] = match door {
            Door::AccessToken => &["iss", "sub", "aud", "client_id", "iat", "exp", "jti", "scope", "epoch"],
            Door::Assertion => &["iss", "sub", "aud", "exp", "jti"],
        };
        for claim in required {
            let mut at = Forge::at(door);
            let jwt = at.genuine().without(claim).sign(&at.key());
            assert!(!at.accepts(&jwt), "{claim} at {door:?}");
        }
    }
}

#[test]
fn an_access_token_of_another_hub_for_another_audience_or_another_time_is_refused() {
    let mut at = Forge::at(Door::AccessToken);
    let genuine = at.genuine();
    let now = at.world.now;
    let verify = |draft: Draft| verifier().verify(&draft.sign(&key("hub")), now).map(drop);
    assert_eq!(verify(genuine.clone()), Ok(()));
    assert_eq!(verify(genuine.clone().claim("iss", json!("https://elsewhere.example"))), Err(InvalidAccessToken::Issuer));
    assert_eq!(verify(genuine.clone().claim("iss", json!(format!("{ISSUER}/")))), Err(InvalidAccessToken::Issuer));
    assert_eq!(verify(genuine.clone().claim("aud", json!("https://elsewhere.example"))), Err(InvalidAccessToken::Audience));
    assert_eq!(verify(genuine.clone().claim("aud", json!([ISSUER]))), Err(InvalidAccessToken::Jwt(InvalidJwt::Malformed)));
    assert_eq!(verify(genuine.clone().claim("exp", json!(now.0))), Err(InvalidAccessToken::Expired { at: now, ago: 0 }));
    assert_eq!(verify(genuine.clone().claim("exp", json!(now.0 + 1))), Ok(()));
    assert_eq!(verify(genuine.clone().claim("iat", json!(now.0 + 60))), Ok(()));
    assert_eq!(verify(genuine.clone().claim("iat", json!(now.0 + 61))), Err(InvalidAccessToken::NotYetValid));
    assert_eq!(verify(genuine.clone().header("kid", json!("x"))), Err(InvalidAccessToken::UnknownKey));
    assert_eq!(verify(genuine.clone().without("kid")), Err(InvalidAccessToken::UnknownKey));
    let stolen_name = genuine.clone().sign(&key("thief"));
    assert_eq!(verifier().verify(&stolen_name, now), Err(InvalidAccessToken::Jwt(InvalidJwt::Signature)));
    for bad in ["../x", "a b", "", "LAMP", "+", "#"] {
        for claim in ["sub", "client_id"] {
            let refusal = verify(genuine.clone().claim(claim, json!(bad)));
            assert_eq!(refusal, Err(InvalidAccessToken::Jwt(InvalidJwt::Malformed)), "{claim} {bad}");
        }
    }
}

#[test]
fn each_bit_of_a_token_counts() {
    for door in DOORS {
        let mut at = Forge::at(door);
        let jwt = at.genuine().sign(&at.key());
        for place in 0..jwt.len() {
            for bit in 0..8 {
                let mut bytes = jwt.clone().into_bytes();
                bytes[place] ^= 1 << bit;
                if let Ok(flipped) = String::from_utf8(bytes) {
                    assert!(!at.accepts(&flipped), "bit {bit} of byte {place} at {door:?}");
                }
            }
        }
        assert!(at.accepts(&jwt), "the genuine one at {door:?}");
    }
}

#[test]
fn no_text_is_taken_for_a_token_and_none_makes_the_hub_panic() {
    let mut at = [Forge::at(Door::AccessToken), Forge::at(Door::Assertion)];
    let mut runner = TestRunner::new(Config { cases: 500, failure_persistence: None, ..Config::default() });
    let part = prop_oneof!["[A-Za-z0-9_-]{0,40}", "\\PC{0,20}", "(\\{.{0,30}\\})".prop_map(|text| base64url(text.as_bytes()))];
    let text = proptest::collection::vec(part, 0..5).prop_map(|parts| parts.join("."));
    let at = std::cell::RefCell::new(&mut at);
    let outcome = runner.run(&text, |text| {
        prop_assert!(!at.borrow_mut().iter_mut().any(|at| at.accepts(&text)));
        Ok(())
    });
    outcome.expect("each is refused");
}
