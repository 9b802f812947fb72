//! Lives that were only paused. A scripted station that is shut out may put its process to sleep and begin another, with the same
//! MAC and nothing that the first knew. Later the first wakes and asks to be let in again: where it was fenced (S10), that must
//! come to nothing, whatever restarted meanwhile. The ledger judges the answer.

use crate::host::Ask;
use crate::puppet::Purpose;
use crate::world::World;

/// How often it asks.
const TRIES: u8 = 6;

/// A life that sleeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sleeper {
    pub(crate) incarnation: u64,
    pub(crate) birth: u32,
    pub(crate) wakes_at_ns: u64,
    tries: u8,
}

impl World {
    /// A station was told that it is shut out: perhaps its process sleeps from now on, and another takes its place.
    pub(crate) fn puppet_may_sleep(&mut self, index: usize) {
        let (now_ns, lifetime_ns) = (self.now_ns, self.lifetime_ns);
        let puppet = &mut self.puppets[index];
        let sleeps = puppet.writer().is_some_and(|writer| writer.sleeps);
        let can = sleeps && puppet.birth != 0 && puppet.asleep.is_none() && !puppet.stopped;
        if !can || puppet.rng.bool() {
            return;
        }
        puppet.asleep = Some(Sleeper {
            incarnation: puppet.incarnation,
            birth: puppet.birth,
            wakes_at_ns: now_ns + puppet.rng.u64(..3 * lifetime_ns + 100_000_000),
            tries: 0,
        });
        let incarnation = puppet.rng.u64(1..);
        puppet.live_anew(incarnation);
        let ended: Vec<_> = puppet
            .open
            .extract_if(.., |open| matches!(open.purpose, Purpose::Ata { .. }))
            .collect();
        let region = puppet.writer().map_or((0, 0), |writer| writer.region);
        self.note(|| format!("puppet {index} sleeps, life {incarnation:x} begins"));
        for open in ended {
            if let Purpose::Ata {
                ask: Ask::Write { .. },
                stamp: Some(stamp),
                ..
            } = open.purpose
            {
                self.oracle.write_over(stamp, false);
            }
        }
        // A new process does not know what the old one had not flushed.
        self.oracle.release(0, region.0, region.1);
    }

    /// The sleeper asks when it wakes.
    pub(crate) fn puppet_may_wake(&mut self, index: usize) {
        let now_ns = self.now_ns;
        let puppet = &mut self.puppets[index];
        let Some(sleeper) = &mut puppet.asleep else {
            return;
        };
        if sleeper.wakes_at_ns > now_ns {
            return;
        }
        sleeper.tries += 1;
        sleeper.wakes_at_ns = now_ns + 8 * puppet.spec.rto_ns;
        if sleeper.tries > TRIES {
            puppet.asleep = None;
            puppet
                .open
                .retain(|open| open.purpose != Purpose::AttachAsleep);
        } else if !puppet.has(|purpose| *purpose == Purpose::AttachAsleep) {
            puppet.begin(Purpose::AttachAsleep, now_ns);
        }
    }

    /// It was answered: let in or not, it has nothing more to say. Whoever is not listed asks again.
    pub(crate) fn puppet_asleep_answered(&mut self, index: usize, status: u8) {
        self.note(|| format!("puppet {index}: the life that slept is answered {status}"));
        if status != 4 {
            self.puppets[index].asleep = None;
        }
    }
}
