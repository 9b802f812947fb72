//! x
use crate::cli::Global;
use crate::fault::Exit;
use anyhow::Result;
pub(crate) fn run(_global: &Global) -> Result<Exit> {
    Ok(Exit::Done)
}
