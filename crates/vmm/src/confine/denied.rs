//! What a spawned program must not do: QEMU, whose needs are too broad for a list of what it may.
//!
//! Everything that reaches another process, another user's or the kernel's state is refused. QEMU gets its sockets as
//! descriptors, so that it needs to make none but a pair; and it starts threads, but no process.

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompRule, sock_filter,
};

use super::ConfineError;
use super::filters::{Rules, SOCKET_TYPE, compile, equals, masked, not_equals, rule};

/// The kernel's make-up and the host's state: none of a machine's business.
const OF_THE_HOST: [i64; 43] = [
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

/// Other processes: their memory, their descriptors, their turns on the processor, and signals to them. `tgkill` is
/// [`own_signals`]'s.
const OF_OTHERS: [i64; 20] = [
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_setpriority,
    libc::SYS_ioprio_set,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setaffinity,
];

/// Memory and messages that processes of one user share by name. No path leads to them, so that Landlock has no say.
const BY_NAME: [i64; 14] = [
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    libc::SYS_mq_notify,
];

/// What makes or names a peer. Before its ABI 9 Landlock has no say over sockets that a path leads to, and a user's service
/// manager, which starts any program, listens on one.
const SOCKETS: [i64; 7] = [
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_sendmmsg,
];

/// The filters. `network`: sockets are its business.
pub fn spawned(network: bool) -> Result<Vec<BpfProgram>, ConfineError> {
    let mut rules = Rules::new();
    let others = OF_OTHERS.into_iter().chain(BY_NAME);
    for call in OF_THE_HOST.into_iter().chain(others) {
        rules.insert(call, Vec::new());
    }
    #[cfg(target_arch = "x86_64")]
    for call in [
        libc::SYS_ioperm,
        libc::SYS_iopl,
        libc::SYS_modify_ldt,
        libc::SYS_uselib,
        libc::SYS_fork,
        libc::SYS_vfork,
    ] {
        rules.insert(call, Vec::new());
    }
    if !network {
        for call in SOCKETS {
            rules.insert(call, Vec::new());
        }
        rules.extend(named_peers().map_err(ConfineError::Filter)?);
    }
    rules.extend(by_argument().map_err(ConfineError::Filter)?);
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

/// Pairs may be made (vhost-user wants one), but of streams: a message on a datagram socket can name another receiver.
fn named_peers() -> Result<Rules, BackendError> {
    let mut pairs = vec![not_equals(0, libc::AF_UNIX as u64).and_then(rule)?];
    for kind in [libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET] {
        pairs.push(masked(1, SOCKET_TYPE, kind as u64).and_then(rule)?);
    }
    let named = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
    Ok(Rules::from([
        (libc::SYS_socketpair, pairs),
        (libc::SYS_sendto, vec![rule(named)?]),
    ]))
}

/// Calls that are fine but for some arguments.
fn by_argument() -> Result<Rules, BackendError> {
    let any = |argument, values: &[u64]| -> Result<Vec<SeccompRule>, BackendError> {
        let rules = values.iter();
        rules
            .map(|&value| equals(argument, value).and_then(rule))
            .collect()
    };
    // Threads, but neither processes nor namespaces.
    let mut clone = vec![masked(0, libc::CLONE_THREAD as u64, 0).and_then(rule)?];
    for flag in [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ] {
        clone.push(masked(0, flag as u64, flag as u64).and_then(rule)?);
    }
    Ok(Rules::from([
        (libc::SYS_clone, clone),
        // Whom a descriptor's owner is, the kernel signals for us, with the signal that we choose.
        (libc::SYS_fcntl, any(1, &[F_SETOWN, F_SETSIG, F_SETOWN_EX])?),
        (
            libc::SYS_ioctl,
            any(1, &[FIOSETOWN, SIOCSPGRP, TIOCSTI, TIOCLINUX])?,
        ),
        // Its own limits only: one of processor time is a signal.
        (libc::SYS_prlimit64, vec![not_equals(0, 0).and_then(rule)?]),
    ]))
}

// From `asm-generic/fcntl.h`.
const F_SETOWN: u64 = 8;
const F_SETSIG: u64 = 10;
const F_SETOWN_EX: u64 = 15;
// From `asm-generic/sockios.h` and `asm-generic/ioctls.h`; the last two type into a terminal.
const FIOSETOWN: u64 = 0x8901;
const SIOCSPGRP: u64 = 0x8902;
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;

/// Offset of the call's number in `struct seccomp_data`.
const NUMBER: u32 = 0;
/// The same of the first argument's lower half, on a little-endian machine.
const FIRST: u32 = 16;

fn load(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn refuse(errno: i32) -> sock_filter {
    let action = libc::SECCOMP_RET_ERRNO | errno as u32;
    statement(libc::BPF_RET | libc::BPF_K, action)
}

fn allow() -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW)
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Goes on if the comparison holds; skips `otherwise` statements if not.
fn unless(comparison: u32, k: u32, otherwise: u8) -> sock_filter {
    sock_filter {
        jf: otherwise,
        ..statement(libc::BPF_JMP | comparison | libc::BPF_K, k)
    }
}

/// Signals to threads of process `pid` alone: threads are woken, and a program ends itself, by `tgkill`. Known in the
/// child only, so that it is made there: on the stack, without allocation.
pub fn own_signals(pid: libc::pid_t) -> [sock_filter; 6] {
    [
        load(NUMBER),
        unless(libc::BPF_JEQ, libc::SYS_tgkill as u32, 3),
        load(FIRST),
        sock_filter {
            jt: 1,
            ..unless(libc::BPF_JEQ, pid as u32, 0)
        },
        refuse(libc::EPERM),
        allow(),
    ]
}

/// A list of denials by number would let the same calls through under their x32 numbers (bit 30).
#[cfg(target_arch = "x86_64")]
fn no_x32() -> BpfProgram {
    const X32_BIT: u32 = 0x4000_0000;
    vec![
        load(NUMBER),
        unless(libc::BPF_JGE, X32_BIT, 1),
        refuse(libc::ENOSYS),
        allow(),
    ]
}
