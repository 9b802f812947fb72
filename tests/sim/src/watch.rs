//! A watch on the wire for S1 and S3, which keeps books of its own from nothing but frames and transmit completions.
//!
//! Two judgements of every WRITE that is sent while another write's copies overlap it:
//!
//! - *by knowledge*: from what the initiator could know. A copy counts as over when an answer with its tag has been
//!   delivered, or when a frame to the same MAC, sent a lifetime or more after the copy's transmit completion was
//!   reported, has been answered (on a target that works in parallel: one more lifetime after that);
//! - *by fact*: the simulator knows where every copy is. None may be in the network, nor in a socket other than the one
//!   that the new WRITE goes to, nor in any socket of a target that works in parallel. This holds across a crash of the
//!   initiator, too.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::bytes::Mac;
use crate::stamp::Stamp;
use crate::violation::{Promise, Violation};

/// A transmitted copy of a WRITE, by its place in the watch's books.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyId(pub u32);

const NEVER: u64 = u64::MAX;

/// Multiplies: tags differ in few bits and nobody attacks a simulator.
#[derive(Default)]
pub struct TagHasher(u64);

impl Hasher for TagHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }
    fn write_u32(&mut self, value: u32) {
        self.0 = (self.0 ^ u64::from(value))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }
}

#[derive(Clone, Copy, Debug)]
struct Copy {
    target: u8,
    mac: Mac,
    queue: u8,
    lba: u64,
    sectors: u64,
    stamp: Stamp,
    tag: u32,
    left_reported_ns: u64,
    dead_at_ns: u64,
    in_network: u8,
    in_sockets: [u8; 2],
}

impl Copy {
    /// Whether it would write other data to some of the same sectors.
    fn contradicts(&self, write: &WriteFrame) -> bool {
        self.stamp != write.stamp
            && self.target == write.target
            && self.lba < write.lba + write.sectors
            && write.lba < self.lba + self.sectors
    }
    fn is_gone(&self) -> bool {
        self.in_network == 0 && self.in_sockets == [0; 2]
    }
}

impl core::fmt::Display for Copy {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self {
            tag,
            stamp,
            lba,
            sectors,
            queue,
            ..
        } = self;
        write!(
            f,
            "the copy with tag {tag:08x} of {stamp} to {lba}+{sectors} for socket {queue}"
        )
    }
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    at_ns: u64,
    left_reported_ns: u64,
    mac: Mac,
}

/// One interface's frames whose transmit completion has not been reported, in order.
#[derive(Debug, Default)]
struct Unreported {
    reported: u64,
    frames: std::collections::VecDeque<(u32, Option<CopyId>)>,
}

#[derive(Debug, Default)]
struct NodeBooks {
    sent: HashMap<u32, Sent, BuildHasherDefault<TagHasher>>,
    unreported: Vec<Unreported>,
    unaccounted: Vec<CopyId>,
}

/// A WRITE about to be sent.
#[derive(Clone, Copy, Debug)]
pub struct WriteFrame {
    /// Index of the target.
    pub target: u8,
    /// The socket that the frame goes to.
    pub queue: u8,
    /// First sector.
    pub lba: u64,
    /// Sectors.
    pub sectors: u64,
    /// The write that its data belongs to.
    pub stamp: Stamp,
}

impl core::fmt::Display for WriteFrame {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "WRITE of {} to {}+{}",
            self.stamp, self.lba, self.sectors
        )
    }
}

/// The watch.
#[derive(Debug)]
pub struct Watch {
    copies: Vec<Copy>,
    /// Copies that are physically somewhere.
    abroad: Vec<CopyId>,
    nodes: Vec<NodeBooks>,
    lifetime_ns: u64,
    parallel: bool,
    /// Whether violations of S3 are reported; off to show that the oracle finds them alone.
    pub judges_overlap: bool,
}

impl Watch {
    /// For so many nodes of so many interfaces each.
    #[must_use]
    pub fn new(nodes: usize, interfaces: usize, lifetime_ns: u64, parallel: bool) -> Self {
        let mut watch = Self {
            copies: Vec::new(),
            abroad: Vec::new(),
            nodes: Vec::new(),
            lifetime_ns,
            parallel,
            judges_overlap: true,
        };
        watch.nodes.resize_with(nodes, NodeBooks::default);
        for node in &mut watch.nodes {
            node.unreported.resize_with(interfaces, Unreported::default);
        }
        watch
    }

    /// A new incarnation of the node: what the old one knew is gone.
    pub fn node_restarted(&mut self, node: usize) {
        let interfaces = self.nodes[node].unreported.len();
        self.nodes[node] = NodeBooks::default();
        self.nodes[node]
            .unreported
            .resize_with(interfaces, Unreported::default);
    }

    /// A frame was polled for `interface`.
    ///
    /// # Errors
    /// [`Violation`] of S1 or S3.
    pub fn sent(
        &mut self,
        now_ns: u64,
        node: usize,
        interface: usize,
        tag: u32,
        mac: Mac,
        write: Option<WriteFrame>,
    ) -> Result<Option<CopyId>, Violation> {
        let lifetime_ns = self.lifetime_ns;
        if let Some(earlier) = self.nodes[node].sent.get(&tag)
            && (earlier.left_reported_ns == NEVER
                || now_ns < earlier.left_reported_ns + lifetime_ns)
        {
            return Err(Violation::new(
                Promise::Tag,
                format!(
                    "tag {tag:08x} was sent at {} us and, within a lifetime, again at {} us",
                    earlier.at_ns / 1000,
                    now_ns / 1000
                ),
            ));
        }
        let copy = match write {
            Some(write) => {
                if self.judges_overlap {
                    self.judge_known(now_ns, node, write)?;
                    self.judge_fact(write)?;
                }
                let id = CopyId(self.copies.len() as u32);
                self.copies.push(Copy {
                    target: write.target,
                    mac,
                    queue: write.queue,
                    lba: write.lba,
                    sectors: write.sectors,
                    stamp: write.stamp,
                    tag,
                    left_reported_ns: NEVER,
                    dead_at_ns: NEVER,
                    in_network: 0,
                    in_sockets: [0; 2],
                });
                self.abroad.push(id);
                self.nodes[node].unaccounted.push(id);
                Some(id)
            }
            None => None,
        };
        let books = &mut self.nodes[node];
        books.sent.insert(
            tag,
            Sent {
                at_ns: now_ns,
                left_reported_ns: NEVER,
                mac,
            },
        );
        books.unreported[interface].frames.push_back((tag, copy));
        Ok(copy)
    }

    /// By knowledge: every copy of another write of these sectors is answered or dead.
    fn judge_known(
        &mut self,
        now_ns: u64,
        node: usize,
        write: WriteFrame,
    ) -> Result<(), Violation> {
        let copies = &self.copies;
        let unaccounted = &mut self.nodes[node].unaccounted;
        unaccounted.retain(|id| copies[id.0 as usize].dead_at_ns > now_ns);
        let open = unaccounted.iter().map(|id| &copies[id.0 as usize]);
        let Some(copy) = open.into_iter().find(|copy| copy.contradicts(&write)) else {
            return Ok(());
        };
        let left = match copy.left_reported_ns {
            NEVER => "not reported to have left".into(),
            left_ns => format!("left at {} us", left_ns / 1000),
        };
        Err(Violation::new(
            Promise::Overlap,
            format!("{write} sent while {copy} is not accounted for ({left})"),
        ))
    }

    /// By fact: no such copy can be carried out after this one.
    fn judge_fact(&mut self, write: WriteFrame) -> Result<(), Violation> {
        let (copies, parallel) = (&self.copies, self.parallel);
        self.abroad.retain(|id| !copies[id.0 as usize].is_gone());
        let queued_beside = |copy: &Copy| {
            let mut sockets = copy.in_sockets.iter().enumerate();
            sockets.any(|(at, count)| *count > 0 && (parallel || at != usize::from(write.queue)))
        };
        let mut abroad = self.abroad.iter().map(|id| &copies[id.0 as usize]);
        let threat = abroad
            .find(|copy| copy.contradicts(&write) && (copy.in_network > 0 || queued_beside(copy)));
        let Some(copy) = threat else { return Ok(()) };
        Err(Violation::new(
            Promise::Overlap,
            format!(
                "{write} sent to socket {} while {copy} is still alive: {} in the network, {:?} in sockets",
                write.queue, copy.in_network, copy.in_sockets
            ),
        ))
    }

    /// The initiator was told that the first `completed` frames of `interface` have left.
    pub fn reported(&mut self, now_ns: u64, node: usize, interface: usize, completed: u64) {
        let books = &mut self.nodes[node];
        let unreported = &mut books.unreported[interface];
        while unreported.reported < completed {
            let Some((tag, copy)) = unreported.frames.pop_front() else {
                break;
            };
            unreported.reported += 1;
            if let Some(sent) = books.sent.get_mut(&tag) {
                sent.left_reported_ns = now_ns;
            }
            if let Some(copy) = copy {
                self.copies[copy.0 as usize].left_reported_ns = now_ns;
            }
        }
    }

    /// An answer was handed to the initiator.
    pub fn answered(&mut self, now_ns: u64, node: usize, tag: u32, mac: Mac) {
        let books = &mut self.nodes[node];
        let Some(sent) = books
            .sent
            .get(&tag)
            .filter(|sent| sent.mac == mac || sent.mac == [0xff; 6])
        else {
            return;
        };
        let (lifetime_ns, parallel, copies) = (self.lifetime_ns, self.parallel, &mut self.copies);
        books.unaccounted.retain(|id| {
            let copy = &mut copies[id.0 as usize];
            if copy.mac != mac {
                return true;
            }
            if copy.tag == tag {
                return false;
            }
            let outlived = copy.left_reported_ns.saturating_add(lifetime_ns) <= sent.at_ns;
            if outlived && parallel {
                copy.dead_at_ns = copy.dead_at_ns.min(now_ns + lifetime_ns);
            }
            !outlived || parallel
        });
    }

    /// So many instances of the copy are on their way in the network now.
    pub fn launched(&mut self, copy: CopyId, instances: u8) {
        self.copies[copy.0 as usize].in_network += instances;
    }

    /// One was lost, or ended at a station that is not its target.
    pub fn lost(&mut self, copy: CopyId) {
        self.copies[copy.0 as usize].in_network -= 1;
    }

    /// One arrived in the target's socket.
    pub fn queued(&mut self, copy: CopyId, queue: u8) {
        let copy = &mut self.copies[copy.0 as usize];
        copy.in_network -= 1;
        copy.in_sockets[usize::from(queue)] += 1;
    }

    /// One was executed, or lost with the socket.
    pub fn over(&mut self, copy: CopyId, queue: u8) {
        self.copies[copy.0 as usize].in_sockets[usize::from(queue)] -= 1;
    }

    /// Copies of WRITEs sent in all.
    #[must_use]
    pub fn copies_sent(&self) -> usize {
        self.copies.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Mac = [2, 0, 0, 0, 0, 0x10];
    const LIFETIME_NS: u64 = 1000;

    fn write(lba: u64, stamp: u32) -> Option<WriteFrame> {
        Some(WriteFrame {
            target: 0,
            queue: 0,
            lba,
            sectors: 4,
            stamp: Stamp(stamp),
        })
    }

    fn watch() -> Watch {
        Watch::new(1, 1, LIFETIME_NS, false)
    }

    fn promise<T: std::fmt::Debug>(result: Result<T, Violation>) -> Promise {
        result.expect_err("the watch must object").promise
    }

    #[test]
    fn an_unanswered_overlapping_copy_is_a_violation_and_an_answered_one_is_not() {
        let mut watch = watch();
        watch.sent(0, 0, 0, 1, TARGET, write(0, 1)).unwrap();
        assert_eq!(
            promise(watch.sent(5, 0, 0, 2, TARGET, write(2, 2))),
            Promise::Overlap
        );
        // The same write's next copy and a write beside it are none.
        watch.sent(6, 0, 0, 3, TARGET, write(0, 1)).unwrap();
        watch.sent(7, 0, 0, 4, TARGET, write(4, 3)).unwrap();
        watch.answered(8, 0, 1, TARGET);
        assert_eq!(
            promise(watch.sent(9, 0, 0, 5, TARGET, write(2, 2))),
            Promise::Overlap
        );
        watch.answered(10, 0, 3, TARGET);
        watch.answered(10, 0, 4, TARGET);
        watch.sent(11, 0, 0, 6, TARGET, write(2, 2)).unwrap();
    }

    #[test]
    fn only_a_probe_sent_a_lifetime_after_the_report_proves_a_copy_dead() {
        let mut watch = watch();
        watch.sent(0, 0, 0, 1, TARGET, write(0, 1)).unwrap();
        watch.reported(100, 0, 0, 1);
        watch.sent(1099, 0, 0, 2, TARGET, None).unwrap();
        watch.answered(1200, 0, 2, TARGET);
        assert_eq!(
            promise(watch.sent(1300, 0, 0, 3, TARGET, write(0, 2))),
            Promise::Overlap
        );
        watch.sent(1100, 0, 0, 4, TARGET, None).unwrap();
        watch.answered(1400, 0, 4, [9; 6]);
        assert_eq!(
            promise(watch.sent(1401, 0, 0, 3, TARGET, write(0, 2))),
            Promise::Overlap
        );
        watch.answered(1402, 0, 4, TARGET);
        watch.sent(1403, 0, 0, 3, TARGET, write(0, 2)).unwrap();
    }

    #[test]
    fn a_copy_in_the_network_is_a_threat_though_the_books_say_otherwise() {
        let mut watch = watch();
        let copy = watch
            .sent(0, 0, 0, 1, TARGET, write(0, 1))
            .unwrap()
            .unwrap();
        watch.launched(copy, 2);
        watch.queued(copy, 0);
        watch.answered(10, 0, 1, TARGET);
        assert_eq!(
            promise(watch.sent(11, 0, 0, 2, TARGET, write(0, 2))),
            Promise::Overlap
        );
        watch.node_restarted(0);
        assert_eq!(
            promise(watch.sent(11, 0, 0, 2, TARGET, write(0, 2))),
            Promise::Overlap
        );
        watch.lost(copy);
        // What waits in the same serial socket is executed before: no threat.
        watch.sent(12, 0, 0, 2, TARGET, write(0, 2)).unwrap();
    }

    #[test]
    fn a_tag_is_not_used_again_within_a_lifetime() {
        let mut watch = watch();
        watch.sent(0, 0, 0, 1, TARGET, None).unwrap();
        assert_eq!(
            promise(watch.sent(5000, 0, 0, 1, TARGET, None)),
            Promise::Tag
        );
        watch.reported(5000, 0, 0, 1);
        assert_eq!(
            promise(watch.sent(5999, 0, 0, 1, TARGET, None)),
            Promise::Tag
        );
        watch.sent(6000, 0, 0, 1, TARGET, None).unwrap();
    }
}
