//! The lab itself: how it is built, and what can be done in it.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::backing::BackingFile;
use crate::blade::{Blade, BladeOptions};
use crate::error::{LabError, Unsupported};
use crate::guardian::{self, Guardian};
use crate::names::LabId;
use crate::ping::{PingStats, RunningPing};
use crate::vblade::{Vblade, VbladeOptions};
use crate::{namespace, process};

/// The largest MTU that veth takes (`ETH_MAX_MTU` less its headers, veth.c).
const MTU_MAX: u32 = 65_535;
/// The least MTU that IPv4 works over (RFC 791), and so the least that a ping needs.
const MTU_MIN: u32 = 68;
/// More queues than this serve no test.
const QUEUES_MAX: u32 = 64;

/// One end of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Where the engine runs; its interface is `san0`.
    Initiator,
    /// Where third-party targets run; its interface is `san1`.
    Target,
}

/// What to set a link to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Administratively up.
    Up,
    /// Administratively down: the other end loses its carrier.
    Down,
}

/// An Ethernet address, as this crate hands it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Settings of a lab to be; see [`Lab::builder`].
#[derive(Debug, Clone)]
pub struct LabBuilder {
    name_prefix: String,
    mtu_bytes: u32,
    queues: u32,
    vlans: Vec<u16>,
    addresses: bool,
}

impl LabBuilder {
    /// What the names of the namespaces start with (`sandrail` by default). Leftovers are swept by prefix.
    #[must_use]
    pub fn name_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.name_prefix = prefix.into();
        self
    }

    /// MTU of both ends, in bytes (1500 by default).
    #[must_use]
    pub fn mtu(mut self, mtu_bytes: u32) -> Self {
        self.mtu_bytes = mtu_bytes;
        self
    }

    /// Receive and transmit queues of both ends (1 by default).
    #[must_use]
    pub fn queues(mut self, queues: u32) -> Self {
        self.queues = queues;
        self
    }

    /// Adds a VLAN device on both ends. Called twice, the first is the outer tag (802.1ad) and the second the inner
    /// (802.1Q). Targets listen on the tagged device; `san0` itself carries the tagged frames.
    #[must_use]
    pub fn vlan(mut self, id: u16) -> Self {
        self.vlans.push(id);
        self
    }

    /// Whether `san0` and `san1` get IPv4 addresses, so that pings pass (true by default).
    #[must_use]
    pub fn addresses(mut self, addresses: bool) -> Self {
        self.addresses = addresses;
        self
    }

    /// Makes the lab, after sweeping what dead processes left of the same prefix.
    ///
    /// # Errors
    /// The machine cannot have one ([`Lab::supported`] says why), or a setting makes no sense. Nothing is left behind.
    pub fn build(self) -> Result<Lab, LabError> {
        self.check()?;
        namespaces_possible()?;
        guardian::sweep(&self.name_prefix)?;
        let id = LabId::new(&self.name_prefix)?;
        let guardian = Guardian::start(&id)?;
        let lab = Lab {
            guardian,
            names: [id.initiator_namespace(), id.target_namespace()],
            id,
            settings: self,
        };
        lab.make()?;
        Ok(lab)
    }

    fn check(&self) -> Result<(), LabError> {
        let refuse = |setting, problem| Err(LabError::Setting { setting, problem });
        if !(MTU_MIN..=MTU_MAX).contains(&self.mtu_bytes) {
            return refuse(
                "mtu",
                format!("{} is not within {MTU_MIN}..={MTU_MAX}", self.mtu_bytes),
            );
        }
        if !(1..=QUEUES_MAX).contains(&self.queues) {
            return refuse(
                "queues",
                format!("{} is not within 1..={QUEUES_MAX}", self.queues),
            );
        }
        if self.vlans.len() > 2 || self.vlans.iter().any(|id| !(1..=4094).contains(id)) {
            return refuse(
                "vlan",
                format!("{:?}: at most two, each within 1..=4094", self.vlans),
            );
        }
        crate::names::check_prefix(&self.name_prefix)
    }
}

/// Two namespaces joined by a wire. Everything goes when it is dropped, or when the process dies; see the crate's page.
#[derive(Debug)]
pub struct Lab {
    id: LabId,
    /// The namespaces' names, by side.
    names: [String; 2],
    settings: LabBuilder,
    guardian: Guardian,
}

impl Lab {
    /// A lab with one queue, an MTU of 1500, no VLAN, and addresses for pings, until told otherwise.
    #[must_use]
    pub fn builder() -> LabBuilder {
        LabBuilder {
            name_prefix: "sandrail".to_owned(),
            mtu_bytes: 1500,
            queues: 1,
            vlans: Vec::new(),
            addresses: true,
        }
    }

    /// Whether this machine can have a lab with a target in it; tried out, not guessed.
    ///
    /// # Errors
    /// What is in the way, and what would mend it.
    pub fn supported() -> Result<(), Unsupported> {
        process::find("vblade", "vblade")?;
        process::find("ping", "iputils-ping")?;
        Self::namespaces_supported()
    }

    /// Whether this machine can have a lab at all, with or without targets; tried out, not guessed.
    ///
    /// # Errors
    /// What is in the way, and what would mend it.
    pub fn namespaces_supported() -> Result<(), Unsupported> {
        namespaces_possible()?;
        // One trial serves the process: what a machine forbids does not change while a test runs.
        static TRIAL: OnceLock<Result<(), Unsupported>> = OnceLock::new();
        TRIAL
            .get_or_init(|| try_namespace_with("add type veth", forbidden))
            .clone()
    }

    /// Whether the kernel has VLAN devices, which [`LabBuilder::vlan`] needs; tried out, not guessed.
    ///
    /// # Errors
    /// What is in the way, and what would mend it.
    pub fn vlans_supported() -> Result<(), Unsupported> {
        Self::namespaces_supported()?;
        static TRIAL: OnceLock<Result<(), Unsupported>> = OnceLock::new();
        TRIAL
            .get_or_init(|| try_namespace_with("add link lo type vlan id 1", no_vlan))
            .clone()
    }

    /// Removes what labs of this prefix left behind whose process, and guardian, were killed. Labs of live processes are
    /// not touched. Returns how many were removed.
    ///
    /// # Errors
    /// The prefix is not a plain word, or something could not be removed.
    pub fn sweep(name_prefix: &str) -> Result<usize, LabError> {
        guardian::sweep(name_prefix)
    }

    /// Removes the lab as dropping it does, and tells whether that worked.
    ///
    /// # Errors
    /// Something could not be removed.
    pub fn close(self) -> Result<(), LabError> {
        self.guardian.finish()
    }

    /// The namespace's name, for `ip -n`.
    #[must_use]
    pub fn namespace(&self, side: Side) -> &str {
        match side {
            Side::Initiator => &self.names[0],
            Side::Target => &self.names[1],
        }
    }

    /// The interface on that side, untagged: `san0` or `san1`.
    #[must_use]
    pub fn interface(&self, side: Side) -> &'static str {
        match side {
            Side::Initiator => "san0",
            Side::Target => "san1",
        }
    }

    /// The VLAN device on that side, innermost tag; [`Lab::interface`] if the lab has no VLAN.
    #[must_use]
    pub fn tagged_interface(&self, side: Side) -> String {
        let ids = self.settings.vlans.iter();
        ids.fold(self.interface(side).to_owned(), |name, id| {
            format!("{name}.{id}")
        })
    }

    /// The VLAN identifiers, outermost first.
    #[must_use]
    pub fn vlans(&self) -> &[u16] {
        &self.settings.vlans
    }

    /// Queues of each end.
    #[must_use]
    pub fn queues(&self) -> u32 {
        self.settings.queues
    }

    /// The interface's address: locally administered, `02:5a`, then process and lab, ending in `0a` (initiator) or
    /// `0b` (target).
    #[must_use]
    pub fn mac(&self, side: Side) -> MacAddress {
        let [_, _, pid_high, pid_low] = self.id.pid.to_be_bytes();
        let [_, _, _, count] = self.id.count.to_be_bytes();
        let end = match side {
            Side::Initiator => 0x0a,
            Side::Target => 0x0b,
        };
        MacAddress([0x02, 0x5a, pid_high, pid_low, count, end])
    }

    /// The IPv4 address on that side, alone in its namespace; it exists unless the builder was told otherwise.
    #[must_use]
    pub fn address(&self, side: Side) -> Ipv4Addr {
        match side {
            Side::Initiator => Ipv4Addr::new(10, 83, 0, 1),
            Side::Target => Ipv4Addr::new(10, 83, 0, 2),
        }
    }

    /// A command that will run on that side. Add arguments and spawn it as any other; the process id is the program's own,
    /// since `ip netns exec` becomes the program. It is killed when the lab goes.
    #[must_use]
    pub fn command(&self, side: Side, program: impl AsRef<std::ffi::OsStr>) -> Command {
        // The builder has found `ip`; a machine that has lost it since reports that when the command is spawned.
        let mut command = process::ip().unwrap_or_else(|_| Command::new("ip"));
        command
            .args(["netns", "exec", self.namespace(side)])
            .arg(program);
        command
    }

    /// Runs `work` on a new thread inside that side's namespace, and returns what it returned. Sockets and threads made
    /// there belong to the namespace, also after `work` has ended; `/sys` is the namespace's as well. A panic in `work`
    /// goes on in the caller.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn enter<T: Send>(
        &self,
        side: Side,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, LabError> {
        namespace::enter(self.namespace(side), work)
    }

    /// Sends `count` pings from the initiator's side to the target's, 10 ms apart, and waits for the result.
    ///
    /// # Errors
    /// `ping` is missing or could not run. Loss is not an error.
    pub fn ping(&self, count: u32) -> Result<PingStats, LabError> {
        self.start_ping(count, Duration::from_millis(10))?.wait()
    }

    /// Starts `count` pings, `interval` apart, in the background.
    ///
    /// # Errors
    /// `ping` is missing or could not be started.
    pub fn start_ping(&self, count: u32, interval: Duration) -> Result<RunningPing, LabError> {
        let ping = process::find("ping", "iputils-ping")?;
        let mut command = self.command(Side::Initiator, ping);
        command.args([
            "-n",
            "-q",
            "-W",
            "1",
            "-c",
            &count.to_string(),
            "-i",
            &interval.as_secs_f64().to_string(),
        ]);
        command
            .arg(self.address(Side::Target).to_string())
            .env("LC_ALL", "C");
        let line = process::command_line(&command);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(LabError::io(format!("start `{line}`")))?;
        Ok(RunningPing {
            child,
            command: line,
        })
    }

    /// Sets the interface up or down.
    ///
    /// # Errors
    /// `ip` refused.
    pub fn set_link(&self, side: Side, state: LinkState) -> Result<(), LabError> {
        let word = match state {
            LinkState::Up => "up",
            LinkState::Down => "down",
        };
        self.ip(side, &format!("link set {} {word}", self.interface(side)))
    }

    /// Sets one end's MTU, in bytes. Frames that are longer than the receiving end's MTU vanish on the way (veth counts
    /// them as dropped), which makes a jumbo black hole of a wire whose sender still believes in 9000.
    ///
    /// # Errors
    /// `ip` refused, for one because an XDP program without fragments is attached.
    pub fn set_mtu(&self, side: Side, mtu_bytes: u32) -> Result<(), LabError> {
        self.ip(
            side,
            &format!("link set {} mtu {mtu_bytes}", self.interface(side)),
        )
    }

    /// A sparse file for a target, in memory (`/dev/shm`) where the machine has that. It goes with the lab at the latest.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn backing_file(&self, len_bytes: u64) -> Result<BackingFile, LabError> {
        BackingFile::create(&self.folder()?, len_bytes)
    }

    /// Starts a `vblade` on the target's side and waits until it listens.
    ///
    /// # Errors
    /// It is not installed, it ended at once (with what it printed), or it did not listen in time.
    pub fn vblade(&self, options: VbladeOptions) -> Result<Vblade, LabError> {
        Vblade::start(
            self.namespace(Side::Target),
            &self.tagged_interface(Side::Target),
            options,
        )
    }

    /// Starts a `sandrail-blade` on the target's side and waits until it says that it is ready.
    ///
    /// # Errors
    /// It is not built, it ended at once (with what it printed), or it was not ready in time.
    pub fn blade(&self, options: BladeOptions) -> Result<Blade, LabError> {
        Blade::start(
            self.namespace(Side::Target),
            &self.tagged_interface(Side::Target),
            &self.folder()?,
            options,
        )
    }

    /// A folder of the lab's own, in memory where the machine has that. It goes with the lab.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn folder(&self) -> Result<PathBuf, LabError> {
        let directory = guardian::directory(&self.id);
        std::fs::create_dir_all(&directory)
            .map_err(LabError::io(format!("create {}", directory.display())))?;
        Ok(directory)
    }

    /// Runs `ip` on that side.
    fn ip(&self, side: Side, line: &str) -> Result<(), LabError> {
        process::run_ip(&format!("-n {} {line}", self.namespace(side))).map(drop)
    }

    /// Makes namespaces, wire and addresses. The guardian takes away whatever was made when a step fails.
    fn make(&self) -> Result<(), LabError> {
        for name in &self.names {
            process::run_ip(&format!("netns add {name}"))?;
            // No stray frames: without IPv6 nothing is sent that nobody asked for.
            namespace::enter(name, silence_ipv6)??;
        }
        self.make_wire()?;
        for side in [Side::Initiator, Side::Target] {
            self.turn_offloads_off(side)?;
            if self.settings.addresses {
                let (address, interface) = (self.address(side), self.interface(side));
                self.ip(side, &format!("address add {address}/30 dev {interface}"))?;
            }
            self.set_link(side, LinkState::Up)?;
            self.make_vlans(side)?;
        }
        Ok(())
    }

    /// Makes the veth pair with each end in its namespace from the start.
    fn make_wire(&self) -> Result<(), LabError> {
        let LabBuilder {
            queues, mtu_bytes, ..
        } = self.settings;
        let [near, far] = [Side::Initiator, Side::Target].map(|side| {
            let (interface, namespace) = (self.interface(side), self.namespace(side));
            let mac = self.mac(side);
            format!(
                "name {interface} netns {namespace} address {mac} mtu {mtu_bytes} \
                 numtxqueues {queues} numrxqueues {queues}"
            )
        });
        process::run_ip(&format!("link add {near} type veth peer {far}")).map(drop)
    }

    /// VLAN tags stay in the frame, where an XDP program can see them: with the offload on, veth carries them beside it.
    fn turn_offloads_off(&self, side: Side) -> Result<(), LabError> {
        let ethtool = process::find("ethtool", "ethtool")?;
        let line = format!(
            "-K {} tx-vlan-hw-insert off tx-vlan-stag-hw-insert off",
            self.interface(side)
        );
        let mut command = self.command(side, ethtool);
        process::run(command.args(line.split_ascii_whitespace())).map(drop)
    }

    fn make_vlans(&self, side: Side) -> Result<(), LabError> {
        let mut parent = self.interface(side).to_owned();
        for (level, id) in self.vlans().iter().enumerate() {
            let outer_of_two = level == 0 && self.vlans().len() == 2;
            let protocol = if outer_of_two { "802.1ad" } else { "802.1Q" };
            let device = format!("{parent}.{id}");
            let kind = format!("type vlan protocol {protocol} id {id}");
            self.ip(
                side,
                &format!("link add link {parent} name {device} {kind}"),
            )?;
            self.ip(side, &format!("link set {device} up"))?;
            parent = device;
        }
        Ok(())
    }
}

/// Whether it is worth trying: root, and the programs that building needs.
fn namespaces_possible() -> Result<(), Unsupported> {
    process::find("ip", "iproute2")?;
    process::find("ethtool", "ethtool")?;
    if has_capabilities() {
        Ok(())
    } else {
        Err(Unsupported::NotRoot)
    }
}

/// Whether the effective set has `CAP_NET_ADMIN` (bit 12) and `CAP_SYS_ADMIN` (bit 21), by capabilities(7).
fn has_capabilities() -> bool {
    const NEEDED: u64 = 1 << 12 | 1 << 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .is_some_and(|set| set & NEEDED == NEEDED)
}

/// Makes a namespace with a link in it, in the plainest way, so that only the machine can be the reason of a failure.
fn try_namespace_with(link: &str, refused: fn(LabError) -> Unsupported) -> Result<(), Unsupported> {
    let id = LabId::new("sandrail-trial").map_err(forbidden)?;
    let _guardian = Guardian::start(&id).map_err(forbidden)?;
    let name = id.initiator_namespace();
    process::run_ip(&format!("netns add {name}")).map_err(forbidden)?;
    process::run_ip(&format!("-n {name} link {link}")).map_err(refused)?;
    namespace::enter(&name, || ()).map_err(forbidden)
}

fn no_vlan(error: LabError) -> Unsupported {
    Unsupported::NoVlan {
        reason: error.to_string(),
    }
}

fn forbidden(error: LabError) -> Unsupported {
    match error {
        LabError::Unsupported(reason) => reason,
        other => Unsupported::NamespacesForbidden {
            reason: other.to_string(),
        },
    }
}

/// Switches IPv6 off for all interfaces of the namespace that the calling thread is in.
fn silence_ipv6() -> Result<(), LabError> {
    for which in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
        match std::fs::write(&path, "1") {
            // A kernel without IPv6 is as silent as one with it switched off.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other.map_err(LabError::io(format!("write {path}")))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senseless_settings_are_refused_before_anything_is_made() {
        for (builder, setting) in [
            (Lab::builder().mtu(60), "mtu"),
            (Lab::builder().mtu(65_536), "mtu"),
            (Lab::builder().queues(0), "queues"),
            (Lab::builder().vlan(0), "vlan"),
            (Lab::builder().vlan(4095), "vlan"),
            (Lab::builder().vlan(1).vlan(2).vlan(3), "vlan"),
            (Lab::builder().name_prefix("a/b"), "name_prefix"),
        ] {
            let error = builder.build().unwrap_err();
            assert!(
                matches!(error, LabError::Setting { setting: named, .. } if named == setting),
                "{error}"
            );
        }
    }

    #[test]
    fn addresses_read_as_addresses() {
        assert_eq!(
            MacAddress([2, 0x5a, 0, 1, 0xff, 0x0a]).to_string(),
            "02:5a:00:01:ff:0a"
        );
    }
}
