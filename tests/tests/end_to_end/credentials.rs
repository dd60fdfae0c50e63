//! What proves a device, what does not, and what becomes of a proof when its time or its owner's mind changes.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use hearthkey_sim::SimEventKind;
use hearthkey_tests::agent::Agent;
use hearthkey_tests::hub::Hub;
use hearthkey_tests::keyed::{Keyed, oauth_error, token_form, unix_now};
use hearthkey_tests::wire::{Connect, Wire};
use serde_json::{Value, json};

/// A thermostat's rights with the shortest tokens that there are.
const BRIEF: &str = r#"
name = "brief"
token_lifetime_s = 10
[permissions.telemetry]
publish = ["dev/${device}/status", "dev/${device}/about", "dev/${device}/state", "dev/${device}/tele/+"]
[permissions.commands]
subscribe = ["dev/${device}/cmd/+"]
publish = ["dev/${device}/ack/+"]
commands = ["identify"]
[permissions.twin]
subscribe = ["dev/${device}/twin/desired"]
publish = ["dev/${device}/twin/reported"]
"#;

#[tokio::test]
async fn a_session_ends_with_its_token_unless_the_device_renews_it_in_place() {
    let hub = Hub::start().await;
    hub.apply_profile(BRIEF).await;
    // It renews 7 s before the end, which is time enough for a disk that has much else to write.
    hub.apply_profile(&BRIEF.replace("\"brief\"", "\"longer\"").replace("10", "20")).await;
    let mut renewing = hub.agent("renewing", "longer").await;
    let (five, three) = (Keyed::enrolled(&hub, "five", "brief").await, Keyed::enrolled(&hub, "three", "brief").await);
    let mut watch = hub.follow(&["watch", "dev/+/tele/#"]);
    watch.json("telemetry", |message| (message["topic"] == "dev/renewing/tele/temperature").then_some(())).await;
    let (five_token, three_token) = (five.token(&hub).await, three.token(&hub).await);

    // MQTT 5 says why; MQTT 3.1.1 closes, and the audit log says why.
    let will = Some(("dev/five/tele/will".to_owned(), "gone".to_owned()));
    let connect = Connect { will, ..Connect::by_password("five", &five_token) };
    let mut five = Wire::tls(&hub).await;
    assert_eq!(five.connect(&connect).await.connack_code(), 0);
    let mut three = Wire::plain(&hub).await;
    let connect = Connect { version: 4, ..Connect::by_password("three", &three_token) };
    assert_eq!(three.connect(&connect).await.connack_code(), 0);

    let farewell = five.receive().await.expect("a reason");
    assert_eq!(farewell.disconnect_code(), 0xa0);
    assert!(farewell.says("access token expired at "), "{farewell:?}");
    assert!(five.until_closed().await.is_empty());
    assert!(three.until_closed().await.is_empty());
    hub.audited("why the session ended", |entry| {
        entry["actor"] == "device three" && entry["action"] == "mqtt.disconnect" && entry["reason"] == "expired"
    })
    .await;
    watch.json("the will", |message| (message["topic"] == "dev/five/tele/will").then_some(())).await;

    // The token opens nothing any more.
    let mut again = Wire::tls(&hub).await;
    let refusal = again.connect(&Connect::by_password("five", &five_token)).await;
    assert_eq!(refusal.connack_code(), 0x87);
    assert!(refusal.says("expired"), "{refusal:?}");

    // The agent's token ends, too, and its session goes on.
    renewing.event("a renewal", |event| matches!(event, SimEventKind::Renewed { .. }).then_some(())).await;
    renewing.telemetry().await;
    assert_eq!(hub.told(&["send", "renewing", "identify", "--wait", "30s"]).await["state"], "succeeded");
    renewing.event("another renewal", |event| matches!(event, SimEventKind::Renewed { .. }).then_some(())).await;
    let summary = renewing.leave().await;
    assert_eq!(summary.disconnected_by_reason.len(), 0, "{summary:?}");
    hub.finish().await;
}

#[tokio::test]
async fn a_disabled_device_is_cut_and_comes_back_by_itself_when_it_is_enabled() {
    let hub = Hub::start().await;
    let mut lamp = hub.agent("lamp", "thermostat").await;
    lamp.connected().await;
    assert_eq!(hub.told(&["device", "disable", "lamp"]).await["status"], "disabled");
    let reason = lamp.disconnected().await;
    assert!(reason.starts_with("disabled"), "{reason}");
    let refusal = lamp.disconnected().await;
    assert!(refusal.contains("invalid_client: client lamp is disabled"), "{refusal}");
    let can = hub.ran(&["can", "lamp", "publish", "dev/lamp/state"]).await;
    assert!(can.exit == 1 && can.out.contains("disabled"), "{can:?}");

    assert_eq!(hub.told(&["device", "enable", "lamp"]).await["status"], "active");
    lamp.connected().await;
    lamp.telemetry().await;
    lamp.leave().await;
    hub.finish().await;
}

#[tokio::test]
async fn an_assertion_passes_and_each_flaw_in_it_does_not() {
    let hub = Hub::start().await;
    let lamp = Keyed::enrolled(&hub, "lamp", "thermostat").await;
    let oven = Keyed::enrolled(&hub, "oven", "thermostat").await;
    let good = lamp.claims(&hub);
    assert_eq!(Keyed::request_token(&hub, &lamp.sign(&good)).await.status(), 200);

    let with = |name: &str, value: Value| {
        let mut claims = lamp.claims(&hub);
        claims[name] = value;
        claims
    };
    let now = unix_now();
    let endless = {
        let mut claims = with("exp", json!(now + 3_600));
        claims["iat"] = Value::Null;
        lamp.sign(&claims)
    };
    let tampered = {
        let assertion = lamp.assertion(&hub);
        let mut parts: Vec<String> = assertion.split('.').map(str::to_owned).collect();
        let claims = with("sub", json!("oven"));
        parts[1] = Base64UrlUnpadded::encode_string(claims.to_string().as_bytes());
        parts.join(".")
    };
    let unsigned = {
        let assertion = lamp.sign_with_header(&json!({ "alg": "none", "kid": lamp.thumbprint() }), &lamp.claims(&hub));
        format!("{}.", assertion.rsplit_once('.').expect("three parts").0)
    };
    for (flaw, assertion) in [
        ("replayed", lamp.sign(&good)),
        ("meant for another hub", lamp.sign(&with("aud", json!("https://elsewhere:8443")))),
        ("signed by another key", oven.sign(&lamp.claims(&hub))),
        ("in another's name", lamp.sign(&oven.claims(&hub))),
        ("out of date", lamp.sign(&with("exp", json!(now - 61)))),
        ("valid for too long", endless),
        ("without a jti", lamp.sign(&with("jti", Value::Null))),
        ("altered after signing", tampered),
        ("unsigned", unsigned),
    ] {
        let (status, error) = oauth_error(Keyed::request_token(&hub, &assertion).await).await;
        assert_eq!((status, error.as_str()), (400, "invalid_client"), "{flaw}");
    }
    assert_eq!(Keyed::request_token(&hub, &lamp.assertion(&hub)).await.status(), 200, "and a good one still does");
    hub.finish().await;
}

#[tokio::test]
async fn a_session_opens_by_a_good_assertion_and_by_no_other() {
    let hub = Hub::start().await;
    let lamp = Keyed::enrolled(&hub, "lamp", "thermostat").await;
    let oven = Keyed::enrolled(&hub, "oven", "thermostat").await;
    let connack = async |client_identifier: &str, method: &str, assertion: &str| {
        let connect = Connect::by_method(client_identifier, method, token_form(assertion).as_bytes());
        Wire::tls(&hub).await.connect(&connect).await
    };
    let assertion = lamp.assertion(&hub);
    let accepted = connack("lamp", "client_credentials", &assertion).await;
    assert_eq!(accepted.connack_code(), 0);
    assert!(accepted.says("access_token") && accepted.says("expires_in"), "the token comes with CONNACK");

    let another_hub = {
        let mut claims = lamp.claims(&hub);
        claims["aud"] = json!("https://elsewhere:8443");
        lamp.sign(&claims)
    };
    for (flaw, client_identifier, method, assertion, code) in [
        ("replayed", "lamp", "client_credentials", &assertion, 0x87),
        ("meant for another hub", "lamp", "client_credentials", &another_hub, 0x87),
        ("signed by another key", "lamp", "client_credentials", &oven.sign(&lamp.claims(&hub)), 0x87),
        ("another's client identifier", "oven", "client_credentials", &lamp.assertion(&hub), 0x85),
        ("an unknown method", "lamp", "SCRAM-SHA-256", &lamp.assertion(&hub), 0x8c),
    ] {
        let refusal = connack(client_identifier, method, assertion).await;
        assert_eq!(refusal.connack_code(), code, "{flaw}: {refusal:?}");
        assert!(!refusal.says("access_token"), "{flaw}");
    }
    hub.finish().await;
}

#[tokio::test]
async fn an_access_token_that_was_tampered_with_opens_nothing() {
    let hub = Hub::start().await;
    let lamp = Keyed::enrolled(&hub, "lamp", "thermostat").await;
    let token = lamp.token(&hub).await;
    assert_eq!(Wire::tls(&hub).await.connect(&Connect::by_password("lamp", &token)).await.connack_code(), 0);

    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("three parts") };
    let decoded: Value = serde_json::from_slice(&Base64UrlUnpadded::decode_vec(claims).expect("base64url")).expect("JSON");
    let altered = |name: &str, value: Value| {
        let mut claims = decoded.clone();
        claims[name] = value;
        Base64UrlUnpadded::encode_string(claims.to_string().as_bytes())
    };
    let none = Base64UrlUnpadded::encode_string(br#"{"alg":"none","typ":"at+jwt"}"#);
    for (flaw, token) in [
        ("another subject", format!("{header}.{}.{signature}", altered("sub", json!("oven")))),
        ("a later end", format!("{header}.{}.{signature}", altered("exp", json!(unix_now() + 9_999)))),
        ("more rights", format!("{header}.{}.{signature}", altered("scope", json!("everything")))),
        ("no signature", format!("{none}.{claims}.")),
        ("half a signature", format!("{header}.{claims}.{}", &signature[..43])),
        ("signed by the device itself", lamp.sign_with_header(&json!({ "alg": "ES256", "typ": "at+jwt" }), &decoded)),
        ("an assertion instead", lamp.assertion(&hub)),
    ] {
        let refusal = Wire::tls(&hub).await.connect(&Connect::by_password("lamp", &token)).await;
        assert_eq!(refusal.connack_code(), 0x87, "{flaw}: {refusal:?}");
        let answer = hub.http().get(hub.url("/api/v1/devices")).bearer_auth(&token).send().await.expect("an answer");
        assert_eq!(answer.status(), 401, "{flaw}");
    }
    // A good token of a device opens its session, and not its owner's API.
    let answer = hub.http().get(hub.url("/api/v1/devices")).bearer_auth(&token).send().await.expect("an answer");
    assert_eq!(answer.status(), 403);
    hub.finish().await;
}

#[tokio::test]
async fn a_token_of_one_home_opens_nothing_in_another() {
    let (here, there) = (Hub::start().await, Hub::start().await);
    let lamp = Keyed::enrolled(&here, "lamp", "thermostat").await;
    Keyed::enrolled(&there, "lamp", "thermostat").await;
    let token = lamp.token(&here).await;
    assert_eq!(Wire::tls(&here).await.connect(&Connect::by_password("lamp", &token)).await.connack_code(), 0);
    assert_eq!(Wire::tls(&there).await.connect(&Connect::by_password("lamp", &token)).await.connack_code(), 0x87);
    let owner = here.owner_token();
    for (hub, status) in [(&here, 200), (&there, 401)] {
        let answer = hub.http().get(hub.url("/api/v1/devices")).bearer_auth(&owner).send().await.expect("an answer");
        assert_eq!(answer.status(), status);
    }
    here.finish().await;
    there.finish().await;
}

#[tokio::test]
async fn a_client_identifier_is_the_devices_own_or_below_it() {
    let hub = Hub::start().await;
    let token = Keyed::enrolled(&hub, "lamp", "thermostat").await.token(&hub).await;
    for (client_identifier, code) in
        [("lamp", 0), ("lamp/second", 0), ("+", 0x85), ("#", 0x85), ("a/b", 0x85), ("lamp+", 0x85), ("lam", 0x85), ("", 0x85)]
    {
        let connack = Wire::tls(&hub).await.connect(&Connect::by_password(client_identifier, &token)).await;
        assert_eq!(connack.connack_code(), code, "{client_identifier:?}: {connack:?}");
    }
    // Such names cannot come into the home in the first place, whichever way they are sent.
    for name in ["+", "#", "a/b", "Lamp", ""] {
        let body = json!({ "id": name, "profile": "thermostat" });
        let request = hub.http().post(hub.url("/api/v1/devices")).bearer_auth(hub.owner_token()).json(&body);
        let status = request.send().await.expect("an answer").status();
        assert!(status.is_client_error(), "{name}: {status}");
    }
    assert_eq!(hub.told(&["device", "list"]).await["items"].as_array().map(Vec::len), Some(1));
    hub.finish().await;
}

#[tokio::test]
async fn a_rotation_interrupts_nobody_and_its_code_is_good_for_one_key() {
    let hub = Hub::start().await;
    let enrolment_string = hub.add("lamp", "thermostat").await;
    let storage = hub.storage_of("lamp");
    let mut old = Agent::stored(storage, Some(&enrolment_string));
    old.connected().await;

    let answer = hub.told(&["device", "rotate", "lamp"]).await;
    let code = hub.enrolment_string(&answer);
    let new = Keyed::new("lamp");
    assert_eq!(new.register(&hub, &code).await.status(), 201);
    assert_eq!(new.register(&hub, &code).await.status(), 201, "a lost answer hurts nobody");
    let (status, error) = oauth_error(Keyed::new("lamp").register(&hub, &code).await).await;
    assert_eq!((status, error.as_str()), (401, "invalid_token"), "another key");
    old.telemetry().await;

    // The new key works, and the old one for a while.
    new.token(&hub).await;
    let keys = hub.device("lamp").await["keys"].clone();
    assert_eq!(keys.as_array().map(Vec::len), Some(2), "{keys}");
    assert_eq!(keys.as_array().into_iter().flatten().filter(|key| key["retires_at"].is_u64()).count(), 1, "{keys}");
    assert_eq!(new.register(&hub, &code).await.status(), 401, "the code is used up");
    assert_eq!(old.leave().await.disconnected_by_reason.len(), 0);
    let storage = hub.storage_of("lamp");
    let mut again = Agent::stored(storage, None);
    again.connected().await;
    again.leave().await;
    hub.finish().await;
}

#[tokio::test]
async fn a_revoked_name_that_is_added_anew_revives_no_old_credential() {
    let hub = Hub::start().await;
    let enrolment_string = hub.add("lamp", "thermostat").await;
    let old = Keyed::new("lamp");
    assert_eq!(old.register(&hub, &enrolment_string).await.status(), 201);
    let old_token = old.token(&hub).await;
    let unused = hub.told(&["device", "rotate", "lamp"]).await;
    let unused = hub.enrolment_string(&unused);

    hub.told(&["device", "revoke", "lamp"]).await;
    let connect = Connect::by_password("lamp", &old_token);
    assert_eq!(Wire::tls(&hub).await.connect(&connect).await.connack_code(), 0x87);
    let new_code = hub.add("lamp", "thermostat").await;
    let new = Keyed::new("lamp");
    assert_eq!(new.register(&hub, &new_code).await.status(), 201);

    assert_eq!(Wire::tls(&hub).await.connect(&connect).await.connack_code(), 0x87, "the old token");
    assert_eq!(oauth_error(Keyed::request_token(&hub, &old.assertion(&hub)).await).await.1, "invalid_client", "the old key");
    assert_eq!(old.register(&hub, &unused).await.status(), 401, "the old code");
    let connect = Connect::by_password("lamp", &new.token(&hub).await);
    assert_eq!(Wire::tls(&hub).await.connect(&connect).await.connack_code(), 0, "the new token");
    hub.finish().await;
}

#[tokio::test]
async fn a_takeover_tells_the_session_that_it_ends() {
    let hub = Hub::start().await;
    let lamp = Keyed::enrolled(&hub, "lamp", "thermostat").await;
    let connect = Connect::by_password("lamp", &lamp.token(&hub).await);
    let mut first = Wire::tls(&hub).await;
    assert_eq!(first.connect(&connect).await.connack_code(), 0);
    let mut beside = Wire::tls(&hub).await;
    let beside_connect = Connect { client_identifier: "lamp/second".to_owned(), ..connect.clone() };
    assert_eq!(beside.connect(&beside_connect).await.connack_code(), 0);
    let mut second = Wire::plain(&hub).await;
    assert_eq!(second.connect(&connect).await.connack_code(), 0);
    let farewell = first.receive().await.expect("a reason");
    assert_eq!(farewell.disconnect_code(), 0x8e);
    for still_there in [&mut second] {
        still_there.send(&[0xc0, 0]).await;
        assert_eq!(still_there.receive().await.expect("PINGRESP").first, 0xd0);
    }
    beside.send(&[0xc0, 0]).await;
    assert_eq!(beside.receive().await.expect("PINGRESP").first, 0xd0);
    hub.finish().await;
}
