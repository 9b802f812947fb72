//! Turns of nodes, and the ways of their messages.

use super::{Event, Message, TURN_MOST, World};
use crate::dlm::call::Life;
use crate::dlm::station::Station;
use crate::dlm::violation::{Promise, Violation};

impl<S: Station> World<S> {
    pub(super) fn turn(&mut self, node: u8) {
        let index = usize::from(node);
        let now = self.instant();
        let mut steps = 0;
        loop {
            let Some(station) = &mut self.nodes[index].station else {
                return;
            };
            if let Some((to, message)) = station.poll_message(now) {
                self.send(node, to, message);
                self.count_doom(node);
            } else if let Some(told) = station.poll_told() {
                self.tell(node, &told);
            } else {
                break;
            }
            steps += 1;
            if steps > TURN_MOST {
                let text = format!("n{node} sends and tells without end");
                return self.accuse(Violation::new(Promise::Livelock, text));
            }
            if self.violation.is_some() {
                return;
            }
        }
        let wake = self.nodes[index]
            .station
            .as_ref()
            .and_then(Station::poll_timeout);
        if let Some(wake) = wake {
            let at_ns = wake.as_nanos().max(self.now_ns);
            if self.nodes[index].wake_ns != at_ns {
                self.nodes[index].wake_ns = at_ns;
                self.at(at_ns, Event::Wake { node });
            }
        } else {
            self.nodes[index].wake_ns = u64::MAX;
        }
    }

    pub(super) fn count_doom(&mut self, node: u8) {
        let Some((messages, down_ns, true)) = &mut self.nodes[usize::from(node)].doomed else {
            return;
        };
        if *messages > 0 {
            *messages -= 1;
            return;
        }
        let down_ns = *down_ns;
        self.nodes[usize::from(node)].doomed = None;
        if self.well() > 1 && !self.healed {
            self.counts.crashes_in_recovery += 1;
            self.crash(node);
            self.at(self.now_ns.saturating_add(down_ns), Event::Boot { node });
        }
    }

    pub(super) fn send(&mut self, from: u8, to: u8, content: S::Message) {
        self.counts.messages += 1;
        let (from, to) = (self.who(from), self.who(to));
        if self.trace.is_some() {
            let text = format!("{from} -> {to}: {content:?}");
            self.note(|| text);
        }
        if S::LOSSY {
            return self.send_lossy(from, to, &content);
        }
        let mut at_ns = self.now_ns + self.spec.rates.delay_ns;
        if self.spec.rates.jitter_ns > 0 {
            at_ns += self.rng.u64(..self.spec.rates.jitter_ns);
        }
        if self.rng.u16(..) < self.spec.rates.straggle {
            at_ns += self.rng.u64(..=self.spec.rates.straggle_ns);
        }
        if self.is_cut(from.node, to.node) {
            at_ns = at_ns.max(
                self.partition_until_ns
                    .saturating_add(self.spec.rates.delay_ns),
            );
        }
        let channel = self.channels.entry((from, to)).or_default();
        at_ns = at_ns.max(channel.last_ns);
        channel.last_ns = at_ns;
        self.deliver_at(at_ns, from, to, content);
    }

    pub(super) fn is_cut(&self, from: u8, to: u8) -> bool {
        self.now_ns < self.partition_until_ns && (self.side >> from ^ self.side >> to) & 1 == 1
    }

    pub(super) fn send_lossy(&mut self, from: Life, to: Life, content: &S::Message) {
        let rates = self.spec.rates;
        if self.is_cut(from.node, to.node) || self.rng.u16(..) < rates.loss && !self.healed {
            self.counts.lost += 1;
            return;
        }
        let copies = 1 + u32::from(self.rng.u16(..) < rates.duplicate);
        for _ in 0..copies {
            let mut at_ns = self.now_ns + rates.delay_ns;
            if rates.jitter_ns > 0 {
                at_ns += self.rng.u64(..rates.jitter_ns);
            }
            if self.rng.u16(..) < rates.straggle {
                at_ns += self.rng.u64(..=rates.straggle_ns);
            }
            self.deliver_at(at_ns, from, to, content.clone());
        }
    }

    pub(super) fn deliver_at(&mut self, at_ns: u64, from: Life, to: Life, content: S::Message) {
        let epoch = self.nodes[usize::from(from.node)].epoch;
        let message = Some(Message {
            from,
            to,
            epoch,
            content,
        });
        let index = if let Some(index) = self.free.pop() {
            self.messages[index as usize] = message;
            index
        } else {
            self.messages.push(message);
            self.messages.len() as u32 - 1
        };
        self.at(at_ns, Event::Arrive { message: index });
    }

    pub(super) fn arrive(&mut self, index: u32) {
        let Some(message) = self.messages[index as usize].take() else {
            return;
        };
        self.free.push(index);
        let (from, to) = (message.from, message.to);
        if S::LOSSY {
            // A frame reaches whatever process the node runs.
            if self.nodes[usize::from(to.node)].station.is_some() {
                self.hand_over(message);
            } else {
                self.counts.lost += 1;
            }
            return;
        }
        let late = |cut_ns: &u64| self.now_ns > *cut_ns;
        if self.cut_ns.get(&from).is_some_and(late) || !self.is_current(to) {
            self.counts.lost += 1;
            return;
        }
        let channel = self.channels.entry((from, to)).or_default();
        channel.arrived.push_back(message);
        self.pump(from, to);
    }

    /// Messages pass while both ends are in the same epoch, as the transport has it: what is refused for its epoch is
    /// sent again, if its sender lives.
    pub(super) fn pump(&mut self, from: Life, to: Life) {
        loop {
            let sender_epoch = if self.is_current(from) {
                Some(self.nodes[usize::from(from.node)].epoch)
            } else {
                None
            };
            let receiver = &self.nodes[usize::from(to.node)];
            if self.now_ns < receiver.paused_until_ns {
                return;
            }
            let receiver_epoch = receiver.epoch;
            let is_server = |life: Life| S::CENTRAL && life.node == self.spec.nodes;
            let knows = is_server(from) || self.epochs[receiver_epoch as usize].0.contains(&from);
            let Some(channel) = self.channels.get_mut(&(from, to)) else {
                return;
            };
            let Some(message) = channel.arrived.front() else {
                return;
            };
            let epoch = sender_epoch.unwrap_or(message.epoch);
            let central = is_server(from) || is_server(to);
            let passes = central || (epoch == receiver_epoch && knows);
            if !passes && sender_epoch.is_some() {
                return;
            }
            let Some(message) = channel.arrived.pop_front() else {
                return;
            };
            if passes {
                self.hand_over(message);
            } else {
                self.counts.lost += 1;
            }
        }
    }

    /// The epoch of `node` has changed.
    pub(super) fn pump_all(&mut self, node: u8) {
        let pairs: Vec<(Life, Life)> = self
            .channels
            .iter()
            .filter(|((from, to), channel)| {
                (from.node == node || to.node == node) && !channel.arrived.is_empty()
            })
            .map(|(pair, _)| *pair)
            .collect();
        for (from, to) in pairs {
            if self.is_current(to) {
                self.pump(from, to);
            } else {
                self.channels.remove(&(from, to));
            }
        }
    }

    pub(super) fn hand_over(&mut self, message: Message<S::Message>) {
        let Message {
            from, to, content, ..
        } = message;
        let is_server = S::CENTRAL && from.node == self.spec.nodes;
        self.counts.late += u64::from(!is_server && !self.is_member(from));
        let now = self.instant();
        if self.trace.is_some() {
            let text = format!("{to} gets from {from}: {content:?}");
            self.note(|| text);
        }
        if let Some(station) = &mut self.nodes[usize::from(to.node)].station {
            station.handle_message(now, from, &content);
        }
        self.turn(to.node);
        self.count_doom(to.node);
    }
}
