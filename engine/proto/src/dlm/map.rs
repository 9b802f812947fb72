//! Which node is the master of which slot: rendezvous hashing, so that a death moves only the dead node's slots, and a join
//! only those which the joiner takes.

use sandrail_wire::lock::{NodeId, ResourceName};

use super::table::{hash, mix};

/// Slots of a lockspace's resources.
pub const SLOTS: usize = 4096;

/// The slot of a resource. All nodes must agree on it.
#[must_use]
pub fn slot_of(resource: &ResourceName) -> usize {
    usize::try_from(hash(resource) >> 52).unwrap_or(0)
}

/// The master of a slot among the members, given as a set of bits; none if there are none.
#[must_use]
pub fn master_of(slot: usize, members: u64) -> Option<NodeId> {
    let slot = u64::try_from(slot).unwrap_or(u64::MAX);
    let mut best: Option<(u64, NodeId)> = None;
    for node in nodes(members) {
        let weight = mix(slot << 16 | u64::from(node.0) | 1 << 48);
        if best.is_none_or(|(most, _)| weight > most) {
            best = Some((weight, node));
        }
    }
    best.map(|(_, node)| node)
}

/// The bit that stands for a node.
pub(super) const fn bit(node: NodeId) -> u64 {
    1 << (node.0 & 63)
}

/// The nodes of a set.
pub(super) fn nodes(set: u64) -> impl Iterator<Item = NodeId> {
    (0..64u16)
        .filter(move |node| set >> node & 1 == 1)
        .map(NodeId)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masters(members: u64) -> Vec<NodeId> {
        (0..SLOTS)
            .map(|slot| master_of(slot, members).unwrap())
            .collect()
    }

    #[test]
    fn each_node_has_its_share() {
        for count in 2..17u32 {
            let map = masters((1 << count) - 1);
            let fair = SLOTS / usize::try_from(count).unwrap();
            for node in (0..16).take(usize::try_from(count).unwrap()).map(NodeId) {
                let share = map.iter().filter(|master| **master == node).count();
                assert!(
                    share > fair * 3 / 4 && share < fair * 5 / 4,
                    "{count} nodes, {node}: {share}"
                );
            }
        }
    }

    #[test]
    fn a_death_moves_the_dead_nodes_slots_only_and_a_join_gives_them_back() {
        let (before, after) = (masters(0b1_1111), masters(0b1_1011));
        for (slot, (before, after)) in before.iter().zip(&after).enumerate() {
            if *before == NodeId(2) {
                assert_ne!(*after, NodeId(2));
            } else {
                assert_eq!(before, after, "slot {slot}");
            }
        }
    }

    #[test]
    fn no_members_no_master() {
        assert_eq!(master_of(7, 0), None);
    }

    #[test]
    fn names_that_differ_little_lie_in_many_slots() {
        let mut met = vec![false; SLOTS];
        for number in 0..40_000u64 {
            let mut name = ResourceName::default();
            name.0[8..].copy_from_slice(&number.to_be_bytes());
            met[slot_of(&name)] = true;
        }
        let met = met.iter().filter(|met| **met).count();
        assert!(met > SLOTS * 99 / 100, "{met}");
    }
}
