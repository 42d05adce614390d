//! What the process may ask of the kernel once it serves: a list, in force before the first frame. What is not on it ends the process,
//! and a supervisor starts another one.
//!
//! What its spawner has put around it (Landlock, a list of denials) holds as well; this one is for the calls themselves: no program,
//! no further thread, no executable memory, no file but for reading, no socket but TCP's, UDP's and pings'.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};
use thiserror::Error;

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Why it can't be confined.
#[derive(Debug, Error)]
pub enum ConfineError {
    /// The list can't be compiled.
    #[error("system call filter")]
    Filter(#[from] BackendError),
    /// The kernel refused it.
    #[error("seccomp: {0}")]
    System(io::Error),
}

/// Confines the calling thread for good. A kernel without seccomp filters is told of, and does not keep networks from working.
pub fn this_process() -> Result<(), ConfineError> {
    let (otherwise, listed) = (SeccompAction::KillProcess, SeccompAction::Allow);
    let program: BpfProgram = SeccompFilter::new(rules()?, otherwise, listed, ARCH)?.try_into()?;
    match seccompiler::apply_filter(&program) {
        Ok(()) => Ok(()),
        Err(seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error)) => {
            let without = [libc::ENOSYS, libc::EINVAL].map(Some);
            if !without.contains(&error.raw_os_error()) {
                return Err(ConfineError::System(error));
            }
            eprintln!("gourd-net: this kernel filters no system calls: {error}");
            Ok(())
        }
        Err(error) => Err(ConfineError::System(io::Error::other(error))),
    }
}

fn rules() -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    // Descriptors, whatever they are.
    let io = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_pread64,
        libc::SYS_lseek,
        libc::SYS_fstat,
        libc::SYS_close,
        libc::SYS_flock,
        // The log is cut when it is full.
        libc::SYS_ftruncate,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
    ];
    let sockets = [
        libc::SYS_accept4,
        libc::SYS_bind,
        libc::SYS_connect,
        libc::SYS_listen,
        libc::SYS_getsockname,
        libc::SYS_getpeername,
        libc::SYS_getsockopt,
        libc::SYS_setsockopt,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_recvmmsg,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_sendmmsg,
        libc::SYS_shutdown,
    ];
    // The file that names the resolvers (`openat` is below).
    let files = [libc::SYS_statx, libc::SYS_newfstatat];
    // Without PROT_EXEC (below).
    let memory = [
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
    ];
    // The runtime: hash seeds, clocks, who we are (for a hint about pings), and an orderly end, a panic's included.
    let runtime = [
        libc::SYS_futex,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_getegid,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_sched_yield,
        libc::SYS_gettid,
        libc::SYS_getpid,
        libc::SYS_tgkill,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let all = io.into_iter().chain(sockets).chain(files);
    for call in all.chain(memory).chain(runtime) {
        rules.insert(call, Vec::new());
    }
    #[cfg(target_arch = "x86_64")]
    for call in [libc::SYS_epoll_wait, libc::SYS_stat] {
        rules.insert(call, Vec::new());
    }
    rules.insert(libc::SYS_socket, made()?);
    // Reading only: no flag that writes, or makes a file.
    const WRITES: i32 = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_TMPFILE;
    // `O_TMPFILE` has the bit of `O_DIRECTORY`, which reads.
    let writes = (WRITES & !libc::O_DIRECTORY) as u64;
    rules.insert(libc::SYS_openat, vec![rule([masked(2, writes, 0)?])?]);
    let nonblocking = equals(1, libc::FIONBIO)?;
    rules.insert(libc::SYS_ioctl, vec![rule([nonblocking])?]);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let no_exec = masked(2, libc::PROT_EXEC as u64, 0)?;
        rules.insert(call, vec![rule([no_exec])?]);
    }
    let commands = [
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_DUPFD_CLOEXEC,
    ];
    let commands = commands.map(|command| rule([equals(1, command as u64)?]));
    rules.insert(
        libc::SYS_fcntl,
        commands.into_iter().collect::<Result<_, _>>()?,
    );
    Ok(rules)
}

/// TCP, UDP and pings, by IPv4 and IPv6: neither raw packets nor anybody on this host by a path.
fn made() -> Result<Vec<SeccompRule>, BackendError> {
    /// Without `SOCK_CLOEXEC` and `SOCK_NONBLOCK`.
    const KIND: u64 = 0xf;
    let mut made = Vec::new();
    for domain in [libc::AF_INET, libc::AF_INET6] {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
            let conditions = [equals(0, domain as u64)?, masked(1, KIND, kind as u64)?];
            made.push(rule(conditions)?);
        }
    }
    Ok(made)
}

fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.to_vec())
}

fn equals(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, BackendError> {
    let operator = SeccompCmpOp::MaskedEq(mask);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

/// The kernel is the oracle: confined children try to get out, and their end is looked at.
#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixDatagram;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    const PROBE: &str = "GOURD_CONFINE_PROBE";

    fn run(test: &str, probe: &str) -> std::process::ExitStatus {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("confine::tests::{test}")])
            .env(PROBE, probe)
            .status()
            .unwrap()
    }

    fn raw(domain: rustix::net::AddressFamily, kind: rustix::net::SocketType) {
        let _ = rustix::net::socket(domain, kind, None);
    }

    const ESCAPES: [(&str, fn()); 9] = [
        ("program", || drop(Command::new("/bin/true").status())),
        ("thread", || drop(std::thread::Builder::new().spawn(|| ()))),
        ("write", || drop(File::create("/tmp/gourd-net-escape"))),
        ("append", || {
            drop(File::options().append(true).open("/etc/passwd"));
        }),
        ("unix", || drop(UnixDatagram::unbound())),
        ("raw", || {
            raw(
                rustix::net::AddressFamily::INET,
                rustix::net::SocketType::RAW,
            );
        }),
        ("packet", || {
            raw(
                rustix::net::AddressFamily::PACKET,
                rustix::net::SocketType::DGRAM,
            );
        }),
        ("signal", || {
            let parent = rustix::process::getppid().unwrap();
            let _ = rustix::process::test_kill_process(parent);
        }),
        ("remove", || {
            drop(std::fs::remove_file("/tmp/gourd-net-escape"))
        }),
    ];

    #[test]
    fn there_is_no_way_out() {
        let probe = std::env::var(PROBE).unwrap_or_default();
        if let Some((_, escape)) = ESCAPES.iter().find(|(name, _)| *name == probe) {
            this_process().unwrap();
            escape();
            std::process::exit(0);
        }
        assert!(probe.is_empty());
        for (name, _) in ESCAPES {
            let status = run("there_is_no_way_out", name);
            assert_eq!(status.signal(), Some(libc::SIGSYS), "{name}: {status:?}");
        }
    }

    /// What it is there for works; [`crate::server`]'s own calls are proved end to end.
    #[test]
    fn its_work_goes_on() {
        if std::env::var(PROBE).is_ok() {
            let log = tempfile::tempfile().unwrap();
            let mut journal = crate::journal::Journal::new(Some(log));
            this_process().unwrap();
            // More than it keeps: its older half goes.
            (0..3000).for_each(|_| journal.write(&"x".repeat(500)));
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.set_nonblocking(true).unwrap();
            let (_server, from) = listener.accept().unwrap();
            assert_eq!(from, client.local_addr().unwrap());
            UdpSocket::bind("127.0.0.1:0").unwrap();
            std::fs::read("/etc/passwd").unwrap();
            let map: std::collections::HashMap<u8, Vec<u8>> = [(1, vec![0; 1 << 20])].into();
            std::process::exit(map.len() as i32 + 41);
        }
        assert_eq!(run("its_work_goes_on", "work").code(), Some(42));
    }
}
