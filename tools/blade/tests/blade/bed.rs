//! A wire with a blade at one end and a node at the other.

use std::process::{Command, Output};
use std::time::Duration;

use sandrail_lab::{Blade, BladeOptions, Lab, Side, can_run};
use sandrail_node::links::{AnyLink, LinkChoice, LinkOptions, QueuePlan, by_shard, open_links};
use sandrail_node::{Client, Node, NodeConfig, TargetHandle};
use sandrail_proto::aoe::initiator::PinnedMacs;
use sandrail_wire::{Lba, VlanTag};
use serde_json::Value;

/// The program under test.
pub(crate) const BLADE: &str = env!("CARGO_BIN_EXE_sandrail-blade");
/// No attach or request here takes longer, unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Names, in a message, what cannot be had; then the test does nothing.
pub(crate) fn possible(test: &str) -> bool {
    can_run(test, Lab::namespaces_supported())
}

/// Runs the program here, outside every namespace.
pub(crate) fn blade(args: &[&str]) -> Output {
    Command::new(BLADE)
        .args(args)
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

/// A lab for blades.
pub(crate) fn lab(queues: u32) -> Lab {
    Lab::builder()
        .name_prefix("sandrail-bladetest")
        .mtu(9000)
        .queues(queues)
        .build()
        .unwrap()
}

/// Options for the program under test.
pub(crate) fn options() -> BladeOptions {
    BladeOptions::new(BLADE)
}

/// An initiator in the lab.
pub(crate) struct Station {
    node: Node,
    pub(crate) client: Client,
}

impl Station {
    /// One shard over packet sockets.
    pub(crate) fn new(lab: &Lab) -> Self {
        Self::over(lab, LinkChoice::Packet, 1)
    }

    /// Over this link, each shard with a queue of its own.
    pub(crate) fn over(lab: &Lab, choice: LinkChoice, shards: usize) -> Self {
        Self::on(lab, &[lab.interface(Side::Initiator)], choice, shards, None)
    }

    /// On these interfaces of the initiator's side, frames tagged or not.
    pub(crate) fn on(
        lab: &Lab,
        interfaces: &[&str],
        choice: LinkChoice,
        shards: usize,
        vlan: Option<VlanTag>,
    ) -> Self {
        let open = |interface: &&str| {
            let options = LinkOptions {
                choice,
                queues: QueuePlan::PerShard { first: 0 },
                ..LinkOptions::new(*interface)
            };
            open_links(&options, shards).unwrap().links
        };
        let links: Vec<Vec<AnyLink>> = lab
            .enter(Side::Initiator, || {
                by_shard(interfaces.iter().map(open).collect())
            })
            .unwrap();
        let mut config = NodeConfig {
            run_dir: None,
            vlans: vec![vlan; interfaces.len()],
            ..NodeConfig::default()
        };
        config.memory.buffers = 64;
        let node = Node::start(&config, links).unwrap();
        let mut client = node.client(32).unwrap();
        client.set_request_timeout(PATIENCE);
        Self { node, client }
    }

    /// Attaches a target.
    #[track_caller]
    pub(crate) fn attach(&self, addr: &str) -> TargetHandle {
        let addr = addr.parse().unwrap();
        self.node
            .attach(addr, PinnedMacs::default(), PATIENCE)
            .unwrap_or_else(|error| panic!("attach {addr}: {error}"))
    }

    /// The node.
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// Writes, reads back, and compares.
    #[track_caller]
    pub(crate) fn verify(&mut self, target: TargetHandle, lba: u64, data: &[u8]) {
        self.client.write(target, Lba(lba), data).unwrap();
        assert!(
            self.read(target, lba, data.len()) == data,
            "what was written is not what is read"
        );
    }

    /// Reads.
    #[track_caller]
    pub(crate) fn read(&mut self, target: TargetHandle, lba: u64, len_bytes: usize) -> Vec<u8> {
        let mut data = vec![0; len_bytes];
        self.client.read(target, Lba(lba), &mut data).unwrap();
        data
    }
}

/// A request over a blade's control socket, answered with success.
#[track_caller]
pub(crate) fn ask(blade: &Blade, request: &str) -> Value {
    let answer = blade.control(request).unwrap();
    let answer: Value =
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    assert_eq!(answer["ok"], true, "{request}: {answer}");
    answer
}

/// The status of one target.
#[track_caller]
pub(crate) fn target_status(blade: &Blade, addr: &str) -> Value {
    let status = ask(blade, r#"{"verb":"status"}"#);
    let cores = status["cores"].as_array().unwrap();
    let mut targets = cores
        .iter()
        .flat_map(|core| core["targets"].as_array().unwrap());
    let found = targets.find(|target| target["target"] == addr);
    found
        .unwrap_or_else(|| panic!("no {addr} in {status}"))
        .clone()
}

/// Bytes that differ everywhere, the same for each seed.
pub(crate) fn noise(seed: u64, len_bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len_bytes];
    random.fill(&mut bytes);
    bytes
}
