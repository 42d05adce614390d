//! `gourd run IMG true` against its floor: the same VM, whose init powers off at once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hypervisor::config::{BootLoader, DriverKind, VmConfig};
use hypervisor::probe::{Acceleration, Report};
use hypervisor::qemu::Qemu;
use hypervisor::{Driver, ExitReason, StartOptions};

use super::{Pairs, Row, floor, programs};

const BUDGET: f64 = 1.3;

/// A `GOURD_ROOT` of the bench's own, with one kernel and one image.
struct Home {
    dir: tempfile::TempDir,
    programs: PathBuf,
}

/// Runs `pairs` pairs with the gourd kernel and the driver `qemu`.
pub fn measure(cache: &Path, pairs: usize) -> Result<Row> {
    let kernel = cache.join("kernels/gourd/vmlinux");
    ensure!(
        kernel.is_file(),
        "the gourd kernel is not built: ./dev kernel"
    );
    let home = Home {
        dir: tempfile::tempdir().context("make a folder")?,
        programs: programs()?,
    };
    let image = cache.join("images/busybox.tar");
    home.gourd(&["system", "kernel", "add", "gourd"], &[&kernel])?;
    home.gourd(&["load", "-q", "-i"], &[&image])?;

    let (config, driver, row) = home.floor()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut times = Pairs::default();
    // The first pair fills caches: the initramfs, the host's page cache.
    for pair in 0..=pairs {
        let value = home.timed_run()?;
        let against = runtime.block_on(power_off(&driver, &config))?;
        if pair > 0 {
            times.value.push(value);
            times.against.push(against);
        }
    }
    Ok(times.finish(row, "the same VM, powered off at once", BUDGET))
}

impl Home {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.env("GOURD_ROOT", self.dir.path().join("root"));
        command.stdin(Stdio::null());
        command
    }

    fn gourd(&self, args: &[&str], paths: &[&Path]) -> Result<String> {
        let mut command = self.command("gourd");
        output(command.args(args).args(paths))
    }

    fn timed_run(&self) -> Result<Duration> {
        let started = Instant::now();
        self.gourd(&["run", "--rm", "--driver", "qemu", "busybox", "true"], &[])?;
        Ok(started.elapsed())
    }

    /// The bill of materials of such a container, with an init that powers off; the driver that it gets; their name.
    fn floor(&self) -> Result<(VmConfig, Qemu, String)> {
        let id = self.gourd(&["create", "--driver", "qemu", "busybox", "true"], &[])?;
        // The first start makes the container's disk.
        self.gourd(&["start", "-a", id.trim()], &[])?;
        let container = self.dir.path().join("root/containers").join(id.trim());
        let config = output(self.command("gourd-vm").arg("config").arg(container))?;
        let mut config: VmConfig =
            serde_json::from_str(&config).context("the VM's configuration")?;
        let BootLoader::Linux { initramfs, .. } = &mut config.boot else {
            bail!("a container's VM boots Linux directly");
        };
        let path = self.dir.path().join("floor.cpio");
        std::fs::write(&path, floor::initramfs())?;
        *initramfs = Some(path);

        let report = output(self.command("gourd-vm").arg("probe"))?;
        let report: Report = serde_json::from_str(&report).context("what works on this host")?;
        let qemu = report
            .drivers
            .into_iter()
            .find(|report| report.driver == DriverKind::Qemu);
        let qemu = qemu.context("the probe says nothing about QEMU")?;
        ensure!(qemu.capability.works, "QEMU: {}", qemu.capability.detail);
        let program = qemu.program.context("where QEMU is")?;
        let acceleration = qemu.acceleration.context("what QEMU accelerates with")?;
        let name = match acceleration {
            Acceleration::Kvm => "kvm",
            Acceleration::Tcg => "tcg",
        };
        let row = format!("gourd run busybox true, qemu/{name}");
        Ok((
            config,
            Qemu::new(program, self.programs.join("gourd-vmm"), acceleration),
            row,
        ))
    }
}

async fn power_off(driver: &Qemu, config: &VmConfig) -> Result<Duration> {
    let started = Instant::now();
    let vm = driver.start(config, StartOptions::default()).await?.vm;
    let exit = vm.wait().await;
    let took = started.elapsed();
    ensure!(
        exit.reason == ExitReason::PoweredOff,
        "the floor's VM: {exit}"
    );
    Ok(took)
}

fn output(command: &mut Command) -> Result<String> {
    let out = command
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("start {command:?}"))?;
    ensure!(
        out.status.success(),
        "{command:?}: {}: {}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8(out.stdout)?)
}
