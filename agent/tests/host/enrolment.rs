//! Enrolment against a hub over real TLS: the one answer that is wanted, lost answers, refusals, impostors.

use crate::support::TestPlatform;
use crate::support::hub::{Home, Hub, REGISTRATION, enrolment_string, http_response};
use crate::support::pki::HomeCa;
use hearthkey_agent::tls::{Refusal, TlsError};
use hearthkey_agent::{
    ConnectFailed, EnrolError, Enrolled, Enrolment, EnrolmentStringError, Identity, Platform, Software, Workspace, enrol,
};
use tokio::io::AsyncWriteExt;

const SOFTWARE: Software<'static> = Software { id: "acme-lamp", version: "1.0.0" };

struct NewDevice {
    platform: TestPlatform,
    hub: Hub,
    ca: HomeCa,
}

impl NewDevice {
    fn new() -> Self {
        let ca = HomeCa::new("home");
        let (platform, calls) = TestPlatform::new(5);
        Self { hub: Hub::new(calls, &ca), platform, ca }
    }

    async fn enrol(&mut self, script: impl AsyncFnOnce(&mut Hub)) -> Result<Enrolled, EnrolError> {
        let enrolment = Enrolment::parse(&enrolment_string(&self.ca, [7; 16], "hub.local")).unwrap();
        let mut workspace = Box::new(Workspace::new());
        let enrolling = enrol(&mut self.platform, &enrolment, SOFTWARE, &mut workspace);
        let enrolled = tokio::join!(enrolling, script(&mut self.hub)).0;
        #[cfg(feature = "sans-io")]
        assert!(workspace.is_blank(), "of code and answer nothing stays, whatever became of it");
        enrolled
    }
}

/// Answers a registration and returns the request.
async fn answer(hub: &mut Hub, status: &str, body: &str) -> (String, String) {
    let (head, request, mut stream) = hub.https().await.expect("a request");
    stream.write_all(http_response(status, body).as_bytes()).await.unwrap();
    (head, request)
}

#[tokio::test(start_paused = true)]
async fn a_device_registers_its_key_and_keeps_what_it_learnt() {
    let mut device = NewDevice::new();
    let mut request = None;
    let enrolled = device.enrol(async |hub| request = Some(answer(hub, "201 Created", REGISTRATION).await)).await.unwrap();
    let (head, body) = request.unwrap();
    assert!(head.starts_with("POST /oauth2/register HTTP/1.1\r\nHost: hub.local:8443\r\n"), "{head}");
    assert!(head.contains("\r\nAuthorization: Bearer BwcHBwcHBwcHBwcHBwcHBw\r\n"), "{head}");
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let [x, y] = enrolled.identity.public_key().jwk_coordinates();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    assert_eq!(
        body,
        serde_json::json!({
            "grant_types": ["client_credentials"],
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks": {"keys": [{"kty": "EC", "crv": "P-256", "x": text(&x), "y": text(&y)}]},
            "software_id": "acme-lamp",
            "software_version": "1.0.0",
        })
    );
    assert_eq!(enrolled.identity.client_id(), "lamp");
    assert_eq!(enrolled.identity.issuer(), "https://hub:8443");
    let now = enrolled.clock.at(device.platform.now());
    assert_eq!(now.unix.map(|date| date.as_secs()), Some(1_780_272_000), "the Date header taught the time");

    let loaded = Identity::load(&mut device.platform).unwrap().expect("stored");
    assert_eq!(loaded.public_key(), enrolled.identity.public_key());
    assert_eq!((loaded.hub().host.as_str(), loaded.hub().https_port, loaded.hub().mqtt_port), ("hub.local", 8443, 8883));
    assert_eq!(device.platform.writes.get(), 2, "the key, then the identity");

    let again = device.enrol(async |_| {}).await;
    assert_eq!(again.err(), Some(EnrolError::AlreadyEnrolled));
}

#[tokio::test(start_paused = true)]
async fn a_device_that_was_erased_enrols_anew_with_another_key() {
    let mut device = NewDevice::new();
    let first = device.enrol(async |hub| _ = answer(hub, "201 Created", REGISTRATION).await).await.unwrap();
    Identity::erase(&mut device.platform).unwrap();
    assert!(Identity::load(&mut device.platform).unwrap().is_none());
    let second = device.enrol(async |hub| _ = answer(hub, "201 Created", REGISTRATION).await).await.unwrap();
    assert_ne!(first.identity.public_key(), second.identity.public_key());
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_hurts_nobody_the_same_key_asks_again() {
    let mut device = NewDevice::new();
    let mut keys = vec![];
    let key = |body: &str| serde_json::from_str::<serde_json::Value>(body).unwrap()["jwks"].to_string();
    for lost in [true, true, false] {
        let outcome = device
            .enrol(async |hub| {
                let (_, body, mut stream) = hub.https().await.expect("a request");
                keys.push(key(&body));
                let whole = http_response("201 Created", REGISTRATION);
                let sent = if lost { &whole[..whole.len() - 1] } else { whole.as_str() };
                stream.write_all(sent.as_bytes()).await.unwrap();
            })
            .await;
        assert_eq!(outcome.is_err(), lost, "{outcome:?}");
    }
    assert_eq!(keys[0], keys[1]);
    assert_eq!(keys[1], keys[2]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_in_the_hubs_words() {
    let mut device = NewDevice::new();
    let body = r#"{"error":"invalid_token","error_description":"enrolment code expired 3 minutes ago"}"#;
    let outcome = device.enrol(async |hub| _ = answer(hub, "401 Unauthorized", body).await).await;
    let Err(EnrolError::Refused(refusal)) = &outcome else { panic!("{outcome:?}") };
    assert_eq!((refusal.status, refusal.error.as_str()), (401, "invalid_token"));
    let told = outcome.unwrap_err().to_string();
    assert!(told.contains("enrolment code expired 3 minutes ago") && told.contains("hearthkey device add"), "{told}");
    assert!(Identity::load(&mut device.platform).unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_no_registration_enrols_nobody() {
    for (status, body) in [
        ("201 Created", "{}"),
        ("201 Created", "not json"),
        ("201 Created", r#"{"client_id":"Lamp","issuer":"https://hub"}"#),
        ("201 Created", r#"{"client_id":"a/b","issuer":"https://hub"}"#),
        ("201 Created", r#"{"client_id":"","issuer":"https://hub"}"#),
        ("201 Created", r#"{"client_id":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","issuer":"https://hub"}"#),
        ("201 Created", r#"{"client_id":"lamp","issuer":"http://hub"}"#),
        ("201 Created", r#"{"client_id":"lamp"}"#),
    ] {
        let mut device = NewDevice::new();
        let outcome = device.enrol(async |hub| _ = answer(hub, status, body).await).await;
        assert_eq!(outcome.err(), Some(EnrolError::BadRegistration), "{body}");
        assert!(Identity::load(&mut device.platform).unwrap().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn an_impostor_never_sees_the_code() {
    let mut device = NewDevice::new();
    let impostor = HomeCa::new("home");
    let leaf = impostor.hub();
    let config = crate::support::pki::server_config(vec![leaf.der.clone(), impostor.der.clone()], leaf.private_key());
    let outcome = device
        .enrol(async |hub| {
            let stream = hub.ring().await;
            let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
            if let Ok(mut stream) = acceptor.accept(stream).await {
                assert_eq!(crate::support::hub::http_request(&mut stream).await, None);
            }
        })
        .await;
    assert_eq!(outcome.err(), Some(EnrolError::Tls(TlsError::Refused(Refusal::WrongCa))));
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_says_nothing_is_given_up_after_a_minute() {
    let mut device = NewDevice::new();
    let mut held = None;
    let outcome = device.enrol(async |hub| held = Some(hub.ring().await)).await;
    assert_eq!(outcome.err(), Some(EnrolError::TimedOut));
}

#[test]
fn a_damaged_enrolment_string_is_refused_with_what_to_do() {
    let whole = enrolment_string(&HomeCa::new("home"), [7; 16], "hub.local");
    assert!(Enrolment::parse(&format!(" {whole}\n")).is_ok(), "spaces around it do no harm");
    let error = |text: &str| Enrolment::parse(text).expect_err("refused");
    assert_eq!(error(""), EnrolmentStringError::Prefix);
    assert_eq!(error("hk2.AAAA"), EnrolmentStringError::Prefix);
    assert_eq!(error(&whole[..40]), EnrolmentStringError::Encoding);
    assert_eq!(error(&format!("{whole}=")), EnrolmentStringError::Encoding);
    assert_eq!(error(&format!("{whole}{whole}")), EnrolmentStringError::Encoding);
    assert_eq!(error(&enrolment_string(&HomeCa::new("home"), [7; 16], "")), EnrolmentStringError::Host);
    assert_eq!(error(&enrolment_string(&HomeCa::new("home"), [7; 16], "hub\r\nx: y")), EnrolmentStringError::Host);
    assert_eq!(error(&enrolment_string(&HomeCa::new("home"), [7; 16], &"h".repeat(65))), EnrolmentStringError::Encoding);
    assert!(Enrolment::parse(&enrolment_string(&HomeCa::new("home"), [7; 16], &"h".repeat(64))).is_ok());
    assert!(error("").to_string().contains("hearthkey device add"));
    let printed = format!("{:?}", Enrolment::parse(&whole).unwrap());
    assert!(!printed.contains('7') || !printed.contains("code"), "{printed}");
}

#[tokio::test(start_paused = true)]
async fn software_that_would_break_the_request_is_refused_before_it() {
    let mut home = NewDevice::new();
    let enrolment = Enrolment::parse(&enrolment_string(&home.ca, [7; 16], "hub.local")).unwrap();
    let mut workspace = Box::new(Workspace::new());
    let software = Software { id: "a\"b", version: "1" };
    let script = async {
        let _ = home.hub.https().await;
    };
    let enrolling = enrol(&mut home.platform, &enrolment, software, &mut workspace);
    assert_eq!(tokio::join!(enrolling, script).0.err(), Some(EnrolError::Software));
}

/// What the other tests build on.
#[tokio::test(start_paused = true)]
async fn a_home_with_an_enrolled_lamp_can_be_had() {
    let mut home = Home::new(99).await;
    assert!(Identity::load(&mut home.platform).unwrap().is_some());
}

#[test]
fn a_failed_connection_may_pass_whatever_the_cause_and_a_refusal_that_will_stand_does_not() {
    let causes = [ConnectFailed::HostNotFound, ConnectFailed::Refused, ConnectFailed::Unreachable, ConnectFailed::NoResources];
    assert!(causes.into_iter().all(|cause| EnrolError::Connect(cause).may_pass()), "a resolver that is not up yet, for one");
    for lasting in [EnrolError::String(EnrolmentStringError::Host), EnrolError::AlreadyEnrolled, EnrolError::BadRegistration] {
        assert!(!lasting.may_pass(), "{lasting}");
    }
}
