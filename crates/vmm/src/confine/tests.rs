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
        drop((left, right));
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
    let prepared = for_spawn(&system_folders()).unwrap();
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

/// The child tries calls itself between exec-preparation and exec, where no program is needed for each.
#[test]
fn spawned_program_lacks_the_denied_calls() {
    let prepared = for_spawn(&system_folders()).unwrap();
    assert!(
        prepared.level().seccomp,
        "this kernel has no seccomp filters; the test needs them"
    );
    let mut command = Command::new("/bin/true");
    let attempt = move || {
        prepared.apply()?;
        // SAFETY: system calls with integer arguments; each is refused.
        let errnos = unsafe {
            [
                call(
                    libc::SYS_socket,
                    [libc::AF_INET as i64, libc::SOCK_DGRAM as i64, 0],
                ),
                call(
                    libc::SYS_socket,
                    [libc::AF_VSOCK as i64, libc::SOCK_STREAM as i64, 0],
                ),
                call(libc::SYS_unshare, [libc::CLONE_NEWUSER as i64, 0, 0]),
                call(
                    libc::SYS_clone,
                    [(libc::CLONE_NEWUSER | libc::SIGCHLD) as i64, 0, 0],
                ),
                call(libc::SYS_ptrace, [0, 0, 0]),
                call(libc::SYS_userfaultfd, [0, 0, 0]),
            ]
        };
        // SAFETY: as above.
        let absent = unsafe {
            [
                call(libc::SYS_clone3, [0, 0, 0]),
                call(libc::SYS_io_uring_setup, [1, 0, 0]),
            ]
        };
        match errnos == [libc::EPERM; 6] && absent == [libc::ENOSYS; 2] {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EDOM)),
        }
    };
    // SAFETY: system calls only.
    unsafe { command.pre_exec(attempt) };
    assert!(command.status().unwrap().success());
}

/// # Safety
/// The call must be one that takes integers, or is refused.
unsafe fn call(number: i64, args: [i64; 3]) -> i32 {
    // SAFETY: the caller's promise.
    match unsafe { libc::syscall(number, args[0], args[1], args[2]) } {
        -1 => io::Error::last_os_error().raw_os_error().unwrap_or(0),
        _ => 0,
    }
}
