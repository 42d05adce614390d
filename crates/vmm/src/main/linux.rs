//! The process: arguments, descriptors, confinement, then the service.

use std::error::Error;
use std::ffi::CString;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use rustix::net::SocketType;
use vmm::confine;
use vmm::control::Control;
use vmm::fs::{Folder, Server};
#[cfg(target_arch = "x86_64")]
use vmm::monitor::Monitor;
use vmm::vhost_user::{GUEST_CID, Service, Share};
use vmm::virtio::fs::Fs;
use vmm::vsock::Counters;

const USAGE: &str = "usage: gourd-vmm --vhost-user-fd N --control-fd N [--guest-cid CID] [--share-fd N [--folder N:ro|rw:NAME]...]...
       gourd-vmm machine --control-fd N";

struct Arguments {
    vhost_user: OwnedFd,
    control: OwnedFd,
    guest_cid: u64,
    shares: Vec<(OwnedFd, Vec<Folder>)>,
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
    vmm::fs::raise_descriptor_limit(false);
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
    let shares = arguments.shares.len();
    let descriptors = vmm::fs::raise_descriptor_limit(shares > 0);
    let service = Service::new(
        UnixStream::from(arguments.vhost_user),
        Control::new(arguments.control),
        arguments.guest_cid,
    )?;
    let confined = Arc::new(Barrier::new(1 + shares));
    for (socket, folders) in arguments.shares {
        share(socket, folders, descriptors / shares, confined.clone())?;
    }
    let level = confine::this_process()?;
    confined.wait();
    let mut log = Log::default();
    service.run(level, |counters| log.look(counters))?;
    Ok(())
}

/// Starts a thread that serves shared folders when all threads are confined. What goes wrong in it ends the process.
fn share(
    socket: OwnedFd,
    folders: Vec<Folder>,
    descriptors: usize,
    confined: Arc<Barrier>,
) -> Result<(), Box<dyn Error>> {
    let mut server = Server::new(folders, descriptors)?;
    let reach = server.reach()?;
    // The guest's kernel has no use for the tag: QEMU tells it.
    let share = Share::new(UnixStream::from(socket), Fs::new(server, ""))?;
    let work = move || -> Result<(), Box<dyn Error>> {
        confine::this_sharing_thread(&reach)?;
        drop(reach);
        confined.wait();
        Ok(share.run()?)
    };
    let body = move || {
        if let Err(error) = work() {
            eprintln!("gourd-vmm: shared folders: {}", chain(&*error));
            std::process::exit(1);
        }
    };
    let builder = std::thread::Builder::new().name("share".into());
    builder.stack_size(STACK).spawn(body)?;
    Ok(())
}

/// Bytes of a thread's stack: the largest buffer on it is small.
const STACK: usize = 256 * 1024;

fn parse(args: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let (mut vhost_user, mut control, mut guest_cid) = (None, None, GUEST_CID);
    let mut shares: Vec<(OwnedFd, Vec<Folder>)> = Vec::new();
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
            "--share-fd" => {
                let socket =
                    take_socket(&value, SocketType::STREAM).map_err(|what| wrong(&what))?;
                shares.push((socket, Vec::new()));
            }
            "--folder" => {
                let (_, folders) = shares.last_mut().ok_or_else(|| wrong("of no share"))?;
                folders.push(take_folder(&value).map_err(|what| wrong(&what))?);
            }
            _ => return Err(format!("unknown or repeated argument {name}")),
        }
    }
    Ok(Arguments {
        vhost_user: vhost_user.ok_or("--vhost-user-fd is missing")?,
        control: control.ok_or("--control-fd is missing")?,
        guest_cid,
        shares,
    })
}

/// `N:ro|rw:NAME`.
fn take_folder(value: &str) -> Result<Folder, String> {
    let mut parts = value.splitn(3, ':');
    let (Some(number), Some(access), Some(name)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err("not N:ro|rw:NAME".into());
    };
    let read_only = match access {
        "ro" => true,
        "rw" => false,
        _ => return Err("neither ro nor rw".into()),
    };
    let name = CString::new(name).map_err(|error| error.to_string())?;
    let number: RawFd = number
        .parse()
        .ok()
        .filter(|&fd| fd > 2)
        .ok_or("not a descriptor's number")?;
    // SAFETY: as in `take_socket`.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match rustix::io::fcntl_getfd(&fd) {
        Ok(_) => Ok(Folder {
            name,
            fd,
            read_only,
        }),
        Err(error) => {
            std::mem::forget(fd);
            Err(error.to_string())
        }
    }
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
