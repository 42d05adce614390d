//! What a person or a script reads: tables, templates, times, sizes, progress, the waterfall of `--timings`.
//!
//! All of it makes text; only `out` and `progress` write.

pub mod human;
pub mod listing;
pub mod out;
pub mod progress;
pub mod table;
pub mod template;
pub mod waterfall;
