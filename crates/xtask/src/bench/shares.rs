//! `shares`: a shared folder served by `gourd-vmm`, beside QEMU 7.2's `virtiofsd` as it comes (`cache=auto`), in the same VM: kernel,
//! image, device and mount are the same, and so is the tree: some thousand files of Linux's sources.
//!
//! `GOURD_BENCH_PAIRS` turns; `GOURD_BENCH_ROWS` chooses the rows that have these words in their names. Needs root, as this virtiofsd does.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::vm::{self, Vm};
use super::{Row, Times, print};

/// As fast as virtiofsd.
const BUDGET: f64 = 1.0;

const VIRTIOFSD: &str = "/usr/lib/qemu/virtiofsd";

/// Debian's archive of Linux's sources, of which these folders are taken.
const SOURCES: &str = "/usr/src/linux-source-6.12.tar.xz";
const FOLDERS: [&str; 4] = ["include/linux", "kernel", "lib", "mm"];

/// Bytes of the big file.
const BIG: u64 = 256 << 20;

/// What is measured, in this order: name, what is done before the clock starts, and what is measured, in the guest. `vdb` is the
/// tree's archive, `/mnt/0` the shared folder, with the same tree in `git`.
const WORK: [(&str, &str, &str); 6] = [
    (
        "untar a source tree",
        "mkdir /mnt/0/tree",
        "tar -xf /dev/vdb -C /mnt/0/tree",
    ),
    (
        "read all of it",
        "echo 3 >/proc/sys/vm/drop_caches",
        "! grep -rq 'nobody wrote this line' /mnt/0/tree",
    ),
    (
        "git status, nothing cached",
        "rm -rf /mnt/0/tree; echo 3 >/proc/sys/vm/drop_caches",
        "test -z \"$(git -C /mnt/0/git status --porcelain)\"",
    ),
    (
        "git status once more",
        "true",
        "test -z \"$(git -C /mnt/0/git status --porcelain)\"",
    ),
    (
        "read a file of 256 MiB",
        "echo 3 >/proc/sys/vm/drop_caches",
        "dd if=/mnt/0/big of=/dev/null bs=1M status=none",
    ),
    (
        "write a file of 256 MiB",
        "rm -f /mnt/0/new",
        "dd if=/dev/zero of=/mnt/0/new bs=1M count=256 status=none",
    ),
];

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Gourd,
    Virtiofsd,
}

/// A VM and what serves its folder. Both end with this value.
struct Guest {
    vm: Vm,
    server: Child,
    /// The far ends of sockets that `gourd-vmm` has as well.
    _kept: Vec<OwnedFd>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.vm.end();
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Measures both.
pub fn measure(cache: &Path, pairs: usize) -> Result<Vec<Row>> {
    ensure!(
        rustix::process::getuid().is_root(),
        "{VIRTIOFSD} runs as root only: so does this bench"
    );
    crate::images::source(cache)?;
    let archive = archive(cache)?;
    let kernel = cache.join("kernels/gourd/vmlinux");
    ensure!(
        kernel.is_file(),
        "the gourd kernel is not built: ./dev kernel"
    );
    let dir = tempfile::tempdir().context("make a folder")?;
    let programs = super::programs()?;
    let rootfs = vm::rootfs(&programs, &cache.join("images/source.tar"), dir.path())?;
    let mut guests = Vec::new();
    for server in [Server::Gourd, Server::Virtiofsd] {
        let folder = dir.path().join(format!("{server:?}"));
        fill(&folder.join("0"), &archive)?;
        let mut command = vm::qemu(&kernel, &rootfs);
        vm::disk(&mut command, "archive", &archive);
        let mut guest = server.start(command, &programs, &folder)?;
        guest.vm.shell(
            "mount -t devtmpfs dev /dev && export HOME=/tmp && git config --global safe.directory '*' && \
             mount -t virtiofs shares /mnt && test -f /mnt/0/big",
        )?;
        guests.push(guest);
    }
    let times = turns(&mut guests, pairs)?;
    let rows: Vec<Row> = times
        .iter()
        .map(|[ours, theirs]| ours.against(theirs, BUDGET))
        .collect();
    print(&times.iter().flatten().collect::<Vec<_>>(), &rows);
    Ok(rows)
}

/// Both do the same in turns, after a turn that is thrown away: under translation the first one translates, and git looks at every file
/// once.
fn turns(guests: &mut [Guest], pairs: usize) -> Result<Vec<[Times; 2]>> {
    let words = std::env::var("GOURD_BENCH_ROWS").unwrap_or_default();
    let chosen = |name: &str| name.contains(&words);
    let mut times: Vec<[Times; 2]> = WORK
        .iter()
        .map(|(name, ..)| {
            let [ours, theirs] = ["", ", virtiofsd"].map(|whose| format!("{name}{whose}"));
            [Times::new(ours), Times::new(theirs)]
        })
        .collect();
    for pair in 0..=pairs {
        for ((name, before, script), times) in WORK.iter().zip(&mut times) {
            if !chosen(name) {
                continue;
            }
            for (guest, times) in guests.iter_mut().zip(times) {
                guest.vm.shell(before)?;
                let began = Instant::now();
                guest.vm.shell(script)?;
                let took = began.elapsed();
                eprintln!("{}: {:.3} s", times.name, took.as_secs_f64());
                if pair > 0 {
                    times.add(took);
                }
            }
        }
        eprintln!("pair {pair} of {pairs}\n");
    }
    times.retain(|[ours, _]| chosen(&ours.name));
    Ok(times)
}

impl Server {
    fn start(self, mut qemu: Command, programs: &Path, folder: &Path) -> Result<Guest> {
        let socket = folder.with_extension("sock");
        let log = File::create(folder.with_extension("log"))?;
        let (server, chardev, link, kept);
        match self {
            Server::Gourd => {
                let (ours, theirs) = UnixStream::pair()?;
                (server, kept) = gourd_vmm(programs, &folder.join("0"), theirs, log)?;
                chardev = format!("socket,id=share,fd={}", ours.as_raw_fd());
                link = Some(ours);
            }
            Server::Virtiofsd => {
                let listener = UnixListener::bind(&socket)?;
                (server, kept) = (virtiofsd(folder, listener.as_fd(), log)?, Vec::new());
                chardev = format!("socket,id=share,path={}", socket.display());
                link = None;
            }
        }
        qemu.args(["-chardev", &chardev]).args([
            "-device",
            "vhost-user-fs-pci,chardev=share,tag=shares,queue-size=256",
        ]);
        let keep: Vec<BorrowedFd<'_>> = link.iter().map(AsFd::as_fd).collect();
        vmm::spawn::inherit(&mut qemu, &keep, None);
        let name = match self {
            Server::Gourd => "gourd-vmm",
            Server::Virtiofsd => "virtiofsd",
        };
        Ok(Guest {
            vm: Vm::start(name, &mut qemu)?,
            server,
            _kept: kept,
        })
    }
}

/// `gourd-vmm` as the driver starts it. Its vsock device has no front-end that says anything.
fn gourd_vmm(
    programs: &Path,
    folder: &Path,
    link: UnixStream,
    log: File,
) -> Result<(Child, Vec<OwnedFd>)> {
    let (vsock, their_vsock) = UnixStream::pair()?;
    let kind = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let (control, their_control) = socketpair(kind.0, kind.1, SocketFlags::CLOEXEC, None)?;
    let folder = File::open(folder)?;
    let mut command = Command::new(programs.join("gourd-vmm"));
    command
        .args(["--vhost-user-fd", &their_vsock.as_raw_fd().to_string()])
        .args(["--control-fd", &their_control.as_raw_fd().to_string()])
        .args(["--share-fd", &link.as_raw_fd().to_string()])
        .args(["--folder", &format!("{}:rw:0", folder.as_raw_fd())])
        .stdin(Stdio::null())
        .stderr(log);
    let keep = [
        their_vsock.as_fd(),
        their_control.as_fd(),
        link.as_fd(),
        folder.as_fd(),
    ];
    vmm::spawn::inherit(&mut command, &keep, None);
    let child = command.spawn().context("start gourd-vmm")?;
    Ok((child, vec![vsock.into(), control]))
}

/// virtiofsd as it comes, but for the sandbox: namespaces are not to be had everywhere.
fn virtiofsd(folder: &Path, listener: BorrowedFd<'_>, log: File) -> Result<Child> {
    let mut command = Command::new(VIRTIOFSD);
    command
        .arg(format!("--fd={}", listener.as_raw_fd()))
        .args(["-o", "sandbox=chroot", "-f", "-o"])
        .arg(format!("source={}", folder.display()))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    vmm::spawn::inherit(&mut command, &[listener], None);
    command
        .spawn()
        .with_context(|| format!("start {VIRTIOFSD}"))
}

/// A folder with the tree under git, and a big file.
fn fill(folder: &Path, archive: &Path) -> Result<()> {
    let git = folder.join("git");
    fs::create_dir_all(&git)?;
    super::samples::run(
        Command::new("tar")
            .arg("-xf")
            .arg(archive)
            .arg("-C")
            .arg(&git),
    )?;
    for words in [
        &["init", "-q"][..],
        &["add", "."],
        &[
            "-c",
            "user.name=bench",
            "-c",
            "user.email=bench@localhost",
            "commit",
            "-qm",
            "all",
        ],
    ] {
        super::samples::run(Command::new("git").arg("-C").arg(&git).args(words))?;
    }
    let mut big = BufWriter::new(File::create(folder.join("big"))?);
    let block: Vec<u8> = (0..=u8::MAX).cycle().take(1 << 20).collect();
    for _ in 0..BIG / block.len() as u64 {
        big.write_all(&block)?;
    }
    Ok(big.flush()?)
}

/// `CACHE/bench/source.tar`.
fn archive(cache: &Path) -> Result<PathBuf> {
    let path = cache.join("bench/source.tar");
    if path.is_file() {
        return Ok(path);
    }
    eprintln!("xtask: making {}", path.display());
    fs::create_dir_all(cache.join("bench"))?;
    let dir = tempfile::tempdir()?;
    let top = "linux-source-6.12";
    let folders = FOLDERS.map(|folder| format!("{top}/{folder}"));
    super::samples::run(
        Command::new("tar")
            .args(["-xf", SOURCES, "-C"])
            .arg(dir.path())
            .args(folders),
    )?;
    let new = path.with_extension(format!("{}", std::process::id()));
    super::samples::run(
        Command::new("tar")
            .arg("-cf")
            .arg(&new)
            .args(["--sort=name", "-C"])
            .arg(dir.path().join(top))
            .arg("."),
    )?;
    fs::rename(&new, &path).with_context(|| format!("move to {}", path.display()))?;
    Ok(path)
}
