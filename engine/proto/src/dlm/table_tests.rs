//! Slab, queue and index against plain collections.

use std::collections::{HashMap, VecDeque};

use super::*;

#[derive(Debug)]
struct Thing {
    name: ResourceName,
    links: Links,
}

impl Named for Thing {
    fn name(&self) -> &ResourceName {
        &self.name
    }
}

impl Linked<0> for Thing {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
    fn links_of(&self) -> Links {
        self.links
    }
}

fn thing(number: u64) -> Thing {
    let mut name = ResourceName::default();
    name.0[..8].copy_from_slice(&number.to_be_bytes());
    Thing {
        name,
        links: Links::NONE,
    }
}

#[test]
fn an_index_finds_what_is_in_it_and_nothing_else() {
    let mut random = fastrand::Rng::with_seed(5);
    let mut slab = Slab::new(64);
    let mut found = Index::new(64);
    let mut model: HashMap<u64, u32> = HashMap::new();
    for _ in 0..20_000 {
        let number = random.u64(0..100);
        match model.remove(&number) {
            Some(place) => {
                found.remove(&slab, place);
                slab.give_back(place);
            }
            None => match slab.take(|_| thing(number)) {
                Some(place) => {
                    found.insert(&thing(number).name, place);
                    model.insert(number, place);
                }
                None => assert_eq!(model.len(), 64, "full before its time"),
            },
        }
        for number in 0..100 {
            let expected = model.get(&number).copied();
            assert_eq!(found.find(&slab, &thing(number).name), expected);
        }
        assert_eq!(slab.used(), model.len());
    }
}

#[test]
fn a_queue_keeps_its_order() {
    let mut random = fastrand::Rng::with_seed(6);
    let mut slab = Slab::new(32);
    let mut queue = Queue::<0>::EMPTY;
    let mut model = VecDeque::new();
    for _ in 0..10_000 {
        match random.u8(0..4) {
            0 | 1 => {
                if let Some(place) = slab.take(|_| thing(0)) {
                    if random.bool() {
                        queue.push_back(&mut slab, place);
                        model.push_back(place);
                    } else {
                        queue.push_front(&mut slab, place);
                        model.push_front(place);
                    }
                }
            }
            _ => {
                if !model.is_empty() {
                    let place = model.remove(random.usize(0..model.len())).unwrap();
                    queue.remove(&mut slab, place);
                    slab.give_back(place);
                }
            }
        }
        assert!(queue.iter(&slab).eq(model.iter().copied()));
        assert_eq!(queue.head(), model.front().copied());
        assert_eq!(queue.is_empty(), model.is_empty());
    }
}

#[test]
fn a_full_slab_says_so() {
    let mut slab = Slab::new(2);
    assert_eq!(slab.take(|_| 1), Some(0));
    assert_eq!(slab.take(|_| 2), Some(1));
    assert_eq!(slab.take(|_| 3), None);
    slab.give_back(0);
    assert_eq!(slab.take(|old| old.copied().unwrap() + 10), Some(0));
    assert_eq!(slab[0], 11);
}
