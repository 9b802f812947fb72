//! The report.
use super::Story;
pub(super) fn page(_story: &Story) -> String {
    String::new()
}
