//! The terminal on stdin: raw mode that is undone whatever happens, and its size.
//!
//! The settings from before raw mode lie in one static, so that the guard, the panic hook and the end of `main` can all
//! put them back; whoever comes first does, the others find nothing left to do. SIGTERM and SIGHUP end the session (see
//! `signals`), which drops the guard.

use std::io;
use std::sync::{Mutex, Once, PoisonError};

use engine::TerminalSize;
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{self, OptionalActions, Termios};

static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// Raw mode, until it is dropped.
pub struct RawMode(());

impl RawMode {
    /// Passes keys on as they are typed: no echo, no line editing, no signals from keys.
    pub fn enter() -> io::Result<RawMode> {
        HOOK.call_once(|| {
            let next = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                next(panic);
            }));
        });
        let now = termios::tcgetattr(stdin())?;
        BEFORE
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(now);
        let guard = RawMode(());
        guard.again()?;
        Ok(guard)
    }

    /// Sets raw mode once more, for after a stop: shells put their own settings back. In the background it waits, stopped,
    /// to be in the foreground.
    pub fn again(&self) -> io::Result<()> {
        if !is_raw() {
            return Ok(());
        }
        let mut raw = termios::tcgetattr(stdin())?;
        raw.make_raw();
        Ok(termios::tcsetattr(stdin(), OptionalActions::Now, &raw)?)
    }

    /// Stops this process with the terminal as it was before raw mode, and sets raw mode again when it goes on.
    pub fn stop_here(&self) -> io::Result<()> {
        let before = BEFORE
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(before) = before {
            termios::tcsetattr(stdin(), OptionalActions::Now, &before)?;
        }
        // STOP can't be caught: this comes back when somebody sends CONT.
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP)?;
        self.again()
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Keys are not shown, until it is dropped.
pub struct Silence(Termios);

impl Silence {
    /// No echo; lines are still edited, and interrupts still come.
    pub fn enter() -> io::Result<Silence> {
        let before = termios::tcgetattr(stdin())?;
        let mut silent = before.clone();
        silent.local_modes -= termios::LocalModes::ECHO;
        termios::tcsetattr(stdin(), OptionalActions::Flush, &silent)?;
        Ok(Silence(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = termios::tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}

/// Puts the terminal's settings back when raw mode was entered and not left.
pub fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // Nothing can be done about a terminal that is gone.
        let _ = termios::tcsetattr(stdin(), OptionalActions::Now, &before);
    }
}

/// Whether raw mode was entered and not left.
pub fn is_raw() -> bool {
    BEFORE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .is_some()
}

/// Whether keys come from a terminal.
pub fn stdin_is_terminal() -> bool {
    termios::isatty(stdin())
}

/// Whether a person reads stdout.
pub fn stdout_is_terminal() -> bool {
    termios::isatty(stdout())
}

/// Whether a person reads stderr.
pub fn stderr_is_terminal() -> bool {
    termios::isatty(stderr())
}

/// Rows and columns of the terminal that the output goes to, or the input comes from.
pub fn size() -> Option<TerminalSize> {
    let size = termios::tcgetwinsize(stdout())
        .or_else(|_| termios::tcgetwinsize(stdin()))
        .ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(TerminalSize {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// Columns of stdout's terminal.
pub fn stdout_columns() -> Option<usize> {
    let size = termios::tcgetwinsize(stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Columns of stderr's terminal.
pub fn stderr_columns() -> Option<usize> {
    let size = termios::tcgetwinsize(stderr()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Whether the locale's encoding is UTF-8, in the order in which locale(7) looks.
pub fn speaks_utf8() -> bool {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = set("LC_ALL")
        .or_else(|| set("LC_CTYPE"))
        .or_else(|| set("LANG"));
    locale.is_some_and(|value| {
        let value = value.to_ascii_lowercase();
        value.contains("utf-8") || value.contains("utf8")
    })
}
