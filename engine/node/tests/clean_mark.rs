//! Marks of an unclean end, with real processes: this test binary starts itself again as the process that is killed.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sandrail_node::clean::{CleanMark, CleanMarkError};
use sandrail_wire::MacAddr;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x2a]);
const LIFETIME: Duration = Duration::from_millis(700);
const VICTIM_DIR: &str = "SANDRAIL_TEST_VICTIM_DIR";

/// A directory of its own for each test, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sandrail-mark-{}-{count}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn acquire(&self) -> Result<CleanMark, CleanMarkError> {
        CleanMark::acquire(&self.0, MAC, LIFETIME)
    }

    fn marks(&self) -> usize {
        fs::read_dir(&self.0).map_or(0, Iterator::count)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Not a test of its own: what the killed process does.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os(VICTIM_DIR) else {
        return;
    };
    let _mark = CleanMark::acquire(&PathBuf::from(dir), MAC, LIFETIME).unwrap();
    // Past the harness, which captures `println!`.
    writeln!(std::io::stderr(), "marked").unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

fn start_victim(dir: &Dir) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["victim", "--exact", "--nocapture"])
        .env(VICTIM_DIR, &dir.0)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "marked"));
    child
}

#[test]
fn a_clean_end_leaves_nothing() {
    let dir = Dir::new();
    let mark = dir.acquire().unwrap();
    assert_eq!(mark.earlier_lifetime(), None);
    assert_eq!(dir.marks(), 1);
    mark.remove().unwrap();
    assert_eq!(dir.marks(), 0);
    assert_eq!(dir.acquire().unwrap().earlier_lifetime(), None);
}

#[test]
fn an_unclean_end_is_found_until_a_clean_one() {
    let dir = Dir::new();
    drop(dir.acquire().unwrap());
    let second = dir.acquire().unwrap();
    assert_eq!(second.earlier_lifetime(), Some(LIFETIME));
    drop(second);
    let third = dir.acquire().unwrap();
    assert_eq!(third.earlier_lifetime(), Some(LIFETIME));
    third.remove().unwrap();
    assert_eq!(dir.acquire().unwrap().earlier_lifetime(), None);
}

#[test]
fn the_longer_lifetime_of_earlier_users_counts() {
    let dir = Dir::new();
    drop(CleanMark::acquire(&dir.0, MAC, LIFETIME * 5).unwrap());
    drop(dir.acquire().unwrap());
    assert_eq!(
        dir.acquire().unwrap().earlier_lifetime(),
        Some(LIFETIME * 5)
    );
}

#[test]
fn a_mark_that_makes_no_sense_counts() {
    let dir = Dir::new();
    fs::create_dir_all(&dir.0).unwrap();
    fs::write(dir.0.join("02-00-00-00-00-2a.mark"), b"\xff\xfe junk").unwrap();
    assert_eq!(dir.acquire().unwrap().earlier_lifetime(), Some(LIFETIME));
}

#[test]
fn two_macs_do_not_meet() {
    let dir = Dir::new();
    let _one = dir.acquire().unwrap();
    let other = CleanMark::acquire(&dir.0, MacAddr([2, 0, 0, 0, 0, 0x2b]), LIFETIME).unwrap();
    assert_eq!(other.earlier_lifetime(), None);
}

#[test]
fn a_second_user_of_the_mac_is_refused_with_the_firsts_pid() {
    let dir = Dir::new();
    let _mark = dir.acquire().unwrap();
    let error = dir.acquire().unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, CleanMarkError::InUse { pid: Some(pid), .. } if pid == std::process::id()),
        "{text}"
    );
    assert!(
        text.contains("02:00:00:00:00:2a is in use by process"),
        "{text}"
    );
}

#[test]
fn a_killed_process_leaves_its_mark_and_its_lock_goes() {
    let dir = Dir::new();
    let mut victim = start_victim(&dir);
    let error = dir.acquire().unwrap_err();
    assert!(
        matches!(error, CleanMarkError::InUse { pid: Some(pid), .. } if pid == victim.id()),
        "{error}"
    );
    // SIGKILL.
    victim.kill().unwrap();
    victim.wait().unwrap();
    let mark = dir.acquire().unwrap();
    assert_eq!(mark.earlier_lifetime(), Some(LIFETIME));
    mark.remove().unwrap();
    assert_eq!(dir.marks(), 0);
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let error = CleanMark::acquire(&PathBuf::from("/proc/sandrail"), MAC, LIFETIME).unwrap_err();
    assert!(error.to_string().contains("/proc/sandrail"), "{error}");
}

#[test]
fn many_users_in_turn_never_share_a_mark() {
    let dir = Dir::new();
    fs::create_dir_all(&dir.0).unwrap();
    let inside = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut had = 0;
                while had < 200 {
                    let Ok(mark) = dir.acquire() else {
                        std::thread::yield_now();
                        continue;
                    };
                    assert_eq!(
                        inside.fetch_add(1, Ordering::SeqCst),
                        0,
                        "two users at once"
                    );
                    assert_eq!(mark.earlier_lifetime(), None, "all of them end cleanly");
                    inside.fetch_sub(1, Ordering::SeqCst);
                    mark.remove().unwrap();
                    had += 1;
                }
            });
        }
    });
}
