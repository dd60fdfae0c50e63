//! A fleet towards a world without a hub: it says what is wrong, tries again where that may help, and stops when asked.
//! What it does with a hub is told by the end-to-end tests.

use base64ct::{Base64UrlUnpadded, Encoding};
use hearthkey_sim::{DeviceOptions, EnrolmentString, Events, Fleet, FleetOptions, PublishError, SimEventKind, Storage};
use tokio::net::TcpListener;

#[tokio::test]
async fn a_device_without_identity_and_string_gives_up_and_says_what_it_needs() {
    let (fleet, mut events) = start([DeviceOptions::stored_in(Storage::memory())]);
    let SimEventKind::Stopped { failure: Some(reason) } = events.next().await.expect("an event").kind else {
        panic!("it should give up");
    };
    assert!(reason.contains("hearthkey device add"), "{reason}");
    assert!(events.next().await.is_none(), "nothing after that");
    let summary = fleet.stop().await;
    assert_eq!((summary.devices, summary.reached, summary.failed_by_reason[&reason]), (1, 0, 1));
}

#[tokio::test]
async fn a_device_whose_hub_is_down_tries_again_until_it_is_stopped() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    drop(listener);
    let (fleet, mut events) = start([DeviceOptions::enrolling(enrolment_string(port))]);
    for _attempt in 0..2 {
        let SimEventKind::Disconnected { reason } = events.next().await.expect("an event").kind else {
            panic!("it should try again");
        };
        assert!(reason.contains("nothing listens at the hub's address"), "{reason}");
        assert!(matches!(events.next().await.map(|event| event.kind), Some(SimEventKind::Retrying { .. })));
    }
    let summary = fleet.stop().await;
    assert_eq!(summary.failed_by_reason.len(), 0, "asked to stop, it did not fail: {summary:?}");
    assert!(last_event_is_stopped(events).await);
}

#[tokio::test]
async fn a_damaged_identity_is_named_and_once_erased_the_device_enrols_anew() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let damaged = || {
        let mut storage = Storage::directory(home.path()).expect("made");
        storage.store("identity", b"not what an agent wrote").expect("writable");
        DeviceOptions { enrolment: Some(enrolment_string(1)), ..DeviceOptions::stored_in(storage) }
    };
    let (fleet, mut events) = start([damaged()]);
    let SimEventKind::Stopped { failure: Some(reason) } = events.next().await.expect("an event").kind else {
        panic!("it should give up");
    };
    assert!(reason.contains("the identity record cannot be used"), "{reason}");
    fleet.stop().await;

    let (fleet, mut events) = start([DeviceOptions { erase: true, ..damaged() }]);
    let SimEventKind::Disconnected { reason } = events.next().await.expect("an event").kind else {
        panic!("it should call the hub");
    };
    assert!(reason.contains("nothing listens at the hub's address"), "{reason}");
    fleet.stop().await;
}

#[tokio::test]
async fn a_server_that_is_no_hub_is_told_nothing_and_ends_the_attempt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let impostor = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a device calls");
        tokio::io::AsyncWriteExt::write_all(&mut socket, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("connected");
        let mut heard = Vec::new();
        // The device may reset the connection: what came before counts.
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut heard).await;
        heard
    });
    let string = enrolment_string(port);
    let (fleet, mut events) = start([DeviceOptions::enrolling(string)]);
    let SimEventKind::Stopped { failure: Some(reason) } = events.next().await.expect("an event").kind else {
        panic!("it should give up");
    };
    assert!(reason.contains("not the hub of this enrolment string"), "{reason}");
    let heard = impostor.await.expect("the impostor listened");
    assert!(!heard.windows(CODE.len()).any(|window| window == CODE));
    assert!(!String::from_utf8_lossy(&heard).contains(&Base64UrlUnpadded::encode_string(&CODE)));
    fleet.stop().await;
}

#[tokio::test]
async fn an_order_to_a_device_that_has_stopped_is_answered() {
    let (fleet, mut events) = start([DeviceOptions::stored_in(Storage::memory())]);
    let device = fleet.device(0).expect("one device").clone();
    while events.next().await.is_some() {}
    assert_eq!(device.publish("dev/lamp/state", "{}").await, Err(PublishError::Stopped));
    assert!(fleet.device(1).is_none());
}

#[tokio::test]
async fn a_fleet_stops_as_a_whole_and_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    // Accepts by the backlog and never answers: the devices wait in their handshakes.
    let devices: Vec<_> = (0..20).map(|_| DeviceOptions::enrolling(enrolment_string(port))).collect();
    let options = FleetOptions { threads: Some(3), starting_at_once: 4, ..FleetOptions::default() };
    let (fleet, events) = Fleet::start(devices, options).expect("threads");
    let summary = fleet.stop().await;
    assert_eq!((summary.devices, summary.reached, summary.online), (20, 0, 0));
    assert!(last_event_is_stopped(events).await);
    drop(listener);
}

const CODE: [u8; 16] = *b"one-time secret!";

fn start<const N: usize>(devices: [DeviceOptions; N]) -> (Fleet, Events) {
    Fleet::start(devices.into(), FleetOptions::default()).expect("threads")
}

/// docs/protocol.md, "Enrolment string".
fn enrolment_string(port: u16) -> EnrolmentString {
    let mut bytes = vec![0xca; 32];
    bytes.extend(CODE);
    bytes.extend(port.to_be_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.extend(b"127.0.0.1");
    format!("hk1.{}", Base64UrlUnpadded::encode_string(&bytes)).parse().expect("well-formed")
}

async fn last_event_is_stopped(mut events: Events) -> bool {
    let mut last = None;
    while let Some(event) = events.next().await {
        last = Some(event.kind);
    }
    matches!(last, Some(SimEventKind::Stopped { failure: None }))
}
