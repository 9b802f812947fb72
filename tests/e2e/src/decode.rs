//! Captures, and what third-party decoders say of them.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use sandrail_lab::{Lab, Side};

/// Whether the decoders are installed.
///
/// # Errors
/// Which one is not.
pub fn supported() -> Result<()> {
    for program in ["tcpdump", "tshark"] {
        let tried = Command::new(program).arg("--version").output();
        tried.with_context(|| format!("{program} is not installed"))?;
    }
    Ok(())
}

/// A file that goes when this is dropped.
#[derive(Debug)]
pub struct Capture {
    path: PathBuf,
}

impl Capture {
    /// A name nobody else has: that of the lab and `what`.
    #[must_use]
    pub fn new(lab: &Lab, what: &str) -> Self {
        let name = format!("{}-{what}.pcap", lab.namespace(Side::Target));
        Self {
            path: std::env::temp_dir().join(name),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// `tcpdump` on the target's interface: it sees what goes over the wire both ways, where a tap on an AF_XDP end sees
/// nothing.
#[derive(Debug)]
pub struct Tcpdump {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Tcpdump {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// It did not start.
    pub fn start(lab: &Lab, capture: &Capture) -> Result<Self> {
        Self::start_on(lab, Side::Target, capture)
    }

    /// The same on either side. A packet socket that bypasses the queueing discipline is heard at the other end only.
    ///
    /// # Errors
    /// It did not start.
    pub fn start_on(lab: &Lab, side: Side, capture: &Capture) -> Result<Self> {
        let interface = lab.interface(side);
        let mut command = lab.command(side, "tcpdump");
        // Written packet by packet and by root, so that nothing is missing when it ends.
        command.args([
            "-i",
            interface,
            "-s",
            "0",
            "-U",
            "--immediate-mode",
            "-B",
            "65536",
        ]);
        command
            .args(["-Z", "root", "-w"])
            .arg(capture.path())
            .arg("ether proto 0x88a2");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stderr = BufReader::new(child.stderr.take().context("a pipe was asked for")?);
        let mut said = String::new();
        while stderr.read_line(&mut said)? > 0 {
            if said.contains("listening on") {
                return Ok(Self { child, stderr });
            }
        }
        child.wait()?;
        bail!("tcpdump: {said}")
    }

    /// Ends it when it has written what it got.
    ///
    /// # Errors
    /// It missed frames, or did not end well.
    pub fn stop(mut self) -> Result<()> {
        let pid = self.child.id().to_string();
        let killed = Command::new("kill").args(["-INT", &pid]).status()?;
        ensure!(killed.success(), "tcpdump was gone already");
        let mut said = String::new();
        while self.stderr.read_line(&mut said)? > 0 {}
        let status = self.child.wait()?;
        ensure!(status.success(), "tcpdump: {said}");
        ensure!(
            said.contains("\n0 packets dropped by kernel"),
            "tcpdump missed frames: {said}"
        );
        Ok(())
    }
}

impl Drop for Tcpdump {
    fn drop(&mut self) {
        // After `stop` it has ended and been waited for, and these do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A frame as `tshark` reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Source address, as text.
    pub source: String,
    /// From a target.
    pub response: bool,
    /// The E flag.
    pub error: bool,
    /// Command.
    pub command: u8,
    /// Tag.
    pub tag: u32,
    /// Shelf and slot.
    pub addr: (u16, u8),
    /// ATA command of a request, or `None`.
    pub ata: Option<u8>,
    /// First sector, of ATA commands.
    pub lba: Option<u64>,
    /// Sectors, of ATA commands.
    pub sectors: Option<u8>,
    /// Length of the frame.
    pub len_bytes: usize,
}

const FIELDS: [&str; 11] = [
    "eth.src",
    "aoe.response",
    "aoe.flags_error",
    "aoe.cmd",
    "aoe.tag",
    "aoe.major",
    "aoe.minor",
    "aoe.ata.cmd",
    "aoe.lba",
    "aoe.sector_count",
    "frame.len",
];

/// All frames of a capture, as `tshark` decodes them.
///
/// # Errors
/// It did not run, or found a frame that is none of AoE.
pub fn decode(capture: &Path) -> Result<Vec<Decoded>> {
    let mut tshark = Command::new("tshark");
    tshark
        .arg("-n")
        .arg("-r")
        .arg(capture)
        .args(["-T", "fields"]);
    tshark.args(["-E", "separator=;"]);
    for field in FIELDS {
        tshark.args(["-e", field]);
    }
    let text = output(&mut tshark)?;
    text.lines()
        .enumerate()
        .map(|(number, line)| {
            decode_line(line).with_context(|| format!("frame {}: {line}", number + 1))
        })
        .collect()
}

fn decode_line(line: &str) -> Result<Decoded> {
    let words: Vec<&str> = line.split(';').collect();
    let number = |place: usize| -> Result<Option<u64>> {
        let word: &str = words.get(place).context("a field is missing")?;
        if word.is_empty() {
            return Ok(None);
        }
        let number = match word.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => word.parse(),
        };
        Ok(Some(number.with_context(|| FIELDS[place])?))
    };
    let needed = |place: usize| -> Result<u64> { number(place)?.context(FIELDS[place]) };
    let flag = |place: usize| -> bool { matches!(words.get(place), Some(&"1" | &"True")) };
    let byte = |value: u64| u8::try_from(value).context("not a byte");
    Ok(Decoded {
        source: words[0].to_owned(),
        response: flag(1),
        error: flag(2),
        command: byte(needed(3)?)?,
        tag: u32::try_from(needed(4)?)?,
        addr: (u16::try_from(needed(5)?)?, byte(needed(6)?)?),
        ata: number(7)?.map(byte).transpose()?,
        lba: number(8)?,
        sectors: number(9)?.map(byte).transpose()?,
        len_bytes: usize::try_from(needed(10)?)?,
    })
}

/// Has `tshark -V` take every frame of a capture apart; how many frames it saw.
///
/// # Errors
/// It complains of one: malformed, or its expert has an error or a warning.
pub fn dissect(capture: &Path) -> Result<usize> {
    let text = output(Command::new("tshark").args(["-n", "-V", "-r"]).arg(capture))?;
    let complaints: BTreeSet<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| {
            ["Malformed", "Dissector bug", "(Error/", "(Warning/"]
                .iter()
                .any(|word| line.contains(word))
        })
        .collect();
    ensure!(complaints.is_empty(), "tshark complains: {complaints:?}");
    Ok(text
        .lines()
        .filter(|line| line.starts_with("ATAoverEthernet"))
        .count())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
