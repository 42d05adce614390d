//! PID 1 of the VM: one thread, no runtime, nothing that can be asked for anything.
//!
//! ```text
//! kernel ─► root that can be pivoted ─► /dev /proc /sys /run ─► modules ─► agent ─► wait for children ─► power off
//!                                                                            └── ends ──────────────────────┘
//! ```
//!
//! The agent asks for the power to go by ending with status 0. Any other end is a crash: its reason goes to the console,
//! and the power goes all the same.

use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use rustix::process::{Pid, WaitOptions};
use rustix::system::RebootCommand;

use crate::failure::{Failed, Step};
use crate::sys::{self, Birth};
use crate::{agent, clock};

/// The role.
pub(crate) fn main() -> u8 {
    let started_ns = clock::boottime_ns();
    if let Err(failed) = run(started_ns) {
        eprintln!("gourd-init: {failed}");
    }
    rustix::fs::sync();
    if let Err(errno) = rustix::system::reboot(RebootCommand::PowerOff) {
        eprintln!("gourd-init: power off: {errno}");
    }
    crate::FAILURE
}

fn run(started_ns: u64) -> Result<(), Failed> {
    pivotable_root()?;
    file_systems()?;
    protect_from_oom()?;
    let failures = crate::modules::load_all(Path::new("/modules"));
    for failed in &failures {
        eprintln!("gourd-init: {failed}");
    }
    let failure = failures.first().map(ToString::to_string);
    let role = || agent::main(started_ns, failure);
    let (child, _pidfd) = sys::fork(&Birth::default(), role).step("start", "the agent")?;
    reap_until_end_of(child)
}

/// Makes the root a mount on top of the initramfs. The initramfs itself is the bottom of every mount namespace and can't
/// be pivoted, but helpers put the container's root in place with `pivot_root`.
fn pivotable_root() -> Result<(), Failed> {
    const STAGE: &str = "/.root";
    make_directory(STAGE)?;
    mount_bind("/", STAGE).step("bind", STAGE)?;
    rustix::process::chdir(STAGE).step("change directory", STAGE)?;
    mount_move(".", "/").step("move root", STAGE)?;
    rustix::process::chroot(".").step("change root", STAGE)
}

fn file_systems() -> Result<(), Failed> {
    let restricted = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (target, kind, flags) in [
        ("/dev", "devtmpfs", MountFlags::NOSUID),
        ("/proc", "proc", restricted),
        ("/sys", "sysfs", restricted),
        ("/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV),
    ] {
        make_directory(target)?;
        mount(kind, target, kind, flags, None).step("mount", target)?;
        if target == "/dev" {
            console();
        }
    }
    Ok(())
}

/// Errors go to the console. The kernel opened it already where the initramfs has a node for it; a VM without one runs as
/// well, and takes nothing else for its standard streams.
fn console() {
    let open = |path| rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty());
    let Ok(console) = open("/dev/console").or_else(|_| open("/dev/null")) else {
        return;
    };
    // These fail for nothing but a bad descriptor, and there is nobody yet to tell.
    let _ = rustix::stdio::dup2_stdin(&console);
    let _ = rustix::stdio::dup2_stdout(&console);
    let _ = rustix::stdio::dup2_stderr(&console);
}

fn make_directory(path: &str) -> Result<(), Failed> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(Failed::os("make directory", path, errno)),
    }
}

/// PID 1 and, by inheritance, the agent are never the OOM killer's choice.
fn protect_from_oom() -> Result<(), Failed> {
    const SCORE: &str = "/proc/self/oom_score_adj";
    std::fs::write(SCORE, "-1000").step("write", SCORE)
}

fn reap_until_end_of(agent: u32) -> Result<(), Failed> {
    let agent = i32::try_from(agent).ok().and_then(Pid::from_raw);
    loop {
        let (pid, status) = match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some(child)) => child,
            Ok(None) | Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(Failed::os("wait for", "the agent", errno)),
        };
        if Some(pid) != agent {
            continue;
        }
        return match (status.exit_status(), status.terminating_signal()) {
            (Some(0), _) => Ok(()),
            (Some(code), _) => Err(died(&format!("exited with status {code}"))),
            (None, Some(signal)) => Err(died(&format!("killed by signal {signal}"))),
            (None, None) => Err(died("ended for a reason that the kernel does not give")),
        };
    }
}

fn died(how: &str) -> Failed {
    Failed::invalid("run", "the agent", how)
}
