//! Kernel, privileges, memory, clock: what holds for every interface.

use std::fs;
use std::path::Path;

use sandrail_lab::Lab;

use super::Finding;
use crate::measure::kernel;
use crate::size::Size;

/// AF_XDP in several buffers came with Linux 6.6, which frames above 3840 bytes need.
const KERNEL_MULTI_BUFFER: (u32, u32) = (6, 6);
/// AF_XDP with need-wakeup came with Linux 5.4.
const KERNEL_XDP: (u32, u32) = (5, 4);
/// The memory of one shard's frames.
const UMEM_BYTES: u64 = 12 << 20;

/// Capabilities by number (`linux/capability.h`), and what they are for.
const CAPABILITIES: [(u32, &str, &str); 4] = [
    (13, "CAP_NET_RAW", "packet and AF_XDP sockets"),
    (12, "CAP_NET_ADMIN", "attaching the XDP program"),
    (39, "CAP_BPF", "loading the XDP program"),
    (14, "CAP_IPC_LOCK", "locking the memory of frames"),
];
/// Stands for CAP_BPF on old kernels, and is what makes a process root as far as BPF goes.
const CAP_SYS_ADMIN: u32 = 21;

/// Everything that is the machine's.
pub(super) fn examine(run_dir: &Path) -> Vec<Finding> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let status = read("/proc/self/status");
    let capabilities = effective(&status);
    let mut findings = vec![kernel_version(&kernel())];
    findings.push(sockets(&read("/proc/self/net/protocols")));
    findings.push(bpf(
        Path::new("/sys/kernel/btf/vmlinux").exists(),
        read("/proc/sys/net/core/bpf_jit_enable").trim(),
    ));
    findings.extend(privileges(capabilities));
    findings.push(locked_memory(&read("/proc/self/limits"), capabilities));
    findings.push(huge_pages(&read("/proc/meminfo")));
    findings.push(clock(
        read("/sys/devices/system/clocksource/clocksource0/current_clocksource").trim(),
    ));
    findings.push(cores());
    findings.push(marks(run_dir));
    findings.push(match Lab::supported() {
        Ok(()) => Finding::ok("demo", "network namespaces, veth and vblade are here"),
        Err(reason) => Finding::warn(
            "demo",
            format!("only simulated: {reason}"),
            "none needed but for `sandrail demo` on a real target",
        ),
    });
    findings
}

fn kernel_version(release: &str) -> Finding {
    let mut numbers = release
        .split(|letter: char| !letter.is_ascii_digit())
        .map(|digits| digits.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let found = format!("Linux {release}");
    if version < KERNEL_XDP {
        Finding::fail(
            "kernel",
            found,
            "AF_XDP needs Linux 5.4, jumbo frames over it 6.6; --link packet works",
        )
    } else if version < KERNEL_MULTI_BUFFER {
        Finding::warn(
            "kernel",
            format!("{found}: AF_XDP carries no frames above 3840 bytes"),
            "Linux 6.6 for jumbo frames over AF_XDP, or --link packet",
        )
    } else {
        Finding::ok("kernel", found)
    }
}

/// The kernel lists its protocols by name, whether built in or loaded.
fn sockets(protocols: &str) -> Finding {
    let has = |name| {
        protocols
            .lines()
            .any(|line| line.split_ascii_whitespace().next() == Some(name))
    };
    match (has("XDP"), has("PACKET")) {
        (true, true) => Finding::ok("sockets", "AF_XDP and AF_PACKET"),
        (false, true) => Finding::warn(
            "sockets",
            "AF_PACKET only",
            "a kernel with CONFIG_XDP_SOCKETS=y for AF_XDP; --link packet works without",
        ),
        (true, false) => Finding::warn(
            "sockets",
            "AF_XDP only",
            "modprobe af_packet for --link packet",
        ),
        (false, false) => Finding::fail(
            "sockets",
            "neither AF_XDP nor AF_PACKET",
            "a kernel with CONFIG_XDP_SOCKETS=y or CONFIG_PACKET=y",
        ),
    }
}

fn bpf(btf: bool, jit: &str) -> Finding {
    match (btf, jit) {
        (false, _) => Finding::warn(
            "BPF",
            "the kernel has no BTF (/sys/kernel/btf/vmlinux)",
            "CONFIG_DEBUG_INFO_BTF=y, if the steering program does not load",
        ),
        (true, "0") => Finding::warn(
            "BPF",
            "programs are interpreted",
            "sysctl net.core.bpf_jit_enable=1",
        ),
        (true, _) => Finding::ok("BPF", "BTF and compiler"),
    }
}

/// The set of effective capabilities, from /proc/self/status.
fn effective(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .unwrap_or(0)
}

fn has(capabilities: u64, number: u32) -> bool {
    capabilities & (1 << number) != 0
}

fn privileges(capabilities: u64) -> Vec<Finding> {
    CAPABILITIES
        .into_iter()
        .map(|(number, name, purpose)| {
            let there = has(capabilities, number)
                || name == "CAP_BPF" && has(capabilities, CAP_SYS_ADMIN);
            if there {
                return Finding::ok(name, format!("there, for {purpose}"));
            }
            let remedy = "run as root, or setcap cap_net_raw,cap_net_admin,cap_bpf,cap_ipc_lock=ep on this program";
            match name {
                "CAP_NET_RAW" => Finding::fail(name, format!("missing, for {purpose}"), remedy),
                _ => Finding::warn(
                    name,
                    format!("missing, for {purpose}"),
                    format!("{remedy}; --link packet works without"),
                ),
            }
        })
        .collect()
}

fn locked_memory(limits: &str, capabilities: u64) -> Finding {
    let what = "locked memory";
    let limit = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .unwrap_or("unknown");
    if has(capabilities, 14) {
        return Finding::ok(what, "no limit, by CAP_IPC_LOCK");
    }
    match limit.parse() {
        Ok(bytes) if bytes < UMEM_BYTES => Finding::fail(
            what,
            format!(
                "at most {}, and each shard's frames take {}",
                Size(bytes),
                Size(UMEM_BYTES)
            ),
            "ulimit -l unlimited (LimitMEMLOCK=infinity in a unit), or CAP_IPC_LOCK",
        ),
        Ok(bytes) => Finding::ok(what, format!("at most {}", Size(bytes))),
        Err(_) => Finding::ok(what, limit),
    }
}

fn huge_pages(meminfo: &str) -> Finding {
    let number = |name: &str| -> u64 {
        meminfo
            .lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .split_ascii_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .unwrap_or(0)
    };
    let (free, total) = (number("HugePages_Free:"), number("HugePages_Total:"));
    if free > 0 {
        return Finding::ok("hugepages", format!("{free} of {total} free, 2 MiB each"));
    }
    Finding::warn(
        "hugepages",
        format!("none free ({total} reserved): buffers lie in 4 KiB pages"),
        "sysctl vm.nr_hugepages=64, best at boot",
    )
}

fn clock(source: &str) -> Finding {
    match source {
        "tsc" | "kvm-clock" | "arch_sys_counter" | "hyperv_clocksource_tsc_page" => {
            Finding::ok("clock", source)
        }
        "" => Finding::ok("clock", "unknown"),
        slow => Finding::warn(
            "clock",
            format!(
                "{slow}: each reading is a system call or slower, and a shard reads it every turn"
            ),
            "clocksource=tsc on the kernel's command line, if the machine's TSC is sound",
        ),
    }
}

fn cores() -> Finding {
    match std::thread::available_parallelism().map_or(1, usize::from) {
        1 => Finding::warn(
            "cores",
            "1, which a shard shares with everything else",
            "two or more",
        ),
        cores => Finding::ok("cores", cores.to_string()),
    }
}

/// Marks that a process left behind when it did not end cleanly, or that are in use.
fn marks(run_dir: &Path) -> Finding {
    let entries = run_dir.read_dir().map(|entries| {
        entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|kind| kind == "mark"))
            .count()
    });
    let shown = run_dir.display();
    match entries {
        Ok(0) | Err(_) => Finding::ok("addresses in use", format!("none by the marks in {shown}")),
        Ok(count) => Finding::ok(
            "addresses in use",
            format!(
                "{count} by the marks in {shown}: in use now, or left by a process that was killed, whose successor waits once"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn kernels_are_told_by_their_first_two_numbers() {
        for (release, level) in [
            ("6.18.44-fc", Level::Ok),
            ("6.6.0", Level::Ok),
            ("6.1.0-17-amd64", Level::Warn),
            ("5.3.18", Level::Fail),
            ("odd", Level::Fail),
        ] {
            assert_eq!(kernel_version(release).level, level, "{release}");
        }
    }

    #[test]
    fn missing_privileges_are_told_one_by_one() {
        let all = effective("Name:\tx\nCapEff:\t000001fffeffffff\n");
        assert!(
            privileges(all)
                .iter()
                .all(|finding| finding.level == Level::Ok)
        );
        let none = privileges(effective("CapEff:\t0000000000000000\n"));
        assert_eq!(
            none[0].level,
            Level::Fail,
            "nothing works without CAP_NET_RAW"
        );
        assert!(none.iter().all(|finding| finding.remedy.contains("setcap")));
        let admin = privileges(1 << CAP_SYS_ADMIN | 1 << 13);
        assert_eq!(
            admin[2].level,
            Level::Ok,
            "CAP_SYS_ADMIN stands for CAP_BPF"
        );
    }

    #[test]
    fn little_locked_memory_matters_only_without_the_capability() {
        let limits =
            "Limit  Soft Hard Units\nMax locked memory         8388608   8388608   bytes\n";
        assert_eq!(locked_memory(limits, 0).level, Level::Fail);
        assert_eq!(locked_memory(limits, 1 << 14).level, Level::Ok);
        assert_eq!(
            locked_memory("Max locked memory  unlimited unlimited bytes\n", 0).level,
            Level::Ok
        );
    }

    #[test]
    fn protocols_and_pages_are_read_from_the_kernels_tables() {
        assert_eq!(sockets("protocol size\nPACKET 1\nXDP 2\n").level, Level::Ok);
        assert_eq!(sockets("PACKET 1\n").level, Level::Warn);
        assert_eq!(sockets("TCP 1\n").level, Level::Fail);
        assert_eq!(
            huge_pages("HugePages_Total:  8\nHugePages_Free:  3\n").level,
            Level::Ok
        );
        assert_eq!(
            huge_pages("HugePages_Total:  8\nHugePages_Free:  0\n").level,
            Level::Warn
        );
        assert_eq!(bpf(true, "0").level, Level::Warn);
        assert_eq!(clock("hpet").level, Level::Warn);
    }
}
