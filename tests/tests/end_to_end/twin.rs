//! A twin: the real thermostat becomes what its owner desires, at once or when it comes back.

use hearthkey_tests::agent::Agent;
use hearthkey_tests::hub::Hub;
use hearthkey_tests::patience::until;
use serde_json::{Value, json};

async fn settled(hub: &Hub) -> Value {
    until("what is desired is obeyed", async || {
        let twin = hub.told(&["twin", "show", "lamp"]).await;
        (twin["desired"].is_object() && twin["settled"] == true).then_some(twin)
    })
    .await
}

#[tokio::test]
async fn a_thermostat_becomes_what_is_desired_also_after_it_was_away_and_the_hub_restarted() {
    let mut hub = Hub::start().await;
    let lamp = hub.agent("lamp", "thermostat").await;
    let twin = hub.told(&["twin", "set", "lamp", "setpoint=23.5", "mode=off"]).await;
    assert_eq!((&twin["desired"]["v"], &twin["desired"]["body"]), (&json!(1), &json!({"setpoint": 23.5, "mode": "off"})));
    let twin = settled(&hub).await;
    assert_eq!((&twin["reported"]["v"], &twin["reported"]["body"]), (&json!(1), &json!({"setpoint": 23.5, "mode": "off"})));

    lamp.leave().await;
    hub.told(&["twin", "set", "lamp", "mode=heat"]).await;
    hub.restart().await;
    let twin = hub.told(&["twin", "show", "lamp"]).await;
    assert_eq!((&twin["desired"]["v"], &twin["settled"]), (&json!(2), &json!(false)));
    let mut lamp =
        Agent::stored(hub.storage_of("lamp-again"), Some(&hub.enrolment_string(&hub.told(&["device", "rotate", "lamp"]).await)));
    lamp.connected().await;
    let twin = settled(&hub).await;
    assert_eq!(twin["reported"]["body"]["mode"], "heat");
    let ran = hub.ran(&["twin", "set", "lamp", "mode=off", "--if-version", "1"]).await;
    assert_eq!(ran.exit, 1, "somebody was faster: {ran:?}");
    let refused = hub.ran(&["twin", "set", "lamp", "mode"]).await;
    assert_eq!(refused.exit, 2, "{refused:?}");
    hub.finish().await;
}
