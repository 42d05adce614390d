//! End to end: real images in real VMs through the built programs, as an unprivileged user.
//!
//! `./dev test` runs them. Each test has a `GOURD_ROOT` of its own, made from a template that the first one builds, and
//! checks at its end that nothing of it lives on. Design section 7's table is in `life.rs`, a test for each row.

mod bad_input;
mod boots;
mod deaths;
mod harness;
mod images;
mod life;
mod run;
mod streams;
mod terminal;
