//! The kernel is the oracle: confined children try what they must not, and their end or errno is looked at.

use std::fs::File;
use std::io::Write;
use std::net::UdpSocket;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::*;

const PROBE: &str = "GOURD_CONFINE_PROBE";

/// Runs the test of that name in a child process, as the probe of that name.
fn probe(test: &str, name: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("confine::tests::{test}"), "--nocapture"])
        .env(PROBE, name)
        .output()
        .unwrap()
}

fn is_probe(name: &str) -> bool {
    std::env::var(PROBE).is_ok_and(|probe| probe == name)
}

fn dies_of_sigsys(test: &str, name: &str, forbidden: impl FnOnce()) {
    if is_probe(name) {
        let level = this_process().unwrap();
        assert!(
            level.seccomp,
            "this kernel has no seccomp filters; the test needs them"
        );
        forbidden();
        std::process::exit(0);
    }
    let output = probe(test, name);
    assert_eq!(
        output.status.signal(),
        Some(libc::SIGSYS),
        "{name}: {output:?}"
    );
}

#[test]
fn confined_process_cannot_open_files() {
    dies_of_sigsys("confined_process_cannot_open_files", "open", || {
        let _ = File::open("/etc/passwd");
    });
}

#[test]
fn confined_process_cannot_make_network_sockets() {
    dies_of_sigsys(
        "confined_process_cannot_make_network_sockets",
        "socket",
        || {
            let _ = UdpSocket::bind("127.0.0.1:0");
        },
    );
}

#[test]
fn confined_process_cannot_make_memory_executable() {
    dies_of_sigsys(
        "confined_process_cannot_make_memory_executable",
        "exec",
        || {
            let prot = libc::PROT_READ | libc::PROT_EXEC;
            // SAFETY: an anonymous mapping that nobody uses.
            unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    4096,
                    prot,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                )
            };
        },
    );
}

/// Calls that are on the list for one purpose, tried for another.
#[test]
fn confined_process_cannot_reach_others_by_what_it_may_call() {
    fn signal() {
        // SAFETY: takes numbers only; signal 0 is none.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getppid(), libc::getppid(), 0) };
    }
    fn pair(kind: libc::c_int) {
        let mut fds = [0; 2];
        // SAFETY: the array has room for two descriptors.
        unsafe {
            libc::socketpair(
                libc::AF_UNIX,
                kind | libc::SOCK_CLOEXEC,
                0,
                fds.as_mut_ptr(),
            )
        };
    }
    fn datagrams() {
        pair(libc::SOCK_DGRAM);
    }
    fn packets() {
        pair(libc::SOCK_SEQPACKET);
    }
    fn named() {
        let address = libc::sockaddr_un {
            sun_family: libc::AF_UNIX as libc::sa_family_t,
            sun_path: [0; 108],
        };
        // SAFETY: the address and the empty message live for the call.
        unsafe { libc::sendto(0, c"".as_ptr().cast(), 0, 0, (&raw const address).cast(), 2) };
    }
    const TEST: &str = "confined_process_cannot_reach_others_by_what_it_may_call";
    let all: [(&str, fn()); 4] = [
        ("signal", signal),
        ("datagrams", datagrams),
        ("packets", packets),
        ("named", named),
    ];
    for (name, forbidden) in all {
        if std::env::var_os(PROBE).is_none() || is_probe(name) {
            dies_of_sigsys(TEST, name, forbidden);
        }
    }
}

/// What one thread of a machine needs, another must not have: each list is tried at a call that is not on it.
#[test]
fn threads_of_a_machine_have_lists_of_their_own() {
    fn request() {
        let mut bytes = 0;
        // SAFETY: the pointer is to a live integer. Any request but KVM_RUN will do.
        unsafe { libc::ioctl(0, libc::FIONREAD, &raw mut bytes) };
    }
    fn hole() {
        // SAFETY: takes numbers only.
        unsafe { libc::fallocate(99, 0, 0, 1) };
    }
    fn thread() {
        let _ = std::thread::Builder::new().spawn(|| ());
    }
    fn file() {
        let _ = File::open("/etc/passwd");
    }
    let all: [(&str, Role, fn()); 10] = [
        ("processor-ioctl", Role::Processor, request),
        ("processor-hole", Role::Processor, hole),
        ("processor-thread", Role::Processor, thread),
        ("processor-file", Role::Processor, file),
        ("block-ioctl", Role::Block, request),
        ("block-file", Role::Block, file),
        ("devices-ioctl", Role::Devices, request),
        ("devices-hole", Role::Devices, hole),
        ("share-ioctl", Role::Share, request),
        ("share-thread", Role::Share, thread),
    ];
    const TEST: &str = "threads_of_a_machine_have_lists_of_their_own";
    for (name, role, forbidden) in all {
        if is_probe(name) {
            this_thread(role).unwrap();
            forbidden();
            std::process::exit(0);
        }
    }
    if std::env::var_os(PROBE).is_some() {
        return;
    }
    for (name, ..) in all {
        let output = probe(TEST, name);
        assert_eq!(
            output.status.signal(),
            Some(libc::SIGSYS),
            "{name}: {output:?}"
        );
    }
}

#[test]
fn confined_process_still_works() {
    if is_probe("works") {
        this_process().unwrap();
        let (left, right) = std::os::unix::net::UnixStream::pair().unwrap();
        use std::io::Read;
        let mut word = [0; 4];
        assert_eq!((&left).write(b"word").unwrap(), 4);
        (&right).read_exact(&mut word).unwrap();
        drop((left, right));
        // SAFETY: takes numbers only; signal 0 is none.
        let alive = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), 0) };
        assert_eq!(alive, 0);
        let map: std::collections::HashMap<u8, Vec<u8>> = [(1, vec![0; 1 << 20])].into();
        std::process::exit(map.len() as i32 + 41);
    }
    let output = probe("confined_process_still_works", "works");
    assert_eq!(output.status.code(), Some(42), "{output:?}");
}

/// Landlock alone, so that it is proved to hold without seccomp.
#[test]
fn landlock_alone_denies_files() {
    if is_probe("landlock") {
        no_new_privs().unwrap();
        landlock::restrict_self(&landlock::deny_all().unwrap().unwrap()).unwrap();
        let error = File::open("/etc/passwd").unwrap_err();
        std::process::exit(error.raw_os_error().unwrap());
    }
    assert!(
        available().landlock_abi > 0,
        "this kernel has no Landlock; the test needs it"
    );
    let output = probe("landlock_alone_denies_files", "landlock");
    assert_eq!(output.status.code(), Some(libc::EACCES), "{output:?}");
}

/// A thread that serves shared folders reaches what is beneath them, each as it may, and nothing else: not by a path, not by
/// a link, not by `..`.
#[test]
fn a_sharing_thread_reaches_what_is_shared() {
    const TEST: &str = "a_sharing_thread_reaches_what_is_shared";
    const PLACE: &str = "GOURD_CONFINE_PLACE";
    if is_probe("share") {
        let place = PathBuf::from(std::env::var_os(PLACE).unwrap());
        let open = |name: &str| std::os::fd::OwnedFd::from(File::open(place.join(name)).unwrap());
        let reach = [(open("rw"), true), (open("ro"), false)];
        this_sharing_thread(&reach).unwrap();
        let make = |folder: usize, name: &str| {
            use rustix::fs::{Mode, OFlags, openat};
            let flags = OFlags::CREATE | OFlags::RDWR;
            openat(&reach[folder].0, name, flags, Mode::RUSR).map(drop)
        };
        let read = |folder: usize, name: &str| {
            use rustix::fs::{Mode, OFlags, openat};
            openat(&reach[folder].0, name, OFlags::RDONLY, Mode::empty()).map(drop)
        };
        assert_eq!(make(0, "new"), Ok(()));
        assert_eq!(read(1, "f"), Ok(()));
        let denied = Err(rustix::io::Errno::ACCESS);
        assert_eq!(make(1, "new"), denied);
        assert_eq!(read(0, "../secret"), denied);
        assert_eq!(read(0, "link"), denied);
        assert_eq!(read(0, "/etc/passwd"), denied);
        // SAFETY: a program's path and no arguments; it is refused, and ends this process.
        unsafe { libc::execve(c"/bin/true".as_ptr(), std::ptr::null(), std::ptr::null()) };
        std::process::exit(0);
    }
    if std::env::var_os(PROBE).is_some() {
        return;
    }
    assert!(
        available().landlock_abi > 0,
        "this kernel has no Landlock; the test needs it"
    );
    let place = tempfile::tempdir().unwrap();
    for folder in ["rw", "ro"] {
        std::fs::create_dir(place.path().join(folder)).unwrap();
        std::fs::write(place.path().join(folder).join("f"), "").unwrap();
    }
    std::fs::write(place.path().join("secret"), "").unwrap();
    std::os::unix::fs::symlink("../secret", place.path().join("rw/link")).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("confine::tests::{TEST}"), "--nocapture"])
        .env(PROBE, "share")
        .env(PLACE, place.path())
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
}

fn spawn(rules: &Rules, program: &str, args: &[&str]) -> Output {
    let prepared = for_spawn(rules).unwrap();
    let mut command = Command::new(program);
    command.args(args).env_clear();
    // SAFETY: `apply` makes system calls only.
    unsafe { command.pre_exec(move || prepared.apply()) };
    command.output().unwrap()
}

fn system_folders() -> Rules {
    let read = ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache"];
    Rules {
        read: read.iter().map(PathBuf::from).collect(),
        ..Rules::default()
    }
}

#[test]
fn spawned_program_reads_what_it_may_and_no_more() {
    assert!(
        available().landlock_abi > 0,
        "this kernel has no Landlock; the test needs it"
    );
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let secret = secret.to_str().unwrap();

    let denied = spawn(&system_folders(), "/bin/cat", &[secret]);
    assert!(
        !denied.status.success() && denied.stdout.is_empty(),
        "{denied:?}"
    );
    let mut rules = system_folders();
    rules.read.push(folder.path().into());
    let allowed = spawn(&rules, "/bin/cat", &[secret]);
    assert_eq!(allowed.stdout, b"secret", "{allowed:?}");
    let touch = spawn(&rules, "/bin/sh", &["-c", &format!("echo > {secret}")]);
    assert!(!touch.status.success(), "{touch:?}");
    rules.read_write.push(folder.path().into());
    let touch = spawn(&rules, "/bin/sh", &["-c", &format!("echo > {secret}")]);
    assert!(touch.status.success(), "{touch:?}");
}

/// The deny-list leaves what QEMU needs: it starts its threads, its accelerator and its firmware, and answers.
#[test]
fn qemu_runs_confined() {
    const QEMU: &str = "/usr/bin/qemu-system-x86_64";
    assert!(
        std::path::Path::new(QEMU).exists(),
        "{QEMU} is missing; the test needs it"
    );
    let prepared = for_spawn(&system_folders()).unwrap().in_namespaces();
    let mut command = Command::new(QEMU);
    command.args([
        "-M",
        "q35",
        "-accel",
        "tcg,thread=multi",
        "-smp",
        "2",
        "-nodefaults",
        "-display",
        "none",
    ]);
    command
        .args(["-monitor", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: `apply` makes system calls only.
    unsafe { command.pre_exec(move || prepared.apply()) };
    let mut child = command.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"info status\nquit\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("VM status: running"),
        "{output:?}"
    );
}

/// An escape: QEMU itself is told to connect to a listener of its user, as code in it could, and to run a program.
#[test]
fn qemu_reaches_no_listener_and_starts_no_program() {
    const QEMU: &str = "/usr/bin/qemu-system-x86_64";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut rules = system_folders();
    rules.read_write.push(folder.path().into());
    let connect = format!("socket,id=escape,path={}", path.display());
    let common = ["-M", "none", "-nodefaults", "-display", "none"];
    let try_to = |words: &[&str]| {
        let output = spawn(&rules, QEMU, &[&common, words].concat());
        String::from_utf8_lossy(&output.stderr).into_owned() + &output.status.to_string()
    };
    let end = try_to(&["-chardev", &connect]);
    assert!(end.contains("Operation not permitted"), "{end}");
    let waits = listener.accept().map(drop).unwrap_err();
    assert_eq!(waits.kind(), io::ErrorKind::WouldBlock);
    // It has no word for a fork that fails. One that succeeds ends with 0.
    assert_eq!(try_to(&["-daemonize"]), "exit status: 1");
}

/// The child tries calls itself between exec-preparation and exec, where no program is needed for each; what went wrong
/// first is its end. Each would be something else without the filter: a success, or another errno.
fn attempts(rules: &Rules, calls: Vec<(i64, [i64; 6], i32)>) {
    let prepared = for_spawn(rules).unwrap();
    assert!(
        prepared.level().seccomp,
        "this kernel has no seccomp filters; the test needs them"
    );
    let mut command = Command::new("/bin/true");
    let attempt = move || {
        prepared.apply()?;
        for (index, &(number, args, expect)) in calls.iter().enumerate() {
            // SAFETY: system calls with integer arguments, or with pointers that live in the parent's image.
            let errno = unsafe { call(number, args) };
            if errno != expect {
                // The index, where `Command` tells of an errno.
                return Err(io::Error::from_raw_os_error(1000 + index as i32));
            }
        }
        Ok(())
    };
    // SAFETY: system calls only.
    unsafe { command.pre_exec(attempt) };
    assert!(
        command
            .status()
            .expect("the call of 1000 + its index")
            .success()
    );
}

#[test]
fn spawned_program_lacks_the_denied_calls() {
    // SAFETY: getpid has no preconditions.
    let parent = i64::from(unsafe { libc::getpid() });
    // What is in the parent's memory is in the child's.
    let null = std::fs::File::open("/dev/null").unwrap();
    let null = i64::from(std::os::fd::AsRawFd::as_raw_fd(&null));
    static ADDRESS: [u8; 16] = *b"\x01\x00/nowhere\0\0\0\0\0\0";
    let address = ADDRESS.as_ptr().addr() as i64;
    static PAIR: [std::sync::atomic::AtomicI32; 2] =
        [const { std::sync::atomic::AtomicI32::new(0) }; 2];
    let pair = (&raw const PAIR).addr() as i64;
    let (unix, inet, vsock) = (
        libc::AF_UNIX as i64,
        libc::AF_INET as i64,
        libc::AF_VSOCK as i64,
    );
    let (stream, dgram, packet) = (
        libc::SOCK_STREAM as i64,
        (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as i64,
        libc::SOCK_SEQPACKET as i64,
    );
    let one = |a: i64| [a, 0, 0, 0, 0, 0];
    let two = |a: i64, b: i64| [a, b, 0, 0, 0, 0];
    let three = |a: i64, b: i64, c: i64| [a, b, c, 0, 0, 0];
    let denied = [
        (libc::SYS_socket, three(inet, dgram, 0)),
        (libc::SYS_socket, three(vsock, stream, 0)),
        (libc::SYS_socket, three(unix, stream, 0)),
        (libc::SYS_connect, three(null, address, 16)),
        (libc::SYS_bind, three(null, address, 16)),
        (libc::SYS_listen, two(null, 1)),
        (libc::SYS_accept4, one(null)),
        (libc::SYS_sendto, [null, 0, 0, 0, address, 16]),
        (libc::SYS_sendmmsg, one(null)),
        (libc::SYS_socketpair, [unix, dgram, 0, pair, 0, 0]),
        (libc::SYS_socketpair, [unix, packet, 0, pair, 0, 0]),
        (libc::SYS_socketpair, [inet, stream, 0, pair, 0, 0]),
        (libc::SYS_unshare, one(libc::CLONE_NEWUSER as i64)),
        (
            libc::SYS_clone,
            one((libc::CLONE_NEWUSER | libc::SIGCHLD) as i64),
        ),
        (libc::SYS_clone, one(libc::SIGCHLD as i64)),
        (libc::SYS_ptrace, one(0)),
        (libc::SYS_userfaultfd, one(0)),
        // Signal 0 is none: without the filter each of these succeeds.
        (libc::SYS_kill, two(parent, 0)),
        (libc::SYS_tkill, two(parent, 0)),
        (libc::SYS_tgkill, three(parent, parent, 0)),
        (libc::SYS_pidfd_open, one(parent)),
        (libc::SYS_pidfd_send_signal, two(null, 0)),
        (libc::SYS_rt_sigqueueinfo, two(parent, 0)),
        (libc::SYS_fcntl, three(null, libc::F_SETOWN as i64, parent)),
        (libc::SYS_ioctl, two(null, 0x8901)),
        (libc::SYS_prlimit64, two(parent, 0)),
        (libc::SYS_shmget, two(libc::IPC_PRIVATE as i64, 4096)),
        (libc::SYS_mq_open, one(address)),
    ];
    let absent = [
        (libc::SYS_clone3, one(0)),
        (libc::SYS_io_uring_setup, one(1)),
    ];
    // What QEMU does with what it has.
    let fine = [
        (libc::SYS_socketpair, [unix, stream, 0, pair, 0, 0], 0),
        (libc::SYS_sendto, [null, 0, 0, 0, 0, 0], libc::ENOTSOCK),
        (libc::SYS_prlimit64, two(0, 0), 0),
        (libc::SYS_fcntl, two(null, libc::F_GETFD as i64), 0),
    ];
    let mut calls: Vec<_> = Vec::new();
    calls.extend(denied.map(|(number, args)| (number, args, libc::EPERM)));
    calls.extend(absent.map(|(number, args)| (number, args, libc::ENOSYS)));
    calls.extend(fine);
    #[cfg(target_arch = "x86_64")]
    calls.extend([libc::SYS_fork, libc::SYS_vfork].map(|number| (number, one(0), libc::EPERM)));
    attempts(&system_folders(), calls);
}

/// A network's process makes sockets, and is as far from other processes.
#[test]
fn spawned_network_has_sockets_and_no_other_process() {
    // SAFETY: getpid has no preconditions.
    let parent = i64::from(unsafe { libc::getpid() });
    let rules = Rules {
        network: true,
        ..system_folders()
    };
    let (inet, dgram) = (libc::AF_INET as i64, libc::SOCK_DGRAM as i64);
    let calls = vec![
        (libc::SYS_socket, [inet, dgram, 0, 0, 0, 0], 0),
        (libc::SYS_kill, [parent, 0, 0, 0, 0, 0], libc::EPERM),
        (libc::SYS_tgkill, [parent, parent, 0, 0, 0, 0], libc::EPERM),
    ];
    attempts(&rules, calls);
}

/// A program that ends itself by a signal, as `abort` does, and one that signals another.
#[test]
fn spawned_program_signals_itself_only() {
    if is_probe("abort") {
        std::process::abort();
    }
    let prepared = for_spawn(&Rules {
        read: vec!["/".into()],
        ..Rules::default()
    });
    let prepared = prepared.unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "confine::tests::spawned_program_signals_itself_only",
        ])
        .env(PROBE, "abort");
    // SAFETY: `apply` makes system calls only.
    unsafe { command.pre_exec(move || prepared.apply()) };
    let status = command.output().unwrap().status;
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{status:?}");
    // The limit of core files holds.
    assert!(!status.core_dumped());
}

/// The child's own view of its limits, namespaces and privileges, from /proc.
fn seen_by_a_child(prepared: Prepared) -> (String, String, String) {
    let mut command = Command::new("/bin/cat");
    command.args(["/proc/self/limits", "/proc/self/status"]);
    let mut link = Command::new("/bin/ls");
    link.args(["-l", "/proc/self/ns"]);
    let prepared = std::sync::Arc::new(prepared);
    for command in [&mut command, &mut link] {
        let prepared = prepared.clone();
        // SAFETY: `apply` makes system calls only.
        unsafe { command.pre_exec(move || prepared.apply()) };
    }
    let text = |output: Output| {
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let all = text(command.output().unwrap());
    let (limits, status) = all.split_once("Name:").unwrap();
    (
        limits.to_owned(),
        status.to_owned(),
        text(link.output().unwrap()),
    )
}

fn words_of<'a>(text: &'a str, line: &str) -> Vec<&'a str> {
    let found = text.lines().find(|found| found.starts_with(line));
    let found = found.unwrap_or_else(|| panic!("{line}: {text}"));
    found[line.len()..].split_whitespace().collect()
}

#[test]
fn what_is_put_around_our_own_process() {
    let (limits, status, _) = seen_by_a_child(for_ourselves().with_memory(64 << 20));
    assert_eq!(words_of(&limits, "Max core file size")[..2], ["0", "0"]);
    let data = (64 << 20).to_string();
    assert_eq!(words_of(&limits, "Max data size")[..2], [&data, &data]);
    assert_eq!(words_of(&status, "NoNewPrivs:"), ["1"]);
    // It confines itself.
    assert_eq!(words_of(&status, "Seccomp:"), ["0"]);
}

/// A guest that makes a monitor grow without bound ends it, and not the host.
#[test]
fn memory_has_a_limit() {
    if is_probe("grow") {
        let mut kept = Vec::new();
        for _ in 0..64 {
            kept.push(vec![1u8; 8 << 20]);
        }
        std::process::exit(kept.len() as i32);
    }
    let prepared = for_ourselves().with_memory(128 << 20);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "confine::tests::memory_has_a_limit"])
        .env(PROBE, "grow");
    // SAFETY: `apply` makes system calls only.
    unsafe { command.pre_exec(move || prepared.apply()) };
    let output = command.output().unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
}

/// Namespaces alone: where the host allows them, another user's (and its own user's) processes can't be looked into even
/// without Landlock and seccomp.
#[test]
fn namespaces_are_left_behind_where_the_host_allows_it() {
    let allowed = user_namespaces();
    let (_, status, spaces) = seen_by_a_child(for_ourselves().in_namespaces());
    for name in ["user", "ipc"] {
        let ours = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        let ours = format!("{name} -> {}", ours.display());
        assert_eq!(!spaces.contains(&ours), allowed, "{ours}: {spaces}");
    }
    if allowed {
        assert_eq!(words_of(&status, "CapEff:"), ["0000000000000000"]);
    }
    // With everything else, and still a program that runs.
    let full = for_spawn(&Rules {
        read: vec!["/".into()],
        ..Rules::default()
    });
    let (limits, status, _) = seen_by_a_child(full.unwrap().in_namespaces());
    assert_eq!(words_of(&limits, "Max core file size")[..2], ["0", "0"]);
    assert_eq!(words_of(&status, "NoNewPrivs:"), ["1"]);
    assert_eq!(words_of(&status, "Seccomp:"), ["2"]);
}

/// An escape: the memory of a process of the same user, which has put nothing in the way.
#[test]
fn nobody_in_namespaces_looks_into_other_processes() {
    let mut other = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
    let pid = i64::from(other.id());
    let prepared = for_ourselves().in_namespaces();
    let mut command = Command::new("/bin/true");
    let attempt = move || {
        prepared.apply()?;
        // PTRACE_SEIZE. SAFETY: takes numbers only.
        match unsafe { call(libc::SYS_ptrace, [0x4206, pid, 0, 0, 0, 0]) } {
            0 => Err(io::Error::from_raw_os_error(libc::EDOM)),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    };
    // SAFETY: system calls only.
    unsafe { command.pre_exec(attempt) };
    let error = command.status().unwrap_err();
    other.kill().unwrap();
    other.wait().unwrap();
    if user_namespaces() {
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }
}

/// # Safety
/// The call must be one that takes integers, or pointers that are good, or is refused.
unsafe fn call(number: i64, args: [i64; 6]) -> i32 {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the caller's promise.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => io::Error::last_os_error().raw_os_error().unwrap_or(0),
        _ => 0,
    }
}
