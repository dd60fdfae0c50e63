//! The hub's HTTP endpoints as curl sees them: an OAuth client that knows nothing of us.

use hearthkey_tests::hub::Hub;
use hearthkey_tests::process::{Ran, run};
use serde_json::Value;
use tokio::process::Command;

/// Runs curl; the answer ends with the status code in a line of its own.
async fn curl(hub: &Hub, arguments: &[&str], path: &str) -> Ran {
    let mut command = Command::new("curl");
    command.env("HOME", hub.beside()).args(["-sS", "--cacert"]).arg(hub.ca_file());
    command.args(["-w", "\n%{http_code}"]).args(arguments).arg(hub.url(path));
    run(command, "").await
}

/// Status and JSON body.
fn answer(ran: &Ran) -> (u16, Value) {
    let (body, status) = ran.out.rsplit_once('\n').unwrap_or_else(|| panic!("{ran:?}"));
    let body = body.rsplit_once("\r\n\r\n").map_or(body, |(_, body)| body);
    (status.parse().expect("a status"), serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {ran:?}")))
}

#[tokio::test]
async fn a_client_secret_gets_a_token_by_either_method_of_rfc_6749() {
    let hub = Hub::start().await;
    let secret = hub.add_with_secret("old-plug", "tasmota").await;
    let basic = format!("old-plug:{secret}");
    let posted = format!("client_secret={secret}");
    for arguments in [
        &["-u", &basic, "-d", "grant_type=client_credentials"][..],
        &["-d", "grant_type=client_credentials", "-d", "client_id=old-plug", "-d", &posted],
        &["-u", &basic, "-d", "grant_type=client_credentials", "-d", "scope=telemetry"],
    ] {
        let ran = curl(&hub, &[&["-i"], arguments].concat(), "/oauth2/token").await;
        let (status, token) = answer(&ran);
        assert_eq!(status, 200, "{ran:?}");
        assert_eq!(token["token_type"], "Bearer");
        assert!(token["expires_in"].as_u64().is_some_and(|seconds| seconds > 0), "{token}");
        hub.remember_secret(token["access_token"].as_str().expect("a token"));
        let headers = ran.out.to_lowercase();
        assert!(headers.contains("cache-control: no-store") && headers.contains("\r\ndate: "), "{headers}");
        let scope = if arguments.contains(&"scope=telemetry") { "telemetry" } else { "commands telemetry" };
        assert_eq!(token["scope"], scope);
    }
    hub.finish().await;
}

#[tokio::test]
async fn each_mistake_gets_the_error_of_rfc_6749() {
    let hub = Hub::start().await;
    let secret = hub.add_with_secret("old-plug", "tasmota").await;
    let basic = format!("old-plug:{secret}");
    let wrong = format!("old-plug:{}", secret.replace("hk_sec_", "hk_sec_x"));
    let posted = format!("client_secret={secret}");
    let long = format!("x={}", "y".repeat(5_000));
    let grant = "grant_type=client_credentials";
    for (arguments, status, error) in [
        (&["-u", &wrong, "-d", grant][..], 401, "invalid_client"),
        (&["-u", "nobody:nothing", "-d", grant], 401, "invalid_client"),
        (&["-d", "client_id=old-plug", "-d", "client_secret=guess", "-d", grant], 400, "invalid_client"),
        (&["-d", grant], 400, "invalid_client"),
        (&["-u", &basic, "-d", grant, "-d", &posted], 400, "invalid_request"),
        (&["-u", &basic, "-d", "grant_type=password"], 400, "unsupported_grant_type"),
        (&["-u", &basic, "-d", "scope=telemetry"], 400, "invalid_request"),
        (&["-u", &basic, "-d", grant, "-d", grant], 400, "invalid_request"),
        (&["-u", &basic, "-d", grant, "-d", "scope=everything"], 400, "invalid_scope"),
        (&["-u", &basic, "-d", grant, "-d", &long], 400, "invalid_request"),
        (&["-u", &basic, "-H", "content-type: application/json", "-d", "{}"], 400, "invalid_request"),
        (&["-u", &basic], 405, "invalid_request"),
    ] {
        let ran = curl(&hub, arguments, "/oauth2/token").await;
        let (answered, body) = answer(&ran);
        assert_eq!((answered, &body["error"]), (status, &error.into()), "{arguments:?}: {body}");
        assert!(body["error_description"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    }
    let challenge = curl(&hub, &["-i", "-u", &wrong, "-d", grant], "/oauth2/token").await;
    assert!(challenge.out.to_lowercase().contains("www-authenticate: basic"), "{challenge:?}");
    hub.finish().await;
}

#[tokio::test]
async fn the_metadata_leads_to_every_endpoint_and_the_keys_verify_tokens() {
    let hub = Hub::start().await;
    let (status, metadata) = answer(&curl(&hub, &[], "/.well-known/oauth-authorization-server").await);
    assert_eq!((status, &metadata["issuer"]), (200, &hub.url("").into()));
    let endpoint = |name: &str| metadata[name].as_str().and_then(|url| url.strip_prefix(&hub.url(""))).expect(name).to_owned();
    assert_eq!(endpoint("token_endpoint"), "/oauth2/token");
    assert_eq!(endpoint("registration_endpoint"), "/oauth2/register");
    let (status, keys) = answer(&curl(&hub, &[], &endpoint("jwks_uri")).await);
    let key = &keys["keys"][0];
    assert_eq!((status, &key["kty"], &key["crv"]), (200, &"EC".into(), &"P-256".into()));
    assert!(key["d"].is_null(), "no private key");

    // As a resource server that we did not write would check it.
    let secret = hub.add_with_secret("old-plug", "tasmota").await;
    let (_, token) =
        answer(&curl(&hub, &["-u", &format!("old-plug:{secret}"), "-d", "grant_type=client_credentials"], "/oauth2/token").await);
    let token = token["access_token"].as_str().expect("a token");
    hub.remember_secret(token);
    assert!(verifies(token, key));
    let mut tampered = token.to_owned();
    let place = token.find('.').expect("a dot") + 5;
    tampered.replace_range(place..=place, if &token[place..=place] == "A" { "B" } else { "A" });
    assert!(!verifies(&tampered, key));
    hub.finish().await;
}

fn verifies(token: &str, key: &Value) -> bool {
    use base64ct::{Base64UrlUnpadded, Encoding as _};
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    let decode = |text: &str| Base64UrlUnpadded::decode_vec(text).expect("base64url");
    let coordinate = |name: &str| decode(key[name].as_str().expect("a coordinate"));
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    let (input, signature) = token.rsplit_once('.').expect("a JWT");
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(input.as_bytes(), &decode(signature)).is_ok()
}

#[tokio::test]
async fn tls_is_1_3_under_the_home_ca_and_nothing_else() {
    let hub = Hub::start().await;
    assert_eq!(curl(&hub, &["--tlsv1.3"], "/healthz").await.exit, 0);
    let ready = curl(&hub, &[], "/readyz").await;
    assert!(ready.exit == 0 && ready.out.ends_with("200"), "{ready:?}");
    let old = curl(&hub, &["--tls-max", "1.2"], "/healthz").await;
    assert_eq!(old.exit, 35, "{old:?}");
    let mut stranger = Command::new("curl");
    stranger.args(["-sS", &hub.url("/healthz")]);
    assert_eq!(run(stranger, "").await.exit, 60, "a machine that does not know the home CA");
    let another_name = format!("https://not-the-hub:{}/healthz", hub.ports().https);
    let mut misled = Command::new("curl");
    misled.arg("-sS").arg("--cacert").arg(hub.ca_file());
    misled.args(["--resolve", &format!("not-the-hub:{}:127.0.0.1", hub.ports().https), &another_name]);
    assert_eq!(run(misled, "").await.exit, 60, "another name");
    let unknown = curl(&hub, &[], "/api/v1/devices").await;
    assert!(unknown.out.ends_with("401"), "{unknown:?}");
    hub.finish().await;
}
