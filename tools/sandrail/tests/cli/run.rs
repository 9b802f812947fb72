//! Runs the command, with a limit of time.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The command under test.
pub(crate) const SANDRAIL: &str = env!("CARGO_BIN_EXE_sandrail");
/// No call here takes longer, unless it hangs.
const LIMIT: Duration = Duration::from_secs(180);

/// How a call ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Ended {
    /// Standard output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Standard output as one JSON object.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.out)
            .unwrap_or_else(|error| panic!("{error} in {:?}, said {}", self.text(), self.err))
    }

    /// Asserts the exit code, and shows everything if it is another.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "out: {}\nerr: {}",
            self.text(),
            self.err
        );
        self
    }

    /// Asserts that the error says all of this.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.err.contains(word), "no `{word}` in: {}", self.err);
        }
        self
    }
}

/// A call that runs.
pub(crate) struct Running {
    child: Child,
    out: thread::JoinHandle<Vec<u8>>,
    err: thread::JoinHandle<Vec<u8>>,
}

/// Starts a command with this on its standard input, or nothing.
pub(crate) fn start(command: &mut Command, piped_input: bool) -> Running {
    let mut child = command
        .env_remove("RUST_LOG")
        .stdin(if piped_input {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let out = gather(child.stdout.take().unwrap());
    let err = gather(child.stderr.take().unwrap());
    Running { child, out, err }
}

fn gather(mut stream: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A broken stream shows in what is missing.
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}

impl Running {
    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends bytes to its standard input.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// Closes its standard input.
    pub(crate) fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end; a call that hangs is killed, and fails the test.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Ended {
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if begin.elapsed() > LIMIT {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                let err = String::from_utf8_lossy(&self.err.join().unwrap()).into_owned();
                panic!("still running after {LIMIT:?}; said: {err}");
            }
            thread::sleep(Duration::from_millis(2));
        };
        Ended {
            code: status.code(),
            out: self.out.join().unwrap(),
            err: String::from_utf8_lossy(&self.err.join().unwrap()).into_owned(),
        }
    }
}

/// Runs it until it ends with this code: where an answer has a moment to come in, a busy machine may be late with it.
#[track_caller]
pub(crate) fn until_exits(code: i32, mut run: impl FnMut() -> Ended) -> Ended {
    let mut ended = run();
    for _ in 0..10 {
        if ended.code == Some(code) {
            break;
        }
        ended = run();
    }
    ended.exits(code)
}

/// Runs the command in this namespace.
#[track_caller]
pub(crate) fn sandrail(args: &[&str]) -> Ended {
    start(Command::new(SANDRAIL).args(args), false).wait()
}
