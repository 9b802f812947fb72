//! Waking a sleeper without a system call while it is awake.
//!
//! The pusher pushes and then looks whether anybody sleeps; the sleeper says that it sleeps and then looks whether
//! anything was pushed. Each side writes one place and reads the other's, so that only a sequentially consistent order
//! between the write and the read forbids that both miss each other: hence the two fences, each other's partner.
//! tests/doorbell_loom.rs checks it in every interleaving, and that it fails without either fence or the second look.

use crate::sync::{AtomicBool, Ordering, fence};

/// What really wakes the sleeper.
pub trait Bell {
    /// Makes the sleeper's present or next blocking wait return.
    fn ring(&self);
}

/// A bell with a flag that tells whether ringing is necessary.
#[derive(Debug)]
pub struct Doorbell<B> {
    sleeping: AtomicBool,
    bell: B,
}

impl<B: Bell> Doorbell<B> {
    /// A doorbell whose owner is awake.
    #[must_use]
    pub fn new(bell: B) -> Self {
        Self {
            sleeping: AtomicBool::new(false),
            bell,
        }
    }

    /// The bell, to wait on.
    #[must_use]
    pub fn bell(&self) -> &B {
        &self.bell
    }

    /// Sleeper: about to sleep. It must look at everything that could have been pushed once more *after* this call,
    /// and must not sleep when it finds something.
    pub fn announce(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        // Partner: the fence in `notify`. Orders the store above before the caller's second look.
        fence(Ordering::SeqCst);
    }

    /// Sleeper: awake again, or did not sleep after all.
    pub fn awake(&self) {
        // Relaxed: a pusher that still sees `true` rings once too often, which the next sleep survives.
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Pusher: something was pushed. Rings if the owner sleeps or is about to; whether it did.
    pub fn notify(&self) -> bool {
        // Partner: the fence in `announce`. Orders the caller's push before the load below.
        fence(Ordering::SeqCst);
        if !self.sleeping.load(Ordering::Relaxed) || !self.sleeping.swap(false, Ordering::Relaxed) {
            return false;
        }
        self.bell.ring();
        true
    }
}
