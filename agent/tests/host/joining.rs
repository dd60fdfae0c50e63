//! Joining without an enrolment string, and servers that only pretend to be the hub. Time is virtual.

use crate::support::TestPlatform;
use crate::support::hub::{Hub, http_response};
use crate::support::pki::HomeCa;
use hearthkey_agent::{Enrolled, HubLocation, Identity, JoinCode, JoinError, Joining, Software, Workspace, join};
use std::cell::RefCell;
use tokio::io::AsyncWriteExt;

const WAIT: &str = r#"{"device_code":"d","user_code":"BCDF-GHJK","expires_in":600,"interval":5}"#;
const PENDING: &str = r#"{"error":"authorization_pending","error_description":"wait for the owner"}"#;
const GRANTED: &str = r#"{"access_token":"t","client_id":"lamp","issuer":"https://hub:8443","mqtts_port":8883}"#;

/// Lets a device join at a server that gives these answers, one after another: what came of it, what the device showed, and what
/// it was asked to confirm.
struct Story {
    joined: Result<Enrolled, JoinError>,
    shown: Vec<JoinCode>,
    confirmed: Option<JoinCode>,
    stored: Option<Identity>,
}

async fn story(answers: &[(&str, &str)], confirms: bool) -> Story {
    let (mut platform, calls) = TestPlatform::new(40);
    let mut server = Hub::new(calls, &HomeCa::new("somebody's"));
    let location = HubLocation { host: "hub".try_into().unwrap(), https_port: 8443 };
    let (shown, confirmed) = (RefCell::new(vec![]), RefCell::new(None));
    let progress = |joining| match joining {
        Joining::Compare { code, .. } => shown.borrow_mut().push(code),
        Joining::Interrupted => panic!("the server answered"),
    };
    let confirm = async |code| {
        *confirmed.borrow_mut() = Some(code);
        confirms
    };
    let answering = async {
        for (status, body) in answers {
            let (_, _, mut stream) = server.https().await.expect("a request");
            stream.write_all(http_response(status, body).as_bytes()).await.expect("the device reads");
        }
        std::future::pending::<()>().await;
    };
    let mut workspace = Box::new(Workspace::new());
    let software = Software { id: "lamp", version: "1" };
    let joined = tokio::select! {
        joined = join(&mut platform, &location, software, &mut workspace, progress, confirm) => joined,
        () = answering => unreachable!("it waits for ever"),
    };
    let stored = Identity::load(&mut platform).expect("readable");
    Story { joined, shown: shown.into_inner(), confirmed: confirmed.into_inner(), stored }
}

#[tokio::test(start_paused = true)]
async fn a_device_joins_once_its_code_was_shown_and_its_application_confirms_the_owners_word() {
    let Story { joined, shown, confirmed, stored } =
        story(&[("200 OK", WAIT), ("400 Bad Request", PENDING), ("400 Bad Request", PENDING), ("200 OK", GRANTED)], true).await;
    assert_eq!(joined.expect("joined").identity.client_id(), "lamp");
    assert_eq!((shown.len(), confirmed), (1, shown.first().copied()), "the code that was shown");
    assert_eq!(stored.expect("stored").client_id(), "lamp");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lets_a_device_in_before_its_code_was_shown_is_not_the_hub() {
    let Story { joined, shown, confirmed, stored } = story(&[("200 OK", WAIT), ("200 OK", GRANTED)], true).await;
    assert_eq!(joined.map(|enrolled| enrolled.identity.client_id().to_owned()), Err(JoinError::NotCompared));
    assert_eq!((shown, confirmed), (vec![], None), "nobody was asked");
    assert!(stored.is_none(), "nothing of that server is kept");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stands_in_for_the_hub_does_not_get_a_device_whose_button_nobody_presses() {
    let answers = [("200 OK", WAIT), ("400 Bad Request", PENDING), ("200 OK", GRANTED)];
    let Story { joined, confirmed, stored, .. } = story(&answers, false).await;
    assert_eq!(joined.map(|enrolled| enrolled.identity.client_id().to_owned()), Err(JoinError::NotConfirmed));
    assert!(confirmed.is_some());
    assert!(stored.is_none(), "nothing of that server is kept");
}
