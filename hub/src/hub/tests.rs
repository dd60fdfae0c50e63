//! The hub's own tests, over a real store and outlets that lead nowhere.

use super::*;
use crate::{gate::HubGate, mqtt::Gate, store::SledStore};
use futures_util::FutureExt;
use hearthkey_core::{Seconds, oauth::TokenRequest, profile::CommandName, registry::NewDevice, session::Proof};

fn start(root: &std::path::Path) -> Arc<Hub> {
    let data = DataDir::open(root).expect("a data directory");
    let store = Arc::new(SledStore::open(root).expect("a store").store);
    let address = Address { host: "localhost".to_owned(), https_port: 8443, mqtts_port: 8883 };
    let issuers = vec!["https://localhost:8443".to_owned()];
    let foundation = Foundation { store, data, ca_sha256: [0; 32], issuers, address, tokens_per_minute: 2 };
    Hub::start(foundation).expect("a hub").0
}

/// Sessions that nothing reaches.
struct Unreachable {
    published: tokio::sync::mpsc::UnboundedSender<TopicName>,
    judged: Mutex<Vec<Affected>>,
}

impl Outlet for Unreachable {
    fn reconsider(&self, affected: &Affected) {
        self.judged.lock().expect("no panic").push(affected.clone());
    }

    fn publish(&self, permit: PublishPermit, _: Message) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        self.published.send(permit.topic().clone()).expect("the test listens");
        Box::pin(async { Err("the fabric died".to_owned()) })
    }

    fn is_online(&self, _: &Principal) -> bool {
        false
    }
}

/// A hub with a device that has a secret, which is the answer, and its owner.
async fn with_lamp(root: &std::path::Path) -> (Arc<Hub>, Authority, String) {
    let hub = start(root);
    let token = hub.own_locally(None).await.expect("kept").expect("made");
    let owner = hub.admit(token.expose()).expect("the owner").0;
    let name = |text| DeviceId::parse(text).expect("legal");
    let new = NewDevice { id: name("lamp"), profile: name("thermostat"), children: Vec::new() };
    let (enrolment, shown) = hub.new_client_secret();
    let context = hub.context(None, "");
    hub.add_device(&owner, new, enrolment, &context).await.expect("added");
    let ShownOnce::ClientSecret(secret) = shown else { panic!("a secret") };
    (hub, owner, secret.expose().to_owned())
}

/// Keeps the sequence numbers of what is published, each after some turns of the scheduler, as a front in which others are busy.
#[derive(Default)]
struct Busy(Mutex<Vec<u64>>);

impl Outlet for Busy {
    fn reconsider(&self, _: &Affected) {}

    fn publish(&self, _: PublishPermit, message: Message) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        let body: serde_json::Value = serde_json::from_slice(&message.payload).expect("JSON");
        let sequence = body["seq"].as_u64().expect("a sequence number");
        Box::pin(async move {
            // Each fifth finds less to wait for than those before it.
            for _ in 0..5 - sequence % 5 {
                tokio::task::yield_now().await;
            }
            self.0.lock().expect("no panic").push(sequence);
            Ok(())
        })
    }

    fn is_online(&self, _: &Principal) -> bool {
        true
    }
}

#[tokio::test]
async fn commands_that_are_sent_at_once_are_published_in_the_order_in_which_a_device_takes_them() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let (hub, owner, _) = with_lamp(&temp.path().join("data")).await;
    let busy = Arc::new(Busy::default());
    let outlet: Arc<dyn Outlet> = busy.clone();
    hub.connect_outlet(Arc::downgrade(&outlet));
    let (lamp, context) = (DeviceId::parse("lamp").expect("legal"), hub.context(None, ""));
    let send = |_| {
        let name = CommandName::parse("identify").expect("legal");
        hub.send_command(&owner, &lamp, name, None, Seconds(30), &context)
    };
    for sent in futures_util::future::join_all((0..15).map(send)).await {
        sent.expect("it is kept");
    }
    assert_eq!(*busy.0.lock().expect("no panic"), (1..=15).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_command_that_is_kept_is_published_although_who_asked_has_gone_and_is_sent_although_that_fails() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let (hub, owner, _) = with_lamp(&temp.path().join("data")).await;
    let (published, mut topics) = tokio::sync::mpsc::unbounded_channel();
    let outlet: Arc<dyn Outlet> = Arc::new(Unreachable { published, judged: Mutex::default() });
    hub.connect_outlet(Arc::downgrade(&outlet));
    let (lamp, context) = (DeviceId::parse("lamp").expect("legal"), hub.context(None, ""));
    let send = || {
        let name = CommandName::parse("identify").expect("legal");
        hub.send_command(&owner, &lamp, name, None, Seconds(30), &context)
    };
    let sent = send().await.expect("it is kept, and waits for the device");
    assert_eq!(hub.commands_waiting(&lamp, &lamp).len(), 1, "{sent:?}");
    topics.recv().await.expect("it was tried");
    assert!(send().now_or_never().is_none(), "it takes longer than the one who asks stays");
    let topic = tokio::time::timeout(Duration::from_secs(20), topics.recv()).await.expect("it is published");
    assert_eq!(topic.expect("it is published").as_str(), "dev/lamp/cmd/identify");
}

#[tokio::test]
async fn the_end_of_a_token_has_no_session_judged_but_its_own() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let (hub, _, secret) = with_lamp(&temp.path().join("data")).await;
    let context = hub.context(None, "");
    let client = format!("client_id=lamp&client_secret={secret}");
    let request = TokenRequest::parse(format!("grant_type=client_credentials&{client}").as_bytes()).expect("a request");
    let issued = hub.token(&request, None, &context).await.expect("a token");
    let token = serde_json::from_slice::<serde_json::Value>(&issued.json).expect("JSON")["access_token"].clone();
    let (published, _topics) = tokio::sync::mpsc::unbounded_channel();
    let outlet = Arc::new(Unreachable { published, judged: Mutex::default() });
    let weak: Arc<dyn Outlet> = outlet.clone();
    hub.connect_outlet(Arc::downgrade(&weak));
    let form = format!("token={}&{client}", token.as_str().expect("a text"));
    hub.revoke_token(&TokenRequest::parse(form.as_bytes()).expect("a request"), None, &context).await.expect("ended");
    let Proof::AccessToken { jti, .. } = issued.authority.proof else { panic!("an access token") };
    assert_eq!(*outlet.judged.lock().expect("no panic"), [Affected::AccessToken(jti)]);
}

#[tokio::test]
async fn a_client_gets_no_more_tokens_than_it_can_need() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let (hub, _, secret) = with_lamp(&temp.path().join("data")).await;
    let form = format!("grant_type=client_credentials&client_id=lamp&client_secret={secret}");
    let request = TokenRequest::parse(form.as_bytes()).expect("a request");
    let context = hub.context(None, "");
    for _ in 0..2 {
        hub.token(&request, None, &context).await.expect("a token");
    }
    let head = hub.audit_chain().1;
    let refused = hub.token(&request, None, &context).await.expect_err("too many");
    assert_eq!(refused.code, ErrorCode::SlowDown);
    assert!(refused.description.contains("try again in"), "{refused:?}");
    assert_eq!(hub.audit_chain().1, head, "a refusal leaves nothing behind");
}

#[tokio::test]
async fn what_was_decided_is_seen_and_is_there_after_a_restart() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let root = temp.path().join("data");
    let hub = start(&root);
    let token = hub.own_locally(None).await.expect("kept").expect("made");
    let authority = hub.admit(token.expose()).expect("the owner").0;
    let new = NewDevice {
        id: DeviceId::parse("lamp").expect("legal"),
        profile: DeviceId::parse("switch").expect("legal"),
        children: Vec::new(),
    };
    let (enrolment, _) = hub.new_enrolment();
    let context = hub.context(None, "r1");
    hub.add_device(&authority, new.clone(), enrolment, &context).await.expect("added");
    assert_eq!(hub.view(|registry| registry.devices().count()), 1);
    let (enrolment, _) = hub.new_enrolment();
    let again = hub.add_device(&authority, new, enrolment, &context).await;
    assert!(matches!(again, Err(NotDecided::Refused(_))), "{again:?}");
    let head = hub.audit_chain().1;
    drop(hub);

    let hub = start(&root);
    assert_eq!(hub.view(|registry| registry.devices().count()), 1);
    assert_eq!(hub.audit_chain().1, head);
    assert!(
        hub.own_locally(Some(token.expose())).await.expect("nothing to keep").is_none(),
        "the token still acts for the owner"
    );
    assert!(hub.admit("hk_pat_nonsense").is_err());
    let rows = hub.audit_rows(0, 100).expect("readable");
    let (anchor, head) = hub.audit_chain();
    assert_eq!(hearthkey_core::audit::verify(&anchor, rows.iter().map(Vec::as_slice), &head), Ok(head.seq));
}

#[tokio::test]
async fn a_command_that_a_device_has_does_not_wait_while_that_is_written_down() {
    let temp = tempfile::tempdir().expect("a temporary directory");
    let (hub, owner, _) = with_lamp(&temp.path().join("data")).await;
    let [lamp, oven] = ["lamp", "oven"].map(|name| DeviceId::parse(name).expect("legal"));
    let (name, context) = (CommandName::parse("identify").expect("legal"), hub.context(None, ""));
    hub.send_command(&owner, &lamp, name, None, Seconds(30), &context).await.expect("kept");
    let (gate, writing) = HubGate::new(hub.clone());
    let (_, message) = gate.commands_waiting(&lamp, &lamp).pop().expect("it waits");
    gate.delivered(&oven, &lamp, &message.payload);
    assert_eq!(gate.commands_waiting(&lamp, &lamp).len(), 1, "who merely listens got it for itself alone");
    gate.delivered(&lamp, &lamp, &message.payload);
    assert!(gate.commands_waiting(&lamp, &lamp).is_empty(), "nothing is written yet");
    assert_eq!(hub.commands_waiting(&lamp, &lamp).len(), 1);
    // The end of the gate is the end of what it has to write.
    drop(gate);
    writing.await;
    assert!(hub.commands_waiting(&lamp, &lamp).is_empty());
}
