//! One module a verb.

pub(crate) mod capture;
pub(crate) mod config;
pub(crate) mod discover;
pub(crate) mod doctor;
pub(crate) mod identify;
pub(crate) mod man;
pub(crate) mod mask;
pub(crate) mod read;
pub(crate) mod report;
pub(crate) mod reserve;
pub(crate) mod stat;
pub(crate) mod write;

use sandrail_proto::aoe::initiator::{Durability, SessionState};
use sandrail_wire::TargetAddr;
use sandrail_wire::ata::IdentifyString;
use serde_json::{Value, json};

use crate::fault::Fault;

/// What a flush is worth, in words that promise no more than the target does.
pub(crate) fn durability_words(durability: Durability) -> &'static str {
    match durability {
        Durability::Claimed => "flushed: the target claims that what was written is durable",
        Durability::Unclaimed => {
            "flush answered without an error, yet nothing is promised: the target does not claim both FLUSH and FLUSH \
             EXT (vblade is like that, and does nothing unless it runs with -s)"
        }
        Durability::Refused => {
            "the target refused to flush: nobody promises that anything is durable"
        }
    }
}

/// Says on a control command's error which target it was about, and keeps the cause.
pub(crate) fn about(addr: TargetAddr, what: &str) -> impl FnOnce(anyhow::Error) -> anyhow::Error {
    let context = format!("{what} of {addr}");
    move |error| match error.downcast_ref::<Fault>() {
        // These name it themselves.
        Some(_) => error,
        None => error.context(context),
    }
}

/// The same in one word, for JSON.
pub(crate) fn durability_word(durability: Durability) -> &'static str {
    match durability {
        Durability::Claimed => "claimed",
        Durability::Unclaimed => "unclaimed",
        Durability::Refused => "refused",
    }
}

/// How a target stands with sessions, in words.
pub(crate) fn session_words(state: SessionState) -> String {
    match state {
        SessionState::Unspoken => {
            "not spoken: a restart of the target is guessed from silence and advertisements"
                .to_owned()
        }
        SessionState::Pending => "asked for, not had yet".to_owned(),
        SessionState::Held(session) => format!("spoken, {session} held"),
        SessionState::Refused(why) => format!("spoken, none granted: {why}"),
    }
}

/// The same for JSON.
pub(crate) fn session_json(state: SessionState) -> Value {
    let (word, session, why) = match state {
        SessionState::Unspoken => ("unspoken", None, None),
        SessionState::Pending => ("pending", None, None),
        SessionState::Held(session) => ("held", Some(session.0), None),
        SessionState::Refused(why) => ("refused", None, Some(why.to_string())),
    };
    json!({ "state": word, "session": session, "why": why })
}

/// A string of IDENTIFY as text.
pub(crate) fn text<const N: usize>(string: &IdentifyString<N>) -> String {
    printable(string.as_bytes()).trim().to_owned()
}

/// Bytes from the network as text that a terminal can be shown.
pub(crate) fn printable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}
