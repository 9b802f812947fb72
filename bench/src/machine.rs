//! Which core a thread runs on.

/// Keeps the calling thread, and what it starts, on one core.
///
/// # Errors
/// There is no such core.
pub fn pin(core: usize) -> anyhow::Result<()> {
    anyhow::ensure!(
        core_affinity::set_for_current(core_affinity::CoreId { id: core }),
        "cannot run on core {core}"
    );
    Ok(())
}
