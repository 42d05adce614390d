//! `monitor`: what `gourd-vmm machine` costs a processor from its start to the guest's first instruction. On the host itself,
//! where `/dev/kvm` only has to make a VM: whether its guests run does not matter.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use vmm::control::{Control, Msg};
use vmm::machine::{Balloon, Console, Disk, Machine};

use super::{Row, Times, print, programs};

/// Design section 10's figure, in seconds.
const BUDGET: f64 = 0.010;

/// A container's devices, 1 processor, 128 MiB.
pub fn measure(cache: &Path, runs: usize) -> Result<Vec<Row>> {
    // As a root of gourd's has it: copied in one go, so that the host's page cache holds it in large pieces.
    let dir = tempfile::tempdir().context("make a folder")?;
    let kernel = dir.path().join("vmlinux");
    fs::copy(cache.join("kernels/gourd/vmlinux"), &kernel)
        .context("the gourd kernel: ./dev kernel")?;
    let mut times = Times::new("processor time to the guest's first instruction");
    for run in 0..=runs {
        let took = once(&kernel)?;
        if run > 0 {
            times.add(took);
        }
    }
    let value = super::median(&times.sorted);
    let name = "gourd-vmm to the first KVM_RUN / 10 ms".to_owned();
    let rows = vec![Row::within(name, value, "s", BUDGET, runs)];
    print(&[&times], &rows);
    Ok(rows)
}

fn once(kernel: &Path) -> Result<Duration> {
    let mut keep: Vec<OwnedFd> = Vec::new();
    let mut number = |file: File| {
        keep.push(file.into());
        keep[keep.len() - 1].as_raw_fd()
    };
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    let disk = |fd, id: &str| Disk {
        fd,
        id: id.to_owned(),
        read_only: false,
        discard: true,
        volatile: true,
    };
    let image = || -> Result<File> {
        let file = tempfile::tempfile()?;
        file.set_len(1 << 30)?;
        Ok(file)
    };
    let machine = Machine {
        shares: Vec::new(),
        kvm: number(kvm.context("/dev/kvm: this bench makes a VM, which need not run")?),
        vcpus: 1,
        memory: 128 << 20,
        kernel: number(File::open(kernel).context("the kernel")?),
        initramfs: None,
        command_line: "quiet".to_owned(),
        disks: vec![
            disk(number(image()?), "rootfs"),
            disk(number(image()?), "upper"),
        ],
        networks: Vec::new(),
        vsock: Some(3),
        consoles: vec![Console::Log(number(tempfile::tempfile()?))],
        entropy: true,
        balloon: Some(Balloon {
            free_page_reporting: true,
        }),
        power_button: true,
        virtualization: false,
    };
    let (control, theirs) = Control::pair().context("socketpair")?;
    control.send_machine(&serde_json::to_vec(&machine)?)?;
    let mut command = Command::new(programs()?.join("gourd-vmm"));
    command
        .args(["machine", "--control-fd", &theirs.as_raw_fd().to_string()])
        .env_clear()
        .stdin(Stdio::null());
    let mut fds: Vec<_> = keep.iter().map(AsFd::as_fd).collect();
    fds.push(theirs.as_fd());
    vmm::spawn::inherit(&mut command, &fds, None);
    let mut child = command.spawn().context("start gourd-vmm")?;
    drop(theirs);
    let ready = control.recv();
    let took = processor_time(child.id());
    child.kill().ok();
    child.wait()?;
    match ready {
        Ok((Msg::Ready { seccomp, .. }, _)) => ensure!(seccomp, "gourd-vmm is not confined"),
        Ok((other, _)) => bail!("gourd-vmm says {other:?} first"),
        Err(error) => bail!("gourd-vmm says nothing: {error}"),
    }
    took
}

/// What all threads have used but the processor's, which runs the guest by now and before that only confined itself.
fn processor_time(pid: u32) -> Result<Duration> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?.path();
        if fs::read_to_string(thread.join("comm"))?.starts_with("cpu-") {
            continue;
        }
        // Nanoseconds on a processor first: Documentation/scheduler/sched-stats.rst.
        let text = fs::read_to_string(thread.join("schedstat"))?;
        let used = text.split(' ').next().context("an empty schedstat")?;
        sum += used.parse::<u64>().context("schedstat")?;
    }
    Ok(Duration::from_nanos(sum))
}
