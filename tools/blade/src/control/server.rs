//! The control socket: a thread that listens, and one for each client.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::os;

use super::protocol::{LINE_BYTES_MAX, Request, failure, parse};

/// Clients at a time; more are told so.
const CLIENTS_MAX: usize = 64;
/// How long a client may stay silent, or not take its answer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(60);
/// How long to rest when the system has no descriptor left for another client.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers requests.
pub(crate) trait Serve: Send + Sync + 'static {
    /// The answer: an object with `ok`.
    fn answer(&self, request: Request) -> Value;
}

/// The socket; removed when this is dropped.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    path: PathBuf,
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Gone already, or replaced by whoever removed it: neither matters at the end.
        let _ = fs::remove_file(&self.path);
    }
}

impl ControlSocket {
    /// Binds the socket. What a dead process left there is replaced, a live one's is not.
    pub(crate) fn bind(path: &Path) -> Result<(Self, UnixListener)> {
        if let Ok(meta) = fs::symlink_metadata(path) {
            if !meta.file_type().is_socket() {
                bail!("--control: {} exists and is no socket", path.display());
            }
            if UnixStream::connect(path).is_ok() {
                bail!("--control: another process listens on {}", path.display());
            }
            fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
        }
        // Whoever may speak here may end the process and lose data on purpose. The mask covers the moment before the mode is set.
        let listener = os::with_private_files(|| UnixListener::bind(path))
            .with_context(|| format!("--control: cannot listen on {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .with_context(|| format!("setting the mode of {}", path.display()))?;
        let socket = Self {
            path: path.to_owned(),
        };
        Ok((socket, listener))
    }
}

/// Serves clients until the process ends.
pub(crate) fn start<S: Serve>(listener: UnixListener, server: Arc<S>) -> io::Result<()> {
    let clients = Arc::new(AtomicUsize::new(0));
    thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || {
            for client in listener.incoming() {
                match client {
                    Ok(client) => begin(client, &clients, &server),
                    Err(error) => {
                        tracing::debug!(%error, "control client lost");
                        thread::sleep(ACCEPT_PAUSE);
                    }
                }
            }
        })
        .map(drop)
}

/// Counts a client while it lives.
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        // Relaxed, here and in `begin`: only the number matters.
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn begin<S: Serve>(mut client: UnixStream, clients: &Arc<AtomicUsize>, server: &Arc<S>) {
    let taken = clients.fetch_add(1, Ordering::Relaxed);
    let seat = Seat(Arc::clone(clients));
    if taken >= CLIENTS_MAX {
        // A client that does not even take this is none.
        let _ = say(&mut client, &failure("too many clients; come again later"));
        return;
    }
    let server = Arc::clone(server);
    let spawned = thread::Builder::new()
        .name("control client".to_owned())
        .spawn(move || {
            let _seat = seat;
            if let Err(error) = converse(&client, server.as_ref()) {
                tracing::debug!(%error, "control client lost");
            }
        });
    if let Err(error) = spawned {
        tracing::warn!(%error, "no thread for a control client");
    }
}

fn converse<S: Serve>(client: &UnixStream, server: &S) -> io::Result<()> {
    client.set_read_timeout(Some(CLIENT_PATIENCE))?;
    client.set_write_timeout(Some(CLIENT_PATIENCE))?;
    let (mut reader, mut writer) = (BufReader::new(client), client);
    let line_max = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
    let mut line = Vec::new();
    loop {
        line.clear();
        let len = reader
            .by_ref()
            .take(line_max + 1)
            .read_until(b'\n', &mut line)?;
        if len == 0 {
            return Ok(());
        }
        if len > LINE_BYTES_MAX {
            say(&mut writer, &failure("the request is longer than 64 KiB"))?;
            return Ok(());
        }
        // A line without its end is a request whose sender went away in the middle of it.
        let Some(request) = line.strip_suffix(b"\n") else {
            return Ok(());
        };
        if request.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let answer = match parse(request) {
            Ok(request) => server.answer(request),
            Err(error) => failure(&error),
        };
        say(&mut writer, &answer)?;
    }
}

fn say(to: &mut impl Write, answer: &Value) -> io::Result<()> {
    let mut text = answer.to_string();
    text.push('\n');
    to.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    impl Serve for Echo {
        fn answer(&self, request: Request) -> Value {
            serde_json::json!({ "ok": true, "heard": request })
        }
    }

    fn served(name: &str) -> (ControlSocket, PathBuf) {
        let path =
            std::env::temp_dir().join(format!("sandrail-blade-{name}-{}", std::process::id()));
        let (socket, listener) = ControlSocket::bind(&path).unwrap();
        start(listener, Arc::new(Echo)).unwrap();
        (socket, path)
    }

    fn ask(path: &Path, request: &[u8]) -> String {
        let mut client = UnixStream::connect(path).unwrap();
        client.write_all(request).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn garbage_half_requests_and_crowds_leave_it_alive() {
        let (_socket, path) = served("garbage");
        let mut noise = fastrand::Rng::with_seed(1);
        for _ in 0..100 {
            let bytes: Vec<u8> = (0..noise.usize(1..3000)).map(|_| noise.u8(..)).collect();
            for answer in ask(&path, &bytes).lines() {
                let answer: Value = serde_json::from_str(answer).unwrap();
                assert_eq!(answer["ok"], false);
            }
        }
        assert_eq!(ask(&path, br#"{"verb":"sta"#), "", "half a request");
        let long = ask(&path, &vec![b'x'; LINE_BYTES_MAX + 10]);
        assert!(long.contains("longer than 64 KiB"), "{long}");
        let many: Vec<UnixStream> = (0..CLIENTS_MAX + 8)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        let mut last = String::new();
        BufReader::new(&many[CLIENTS_MAX + 7])
            .read_line(&mut last)
            .unwrap();
        assert!(last.contains("too many clients"), "{last}");
        drop(many);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            let answer = ask(&path, b"\n{\"verb\":\"status\"}\n{\"verb\":\"refresh\"}\n");
            if answer.lines().count() == 2 && !answer.contains("too many") {
                assert!(
                    answer.contains("\"status\"") && answer.contains("\"refresh\""),
                    "{answer}"
                );
                break;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "the crowd has gone: {answer}"
            );
        }
    }

    #[test]
    fn a_dead_process_socket_is_replaced_and_a_live_one_is_not() {
        let (socket, path) = served("live");
        let error = ControlSocket::bind(&path).unwrap_err().to_string();
        assert!(error.contains("another process listens"), "{error}");
        drop(socket);
        assert!(!path.exists());
        drop(UnixListener::bind(&path).unwrap());
        let (_socket, _listener) = ControlSocket::bind(&path).unwrap();
        let plain = path.with_extension("txt");
        fs::write(&plain, "x").unwrap();
        let error = ControlSocket::bind(&plain).unwrap_err().to_string();
        fs::remove_file(&plain).unwrap();
        assert!(error.contains("is no socket"), "{error}");
    }
}
