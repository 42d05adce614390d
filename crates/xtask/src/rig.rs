//! The rig: a machine with a real `/dev/kvm` on any x86-64 host. `xtask rig CACHE [OPTIONS] -- CMD ARGS`.
//!
//! QEMU translates (TCG) and emulates an AMD processor with SVM, the gourd kernel boots in it, and the host's root is its
//! root: read-only over 9p, with an overlay in memory on top, so that what CMD writes is gone afterwards. CMD runs as
//! the caller, in the caller's directory, with the caller's environment, standard streams and terminal; the rig
//! ends with its exit code. 124: the time was up; 125: the rig itself failed.
//!
//! It proves AMD's way only: Intel's is untested.

mod guest;
mod pulse;
mod streams;

use std::ffi::OsString;
use std::io::{IsTerminal, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use streams::{Console, Streams};

const QEMU: &str = "qemu-system-x86_64";
/// As timeout(1).
const TIMED_OUT: u8 = 124;
/// As other programs that run programs.
const FAILED: u8 = 125;

const USAGE: &str =
    "xtask rig CACHE [--cpus N] [--memory MIB] [--timeout SECONDS] [--kernel FILE] -- CMD ARGS";

/// What the caller wants.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    cpus: u32,
    /// In MiB.
    memory: u64,
    timeout: Duration,
    kernel: Option<PathBuf>,
    command: Vec<OsString>,
}

/// Runs a command in the rig; its exit code is ours.
pub fn run(cache: &Path, args: impl Iterator<Item = OsString>) -> ExitCode {
    match Options::parse(args).and_then(|options| start(cache, &options)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("rig: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

impl Options {
    fn parse(args: impl Iterator<Item = OsString>) -> Result<Options> {
        let mut options = Options {
            // Measured: a second processor on one thread of translation gains nothing.
            cpus: 1,
            memory: 4096,
            timeout: Duration::from_secs(600),
            kernel: None,
            command: Vec::new(),
        };
        let mut args = args;
        while let Some(name) = args.next() {
            if name == "--" {
                options.command = args.collect();
                ensure!(!options.command.is_empty(), "no command; usage: {USAGE}");
                return Ok(options);
            }
            let name = name.to_string_lossy().into_owned();
            let value = args
                .next()
                .with_context(|| format!("{name} wants a value; usage: {USAGE}"))?;
            let number = || -> Result<u64> {
                let text = value.to_string_lossy();
                let number = text.parse().ok().filter(|&number| number > 0);
                number.with_context(|| format!("{name} wants a whole number above 0, not {text:?}"))
            };
            match name.as_str() {
                "--cpus" => options.cpus = number()?.min(64) as u32,
                "--memory" => options.memory = number()?,
                "--timeout" => options.timeout = Duration::from_secs(number()?),
                "--kernel" => options.kernel = Some(value.into()),
                _ => bail!("unknown option {name}; usage: {USAGE}"),
            }
        }
        bail!("no command after --; usage: {USAGE}")
    }
}

fn start(cache: &Path, options: &Options) -> Result<u8> {
    let kernel = match &options.kernel {
        Some(kernel) => kernel.clone(),
        None => cache.join("kernels/gourd/vmlinux"),
    };
    ensure!(
        kernel.is_file(),
        "the kernel {} is missing: `./dev kernel` builds it, once",
        kernel.display()
    );
    let qemu = find_qemu()?;
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let folder = tempfile::Builder::new()
        .prefix("gourd-rig-")
        .tempdir()
        .context("make a folder for the rig's scripts")?;
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))?;
    let init = folder.path().join("init");
    let console_size = terminal.then(streams::terminal_size).flatten();
    std::fs::write(
        folder.path().join("command"),
        guest::command(&options.command)?,
    )?;
    std::fs::write(&init, guest::init(folder.path(), terminal, console_size))?;
    std::fs::set_permissions(&init, PermissionsExt::from_mode(0o755))?;

    let (status, their_status) = UnixStream::pair().context("socketpair")?;
    let (console, their_console) = UnixStream::pair().context("socketpair")?;
    let console = Console::collect(console);
    let (pulse, their_pulse) = UnixStream::pair().context("socketpair")?;
    let (streams, theirs) = Streams::connect(terminal)?;
    let mut ports = vec![
        ("status", their_status.as_fd()),
        ("pulse", their_pulse.as_fd()),
    ];
    ports.extend(theirs.iter().map(|(name, socket)| (*name, socket.as_fd())));
    let mut command = Command::new(&qemu);
    command
        .args(machine(
            options,
            &kernel,
            &init,
            their_console.as_fd(),
            &ports,
        ))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut keep = vec![their_console.as_fd()];
    keep.extend(ports.iter().map(|(_, fd)| *fd));
    vmm::spawn::inherit(&mut command, &keep, None);
    let mut child = command
        .spawn()
        .with_context(|| format!("start {}", qemu.display()))?;
    drop((their_status, their_console, their_pulse, theirs));

    let raw = terminal.then(streams::raw_mode).transpose()?;
    let moving = streams.start();
    pulse::start(pulse);
    let ended = wait(&status, options.timeout);
    if !matches!(ended, Ended::Code(_)) {
        // A guest that says nothing any more has nothing to lose.
        child.kill().ok();
    }
    let status = child.wait().context("wait for QEMU")?;
    moving.finish();
    drop(raw);
    let mut words = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut words).ok();
    }
    match ended {
        Ended::Code(code) => Ok(code),
        Ended::TimeUp => {
            eprint!("{}", console.text());
            eprintln!("rig: killed after {} s", options.timeout.as_secs());
            Ok(TIMED_OUT)
        }
        Ended::Silence => bail!(
            "the machine ended before the command did ({status})\n{}{}",
            words,
            console.text()
        ),
    }
}

/// How the wait for the command ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Code(u8),
    TimeUp,
    Silence,
}

/// Reads the exit code, a line, from the guest's status port.
fn wait(mut status: &UnixStream, limit: Duration) -> Ended {
    let deadline = Instant::now() + limit;
    let mut text = Vec::new();
    let mut buffer = [0; 16];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // A read timeout of zero means none.
        if left.is_zero() || status.set_read_timeout(Some(left)).is_err() {
            return Ended::TimeUp;
        }
        match status.read(&mut buffer) {
            Ok(0) => return Ended::Silence,
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(_) => continue,
        }
        if text.ends_with(b"\n") {
            let code = std::str::from_utf8(&text).ok();
            return code
                .and_then(|code| code.trim().parse().ok())
                .map_or(Ended::Silence, Ended::Code);
        }
    }
}

fn find_qemu() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(QEMU))
        .find(|program| program.is_file())
        .with_context(|| format!("{QEMU} is not in PATH: install the package qemu-system-x86"))
}

/// QEMU's words. `docs/measured.md` says why these.
fn machine(
    options: &Options,
    kernel: &Path,
    init: &Path,
    console: BorrowedFd<'_>,
    ports: &[(&str, BorrowedFd<'_>)],
) -> Vec<OsString> {
    // A thread for each processor, although QEMU before 8.1 translates stale code with several, once in about 100 boots: in a
    // single one, guests with two processors of their own hang in most boots, QEMU's as well as ours (docs/measured.md).
    let mut words: Vec<OsString> = Vec::new();
    let mut option = |name: &str, value: OsString| words.extend([name.into(), value]);
    let text = |text: String| OsString::from(text);
    option("-M", "q35,sata=off,smbus=off,usb=off,vmport=off".into());
    option("-accel", "tcg,thread=multi,tb-size=1024".into());
    option("-cpu", "max,+svm,-la57,-erms,-fsrm".into());
    option("-smp", text(options.cpus.to_string()));
    option("-m", text(options.memory.to_string()));
    option("-display", "none".into());
    // QEMU's SeaBIOS. With qboot the machine is there 0.1 s sooner and no different: the clock source is the TSC under both.
    option("-kernel", kernel.into());
    // Two for the translator. Without REP_GOOD the kernel clears a page by a loop of stores, where `rep stosq` takes three times as
    // long: huge pages of guests are most of what it clears. And a program that lies where it lay the last time finds
    // its translation again: at random addresses each start of a program is translated anew.
    let mut line = OsString::from(
        "console=ttyS0 quiet panic=-1 random.trust_cpu=on clearcpuid=rep_good norandmaps root=host \
         rootfstype=9p rootflags=trans=virtio,version=9p2000.L,msize=512000,cache=loose ro init=",
    );
    line.push(init);
    option("-append", line);
    option(
        "-virtfs",
        "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap".into(),
    );
    let socket = |id: &str, fd: BorrowedFd<'_>| format!("socket,id={id},fd={}", fd.as_raw_fd());
    option("-chardev", text(socket("serial", console)));
    option("-serial", "chardev:serial".into());
    option("-device", "virtio-serial-pci".into());
    for (name, fd) in ports {
        option("-chardev", text(socket(name, *fd)));
        let device = match guest::port_number(name) {
            0 => format!("virtconsole,chardev={name},nr=0"),
            number => format!("virtserialport,chardev={name},nr={number}"),
        };
        option("-device", text(device));
    }
    for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        words.push(flag.into());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> std::result::Result<Options, String> {
        Options::parse(words.iter().map(OsString::from)).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn options() {
        let options = parse(&["--cpus", "2", "--timeout", "5", "--", "true", "--cpus"]).unwrap();
        assert_eq!(options.cpus, 2);
        assert_eq!(options.timeout, Duration::from_secs(5));
        assert_eq!(options.command, ["true", "--cpus"]);
        let wrong = |words: &[&str], want: &str| {
            let error = parse(words).unwrap_err();
            assert!(error.contains(want), "{error}");
        };
        wrong(&["true"], "wants a value");
        wrong(&["--"], "no command");
        wrong(&[], "no command");
        wrong(&["--cpus", "none", "--", "x"], "whole number");
        wrong(&["--colour", "red", "--", "x"], "unknown option");
    }

    #[test]
    fn endings() {
        use std::io::Write;
        let check = |bytes: &[u8], want: Ended| {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(bytes).unwrap();
            drop(theirs);
            assert_eq!(wait(&ours, Duration::from_secs(10)), want);
        };
        check(b"0\n", Ended::Code(0));
        check(b"137\n", Ended::Code(137));
        check(b"", Ended::Silence);
        check(b"x\n", Ended::Silence);
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(wait(&ours, Duration::from_millis(5)), Ended::TimeUp);
    }
}
