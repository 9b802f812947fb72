//! The classic BPF program that the kernel runs for each received frame before it copies it.
//!
//! By then the kernel has taken the outermost VLAN tag out, unless the frame had two: the inner one is still there.

use libc::sock_filter;

/// The ethertype of AoE.
pub(super) const ETHERTYPE_AOE: u16 = 0x88a2;
/// The ethertype of lock frames: IEEE's first for local experiments.
pub(super) const ETHERTYPE_LOCKS: u16 = 0x88b5;
/// Every ethertype, in the words of `linux/if_ether.h`.
pub(super) const ETHERTYPE_ALL: u16 = 0x0003;
/// The ethertype of an 802.1Q tag.
pub(super) const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

/// The response flag in an AoE header's first byte.
const FLAG_RESPONSE: u32 = 0x08;
/// From the start of an AoE header to its tag.
const TAG_OFFSET: u32 = 6;

const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE_AT_X: u16 = 0x50;
const LOAD_WORD_AT_X: u16 = 0x40;
const SET_X: u16 = 0x01;
const AND: u16 = 0x54;
const SHIFT_RIGHT: u16 = 0x74;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Where a jump goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Next,
    Aoe,
    Locks,
    Vlan(u32),
    Accept,
    Reject,
}

/// An instruction whose jumps still name their targets.
#[derive(Clone, Copy)]
struct Step {
    code: u16,
    k: u32,
    yes: Target,
    no: Target,
}

fn plain(code: u16, k: u32) -> Step {
    Step {
        code,
        k,
        yes: Target::Next,
        no: Target::Next,
    }
}

fn jump_equal(k: u32, yes: Target, no: Target) -> Step {
    Step {
        code: JUMP_EQUAL,
        k,
        yes,
        no,
    }
}

/// Steps and the labels between them.
#[derive(Default)]
struct Assembly {
    steps: Vec<Step>,
    labels: Vec<(Target, usize)>,
}

impl Assembly {
    fn label(&mut self, target: Target) {
        self.labels.push((target, self.steps.len()));
    }

    /// Turns named targets into distances. All jumps go forward, and the program is far shorter than a distance can be.
    fn link(&self) -> Vec<sock_filter> {
        let distance = |from: usize, to: Target| -> u8 {
            let label = self.labels.iter().find(|(target, _)| *target == to);
            let at = label.map_or(from + 1, |(_, at)| *at);
            u8::try_from(at - from - 1).expect("the program has fewer than 256 instructions")
        };
        let resolve = |(index, step): (usize, &Step)| {
            let (jt, jf) = (distance(index, step.yes), distance(index, step.no));
            match step.code {
                JUMP_EQUAL => sock_filter {
                    code: step.code,
                    jt,
                    jf,
                    k: step.k,
                },
                JUMP => sock_filter {
                    code: step.code,
                    jt: 0,
                    jf: 0,
                    k: u32::from(jt),
                },
                _ => sock_filter {
                    code: step.code,
                    jt: 0,
                    jf: 0,
                    k: step.k,
                },
            }
        };
        self.steps.iter().enumerate().map(resolve).collect()
    }
}

/// The program that accepts AoE, and lock frames if they are wanted, behind up to two VLAN tags, as far as the shard is
/// concerned with them. A frame too short for what is looked at is rejected, as classic BPF has it.
pub(super) fn program(lock_frames: bool, shard: Option<u8>) -> Vec<sock_filter> {
    let mut asm = Assembly::default();
    // Of two tags the kernel has taken out the outer one.
    let tags_max = 1;
    for tags in 0..=tags_max {
        let header_bytes = 14 + 4 * tags;
        asm.label(Target::Vlan(tags));
        asm.steps.push(plain(SET_X, header_bytes));
        asm.steps.push(plain(LOAD_HALF, header_bytes - 2));
        asm.steps.push(jump_equal(
            u32::from(ETHERTYPE_AOE),
            Target::Aoe,
            Target::Next,
        ));
        if lock_frames {
            asm.steps.push(jump_equal(
                u32::from(ETHERTYPE_LOCKS),
                Target::Locks,
                Target::Next,
            ));
        }
        if tags < tags_max {
            let inner = Target::Vlan(tags + 1);
            asm.steps
                .push(jump_equal(u32::from(ETHERTYPE_VLAN), inner, Target::Next));
            asm.steps
                .push(jump_equal(u32::from(ETHERTYPE_QINQ), inner, Target::Reject));
        } else {
            asm.steps.push(Step {
                code: JUMP,
                k: 0,
                yes: Target::Reject,
                no: Target::Next,
            });
        }
    }
    let others = match shard {
        None | Some(0) => Target::Accept,
        Some(_) => Target::Reject,
    };
    asm.label(Target::Aoe);
    if let Some(shard) = shard {
        asm.steps.push(plain(LOAD_BYTE_AT_X, 0));
        asm.steps.push(plain(AND, FLAG_RESPONSE));
        asm.steps.push(jump_equal(0, others, Target::Next));
        asm.steps.push(plain(LOAD_WORD_AT_X, TAG_OFFSET));
        asm.steps.push(plain(SHIFT_RIGHT, 28));
        asm.steps
            .push(jump_equal(u32::from(shard), Target::Accept, Target::Reject));
    } else {
        asm.steps.push(Step {
            code: JUMP,
            k: 0,
            yes: Target::Accept,
            no: Target::Next,
        });
    }
    asm.label(Target::Locks);
    asm.steps.push(Step {
        code: JUMP,
        k: 0,
        yes: others,
        no: Target::Next,
    });
    asm.label(Target::Accept);
    asm.steps.push(plain(RETURN, u32::MAX));
    asm.label(Target::Reject);
    asm.steps.push(plain(RETURN, 0));
    asm.link()
}
