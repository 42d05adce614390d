//! System call filters, as BPF programs.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::{ConfineError, Role};

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What a thread of `gourd-vmm` needs once it runs. A call that is not here ends the process.
pub fn monitor(role: Role) -> Result<Vec<BpfProgram>, ConfineError> {
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
    let filter = compile(rules, SeccompAction::KillProcess, SeccompAction::Allow)?;
    Ok(vec![filter])
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
        libc::SYS_sendmsg,
        libc::SYS_sendto,
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
        libc::SYS_tgkill,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    for call in io.into_iter().chain(memory).chain(runtime) {
        rules.insert(call, Vec::new());
    }
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_epoll_wait, Vec::new());

    let unix = equals(0, libc::AF_UNIX as u64)
        .and_then(rule)
        .map_err(ConfineError::Filter)?;
    rules.insert(libc::SYS_socketpair, vec![unix]);
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

/// What a spawned QEMU must not do. Everything else it may.
pub fn spawned(network: bool) -> Result<Vec<BpfProgram>, ConfineError> {
    let mut rules = Rules::new();
    // Other processes, the kernel's make-up, the host's state: none of a machine's business.
    let denied = [
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_kcmp,
        libc::SYS_pidfd_getfd,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_fsopen,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_mount_setattr,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_kexec_file_load,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_swapoff,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
        libc::SYS_acct,
        libc::SYS_quotactl,
        libc::SYS_syslog,
        libc::SYS_personality,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_clock_adjtime,
        libc::SYS_adjtimex,
        libc::SYS_sethostname,
        libc::SYS_setdomainname,
        libc::SYS_name_to_handle_at,
        libc::SYS_open_by_handle_at,
        libc::SYS_fanotify_init,
        libc::SYS_vhangup,
        libc::SYS_lookup_dcookie,
        libc::SYS_nfsservctl,
    ];
    for call in denied {
        rules.insert(call, Vec::new());
    }
    #[cfg(target_arch = "x86_64")]
    for call in [
        libc::SYS_ioperm,
        libc::SYS_iopl,
        libc::SYS_modify_ldt,
        libc::SYS_uselib,
    ] {
        rules.insert(call, Vec::new());
    }
    if !network {
        let others = not_equals(0, libc::AF_UNIX as u64)
            .and_then(rule)
            .map_err(ConfineError::Filter)?;
        rules.insert(libc::SYS_socket, vec![others]);
    }
    let namespaces = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ];
    let namespaces: Result<Vec<_>, _> = namespaces
        .into_iter()
        .map(|flag| masked(0, flag as u64, flag as u64).and_then(rule))
        .collect();
    rules.insert(libc::SYS_clone, namespaces.map_err(ConfineError::Filter)?);
    let deny = |errno: i32| SeccompAction::Errno(errno as u32);
    let denied = compile(rules, SeccompAction::Allow, deny(libc::EPERM))?;

    // Calls whose arguments a filter cannot see, or that make calls behind its back: as on a kernel without them,
    // and then the C library and QEMU take the older way.
    let mut absent = Rules::new();
    for call in [
        libc::SYS_clone3,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
    ] {
        absent.insert(call, Vec::new());
    }
    let absent = compile(absent, SeccompAction::Allow, deny(libc::ENOSYS))?;
    let mut filters = vec![denied, absent];
    #[cfg(target_arch = "x86_64")]
    filters.push(no_x32());
    Ok(filters)
}

/// A list of denials by number would let the same calls through under their x32 numbers (bit 30).
#[cfg(target_arch = "x86_64")]
fn no_x32() -> BpfProgram {
    const X32_BIT: u32 = 0x4000_0000;
    const NUMBER: u32 = 0;
    let statement = |code: u32, k: u32| seccompiler::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    vec![
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, NUMBER),
        seccompiler::sock_filter {
            jf: 1,
            ..statement(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, X32_BIT)
        },
        statement(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
        ),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ]
}

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, ConfineError> {
    SeccompFilter::new(rules, otherwise, matched, ARCH)
        .and_then(BpfProgram::try_from)
        .map_err(ConfineError::Filter)
}

fn rule(condition: SeccompCondition) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![condition])
}

fn equals(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn not_equals(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(mask),
        value,
    )
}

/// Puts filters in force for the calling thread. Only system calls and no allocation; safe between fork and exec.
pub fn install(filters: &[BpfProgram]) -> io::Result<()> {
    for filter in filters {
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_ptr().cast_mut().cast(),
        };
        // SAFETY: the kernel copies the program, which lives in `filter`; `seccompiler::sock_filter` has the layout
        // of the kernel's.
        let done = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                0u32,
                &raw const program,
            )
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
