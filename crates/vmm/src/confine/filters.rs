//! System call filters, as BPF programs: what `gourd-vmm` may do, and what this list and [`super::denied`] are made of.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

use super::{ConfineError, Role};

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

pub(super) type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What a thread of `gourd-vmm` needs once it runs. A call that is not here ends the process.
pub fn monitor(role: Role) -> Result<BpfProgram, ConfineError> {
    let mut rules = service()?;
    match role {
        Role::Service => {}
        // A console's log starts anew when it is full.
        Role::Devices => {
            rules.insert(libc::SYS_ftruncate, Vec::new());
        }
        Role::Block => {
            for call in [
                libc::SYS_preadv,
                libc::SYS_pwritev,
                libc::SYS_pwrite64,
                libc::SYS_fallocate,
                libc::SYS_fdatasync,
            ] {
                rules.insert(call, Vec::new());
            }
        }
        Role::Share => {
            for call in SHARING {
                rules.insert(call, Vec::new());
            }
        }
        Role::Processor => {
            rules.insert(libc::SYS_ftruncate, Vec::new());
            rules.insert(libc::SYS_rt_sigtimedwait, Vec::new());
            let run = equals(1, KVM_RUN)
                .and_then(rule)
                .map_err(ConfineError::Filter)?;
            rules.insert(libc::SYS_ioctl, vec![run]);
        }
    }
    compile(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}

/// What files are made of. A filter sees no paths: Landlock says which files.
const SHARING: [i64; 25] = [
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_newfstatat,
    libc::SYS_fstatfs,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_copy_file_range,
    libc::SYS_mknodat,
    libc::SYS_mkdirat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_fgetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_flistxattr,
    libc::SYS_fremovexattr,
];

/// `_IO(KVMIO, 0x80)`, from `linux/kvm.h`.
const KVM_RUN: u64 = 0xae80;

/// What every thread needs, and all that the vsock service does.
fn service() -> Result<Rules, ConfineError> {
    let mut rules = Rules::new();
    // Descriptors that exist.
    let io = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_recvmsg,
        libc::SYS_recvfrom,
        // To whom, a filter cannot see: the name lies in memory.
        libc::SYS_sendmsg,
        libc::SYS_shutdown,
        libc::SYS_close,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        // vm-memory asks a memory file for its size.
        libc::SYS_lseek,
        libc::SYS_fstat,
        libc::SYS_statx,
    ];
    // Memory, without PROT_EXEC (below).
    let memory = [
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
    ];
    // The runtime: locks, hash seeds, clocks, and an orderly end, a panic's included.
    let runtime = [
        libc::SYS_futex,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_sched_yield,
        libc::SYS_gettid,
        libc::SYS_getpid,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    for call in io.into_iter().chain(memory).chain(runtime) {
        rules.insert(call, Vec::new());
    }
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_epoll_wait, Vec::new());

    rules.extend(pairs_and_self().map_err(ConfineError::Filter)?);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let no_exec = masked(2, libc::PROT_EXEC as u64, 0)
            .and_then(rule)
            .map_err(ConfineError::Filter)?;
        rules.insert(call, vec![no_exec]);
    }
    let commands = [
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_DUPFD_CLOEXEC,
    ];
    let commands: Result<Vec<_>, _> = commands
        .into_iter()
        .map(|cmd| equals(1, cmd as u64).and_then(rule))
        .collect();
    rules.insert(libc::SYS_fcntl, commands.map_err(ConfineError::Filter)?);
    Ok(rules)
}

/// A stream to hand on, words on what is connected, and signals to this process: an abort's, a pause's.
fn pairs_and_self() -> Result<Rules, BackendError> {
    // Of a datagram socket each message can name another receiver.
    let unix = equals(0, libc::AF_UNIX as u64)?;
    let stream = masked(1, SOCKET_TYPE, libc::SOCK_STREAM as u64)?;
    let nobody = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    // SAFETY: getpid has no preconditions.
    let own = unsafe { libc::getpid() };
    Ok(Rules::from([
        (
            libc::SYS_socketpair,
            vec![SeccompRule::new(vec![unix, stream])?],
        ),
        (libc::SYS_sendto, vec![rule(nobody)?]),
        (
            libc::SYS_tgkill,
            vec![equals(0, own as u64).and_then(rule)?],
        ),
    ]))
}

/// The bits of a socket's type that are not flags: `SOCK_TYPE_MASK` of the kernel's `linux/net.h`.
pub(super) const SOCKET_TYPE: u64 = 0xf;

pub(super) fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, ConfineError> {
    SeccompFilter::new(rules, otherwise, matched, ARCH)
        .and_then(BpfProgram::try_from)
        .map_err(ConfineError::Filter)
}

pub(super) fn rule(condition: SeccompCondition) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![condition])
}

pub(super) fn equals(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

pub(super) fn not_equals(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
}

pub(super) fn masked(
    argument: u8,
    mask: u64,
    value: u64,
) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(mask),
        value,
    )
}

/// Puts a filter in force for the calling thread. Only a system call and no allocation; safe between fork and exec.
pub fn install(filter: &[sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the kernel copies the program, which lives in `filter`; `seccompiler::sock_filter` has the layout of the
    // kernel's.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0u32,
            &raw const program,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
