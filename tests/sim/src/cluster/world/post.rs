//! What is under way: copies of requests, where they arrive, and what comes back.

use super::life::macs;
use super::*;

impl World {
    pub(super) fn chance(&mut self, thousandths: u32) -> bool {
        !self.is_healed && self.random.u32(0..1000) < thousandths
    }

    /// How long a frame takes.
    pub(super) fn delay(&mut self) -> u64 {
        let late = self.scenario.late;
        if self.chance(late) {
            let most = if self.scenario.flaw == Flaw::LongLives {
                LIFETIME_NS * 10
            } else {
                LIFETIME_NS - MS
            };
            return self.random.u64(MS..most);
        }
        self.random.u64(MS / 50..MS / 5)
    }

    /// When the copies of a request arrive, at least one that may be lost; and when the last of them is dead.
    fn copies(&mut self) -> (Vec<u64>, u64) {
        let (late, loss) = (self.scenario.late, self.scenario.loss);
        let count = if self.chance(late + loss) {
            self.random.usize(2..=3)
        } else {
            1
        };
        let (mut arrivals, mut dead_ns) = (Vec::new(), self.now_ns + MS);
        for _ in 0..count {
            let delay_ns = self.delay();
            if self.chance(loss) {
                dead_ns = dead_ns.max(self.now_ns + LIFETIME_NS);
            } else {
                dead_ns = dead_ns.max(self.now_ns + delay_ns);
                arrivals.push(self.now_ns + delay_ns);
            }
        }
        (arrivals, dead_ns)
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        let is_it = |(until_ns, senders, receivers): &(u64, u32, u32)| {
            *until_ns > self.now_ns && senders >> from & 1 == 1 && receivers >> to & 1 == 1
        };
        self.cuts.iter().any(is_it)
    }

    pub(super) fn send(&mut self, node: usize, what: Sent) {
        match what {
            Sent::Beat(bytes) => {
                for to in (0..self.nodes.len()).filter(|to| *to != node) {
                    let loss = self.scenario.loss;
                    if self.is_cut(node, to) || self.chance(loss) {
                        continue;
                    }
                    let at_ns = self.now_ns + self.delay();
                    self.plan(
                        at_ns,
                        Happening::Beat {
                            from: node,
                            to,
                            bytes: bytes.clone(),
                        },
                    );
                }
            }
            Sent::Area { id, area, request } => self.send_to_area(node, id, area, request),
            Sent::Target { id, target, ask } => self.send_to_target(node, id, target, ask),
        }
    }

    fn send_to_area(&mut self, node: usize, id: RequestId, area: usize, request: AreaRequest) {
        let life = self.nodes[node].life;
        let failures = self.scenario.failures;
        if self.chance(failures) {
            let at_ns = self.now_ns + MS;
            self.plan(
                at_ns,
                Happening::AreaAnswers {
                    node,
                    life,
                    id,
                    answer: AreaReply::Failed,
                },
            );
            return;
        }
        let (arrivals, dead_ns) = self.copies();
        if let AreaRequest::Write { sector, .. } = &request {
            let closed = self.nodes[node]
                .closed
                .get(&(area, *sector))
                .copied()
                .unwrap_or(0);
            if closed > self.now_ns {
                let answer = AreaReply::Closed;
                self.plan(
                    self.now_ns,
                    Happening::AreaAnswers {
                        node,
                        life,
                        id,
                        answer,
                    },
                );
                return;
            }
            self.nodes[node].closed.insert((area, *sector), dead_ns);
        }
        if is_listed(&self.area_cuts, self.now_ns, node, area, false) {
            return;
        }
        for at_ns in arrivals {
            let request = request.clone();
            self.plan(
                at_ns,
                Happening::AreaArrives {
                    node,
                    life,
                    id,
                    request,
                },
            );
        }
    }

    pub(super) fn area_arrives(
        &mut self,
        node: usize,
        life: u64,
        id: RequestId,
        request: AreaRequest,
    ) {
        let now_ns = self.now_ns;
        let (area, answer) = match request {
            AreaRequest::Write {
                area,
                sector,
                bytes,
            } => {
                if self.areas[area].down_until_ns > now_ns {
                    return;
                }
                self.areas[area].write(sector, &bytes);
                (area, AreaReply::Written)
            }
            AreaRequest::Read { area, first, count } => {
                if self.areas[area].down_until_ns > now_ns {
                    return;
                }
                let is_stale = self.scenario.flaw == Flaw::StaleAreas;
                let bytes = if is_stale {
                    self.areas[area].read_stale(now_ns, STALE_NS, first, count)
                } else {
                    self.areas[area].read(first, count)
                };
                (area, AreaReply::Read(bytes))
            }
        };
        let loss = self.scenario.loss;
        if is_listed(&self.area_cuts, now_ns, node, area, true) || self.chance(loss) {
            return;
        }
        let at_ns = now_ns + self.delay();
        self.plan(
            at_ns,
            Happening::AreaAnswers {
                node,
                life,
                id,
                answer,
            },
        );
    }

    pub(super) fn area_answers(
        &mut self,
        node: usize,
        life: u64,
        id: RequestId,
        answer: AreaReply,
    ) {
        if self.nodes[node].life != life {
            return;
        }
        let until_ns = self.nodes[node].paused_until_ns;
        if until_ns > self.now_ns {
            self.plan(
                until_ns,
                Happening::AreaAnswers {
                    node,
                    life,
                    id,
                    answer,
                },
            );
            return;
        }
        self.with_machine(node, |machine, now| {
            let answer = match &answer {
                AreaReply::Written => AreaAnswer::Written,
                AreaReply::Read(bytes) => AreaAnswer::Read(bytes),
                AreaReply::Closed => AreaAnswer::Closed,
                AreaReply::Failed => AreaAnswer::Failed,
            };
            machine.handle_area(now, id, answer);
        });
    }

    fn send_to_target(&mut self, node: usize, id: Option<RequestId>, target: usize, ask: Ask) {
        let life = self.nodes[node].life;
        let (arrivals, dead_ns) = self.copies();
        let number = id.map_or_else(
            || {
                self.nodes[node].next_write += 1;
                self.nodes[node].next_write
            },
            |id| id.0,
        );
        if let Some(id) = id {
            let at_ns = dead_ns.max(self.now_ns + LIFETIME_NS);
            self.plan(
                at_ns,
                Happening::TargetAnswers {
                    node,
                    life,
                    id,
                    answer: None,
                },
            );
        }
        if is_listed(&self.target_cuts, self.now_ns, node, target, false) {
            return;
        }
        let queued = Queued {
            node,
            request: (life, number),
            ask,
        };
        for at_ns in arrivals {
            self.plan(at_ns, Happening::TargetArrives { target, queued });
        }
    }

    pub(super) fn target_arrives(&mut self, at: usize, queued: Queued) {
        if self.targets[at].down_until_ns > self.now_ns {
            return;
        }
        if self.targets[at].stalled_until_ns > self.now_ns || !self.targets[at].queue.is_empty() {
            self.targets[at].queue.push_back(queued);
            return;
        }
        self.carry_out(at, queued);
    }

    pub(super) fn target_resumes(&mut self, at: usize) {
        if self.targets[at].stalled_until_ns > self.now_ns {
            return;
        }
        while let Some(queued) = self.targets[at].queue.pop_front() {
            self.carry_out(at, queued);
        }
    }

    fn carry_out(&mut self, at: usize, queued: Queued) {
        let Queued {
            node,
            request: (life, number),
            ask,
        } = queued;
        let is_forged = self.scenario.flaw == Flaw::FenceUnset;
        let before = self.targets[at].list;
        let target = &mut self.targets[at];
        let mut reply = target.carry_out(node, ask);
        if let (Ask::Reserve { epoch, list }, Reply::List(_)) = (ask, reply) {
            // Only a list of the newest coordinator's ends the time in which everybody is let in.
            if epoch >= self.judge.confirmed(at) {
                self.targets[at].is_open = false;
            }
            if is_forged {
                self.targets[at].list = before | list;
            }
            if before != list {
                self.note(|| {
                    format!(
                        "target {at}: list {before:b} -> {list:b} by node {}.{life}",
                        node + 1
                    )
                });
            }
        }
        if is_forged
            && ask == Ask::List
            && let Some(view) = self.nodes[node].machine.as_ref().map(Cluster::view)
        {
            let members = view.members.as_slice();
            reply = Reply::List(
                members
                    .iter()
                    .fold(0, |set, life| set | 1 << (life.node.0 - 1)),
            );
        }
        if let Ask::Write { life } = ask {
            let (kind, is_open) = (self.targets[at].kind, self.targets[at].is_open);
            self.judge
                .written(life, at, kind, reply == Reply::Accepted, is_open);
            return;
        }
        let loss = self.scenario.loss;
        if is_listed(&self.target_cuts, self.now_ns, node, at, true) || self.chance(loss) {
            return;
        }
        let at_ns = self.now_ns + self.delay();
        let (id, answer) = (RequestId(number), Some(reply));
        self.plan(
            at_ns,
            Happening::TargetAnswers {
                node,
                life,
                id,
                answer,
            },
        );
    }

    pub(super) fn target_answers(
        &mut self,
        node: usize,
        life: u64,
        id: RequestId,
        answer: Option<Reply>,
    ) {
        if self.nodes[node].life != life {
            return;
        }
        let until_ns = self.nodes[node].paused_until_ns;
        if until_ns > self.now_ns {
            self.plan(
                until_ns,
                Happening::TargetAnswers {
                    node,
                    life,
                    id,
                    answer,
                },
            );
            return;
        }
        let open = &mut self.nodes[node].open_requests;
        let Some(at) = open.iter().position(|open| *open == id) else {
            return;
        };
        open.swap_remove(at);
        self.with_machine(node, |machine, now| {
            let list;
            let answer = match answer {
                Some(Reply::List(set)) => {
                    list = macs(set);
                    TargetAnswer::List(&list)
                }
                Some(Reply::Answered) => TargetAnswer::Answered,
                Some(Reply::Reserved) => TargetAnswer::Reserved,
                Some(Reply::StaleEpoch(epoch)) => TargetAnswer::StaleEpoch(Epoch(epoch)),
                Some(Reply::Accepted) | None => TargetAnswer::Failed,
            };
            machine.handle_target(now, id, answer);
        });
    }
}

fn is_listed(
    cuts: &[(u64, usize, usize, bool)],
    now_ns: u64,
    node: usize,
    place: usize,
    answers: bool,
) -> bool {
    let is_it = |cut: &(u64, usize, usize, bool)| {
        cut.0 > now_ns && (cut.1, cut.2, cut.3) == (node, place, answers)
    };
    cuts.iter().any(is_it)
}
