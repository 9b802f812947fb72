//! The ledger's part about Sandrail's own command: who has which session, and whom the reservation admits.

use super::{Attaching, Books, Members, Part, Request, SessionBooks, wrong};
use crate::bytes::{self, Fields, Mac, Vendor};
use crate::violation::{Promise, Violation};

impl Books {
    /// Some request for it has a session that was not void when its first copy came, and came in this life.
    pub(super) fn judge_sessions(&self, target: u8, part: Part) -> Result<(), Violation> {
        let requests = &self.asked[&part].requests;
        let valid = |request: &Request| {
            if request.session == 0 {
                return true;
            }
            self.sessions.get(&request.session).is_some_and(|session| {
                session.macs.contains(&request.mac)
                    && session.void.is_none_or(|(_, moment)| {
                        request.first <= moment && request.life == self.life
                    })
            })
        };
        if requests.iter().any(valid) {
            return Ok(());
        }
        Err(wrong(
            Promise::Session,
            format!(
                "target {target}: {part:?} is carried out for void sessions only: {requests:x?} {:x?}",
                self.sessions
            ),
        ))
    }

    pub(super) fn judge_fence(
        &self,
        target: u8,
        part: Part,
        now_ns: u64,
        verb: &str,
    ) -> Result<(), Violation> {
        let Some(asked) = self.asked.get(&part) else {
            return Ok(());
        };
        let admitted = |request: &Request| {
            self.in_force.admits(request.mac)
                || self
                    .asked_for
                    .iter()
                    .any(|members| members.admits(request.mac))
        };
        if asked.requests.iter().any(admitted) {
            return Ok(());
        }
        Err(wrong(
            Promise::Fence,
            format!(
                "target {target}: {part:?} of {:x?} {verb} at {} us, after the answer to the SET of {:x?}",
                asked.requests,
                now_ns / 1000,
                self.in_force
            ),
        ))
    }

    pub(super) fn vendor_delivered(&mut self, moment: u64, fields: &Fields, vendor: Vendor) {
        match vendor.operation {
            bytes::ATTACH => {
                let births = vendor.features & bytes::BIRTHS == bytes::BIRTHS;
                let mut stations = vendor.macs;
                stations.push(fields.src);
                let attaching = Attaching {
                    incarnation: vendor.incarnation,
                    shard: vendor.shard,
                    stations,
                    births,
                    moment,
                };
                self.attaching.insert((fields.src, fields.tag), attaching);
            }
            bytes::RESERVE if vendor.epoch > self.in_force.epoch => {
                let members = Members {
                    epoch: vendor.epoch,
                    macs: vendor.macs,
                };
                if !self.asked_for.contains(&members) {
                    self.set_at.push((members.clone(), moment));
                    self.asked_for.push(members);
                }
            }
            _ => {}
        }
    }

    pub(super) fn vendor_answered(
        &mut self,
        moment: u64,
        now_ns: u64,
        lifetime_ns: u64,
        fields: &Fields,
        vendor: &Vendor,
    ) -> Result<(), Violation> {
        if vendor.epoch < self.in_force.epoch {
            return Err(wrong(
                Promise::Fence,
                format!(
                    "the epoch in force falls from {} to {}: {vendor:x?}",
                    self.in_force.epoch, vendor.epoch
                ),
            ));
        }
        match (vendor.operation, vendor.status) {
            (bytes::ATTACH, 0) => self.attach_answered(moment, now_ns, lifetime_ns, fields, vendor),
            (bytes::RESERVE, 0) => self.reserve_answered(moment, now_ns, vendor),
            (bytes::HELLO | bytes::RESERVE, _)
                if vendor.epoch == self.in_force.epoch
                    && vendor.epoch > 0
                    && sorted(&vendor.macs) != sorted(&self.in_force.macs) =>
            {
                Err(wrong(
                    Promise::Persistence,
                    format!(
                        "epoch {} was acknowledged with {:x?}, and is told with {:x?}",
                        vendor.epoch, self.in_force.macs, vendor.macs
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn reserve_answered(
        &mut self,
        moment: u64,
        now_ns: u64,
        vendor: &Vendor,
    ) -> Result<(), Violation> {
        let members = Members {
            epoch: vendor.epoch,
            macs: vendor.macs.clone(),
        };
        if members.epoch == self.in_force.epoch {
            if sorted(&members.macs) == sorted(&self.in_force.macs) {
                return Ok(());
            }
            return Err(wrong(
                Promise::Fence,
                format!(
                    "one epoch is acknowledged with two lists: {:x?} and {members:x?}",
                    self.in_force
                ),
            ));
        }
        let known = self.asked_for.iter().any(|asked| {
            asked.epoch == members.epoch && sorted(&asked.macs) == sorted(&members.macs)
        });
        if !known {
            return Err(wrong(
                Promise::Fence,
                format!("acknowledged, and asked for by nobody: {members:x?}"),
            ));
        }
        // S10: sessions of those who were removed never become valid again.
        for session in self.sessions.values_mut() {
            if session.macs.iter().any(|mac| !members.admits(*mac)) {
                session.void.get_or_insert((now_ns, moment));
            }
        }
        self.note_fenced(moment, &members);
        self.sets_done += 1;
        self.asked_for.retain(|asked| asked.epoch > members.epoch);
        self.in_force = members;
        let work = self.at_work.iter().find(|part| {
            !self.asked[*part]
                .requests
                .iter()
                .any(|request| self.in_force.admits(request.mac))
        });
        match work {
            Some(part) if self.asked_for.is_empty() => Err(wrong(
                Promise::Fence,
                format!(
                    "S9: the SET of {:x?} is answered while {part:?} is at work",
                    self.in_force
                ),
            )),
            _ => Ok(()),
        }
    }

    /// S10: lives that were let in before this reservation was asked for, and that it removes, are over.
    fn note_fenced(&mut self, moment: u64, members: &Members) {
        let same = |(asked, _): &&(Members, u64)| {
            asked.epoch == members.epoch && sorted(&asked.macs) == sorted(&members.macs)
        };
        let Some(asked_at) = self.set_at.iter().filter(same).map(|(_, at)| *at).min() else {
            return;
        };
        for ((mac, incarnation), at) in &self.let_in {
            if *at < asked_at && !members.admits(*mac) {
                self.fenced.entry((*mac, *incarnation)).or_insert(moment);
            }
        }
    }

    pub(super) fn attach_answered(
        &mut self,
        moment: u64,
        now_ns: u64,
        lifetime_ns: u64,
        fields: &Fields,
        vendor: &Vendor,
    ) -> Result<(), Violation> {
        let mac = fields.dst;
        let Some(attaching) = self.attaching.remove(&(mac, fields.tag)) else {
            // A second instance of the request, made by the network.
            return Ok(());
        };
        let (incarnation, shard) = (attaching.incarnation, attaching.shard);
        let life = (mac, incarnation);
        if let Some(fenced) = self.fenced.get(&life)
            && attaching.births
            && *fenced < attaching.moment
        {
            return Err(wrong(
                Promise::Fence,
                format!("S10: {life:x?}, which was removed from the reservation, is let in again"),
            ));
        }
        self.let_in.insert(life, attaching.moment);
        if vendor.session == 0 {
            return Err(wrong(Promise::Session, "session 0 was handed out".into()));
        }
        let fresh = SessionBooks {
            incarnation,
            shard,
            macs: vec![mac],
            stations: attaching.stations.clone(),
            void: None,
        };
        match self.sessions.get_mut(&vendor.session) {
            Some(known)
                if (known.incarnation, known.shard) == (incarnation, shard)
                    && known.void.is_none() =>
            {
                if !known.macs.contains(&mac) {
                    known.macs.push(mac);
                }
                known.stations.extend(&attaching.stations);
                known.stations.sort_unstable();
                known.stations.dedup();
            }
            Some(known) => {
                let rested = known
                    .void
                    .is_some_and(|(void_ns, _)| void_ns + lifetime_ns <= now_ns);
                if !rested {
                    return Err(wrong(
                        Promise::Session,
                        format!(
                            "session {:04x} of {known:x?} is given to {fresh:x?}",
                            vendor.session
                        ),
                    ));
                }
                *known = fresh;
            }
            None => {
                self.sessions.insert(vendor.session, fresh);
            }
        }
        for (number, session) in &mut self.sessions {
            if *number != vendor.session
                && session.incarnation != incarnation
                && session
                    .stations
                    .iter()
                    .any(|mac| attaching.stations.contains(mac))
            {
                session.void.get_or_insert((now_ns, moment));
            }
        }
        Ok(())
    }

    pub(super) fn plain_reserve_answered(&self, frame: &[u8]) -> Result<(), Violation> {
        let command = frame.get(bytes::ARGS).copied().unwrap_or(0);
        if command == 0 || self.in_force.epoch == 0 {
            return Ok(());
        }
        Err(wrong(
            Promise::Fence,
            format!(
                "a plain SET was taken while epoch {} is in force",
                self.in_force.epoch
            ),
        ))
    }
}

fn sorted(macs: &[Mac]) -> Vec<Mac> {
    let mut sorted = macs.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    sorted
}
