//! Commands at work: kept, then published; answers and deliveries noted. What a command may become is the registry's to say.

use super::{Hub, NotDecided, Refusal};
use crate::{entropy, mqtt::message::Message};
use hearthkey_core::{
    DeviceId, Seconds,
    profile::CommandName,
    registry::{Acknowledgement, Change, CommandRecord, CommandRefused, CommandState, Context, Registry},
    rights::PublishPermit,
    session::Authority,
    topic::TopicName,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::sync::watch;

/// Whose turn it is to send a device a command. Holds an entry for each device that is being sent one, and no other.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<DeviceId, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// What to lock for a device; who comes first has it first.
    fn of(&self, device: &DeviceId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(device).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(device.clone(), Arc::downgrade(&turn));
        turn
    }
}

impl Hub {
    /// Sends a command: kept first, published then, also if nobody waits for the answer any more. A command that is kept is sent,
    /// though it could not be published: it waits for the device as for one that is not there, until that subscribes or comes
    /// back to its session. Commands to one device are published in the order of their sequence numbers: it refuses what comes
    /// below the highest that it has seen.
    ///
    /// Whoever waited for the turn is judged when it comes.
    ///
    /// # Errors
    /// [`CommandRefused`], and of who may not send commands.
    ///
    /// # Panics
    /// Never: ids and command names are legal topic levels.
    pub async fn send_command(
        self: &Arc<Self>,
        authority: &Authority,
        device: &DeviceId,
        name: CommandName,
        args: Option<&str>,
        ttl: Seconds,
        context: &Context,
    ) -> Result<CommandRecord, NotDecided<Refusal<CommandRefused>>> {
        let topic = command_topic(device, &name);
        let randomness = entropy::random();
        let (hub, authority, device, context) = (Arc::clone(self), authority.clone(), device.clone(), context.clone());
        let args = args.map(str::to_owned);
        let sending = tokio::spawn(async move {
            let turn = hub.commanding.of(&device);
            let _turn = turn.lock().await;
            let decision = |registry: &Registry| {
                let permit = registry.permit_user(&authority, hub.now())?;
                let sent = registry.send_command(&permit, &device, name, args.as_deref(), ttl, randomness, &context);
                sent.map_err(Refusal::Policy)
            };
            let command = hub.decide(decision).await?;
            if let Some(outlet) = hub.seen.outlet() {
                let message = Message::at_least_once(command.payload).expiring_at(command.record.expires_at);
                if let Err(why) = outlet.publish(PublishPermit::for_hub(topic), message).await {
                    tracing::warn!(%device, command = %command.record.id, why, "a command waits, as it could not be published");
                }
            }
            Ok(command.record)
        });
        sending.await.unwrap_or_else(|_| Err(NotDecided::Unavailable("the request broke off; look at the hub's log".to_owned())))
    }

    /// The commands that a device has not answered and may still begin, ready to be delivered to a listener: none for one that
    /// does not act for the device.
    #[must_use]
    pub fn commands_waiting(&self, listener: &DeviceId, device: &DeviceId) -> Vec<(TopicName, Message)> {
        let now = self.now();
        let ready = |command: &CommandRecord| {
            let message = Message::at_least_once(command.payload(now)).expiring_at(command.expires_at);
            (command_topic(device, &command.name), message)
        };
        self.view(|registry| {
            let waiting = registry.commands_waiting(device, now).filter(|_| registry.acts_for(listener, device));
            waiting.map(ready).collect()
        })
    }

    /// Tells whenever some command changed.
    #[must_use]
    pub fn command_changes(&self) -> watch::Receiver<u64> {
        self.seen.commands.subscribe()
    }

    /// A command once it has ended, or as it is after `patience`. `None` if there is no such command.
    pub async fn command_after(&self, device: &DeviceId, id: &str, patience: Duration) -> Option<CommandRecord> {
        let mut changes = self.seen.commands.subscribe();
        let look = || self.view(|registry| registry.command(device, id).cloned());
        let ended = async {
            loop {
                changes.borrow_and_update();
                match look() {
                    Some(command) if !command.state.is_final() => {}
                    other => return other,
                }
                if changes.changed().await.is_err() {
                    return look();
                }
            }
        };
        tokio::time::timeout(patience, ended).await.unwrap_or_else(|_| look())
    }

    /// Takes an answer to a command, from its device or who acts for it; one that does not parse or does not fit is dropped. Decides before it waits for
    /// the first time. False if the answer could not be kept; true also when it is a repetition, once what it repeats is kept.
    pub async fn acknowledge_command(&self, speaker: &DeviceId, device: &DeviceId, id: &str, payload: &[u8]) -> bool {
        let Ok(answer) = serde_json::from_slice::<Acknowledgement>(payload) else {
            tracing::debug!(%device, command = id, "an answer to a command is not of the expected shape");
            return true;
        };
        let context = self.context(None, "");
        let decision = |registry: &Registry| Change {
            writes: registry
                .acknowledge_command(speaker, device, id, answer, &context)
                .map_or_else(Vec::new, |change| change.writes),
            answer: (),
        };
        let kept = self.decide_always(decision).await;
        if let Err(why) = &kept {
            tracing::error!(%device, command = id, why, "an answer to a command is not kept");
        }
        kept.is_ok()
    }

    /// Notes that a device has a command, so that no later session gets it again. A listener that does not act for the device
    /// got it for itself alone.
    pub async fn note_delivered_command(&self, listener: &DeviceId, device: &DeviceId, id: &str) {
        let context = self.context(None, "");
        let decision = |registry: &Registry| {
            let noted = registry.acts_for(listener, device).then(|| registry.note_delivered_command(device, id, &context));
            noted.flatten().ok_or(())
        };
        if let Err(NotDecided::Unavailable(why)) = self.decide(decision).await {
            tracing::warn!(%device, command = id, why, "that a command was delivered could not be noted");
        }
    }

    /// Ends a command whose message was refused with a reason code of MQTT: who sent it need not wait until it expires. A listener
    /// that does not act for the device speaks for itself alone.
    pub async fn refuse_command(&self, listener: &DeviceId, device: &DeviceId, payload: &[u8], reason_code: u8) {
        let Some(id) = command_id(payload) else { return };
        let reason = format!("the device refused the message (0x{reason_code:02X})");
        let answer = Acknowledgement { state: CommandState::Rejected, reason };
        let context = self.context(None, "");
        let decision = |registry: &Registry| registry.acknowledge_command(listener, device, &id, answer, &context).ok_or(());
        if let Err(NotDecided::Unavailable(why)) = self.decide(decision).await {
            tracing::warn!(%device, command = id, why, "that a command was refused could not be noted");
        }
    }
}

/// The id in a command's message.
pub(crate) fn command_id(payload: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Command {
        id: String,
    }
    serde_json::from_slice(payload).ok().map(|Command { id }| id)
}

fn command_topic(device: &DeviceId, name: &CommandName) -> TopicName {
    TopicName::parse(&format!("dev/{device}/cmd/{name}")).expect("ids and command names are legal levels")
}
