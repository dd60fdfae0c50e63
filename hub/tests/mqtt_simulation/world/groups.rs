//! What groups were promised, and what a group loses with a member.

use super::*;

impl<F: Ground> World<F> {
    /// What a member of the group of a topic has is to go to another member.
    pub(super) fn let_go(&mut self, client: usize, topic: usize) {
        let of = &self.clients[client];
        // After a restart the hub does not know what it had sent.
        let known_until = if of.connection.is_some() { self.step } else { of.left_at_step.max(self.restarted_at) };
        if of.session.as_ref().is_some_and(|session| session.has_subscribed(TOPICS + topic)) {
            self.groups[topic].let_go(client, known_until);
        }
    }

    /// Those who may get what a group shares.
    pub(super) fn members(&self, topic: usize) -> impl Iterator<Item = &Session> {
        let of_group = move |session: &&Session| session.subscribes(TOPICS + topic);
        self.clients.iter().filter(move |of| of.may_read[topic]).filter_map(|of| of.session.as_ref()).filter(of_group)
    }

    /// When nobody is left who may see what a group shares, it is lost.
    pub(super) fn forgive_groups(&mut self) {
        for topic in 0..TOPICS {
            if self.members(topic).next().is_none() {
                self.groups[topic].owed.clear();
            }
        }
    }

    /// Of what a group is owed: all, if it may be with a session that is not kept; with QoS 2 what may be with a member that
    /// may not see it, since the hub will not know whether it was sent.
    pub(super) fn forgive_what_may_die(&mut self) {
        for topic in 0..TOPICS {
            let has_subscribed = |session: &&Session| session.has_subscribed(TOPICS + topic);
            let sessions = || self.clients.iter().filter(|of| of.session.as_ref().filter(has_subscribed).is_some());
            let is_certain = sessions().all(|of| of.session.as_ref().is_some_and(|session| session.is_kept));
            let may_all_see = sessions().all(|of| of.may_read[topic]);
            self.groups[topic].owed.retain(|_, message| is_certain && (may_all_see || message.qos < 2));
        }
    }

    /// Somebody outside of the model takes part in each group.
    pub(super) async fn join_in_secret(&mut self) {
        let topics: Vec<_> = (0..TOPICS).map(|index| &*topic(index).leak()).collect();
        self.gate.grant("secret", user("secret"), rights(&[], &topics), None);
        let mut secret = self.open(usize::MAX);
        secret.send(&Connect::by_method("secret", "client_credentials", b"secret").packet()).await;
        for index in 0..TOPICS {
            secret.send(&subscribe_packet(TOPICS + index, 1)).await;
        }
        self.secret = Some(secret);
    }
}
