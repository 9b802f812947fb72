//! What clients do, and what they are told.

use super::{Event, World};
use crate::dlm::call::{Call, Life, Told, Txn};
use crate::dlm::client::{Client, Wish};
use crate::dlm::station::{Refused, Station};
use crate::dlm::violation::{Promise, Violation};

impl<S: Station> World<S> {
    pub(super) fn plan_client(&mut self, who: Life, client: u16, after_ns: u64) {
        let serial = self.nodes[usize::from(who.node)].clients[usize::from(client)].next_serial();
        let event = Event::Client {
            who,
            client,
            serial,
        };
        self.at(self.now_ns.saturating_add(after_ns), event);
    }

    pub(super) fn next_txn(&mut self) -> Txn {
        self.transactions += 1;
        Txn(self.transactions)
    }

    pub(super) fn wake_client(&mut self, who: Life, client: u16, serial: u32) {
        let node = usize::from(who.node);
        let is_awaited = self.is_current(who)
            && self.nodes[node].clients[usize::from(client)].is_awaited(serial);
        // Who has no lease does nothing.
        if !is_awaited || self.nodes[node].stopped {
            return;
        }
        let txn = self.next_txn();
        let wish = self.nodes[node].clients[usize::from(client)].woken(&self.spec.load, txn);
        self.grant_wish(who, client, wish);
        self.turn(who.node);
    }

    pub(super) fn grant_wish(&mut self, who: Life, client: u16, wish: Wish) {
        let node = usize::from(who.node);
        if let Some(after_ns) = wish.wake_ns {
            self.plan_client(who, client, after_ns);
        }
        for call in wish.calls {
            self.make_call(who, client, &call);
            if self.nodes[node].station.is_none() {
                return;
            }
        }
    }

    pub(super) fn make_call(&mut self, who: Life, client: u16, call: &Call) {
        let now = self.instant();
        let node = usize::from(who.node);
        self.note(|| format!("{who} calls {call:?}"));
        let Some(station) = &mut self.nodes[node].station else {
            return;
        };
        // What a call takes away is gone before the node knows, what it asks for begins when it was accepted.
        match station.call(now, call) {
            Ok(()) => self.judge.called(self.now_ns, who, call),
            Err(Refused::Full) => {
                let wish = self.nodes[node].clients[usize::from(client)]
                    .refused(&self.spec.load, call.lock());
                self.grant_wish(who, client, wish);
            }
            Err(Refused::Wrong(text)) => {
                let text = format!("{who} refuses {call:?}: {text}");
                self.accuse(Violation::new(Promise::Completion, text));
            }
        }
    }

    pub(super) fn tell(&mut self, node: u8, told: &Told) {
        let who = self.who(node);
        self.note(|| format!("{who} tells {told:?}"));
        let index = usize::from(node);
        if self.nodes[index].stopped {
            return;
        }
        let result = self.judge.told(self.now_ns, who, told);
        self.check(result);
        let client = Client::of(told.lock());
        let Some(state) = self.nodes[index].clients.get_mut(usize::from(client)) else {
            let text = format!("{who} tells {told:?}, and there is no such client");
            return self.accuse(Violation::new(Promise::Completion, text));
        };
        let wish = state.told(&self.spec.load, told);
        self.grant_wish(who, client, wish);
    }
}
