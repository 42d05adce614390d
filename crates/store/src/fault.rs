//! Fault points: named moments at which tests end a process, or hold it.
//!
//! Compiled in with the feature `faults` only, which no program that people get has. Two variables of the environment,
//! which the engine's children inherit:
//! - `GOURD_FAULT_TRACE=FILE`: each point that is passed appends its name, a tab and the process id to FILE.
//! - `GOURD_FAULT=POINT[:ACTION]`: at this point, `kill` (the default) sends the process SIGKILL, `stop` SIGSTOP: then the
//!   test, which finds the process's id in the trace, kills whomever it likes and sends SIGCONT.

/// A moment, in words with dots and dashes: `point("create.spec-written")`. Does nothing without the feature `faults`.
#[inline]
pub fn point(name: &str) {
    #[cfg(feature = "faults")]
    enabled::point(name);
    #[cfg(not(feature = "faults"))]
    let _ = name;
}

#[cfg(feature = "faults")]
mod enabled {
    use std::io::Write;

    use rustix::process::{Signal, getpid, kill_process};

    pub(super) fn point(name: &str) {
        if let Some(trace) = std::env::var_os("GOURD_FAULT_TRACE") {
            let line = format!("{name}\t{}\n", std::process::id());
            let file = std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(&trace);
            if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
                tracing::error!(%error, "the trace of fault points can't be written");
            }
        }
        let Ok(wanted) = std::env::var("GOURD_FAULT") else {
            return;
        };
        let (point, action) = wanted.rsplit_once(':').unwrap_or((&wanted, "kill"));
        if point != name {
            return;
        }
        let signal = if action == "stop" {
            Signal::STOP
        } else {
            Signal::KILL
        };
        let _ = kill_process(getpid(), signal);
    }
}
