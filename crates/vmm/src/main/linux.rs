//! The process: arguments, descriptors, confinement, then the service.

use std::error::Error;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::net::SocketType;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vmm::confine;
use vmm::control::Control;
#[cfg(target_arch = "x86_64")]
use vmm::monitor::Monitor;
use vmm::vhost_user::{GUEST_CID, Service};
use vmm::vsock::Counters;

const USAGE: &str = "usage: gourd-vmm --vhost-user-fd N --control-fd N [--guest-cid CID]\n       gourd-vmm machine --control-fd N";

struct Arguments {
    vhost_user: OwnedFd,
    control: OwnedFd,
    guest_cid: u64,
}

/// Runs the service.
pub fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("machine") {
        return machine();
    }
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("gourd-vmm: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gourd-vmm: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// The second mode: a machine of our own.
#[cfg(target_arch = "x86_64")]
fn machine() -> ExitCode {
    let mut args = std::env::args().skip(2);
    let control = match (args.next().as_deref(), args.next(), args.next()) {
        (Some("--control-fd"), Some(value), None) => take_socket(&value, SocketType::SEQPACKET),
        _ => Err("wrong arguments".to_string()),
    };
    let control = match control {
        Ok(control) => control,
        Err(error) => {
            eprintln!("gourd-vmm: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    raise_descriptor_limit();
    let ended = Monitor::new(Control::new(control)).and_then(Monitor::run);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gourd-vmm: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn machine() -> ExitCode {
    eprintln!("gourd-vmm: a machine on KVM needs x86-64 so far");
    ExitCode::from(2)
}

fn serve(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    raise_descriptor_limit();
    let service = Service::new(
        UnixStream::from(arguments.vhost_user),
        Control::new(arguments.control),
        arguments.guest_cid,
    )?;
    let level = confine::this_process()?;
    let mut log = Log::default();
    service.run(level, |counters| log.look(counters))?;
    Ok(())
}

fn parse(args: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let (mut vhost_user, mut control, mut guest_cid) = (None, None, GUEST_CID);
    let mut args = args;
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} wants a value"))?;
        let wrong = |what: &str| format!("{name} {value}: {what}");
        match name.as_str() {
            "--vhost-user-fd" if vhost_user.is_none() => {
                vhost_user =
                    Some(take_socket(&value, SocketType::STREAM).map_err(|what| wrong(&what))?);
            }
            "--control-fd" if control.is_none() => {
                control =
                    Some(take_socket(&value, SocketType::SEQPACKET).map_err(|what| wrong(&what))?);
            }
            "--guest-cid" => {
                // 0 to 2 are taken by the specification, and CIDs are 32 bits wide for now.
                let cid = value
                    .parse()
                    .ok()
                    .filter(|cid| (3..u64::from(u32::MAX)).contains(cid));
                guest_cid = cid.ok_or_else(|| wrong("not a guest's CID"))?;
            }
            _ => return Err(format!("unknown or repeated argument {name}")),
        }
    }
    Ok(Arguments {
        vhost_user: vhost_user.ok_or("--vhost-user-fd is missing")?,
        control: control.ok_or("--control-fd is missing")?,
        guest_cid,
    })
}

/// Takes an inherited descriptor, which must be a socket of that type.
fn take_socket(value: &str, want: SocketType) -> Result<OwnedFd, String> {
    let number: RawFd = value
        .parse()
        .ok()
        .filter(|&fd| fd > 2)
        .ok_or("not a descriptor's number")?;
    // SAFETY: the parent named this number as ours to take; each is taken once, before anything else is opened. If
    // it is not open, the check below fails, and the process ends before the number is used again.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match rustix::net::sockopt::socket_type(&fd) {
        Ok(found) if found == want => Ok(fd),
        result => {
            let what = match result {
                Ok(_) => "not a socket of the right type".to_string(),
                Err(error) => error.to_string(),
            };
            // What is not ours is not ours to close.
            std::mem::forget(fd);
            Err(what)
        }
    }
}

/// A connection takes one descriptor, two while it is made.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(u64::MAX).min(4096);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum: limit.maximum,
        };
        // With fewer, fewer connections: dials beyond are refused.
        let _ = setrlimit(Resource::Nofile, raised);
    }
}

/// Says what the guest does wrong, seldom: it decides how often it does.
#[derive(Default)]
struct Log {
    said: u64,
    last: Option<Instant>,
}

impl Log {
    const SELDOM: Duration = Duration::from_secs(60);

    fn look(&mut self, counters: &Counters) {
        if counters.violations == self.said
            || self.last.is_some_and(|last| last.elapsed() < Self::SELDOM)
        {
            return;
        }
        self.said = counters.violations;
        self.last = Some(Instant::now());
        // Unlike eprintln!, this lives on when nobody reads it.
        let _ = writeln!(
            std::io::stderr(),
            "gourd-vmm: guest broke the vsock protocol, {} times so far",
            counters.violations
        );
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
