//! What is said over the control socket: a line of JSON each way.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::drill::Chances;

/// The longest request.
pub(crate) const LINE_BYTES_MAX: usize = 64 << 10;

/// A request: one line, such as `{"verb":"status"}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    /// Everything there is to know.
    Status,
    /// Faults of the links from now on.
    Fault {
        /// One interface's; all of them unless named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interface: Option<String>,
        /// `transmit` or `receive`, seen from the blade; both unless named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        direction: Option<Way>,
        /// What happens to a frame.
        chances: Chances,
    },
    /// No faults of links any more.
    FaultOff {},
    /// A fault of one target's disk.
    FaultDisk {
        /// Its shelf.slot.
        target: String,
        /// Which.
        fault: DiskFault,
    },
    /// Ends the process at once, without a word to anybody.
    Crash {
        /// What becomes of writes that were acknowledged and not flushed, where the target holds them back.
        #[serde(default)]
        keep: Keep,
    },
    /// Looks at the sizes of files and devices again.
    Refresh {},
}

/// Seen from the blade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Way {
    Transmit,
    Receive,
}

/// What a disk is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum DiskFault {
    /// Operations that touch these sectors fail.
    Fail {
        lba: u64,
        sectors: u64,
        /// Reads fail.
        #[serde(default = "yes")]
        reads: bool,
        /// Writes fail.
        #[serde(default = "yes")]
        writes: bool,
    },
    /// Flushes fail.
    FailFlushes {},
    /// Every operation takes so much longer, and up to `jitter_us` more.
    Slow {
        us: u64,
        #[serde(default)]
        jitter_us: u64,
    },
    /// The n-th write from now on, counted from 1, is held.
    Hold { nth: u64 },
    /// A write that is held goes on.
    Release {},
    /// No faults any more; a held write goes on.
    Clear {},
}

fn yes() -> bool {
    true
}

/// What a power cut leaves of unflushed writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Keep {
    /// Nothing: as SIGKILL does.
    #[default]
    None,
    /// A subset of the sectors, the same for each seed.
    Seed(u64),
    /// Everything.
    All,
}

/// What went wrong, as the answer says it.
pub(crate) fn failure(error: &str) -> Value {
    json!({ "ok": false, "error": error })
}

/// Reads a request.
///
/// # Errors
/// What is wrong with it, and what there is.
pub(crate) fn parse(line: &[u8]) -> Result<Request, String> {
    let text = std::str::from_utf8(line).map_err(|_| "the request is no text".to_owned())?;
    let request: Request = serde_json::from_str(text).map_err(|error| {
        format!("{error}; a request is one line such as {{\"verb\":\"status\"}}")
    })?;
    if let Request::Fault { chances, .. } = &request
        && let Some(problem) = chances.problem()
    {
        return Err(problem);
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_back() {
        let fault = Request::Fault {
            interface: Some("eth1".to_owned()),
            direction: Some(Way::Receive),
            chances: Chances {
                drop: 0.5,
                ..Chances::default()
            },
        };
        let disk = |fault| Request::FaultDisk {
            target: "e7.3".to_owned(),
            fault,
        };
        for request in [
            Request::Status,
            fault,
            Request::FaultOff {},
            disk(DiskFault::Slow {
                us: 5,
                jitter_us: 1,
            }),
            disk(DiskFault::Release {}),
            Request::Crash {
                keep: Keep::Seed(7),
            },
            Request::Refresh {},
        ] {
            let line = serde_json::to_string(&request).unwrap();
            assert_eq!(parse(line.as_bytes()), Ok(request), "{line}");
        }
        assert_eq!(
            parse(br#"{"verb":"crash"}"#),
            Ok(Request::Crash { keep: Keep::None })
        );
        assert_eq!(
            parse(br#"{"verb":"fault","chances":{"drop":1}}"#)
                .map(|request| matches!(request, Request::Fault { .. })),
            Ok(true)
        );
    }

    #[test]
    fn what_is_none_is_refused_in_words() {
        for (line, says) in [
            (&b"hello"[..], "one line such as"),
            (b"", "one line such as"),
            (b"[]", "one line such as"),
            (b"\xff\xfe", "no text"),
            (br#"{"verb":"halt"}"#, "unknown variant `halt`"),
            (
                br#"{"verb":"crash","keep":"some"}"#,
                "unknown variant `some`",
            ),
            (
                br#"{"verb":"fault","chances":{"drip":1}}"#,
                "unknown field `drip`",
            ),
            (
                br#"{"verb":"fault","chances":{"drop":2}}"#,
                "not a probability",
            ),
            (br#"{"verb":"refresh","all":true}"#, "unknown field"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
