//! Fault points: named moments at which tests end a process, or hold it.
//!
//! Compiled in with the feature `faults` only, which no program that people get has. Two variables of the environment,
//! which the engine's children inherit:
//! - `GOURD_FAULT_TRACE=FILE`: each point that is passed appends a line to FILE: its name, the program, how many times this
//!   process has passed it, and the process id, with tabs between them.
//! - `GOURD_FAULT=POINT[:ACTION]`: at this point, `kill` (the default) sends the process SIGKILL, `stop` SIGSTOP: then the
//!   test, which finds the process's id in the trace, kills whomever it likes and sends SIGCONT. A value that begins with `/`
//!   is the path of a file with a line `PROGRAM POINT COUNT ACTION`, so that a test arms programs that run already; the process
//!   that it hits removes the file, so that it hits one.

use std::path::Path;

/// A moment, in words with dots and dashes: `point("create.spec-written")`. Does nothing without the feature `faults`.
#[inline]
pub fn point(name: &str) {
    #[cfg(feature = "faults")]
    enabled::point(name);
    #[cfg(not(feature = "faults"))]
    let _ = name;
}

/// The moment of a step on a file or directory, such as `renamed.state.json`: every durable step of [`crate::file`] has one
/// before or after it, or both. Ids and digests are told apart by no test, so that they are left out of the name.
#[inline]
pub(crate) fn file(step: &str, path: &Path) {
    #[cfg(feature = "faults")]
    enabled::point(&format!("{step}.{}", enabled::kind(path)));
    #[cfg(not(feature = "faults"))]
    let _ = (step, path);
}

#[cfg(feature = "faults")]
mod enabled {
    use std::collections::BTreeMap;
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::sync::{Mutex, PoisonError};

    use rustix::process::{Signal, getpid, kill_process};

    pub(super) fn point(name: &str) {
        let (program, count) = (program(), count(name));
        if let Some(trace) = std::env::var_os("GOURD_FAULT_TRACE") {
            let line = format!("{name}\t{program}\t{count}\t{}\n", std::process::id());
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
        let action = if wanted.starts_with('/') {
            armed(Path::new(&wanted), &format!("{program} {name} {count} "))
        } else {
            let (point, action) = wanted.rsplit_once(':').unwrap_or((&wanted, "kill"));
            (point == name).then(|| action.to_owned())
        };
        let signal = match action.as_deref() {
            None => return,
            Some("stop") => Signal::STOP,
            Some(_) => Signal::KILL,
        };
        let _ = kill_process(getpid(), signal);
    }

    /// The action, if the line in the file is for us, and nobody else was quicker.
    fn armed(file: &Path, us: &str) -> Option<String> {
        let line = std::fs::read_to_string(file).ok()?;
        let action = line.strip_prefix(us)?.trim_end().to_owned();
        std::fs::remove_file(file).ok()?;
        Some(action)
    }

    /// A file's name; its folder's name where files are named by digests, references and the like; `ID` for an id.
    pub(super) fn kind(path: &Path) -> String {
        let text = |name: Option<&std::ffi::OsStr>| {
            name.map_or_else(String::new, |name| name.to_string_lossy().into_owned())
        };
        let folder = text(path.parent().and_then(Path::file_name));
        if ["refs", "images", "ingest", "sha256", "rootfs"].contains(&folder.as_str()) {
            return folder;
        }
        let mut name = text(path.file_name());
        if folder == "volumes" && name.starts_with('.') {
            // `.new-NAME.PID.COUNT`
            let numbers = |c: char| c.is_ascii_digit() || c == '.';
            name.truncate(name.trim_end_matches(numbers).len());
        }
        let hex = |part: &&str| part.len() >= 12 && part.bytes().all(|b| b.is_ascii_hexdigit());
        let id = name.split(['.', '-']).find(hex).unwrap_or_default();
        if id.is_empty() {
            name
        } else {
            name.replace(id, "ID")
        }
    }

    fn program() -> String {
        let path = std::env::args_os().next().map(PathBuf::from);
        let name = path.as_deref().and_then(Path::file_name);
        name.unwrap_or_default().to_string_lossy().into_owned()
    }

    fn count(name: &str) -> u32 {
        static PASSED: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());
        let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
        let count = passed.entry(name.to_owned()).or_insert(0);
        *count += 1;
        *count
    }
}
