//! The system calls that neither std nor rustix offers safely. `unsafe` stands here and below, and nowhere else in this crate.
#![allow(unsafe_code)]

mod interfaces;

use std::convert::Infallible;
use std::ffi::{CStr, CString, c_char, c_int};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::Pid;
use rustix::thread::UnshareFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) use interfaces::{Interfaces, loopback_up};

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn vsock_address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: sockaddr_vm is plain integers, for which all zeros is a value.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = cid;
    address.svm_port = port;
    address
}

/// The bytes of a `sockaddr_vm`.
const VSOCK_ADDRESS_LEN: libc::socklen_t = size_of::<libc::sockaddr_vm>() as libc::socklen_t;

/// `SO_VM_SOCKETS_CONNECT_TIMEOUT_OLD` of `linux/vm_sockets.h`: takes a `struct timeval` of this architecture.
const CONNECT_TIMEOUT: c_int = 6;

/// Begins to connect a vsock stream to `port` of the host, from `source_port` where one is given. The descriptor does not
/// block; it becomes writable when the connection stands or has failed.
pub(crate) fn vsock_connect(port: u32, source_port: Option<u32>) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers; a returned descriptor is new and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_VSOCK, kind, 0))?) };
    if let Some(source_port) = source_port {
        let address = vsock_address(libc::VMADDR_CID_ANY, source_port);
        // SAFETY: the address lives for the call and its length is its size.
        check(unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                VSOCK_ADDRESS_LEN,
            )
        })?;
    }
    // The kernel gives up after two seconds, which a busy host under emulation may need: a dead one ends the VM anyway.
    let timeout = libc::timeval {
        tv_sec: 60,
        tv_usec: 0,
    };
    // SAFETY: the option's value lives for the call and its length is its size.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::AF_VSOCK,
            CONNECT_TIMEOUT,
            (&raw const timeout).cast(),
            size_of::<libc::timeval>() as libc::socklen_t,
        )
    })?;
    let address = vsock_address(libc::VMADDR_CID_HOST, port);
    // SAFETY: the address lives for the call and its length is its size.
    let connected = check(unsafe {
        libc::connect(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            VSOCK_ADDRESS_LEN,
        )
    });
    match connected {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// `_IOW('f', 16, __u64)` of `fs/ext4/ext4.h`.
const EXT4_IOC_RESIZE_FS: libc::Ioctl = 0x4008_6610;

/// Makes the ext4 file system that `file` lies in `blocks` blocks large, while it is mounted; its disk must have them.
pub(crate) fn ext4_resize(file: BorrowedFd<'_>, blocks: u64) -> io::Result<()> {
    // SAFETY: EXT4_IOC_RESIZE_FS reads 8 bytes, which live for the call. Another file system refuses it.
    check(unsafe { libc::ioctl(file.as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw const blocks) })?;
    Ok(())
}

/// Leaves the namespaces that `flags` name. Only for a process with one thread, and never with `FILES`.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    let flags = flags.difference(UnshareFlags::FILES);
    // SAFETY: the descriptor table stays shared, which is what the call's contract is about.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Every signal's disposition as it is by default, and none blocked.
pub(crate) fn reset_signals() {
    // `struct kernel_sigaction`: handler (0 is SIG_DFL), flags, restorer, mask.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // Not libc's: that refuses 32 and 33, which its own posix_spawn leaves ignored.
        // SAFETY: the default action runs no code of ours; the kernel reads 32 bytes, which live for the call. It
        // refuses KILL and STOP, for which there is nothing to reset.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    let none = 0_u64;
    // SAFETY: the kernel reads the set's 8 bytes, which live for the call.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    };
}

/// Blocks every signal, so that [`next_signal`] gets them one by one.
pub(crate) fn hold_signals() -> io::Result<()> {
    let all = u64::MAX;
    // SAFETY: the kernel reads the set's 8 bytes, which live for the call. It leaves KILL and STOP out.
    check(unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const all,
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    } as c_int)?;
    Ok(())
}

/// Waits for a signal that is blocked, and takes it.
pub(crate) fn next_signal() -> i32 {
    let all = u64::MAX;
    loop {
        // SAFETY: the kernel reads the set's 8 bytes, which live for the call; the other two pointers may be null.
        let signal = unsafe {
            libc::syscall(
                libc::SYS_rt_sigtimedwait,
                &raw const all,
                std::ptr::null_mut::<libc::siginfo_t>(),
                std::ptr::null::<libc::timespec>(),
                size_of::<u64>(),
            )
        };
        if signal > 0 {
            return signal as i32;
        }
    }
}

/// Sends `signal`, any number that the kernel takes.
pub(crate) fn kill(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) })?;
    Ok(())
}

/// Marks every descriptor from `first` on as close-on-exec.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: no pointers, and nothing is closed in this process.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    } as c_int)?;
    Ok(())
}

/// Sends `signal` (any number that the kernel takes) to the process that `pidfd` refers to.
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: the one pointer is null, which asks for the default siginfo.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    } as c_int)?;
    Ok(())
}

/// Takes over a descriptor that the parent left open on purpose and named in the arguments.
pub(crate) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    if fd <= 2 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: no pointers; tells whether the descriptor is open.
    check(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
    // SAFETY: it is open, and this process was just executed: nobody else here owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The array that `execve` takes: pointers to the strings, then a null.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

/// Becomes `program`. Comes back only with an error.
pub(crate) fn execve(program: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null, and they and the strings that they point to outlive the call.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Of `linux/sched.h`; libc's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Where a child is born.
#[derive(Default)]
pub(crate) struct Birth<'a> {
    /// Its stdin, stdout and stderr; the parent's where not given.
    pub(crate) stdio: Option<[BorrowedFd<'a>; 3]>,
    /// Its control group. A later move (`cgroup.procs`) would wait for every CPU to pass through an RCU grace period.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// As PID 1 of a new PID namespace.
    pub(crate) new_pid_namespace: bool,
}

/// Starts `program` with an empty environment. Returns its id and a pidfd; the caller collects its status.
pub(crate) fn spawn(
    program: &CStr,
    arguments: &[CString],
    birth: &Birth<'_>,
) -> io::Result<(u32, OwnedFd)> {
    let (arguments, environment) = (pointers(arguments), pointers(&[]));
    // SAFETY: the child makes system calls on memory that was prepared before, so that it matters to nobody whether
    // another thread held a lock. `_exit` does not come back.
    unsafe {
        clone(birth, || {
            libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr());
            libc::_exit(127)
        })
    }
}

unsafe extern "C" {
    /// `sys/single_threaded.h` of glibc: zero as soon as there may have been a second thread.
    static __libc_single_threaded: c_char;
}

/// Starts a copy of this process that does `work` and ends with the status that it returns. Nothing is executed, loaded
/// or read: under translation that is worth 20 ms. Returns its id and a pidfd; the caller collects its status.
///
/// # Errors
/// `EDEADLK` in a process that has had a second thread: it may have held a lock, which the copy would wait for.
pub(crate) fn fork(birth: &Birth<'_>, work: impl FnOnce() -> u8) -> io::Result<(u32, OwnedFd)> {
    // SAFETY: only glibc writes it, and not while this thread is the only one.
    if unsafe { __libc_single_threaded } == 0 {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    // SAFETY: with one thread the copy's memory is as consistent as this call found it. Nothing of the caller's is dropped
    // in it: `_exit` does not come back.
    unsafe { clone(birth, || libc::_exit(work().into())) }
}

/// `clone3` without `CLONE_VM`: the child has memory of its own, as after fork.
///
/// # Safety
/// `child` may do in the copy of this process what it does there.
unsafe fn clone(
    birth: &Birth<'_>,
    child: impl FnOnce() -> Infallible,
) -> io::Result<(u32, OwnedFd)> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is integers, for which all zeros is a value.
    let mut clone: libc::clone_args = unsafe { std::mem::zeroed() };
    clone.flags = libc::CLONE_PIDFD as u64;
    clone.pidfd = (&raw mut pidfd) as u64;
    clone.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = birth.cgroup {
        clone.flags |= CLONE_INTO_CGROUP;
        clone.cgroup = cgroup.as_raw_fd() as u64;
    }
    if birth.new_pid_namespace {
        clone.flags |= libc::CLONE_NEWPID as u64;
    }
    // SAFETY: the structure lives for the call and its size is given; what the child may do is the caller's to say.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut clone,
            size_of::<libc::clone_args>(),
        )
    };
    if pid == 0 {
        for (to, from) in birth.stdio.iter().flatten().enumerate() {
            // SAFETY: system calls on numbers. `_exit` does not come back.
            unsafe {
                if libc::dup2(from.as_raw_fd(), to as c_int) < 0 {
                    libc::_exit(126);
                }
            }
        }
        child();
    }
    let pid = u32::try_from(pid).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel made the descriptor for this call (close-on-exec), and nobody else owns it.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// `_IO(0xff, 2)` and `_IO(0xff, 3)` of `linux/pidfd.h`.
pub(crate) const PIDFD_GET_IPC_NAMESPACE: libc::Ioctl = 0xff02;
pub(crate) const PIDFD_GET_MNT_NAMESPACE: libc::Ioctl = 0xff03;

/// The namespace of the process that `pidfd` refers to which `call` asks for.
pub(crate) fn namespace(pidfd: BorrowedFd<'_>, call: libc::Ioctl) -> io::Result<OwnedFd> {
    // SAFETY: the calls of this type take no argument and return a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(check(libc::ioctl(pidfd.as_raw_fd(), call, 0))?) })
}

/// Bytes at the end of the heap that are kept for the next use.
const KEPT: c_int = 4 << 20;

/// Has the allocator give back to the kernel only what is worth a call.
pub(crate) fn keep_freed_memory() {
    // SAFETY: it sets a number. A refusal leaves things as they were.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT) };
}

/// Writes to who is gone are errors, not deaths: what std's own `main` would set.
pub(crate) fn ignore_broken_pipes() {
    // SAFETY: ignoring runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Has the runtime tell when `fd`, which must not block, is ready.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd stays open, under the same number, for as long as the AsyncFd owns it.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// CLOCK_BOOTTIME.
pub(crate) fn boottime() -> libc::timespec {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it writes one timespec, which lives for the call. It fails for clocks that the kernel lacks, and this one is
    // there since Linux 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    now
}

/// Has CLOCK_REALTIME run 0.05 % faster or slower until it has gained so many microseconds, or lost them (adjtime(3)).
pub(crate) fn slew(microseconds: i64) -> io::Result<()> {
    let delta = libc::timeval {
        tv_sec: microseconds / 1_000_000,
        tv_usec: microseconds % 1_000_000,
    };
    // SAFETY: it reads one timeval, which lives for the call, and writes nothing where the second pointer is null.
    match unsafe { libc::adjtime(&raw const delta, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
