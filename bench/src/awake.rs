//! Keeps the target's core from halting.
//!
//! A target sleeps until a frame comes. On a virtual machine its core then halts, and to wake it takes the hypervisor many
//! times what a round trip takes: every client would look equally good. A thread that does nothing but yield keeps the
//! core awake, and spares the sender the interrupt to it (an exit to the hypervisor as well): the target, once runnable,
//! is found by the next yield.
//!
//! With a high weight such a thread also keeps the kernel's workers from that core, for a quarter of a second at a time:
//! they have the weight of nice 0, and the scheduler takes who is due first. While something waits for such a worker, it must
//! [`rest`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::machine;

/// How long it sleeps at a time where it must rest.
const REST: Duration = Duration::from_millis(1);

/// Who waits for a worker of the kernel. Relaxed everywhere: it only has to be seen some time.
static RESTS: AtomicUsize = AtomicUsize::new(0);

/// Lets all such threads sleep rather than yield while `work` runs, so that what it waits for can happen: a queue that an AF_XDP
/// socket has just given up is freed by a worker of the kernel. Each try to bind it before makes more work of that kind.
pub fn rest<T>(work: impl FnOnce() -> T) -> T {
    struct Resting;
    impl Drop for Resting {
        fn drop(&mut self) {
            RESTS.fetch_sub(1, Ordering::Relaxed);
        }
    }
    RESTS.fetch_add(1, Ordering::Relaxed);
    let _resting = Resting;
    work()
}

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Awake {
    told: Arc<Told>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Told {
    stop: AtomicBool,
    yields: AtomicU64,
}

impl Awake {
    /// Starts it on the cores that the calling thread may run on.
    ///
    /// # Errors
    /// There are no more threads.
    pub fn keep() -> anyhow::Result<Self> {
        Self::start(None)
    }

    /// Starts it on one core.
    ///
    /// # Errors
    /// There are no more threads.
    pub fn keep_on(core: usize) -> anyhow::Result<Self> {
        Self::start(Some(core))
    }

    fn start(core: Option<usize>) -> anyhow::Result<Self> {
        let told = Arc::new(Told::default());
        let heard = Arc::clone(&told);
        let thread = std::thread::Builder::new()
            .name("awake".to_owned())
            .spawn(move || {
                // On another core it would keep the wrong one awake.
                if core.is_some_and(|core| machine::pin(core).is_err()) {
                    return;
                }
                // Relaxed: it only has to be seen some time.
                while !heard.stop.load(Ordering::Relaxed) {
                    if RESTS.load(Ordering::Relaxed) > 0 {
                        std::thread::sleep(REST);
                        continue;
                    }
                    std::thread::yield_now();
                    heard.yields.fetch_add(1, Ordering::Relaxed);
                }
            })?;
        Ok(Self {
            told,
            thread: Some(thread),
        })
    }

    fn end(&mut self) {
        self.told.stop.store(true, Ordering::Relaxed);
        // The thread has nothing that could panic.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rests_while_something_waits() {
        rest(|| assert!(RESTS.load(Ordering::Relaxed) > 0));
        let panicked = std::panic::catch_unwind(|| rest(|| panic!("on purpose")));
        assert!(panicked.is_err());
        // Other tests may rest at this moment; that it ends is what counts.
        let begin = std::time::Instant::now();
        while RESTS.load(Ordering::Relaxed) > 0 {
            assert!(
                begin.elapsed() < Duration::from_secs(30),
                "somebody rests for ever"
            );
            std::thread::yield_now();
        }
    }

    #[test]
    fn it_yields_until_it_ends() {
        let mut awake = Awake::keep().unwrap();
        let begin = std::time::Instant::now();
        while awake.told.yields.load(Ordering::Relaxed) < 10 {
            assert!(
                begin.elapsed() < Duration::from_secs(30),
                "it does not yield"
            );
            std::thread::yield_now();
        }
        awake.end();
        let yields = awake.told.yields.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(
            awake.told.yields.load(Ordering::Relaxed),
            yields,
            "it has ended"
        );
    }
}
