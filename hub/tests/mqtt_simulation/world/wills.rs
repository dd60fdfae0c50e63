//! When wills fire, and what is retained then.

use super::*;

/// A will that is set.
pub(super) struct Will {
    pub(super) number: usize,
    delay_s: u64,
    /// When it fires, once the connection is gone.
    due: Option<u64>,
}

/// A will whose time has come, and whether its client may still publish it.
pub(super) struct Firing {
    client: usize,
    number: usize,
    may: bool,
}

impl<F: Ground> World<F> {
    /// Sometimes none. Until it fires, its message is nobody's to get.
    pub(super) fn random_will(&mut self, client: usize) -> Option<Will> {
        if self.random.bool() {
            return None;
        }
        let (topic, qos, retain) = (self.random.usize(..TOPICS), self.random.u8(..=self.highest_qos), self.random.bool());
        let number = self.messages.len();
        // A publisher of its own: it keeps no order with what the client publishes.
        let message = Message { publisher: CLIENTS + client, topic, qos, is_denied: true, retain, ..Message::default() };
        self.messages.push(message);
        let delay_s = if self.random.bool() { 0 } else { self.random.u64(10..2 * KEPT_S) };
        Some(Will { number, delay_s, due: None })
    }

    pub(super) fn encoded(&self, will: &Will) -> support::Will {
        let message = self.messages[will.number];
        let mut properties = vec![0x18];
        properties.extend(u32::try_from(will.delay_s).unwrap().to_be_bytes());
        properties.extend(number_property(will.number));
        (topic(message.topic), will.number.to_string().into_bytes(), message.qos, message.retain, properties)
    }

    /// A connection is about to end, not politely: its will, if that is not delayed.
    pub(super) fn connection_ends(&mut self, client: usize) -> Option<Firing> {
        let of = &mut self.clients[client];
        let is_kept = of.session.as_ref().is_some_and(|session| session.is_kept);
        let will = of.will.take();
        if !is_kept {
            // Another member may have it before this client sees its end.
            (0..TOPICS).for_each(|topic| self.let_go(client, topic));
        }
        let mut will = will?;
        let of = &mut self.clients[client];
        if will.delay_s == 0 || !is_kept {
            let may = of.may_publish[self.messages[will.number].topic];
            return Some(Firing { client, number: will.number, may });
        }
        will.due = Some(self.now_s + will.delay_s);
        of.will = Some(will);
        None
    }

    /// The hub is about to start again. Its will is stored: it counts as gone from then on, and has some time to come back.
    pub(super) fn is_left_behind(&mut self, client: usize) {
        let of = &mut self.clients[client];
        let kept_s = of.session.as_ref().map_or(0, |session| if session.is_kept { KEPT_S } else { 0 });
        if let Some(will) = &mut of.will {
            will.due = Some(self.now_s + will.delay_s.min(kept_s).max(GRACE_S));
        }
    }

    /// The moments at which absent clients' wills are due, if their sessions last.
    pub(super) fn dues(&self) -> impl Iterator<Item = u64> {
        self.clients.iter().filter_map(|of| of.will.as_ref()?.due)
    }

    /// The delayed wills whose time has come, or whose session is over: judged by the rights of this moment.
    pub(super) fn due(&mut self, is_over: impl Fn(&Client) -> bool) -> Vec<Firing> {
        let mut due = Vec::new();
        for (client, of) in self.clients.iter_mut().enumerate() {
            let is_over = is_over(of);
            if let Some(will) = of.will.take_if(|will| will.due.is_some_and(|due| is_over || due <= self.now_s)) {
                let may = !of.is_revoked && of.may_publish[self.messages[will.number].topic];
                due.push(Firing { client, number: will.number, may });
            }
        }
        due
    }

    /// All that fire at one time, in whatever order.
    pub(super) fn fire(&mut self, wills: impl IntoIterator<Item = Firing>) {
        let mut fired = Vec::new();
        for Firing { client, number, may } in wills {
            self.note(format!("the will of client {client} fires, message {number}, with a right {may}"));
            fired.extend(may.then_some(number));
        }
        for &number in &fired {
            self.messages[number] = Message { step: self.step, is_denied: false, ..self.messages[number] };
            self.promise(number);
        }
        self.fired += fired.len();
        self.is_retained(&fired);
    }

    /// Of these, the last on each topic, in whatever order, is retained.
    fn is_retained(&mut self, numbers: &[usize]) {
        for topic in 0..TOPICS {
            let on_topic = |number: &&usize| self.messages[**number].topic == topic && self.messages[**number].retain;
            let values: Vec<_> = numbers.iter().filter(on_topic).map(|&number| Some(number)).collect();
            if !values.is_empty() {
                self.retained.becomes(topic, values);
            }
        }
    }

    /// The same of what one client published, in order, and had acknowledged.
    pub(super) fn is_retained_in_order(&mut self, numbers: Range<usize>) {
        for number in numbers {
            let message = self.messages[number];
            if message.retain && !message.is_denied {
                self.retained.becomes(message.topic, [(!message.is_empty).then_some(number)]);
            }
        }
    }

    /// What came of a subscription's wish for the retained message, and that this is all.
    pub(super) fn check_retained(&mut self, client: usize, topic: usize, is_wanted: bool, is_busy: bool) -> Checked {
        let Some(session) = &mut self.clients[client].session else { return Ok(()) };
        session.awaits_retained = None;
        let came = session.came_retained.take();
        self.retained_came += usize::from(came.is_some());
        if !is_wanted {
            return Ok(());
        }
        let (messages, now_s) = (&self.messages, self.now_s);
        self.retained.check(topic, came, |number| messages[number].is_expired(now_s))?;
        if !is_busy {
            self.retained.becomes(topic, [came]);
        }
        Ok(())
    }
}
