//! How clients come, also in place of a connection that is open, and go.

use super::*;
use tokio::task::AbortHandle;

impl<F: Ground> World<F> {
    /// Also while it is connected: the new connection takes the place of the one it has.
    pub(super) async fn connect(&mut self, client: usize, keep: bool) -> Checked {
        let of = &mut self.clients[client];
        if of.is_revoked {
            return Ok(());
        }
        let takes_over = self.clients[client].connection.is_some();
        if takes_over {
            self.settle().await?;
        }
        let number = self.connections;
        self.connections += 1;
        let successor = self.open(number);
        let of = &mut self.clients[client];
        of.successor = Some(successor);
        of.answer = None;
        self.grant(client);
        let is_stranger = takes_over && self.sabotage == Sabotage::StrangersTakeover;
        let client_identifier = format!("{}{}", name(client), if is_stranger { "-" } else { "" });
        let mut connect = Connect::by_method(&client_identifier, "client_credentials", name(client).as_bytes());
        connect.clean_start = !keep;
        if keep {
            connect.properties.push(0x11);
            connect.properties.extend(u32::try_from(KEPT_S).unwrap().to_be_bytes());
        }
        let will = self.random_will(client);
        connect.will = will.as_ref().map(|will| self.encoded(will));
        let may_will = will.as_ref().is_none_or(|will| self.clients[client].may_publish[self.messages[will.number].topic]);
        let resumes = keep && self.clients[client].session.as_ref().is_some_and(|session| session.is_kept);
        // Sometimes messages are on their way meanwhile, perhaps its own.
        let (publisher, mut sent) = (self.random.usize(..CLIENTS), 0..0);
        if takes_over && resumes && may_will {
            sent = self.send_publishes(publisher, 0).await;
        }
        if may_will {
            let mut firing: Vec<_> = takes_over.then(|| self.connection_ends(client)).flatten().into_iter().collect();
            if !resumes && self.end_session(client).is_some_and(|session| session.is_kept) {
                // What waits for the end of the session comes. What ended with the hub is forgiven.
                firing.extend(self.due(|of| of.successor.as_ref().is_some_and(|connection| connection.number == number)));
            }
            self.fire(firing);
        }
        if let Some(successor) = &mut self.clients[client].successor {
            successor.send(&connect.packet()).await;
        }
        self.wait("CONNACK", |world| world.clients[client].answer.is_some()).await?;
        let is_accepted = self.clients[client].answer.as_ref().is_some_and(|connack| connack.body[1] == 0);
        if is_accepted {
            self.wait("the end of a connection that was taken over", |world| world.clients[client].connection.is_none()).await?;
            self.taken_over += usize::from(takes_over);
            self.clients[client].connection = self.clients[client].successor.take();
        }
        let connack = self.clients[client].answer.take().unwrap();
        if connack.body[1] == 0x87 && !may_will {
            self.note(format!("client {client} may not have this will"));
            self.clients[client].successor = None;
            return self.settle().await;
        }
        if connack.body[1] != 0 || !may_will {
            return Err(format!("client {client} was answered, may have its will {may_will}: {connack:?}"));
        }
        // Maximum QoS: absent if it is 2.
        self.highest_qos = if connack.body.windows(2).any(|two| two == [0x24, 1]) { 1 } else { 2 };
        let of = &mut self.clients[client];
        let present = connack.body[0] == 1;
        if present != resumes {
            return Err(format!("client {client}: session present {present}, should be {resumes}"));
        }
        // Whatever was delayed is no more, since the client is back.
        of.will = will;
        let may_publish = of.may_publish;
        if present {
            for (_, entry) in of.memory.unacknowledged.clone() {
                let message = &mut self.messages[entry.message];
                message.was_resent = true;
                message.is_denied &= !may_publish[message.topic];
                if message.retain && !message.is_denied {
                    self.retained.may_become(entry.message, *message);
                }
                let bytes = if entry.is_released {
                    packet(0x62, &entry.identifier.to_be_bytes())
                } else {
                    self.publish_packet(entry.message, entry.identifier, true)
                };
                self.send(client, &bytes).await;
            }
        } else {
            of.memory = Memory { next: of.memory.next, ..Memory::default() };
            of.session = Some(Session::new(keep));
        }
        let how = format!("keep {keep}, session present {present}, in place of another {takes_over}");
        self.note(format!("client {client} connects, connection {number}, {how}"));
        match publisher == client {
            true => self.settle().await,
            false => self.acknowledgements(publisher, sent).await,
        }
    }

    /// Both ends of a connection.
    pub(super) fn open(&self, number: usize) -> Connection {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let front = self.front.clone();
        let peer = ([127, 0, 0, 1], 1).into();
        let served = tokio::spawn(async move { front.serve_connection(theirs, peer).await });
        Connection::new(number, ours, served)
    }

    pub(super) async fn leave(&mut self, client: usize, politely: bool) -> Checked {
        if !politely {
            let firing = self.connection_ends(client);
            self.fire(firing);
        } else if self.sabotage != Sabotage::WordlessLeave {
            self.send(client, &[0xE0, 0]).await;
        }
        // A normal disconnect removes the will; a delayed one stays.
        self.clients[client].will.take_if(|_| politely);
        self.note(format!("client {client} leaves, politely {politely}"));
        let served = self.clients[client].connection.take().map(|connection| connection.served());
        self.lost(client);
        // Time does not pass before the front knows.
        self.wait("the end of a connection that was left", |_| served.as_ref().is_none_or(AbortHandle::is_finished)).await?;
        self.settle().await
    }

    /// The connection is gone, whoever ended it.
    pub(super) fn lost(&mut self, client: usize) {
        let of = &mut self.clients[client];
        of.connection = None;
        of.pings = 0;
        (of.left_at, of.left_at_step) = (self.now_s, self.step);
        if of.session.as_ref().is_some_and(|session| !session.is_kept) {
            self.end_session(client);
        }
    }

    pub(super) fn end_session(&mut self, client: usize) -> Option<Session> {
        (0..TOPICS).for_each(|topic| self.let_go(client, topic));
        self.clients[client].session.take()
    }
}
