//! A subscriber that keeps its session: sees every reading that the hub promised to deliver, across restarts.

use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::ledger::{Delivery, Ledger};
use crate::owner::Owner;

/// How long the hub keeps its session while it is away.
const SESSION_EXPIRY_SECONDS: u32 = 3_600;
/// It must be back before its queue at the hub is full: devices wait longer between their attempts.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// How long it may take until the first subscription is granted.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the ledger is looked at while the last readings are on their way.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A running subscriber; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Witness {
    task: JoinHandle<()>,
    ledger: Ledger,
}

impl Witness {
    /// Subscribes to all telemetry in the owner's name; returns when the hub has granted it.
    pub(super) async fn start(owner: &Owner, host: &str, port: u16, name: &str, ledger: &Ledger) -> Result<Self, String> {
        let mut options = MqttOptions::new(format!("owner/{name}"), host, port);
        options.set_credentials("owner", owner.token()).set_keep_alive(Duration::from_secs(30));
        options.set_clean_start(false).set_session_expiry_interval(Some(SESSION_EXPIRY_SECONDS));
        options.set_connection_timeout(PATIENCE.as_secs());
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(owner.tls())));
        let (client, events) = AsyncClient::new(options, 16);
        let (granted, grant) = oneshot::channel();
        let task = tokio::spawn(watch(client, events, ledger.clone(), granted));
        let witness = Self { task, ledger: ledger.clone() };
        match tokio::time::timeout(PATIENCE, grant).await {
            Ok(Ok(Ok(()))) => Ok(witness),
            Ok(Ok(Err(why))) => Err(why),
            Ok(Err(_)) | Err(_) => Err("the hub did not grant the witness its subscription".to_owned()),
        }
    }

    /// What became of the readings, once all that were acknowledged have arrived, or after `patience`.
    pub(super) async fn delivery(&self, patience: Duration) -> Delivery {
        let arrival = async {
            while self.ledger.delivery().lost > 0 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        // What has not come by then is lost.
        let _ = tokio::time::timeout(patience, arrival).await;
        self.ledger.delivery()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(client: AsyncClient, mut events: EventLoop, ledger: Ledger, granted: oneshot::Sender<Result<(), String>>) {
    let mut granted = Some(granted);
    let mut answer = |result| {
        if let Some(granted) = granted.take() {
            // Nobody waits any more.
            let _ = granted.send(result);
        }
    };
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(connack))) if !connack.session_present => {
                if client.subscribe("dev/+/tele/+", QoS::AtLeastOnce).await.is_err() {
                    return;
                }
            }
            Ok(Event::Incoming(Packet::SubAck(suback))) => answer(match suback.return_codes.first() {
                Some(SubscribeReasonCode::Success(_)) => Ok(()),
                code => Err(format!("the hub refused the witness its subscription: {code:?}")),
            }),
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                let (topic, payload) = (std::str::from_utf8(&publish.topic), std::str::from_utf8(&publish.payload));
                if let (Ok(topic), Ok(payload)) = (topic, payload)
                    && let Some(id) = topic.strip_prefix("dev/").and_then(|rest| rest.split('/').next())
                {
                    ledger.arrived(id, payload);
                }
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(RETRY_AFTER).await,
        }
    }
}
