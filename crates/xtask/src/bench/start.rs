//! `gourd run IMG true` against its floor: the same VM, whose init powers off at once. On KVM beside other monitors that
//! boot the same kernel.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hypervisor::config::{BootLoader, DriverKind, VmConfig};
use hypervisor::{Driver, ExitReason, Programs, StartOptions, probe};
use rustix::process::{Pid, Signal};

use super::clocks::Clocks;
use super::floor::{self, End};
use super::{Row, Times, print, programs};

/// The whole container against the floor.
const BUDGET: f64 = 1.3;
/// The floor against QEMU's microvm.
const FLOOR_BUDGET: f64 = 0.65;
/// The whole container against QEMU's microvm, which only boots.
const QEMU_BUDGET: f64 = 0.8;
/// Against microsandbox.
const MICROSANDBOX_BUDGET: f64 = 0.4;

/// Many containers against one start.
const CREATIONS_BUDGET: f64 = 1.0;

/// How many are many.
const MANY: usize = 500;

/// Commands that make them at the same time.
const AT_ONCE: usize = 4;

/// What a VM has when it is held against another monitor's.
pub(super) const SMALL: [&str; 4] = ["--cpus", "1", "-m", "256m"];

/// A `GOURD_ROOT` of the bench's own, with one kernel and one image.
pub(super) struct Home {
    dir: tempfile::TempDir,
    programs: PathBuf,
    /// What each `run` and `create` gets.
    flags: Vec<&'static str>,
    kernel: PathBuf,
}

/// The row of the driver `qemu`.
pub fn on_qemu(cache: &Path, pairs: usize) -> Result<Vec<Row>> {
    let home = Home::new(cache, &["--driver", "qemu"])?;
    let floor = home.floor(DriverKind::Qemu)?;
    let mut run = Times::new(format!("gourd run busybox true, {}", floor.name));
    let mut bare = Times::new("the same VM, powered off at once");
    let mut clocks = Clocks::new();
    // The first pair fills caches: the initramfs, the host's page cache.
    for pair in 0..=pairs {
        let times = (home.run()?, floor.power_off()?);
        if pair > 0 {
            run.add(times.0);
            bare.add(times.1);
            clocks.add(&home.timings()?)?;
        }
    }
    let rows = vec![run.against(&bare, BUDGET)];
    print(&[&run, &bare], &rows);
    clocks.print();
    Ok(rows)
}

/// The rows of the driver `kvm`: the floor, QEMU's `microvm`, and microsandbox where `GOURD_BENCH_MSB` names its program.
pub fn on_kvm(cache: &Path, pairs: usize) -> Result<Vec<Row>> {
    let home = Home::new(cache, &[&["--driver", "kvm"], &SMALL[..]].concat())?;
    let floor = home.floor(DriverKind::Kvm)?;
    let msb = std::env::var_os("GOURD_BENCH_MSB")
        .map(|program| Microsandbox::new(program.into(), home.dir.path(), cache))
        .transpose()?;
    let mut run = Times::new("gourd run busybox true, kvm");
    let mut bare = Times::new("the same VM, powered off at once");
    let mut qemu = Times::new("QEMU microvm on KVM, restarted at once");
    let mut theirs = Times::new("msb run busybox /bin/true");
    let mut clocks = Clocks::new();
    for pair in 0..=pairs {
        let times = (home.run()?, floor.power_off()?, home.microvm()?);
        let other = msb.as_ref().map(Microsandbox::run).transpose()?;
        if pair > 0 {
            run.add(times.0);
            bare.add(times.1);
            qemu.add(times.2);
            clocks.add(&home.timings()?)?;
            if let Some(took) = other {
                theirs.add(took);
            }
        }
        // Somebody waits for minutes.
        eprintln!(
            "pair {pair} of {pairs}: run {:.1} s, floor {:.1} s, QEMU {:.1} s",
            times.0.as_secs_f64(),
            times.1.as_secs_f64(),
            times.2.as_secs_f64()
        );
    }
    let mut things = vec![&run, &bare, &qemu];
    let mut rows = vec![
        run.against(&bare, BUDGET),
        bare.against(&qemu, FLOOR_BUDGET),
        run.against(&qemu, QEMU_BUDGET),
    ];
    if msb.is_some() {
        things.push(&theirs);
        rows.push(run.against(&theirs, MICROSANDBOX_BUDGET));
    }
    print(&things, &rows);
    clocks.print();
    Ok(rows)
}

/// Many containers made and listed against one that runs.
pub fn creations(cache: &Path, pairs: usize) -> Result<Vec<Row>> {
    let mut many = Times::new(format!(
        "{MANY} containers created, {AT_ONCE} at a time, and listed"
    ));
    let mut one = Times::new("gourd run busybox true");
    // A folder of its own for each, kept to the end: ext4 without a journal is slow to give an inode away that was freed in the
    // last minutes.
    let mut homes = Vec::new();
    for pair in 0..=pairs {
        let home = Home::new(cache, &["--driver", "qemu"])?;
        home.run()?;
        let times = (home.create_many()?, home.run()?);
        if pair > 0 {
            many.add(times.0);
            one.add(times.1);
        }
        homes.push(home);
    }
    let rows = vec![many.against(&one, CREATIONS_BUDGET)];
    print(&[&many, &one], &rows);
    Ok(rows)
}

impl Home {
    pub(super) fn new(cache: &Path, flags: &[&'static str]) -> Result<Home> {
        let kernel = cache.join("kernels/gourd/vmlinux");
        ensure!(
            kernel.is_file(),
            "the gourd kernel is not built: ./dev kernel"
        );
        let home = Home {
            dir: tempfile::tempdir().context("make a folder")?,
            programs: programs()?,
            flags: flags.to_vec(),
            kernel,
        };
        let image = cache.join("images/busybox.tar");
        home.gourd(&["system", "kernel", "add", "gourd"], &[&home.kernel])?;
        home.gourd(&["load", "-q", "-i"], &[&image])?;
        Ok(home)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.env("GOURD_ROOT", self.dir.path().join("root"));
        command.stdin(Stdio::null());
        command
    }

    pub(super) fn gourd(&self, args: &[&str], paths: &[&Path]) -> Result<String> {
        let mut command = self.command("gourd");
        output(command.args(args).args(paths))
    }

    fn run(&self) -> Result<Duration> {
        let line = [&["run", "--rm"], &self.flags[..], &["busybox", "true"]].concat();
        timed(|| self.gourd(&line, &[]))
    }

    /// A run that says something, and the file in which its phases are.
    fn timings(&self) -> Result<PathBuf> {
        let file = self.dir.path().join("timings.json");
        let timings = format!("--timings={}", file.display());
        let line = [&["run", "--rm", &timings], &self.flags[..]].concat();
        self.gourd(&[&line[..], &["busybox", "echo", "here"]].concat(), &[])?;
        Ok(file)
    }

    /// Makes [`MANY`] containers by a command each, then lists them.
    fn create_many(&self) -> Result<Duration> {
        let started = Instant::now();
        let made = std::thread::scope(|scope| {
            let some = |_| scope.spawn(|| (0..MANY / AT_ONCE).try_for_each(|_| self.create()));
            let threads: Vec<_> = (0..AT_ONCE).map(some).collect();
            let mut threads = threads.into_iter();
            threads.try_for_each(|thread| thread.join().expect("no panic"))
        });
        made?;
        let listed = self.gourd(&["ps", "-aq"], &[])?;
        let took = started.elapsed();
        ensure!(listed.lines().count() == MANY, "{MANY} were made: {listed}");
        Ok(took)
    }

    fn create(&self) -> Result<()> {
        let line = [&["create"], &self.flags[..], &["busybox", "true"]].concat();
        self.gourd(&line, &[]).map(drop)
    }

    /// The bill of materials of such a container, with an init that powers off, and the driver that it gets.
    pub(super) fn floor(&self, kind: DriverKind) -> Result<Floor> {
        let line = [&["create"], &self.flags[..], &["busybox", "true"]].concat();
        let id = self.gourd(&line, &[])?;
        // The first start makes the container's disk.
        self.gourd(&["start", "-a", id.trim()], &[])?;
        let container = self.dir.path().join("root/containers").join(id.trim());
        let config = output(self.command("gourd-vm").arg("config").arg(container))?;
        let mut config: VmConfig =
            serde_json::from_str(&config).context("the VM's configuration")?;
        let BootLoader::Linux { initramfs, .. } = &mut config.boot else {
            bail!("a container's VM boots Linux directly");
        };
        *initramfs = Some(self.initramfs(End::PowerOff)?);

        let programs = Programs {
            vmm: self.programs.join("gourd-vmm"),
            qemu: None,
        };
        let report = probe::probe(&programs, None);
        let acceleration = report
            .drivers
            .iter()
            .find(|report| report.driver == kind)
            .and_then(|report| report.acceleration);
        let driver = probe::open(Some(kind), &programs, None)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let name = match acceleration {
            Some(acceleration) => format!("{kind}/{acceleration:?}").to_lowercase(),
            None => kind.to_string(),
        };
        Ok(Floor {
            name,
            config,
            driver,
            runtime,
        })
    }

    fn initramfs(&self, end: End) -> Result<PathBuf> {
        let path = self.dir.path().join(format!("{end:?}.cpio"));
        if !path.exists() {
            std::fs::write(&path, floor::initramfs(end))?;
        }
        Ok(path)
    }

    /// QEMU's smallest machine, with what the floor has: it boots the kernel and ends.
    fn microvm(&self) -> Result<Duration> {
        let initramfs = self.initramfs(End::Restart)?;
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-M", "microvm", "-enable-kvm"])
            // In the rig the TSC deadline timer that KVM offers never fires.
            .args(["-cpu", "host,-tsc-deadline", "-smp", "1", "-m", "256"])
            .arg("-nodefaults")
            .args(["-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-append", "quiet panic=-1 reboot=t"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(initramfs)
            .stdin(Stdio::null());
        timed(|| output(&mut command))
    }
}

/// The VM that does nothing.
pub(super) struct Floor {
    name: String,
    config: VmConfig,
    driver: Box<dyn Driver>,
    runtime: tokio::runtime::Runtime,
}

impl Floor {
    pub(super) fn power_off(&self) -> Result<Duration> {
        self.runtime.block_on(async {
            let started = Instant::now();
            // Links to nobody.
            let links = self.config.networks.iter();
            let links = links.map(|_| UnixDatagram::pair().map(|(link, _)| link.into()));
            let options = StartOptions {
                links: links.collect::<Result<_, _>>()?,
                ..StartOptions::default()
            };
            let vm = self.driver.start(&self.config, options).await?.vm;
            let exit = tokio::time::timeout(PATIENCE, vm.wait()).await;
            let exit = exit.context("the floor's VM has not ended")?;
            let took = started.elapsed();
            ensure!(
                exit.reason == ExitReason::PoweredOff,
                "the floor's VM: {exit}"
            );
            Ok(took)
        })
    }
}

/// microsandbox, with a home of its own that has the image.
struct Microsandbox {
    program: PathBuf,
    home: PathBuf,
}

impl Microsandbox {
    fn new(program: PathBuf, folder: &Path, cache: &Path) -> Result<Microsandbox> {
        let home = folder.join("msb");
        std::fs::create_dir(&home)?;
        let this = Microsandbox { program, home };
        let image = cache.join("images/busybox.tar");
        let mut load = this.command();
        output(load.args(["load", "-q", "-t", "busybox", "-i"]).arg(image))?;
        Ok(this)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("HOME", &self.home)
            .env("MSB_HOME", &self.home)
            .stdin(Stdio::null());
        command
    }

    fn run(&self) -> Result<Duration> {
        let mut command = self.command();
        command
            .args(["run", "-q", "--no-tty", "-c", "1", "-m", "256M"])
            .args(["busybox", "--", "/bin/true"]);
        timed(|| output(&mut command))
    }
}

pub(super) fn timed(work: impl FnOnce() -> Result<String>) -> Result<Duration> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed())
}

/// Longer than anything takes that is measured here: what has not ended then never will.
const PATIENCE: Duration = Duration::from_secs(120);

fn output(command: &mut Command) -> Result<String> {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let killed = Pid::from_raw(child.id() as i32);
    let (sender, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let out = match ended.recv_timeout(PATIENCE) {
        Ok(out) => out?,
        Err(_) => {
            if let Some(pid) = killed {
                rustix::process::kill_process(pid, Signal::KILL).ok();
            }
            bail!("{command:?} has not ended after {} s", PATIENCE.as_secs());
        }
    };
    ensure!(
        out.status.success(),
        "{command:?}: {}: {}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8(out.stdout)?)
}
