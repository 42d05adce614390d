//! `gourd`: arguments, rendering, hints, exit codes. Everything else is the engine's.

mod app;
mod args;
mod clock;
mod complete;
mod confirm;
mod failure;
mod hints;
mod line;
mod render;
mod session;
mod terminal;
mod verbs;

fn main() {
    let started_ns = clock::monotonic_ns();
    let code = app::main(started_ns);
    // Not a return: a thread that waits in a write to a slow pipe must not hold up the end.
    std::process::exit(i32::from(code));
}
