//! Keeps the target's core from halting.
//!
//! A target sleeps until a frame comes. On a virtual machine its core then halts, and to wake it takes the hypervisor many
//! times what a round trip takes: every client would look equally good. A thread that does nothing but yield keeps the
//! core awake, and spares the sender the interrupt to it (an exit to the hypervisor as well): the target, once runnable,
//! is found by the next yield.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::machine;

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Awake {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
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
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("awake".to_owned())
            .spawn(move || {
                let mut yields = 0;
                // On another core it would keep the wrong one awake.
                if core.is_some_and(|core| machine::pin(core).is_err()) {
                    return yields;
                }
                // Relaxed: it only has to be seen some time.
                while !told.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                    yields += 1;
                }
                yields
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    fn end(&mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        // The thread has nothing that could panic.
        self.thread
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or(0)
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
    fn it_yields_until_it_ends() {
        let mut awake = Awake::keep().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(awake.end() > 10);
        assert_eq!(awake.end(), 0, "it has ended");
    }
}
