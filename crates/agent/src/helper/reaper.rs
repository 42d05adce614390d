//! The init of a container that asked for one (`--init`): PID 1 of its namespace instead of the process itself. It passes
//! signals on to the process, collects whatever falls to it, and ends as the process ended.
//!
//! ```text
//! helper ═ execve ═► gourd-reaper -- ARGS        PID 1
//!                       └─ fork, a process group of its own, in the foreground ═ execve ═► ARGS
//! ```
//!
//! As tini, which Docker uses for it. It is a program of its own, rather than a fork that stays, so that nothing of the
//! agent's memory and descriptors lives on in the container.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus};

use super::exec;
use crate::failure::{Failed, Step};
use crate::sys::{self, Birth};

/// Becomes the reaper of `program`, which is looked up here so that a missing one is told before `ready`.
pub(super) fn become_one(
    program: &str,
    arguments: &[CString],
    environment: &[CString],
    control: OwnedFd,
    ready: impl FnOnce() -> Result<(), Failed>,
) -> Result<Infallible, Failed> {
    exec::find(program, environment)?;
    let number = CString::new(control.as_raw_fd().to_string()).unwrap_or_default();
    let mut line = vec![CString::from(crate::REAPER), number, CString::from(c"--")];
    line.extend_from_slice(arguments);
    ready()?;
    let error = sys::execve(crate::SELF, &line, environment);
    Err(Failed::os("execve", "the container's init", error))
}

/// The role: the number of the inherited pipe, `--`, the process's arguments.
pub(crate) fn main() -> u8 {
    let mut arguments = std::env::args_os().skip(1);
    let control = arguments
        .next()
        .and_then(|number| number.to_str()?.parse().ok())
        .and_then(|number| sys::inherited(number).ok());
    // For people.
    let _ = rustix::thread::set_name(crate::REAPER);
    let Some(control) = control else {
        eprintln!("gourd-reaper: not for people");
        return crate::FAILURE;
    };
    let strings = |all: &mut dyn Iterator<Item = Vec<u8>>| {
        // They came as strings that end at a zero byte.
        all.filter_map(|text| CString::new(text).ok())
            .collect::<Vec<_>>()
    };
    let process = strings(&mut arguments.skip(1).map(OsStringExt::into_vec));
    let environment = strings(
        &mut std::env::vars_os()
            .map(|(key, value)| [key.into_vec(), b"=".to_vec(), value.into_vec()].concat()),
    );
    let mut control = File::from(control);
    match run(&process, &environment, control.try_clone().ok()) {
        Ok(child) => {
            // The child's own copy closes when it is the process.
            drop(control);
            reap(child)
        }
        Err(failed) => super::fail(failed, &mut control),
    }
}

/// Starts the process, with every signal held back here until somebody waits for it.
fn run(
    arguments: &[CString],
    environment: &[CString],
    control: Option<File>,
) -> Result<Pid, Failed> {
    sys::hold_signals().step("hold back", "signals")?;
    let child = || {
        let Some(mut control) = control else {
            return crate::FAILURE;
        };
        let Err(failed) = start(arguments, environment);
        super::fail(failed, &mut control)
    };
    let (pid, _pidfd) = sys::fork(&Birth::default(), child).step("start", "the process")?;
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| Failed::os("start", "the process", Errno::INVAL))
}

fn start(arguments: &[CString], environment: &[CString]) -> Result<Infallible, Failed> {
    rustix::process::setpgid(None, None).step("make", "a process group")?;
    let terminal = rustix::stdio::stdin();
    if rustix::termios::isatty(terminal) {
        // Signals are held back, so that the terminal's question who we are does not stop us.
        rustix::termios::tcsetpgrp(terminal, rustix::process::getpid())
            .step("take", "the foreground")?;
    }
    let program = arguments.first().and_then(|program| program.to_str().ok());
    sys::reset_signals();
    sys::close_on_exec_from(3).step("mark", "descriptors")?;
    exec::become_program(program.unwrap_or_default(), arguments, environment, || {
        Ok(())
    })
}

/// Passes signals on and collects children, until `child` is among them. Returns the status to end with.
fn reap(child: Pid) -> u8 {
    loop {
        let signal = sys::next_signal();
        if signal != libc::SIGCHLD {
            pass_on(child, signal);
            continue;
        }
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == child => return code(status),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                // None that has ended, or none at all.
                Ok(None) | Err(_) => break,
            }
        }
    }
}

fn pass_on(child: Pid, signal: i32) {
    // A background group's terminal signals are for who uses the terminal.
    if matches!(signal, libc::SIGTTIN | libc::SIGTTOU) {
        return;
    }
    // Gone is told by the next SIGCHLD.
    let _ = sys::kill(child, signal);
}

/// The shells' 128 + signal.
fn code(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => i32::from(crate::FAILURE),
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}
