//! A VM under QEMU that benches measure in: the driver's own machine, and a shell on its serial console that does what it is told.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A VM that runs, until this value is dropped.
#[derive(Debug)]
pub struct Vm {
    name: &'static str,
    qemu: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the shell needs of a system.
const SET_UP: &str = "stty -echo; PS1=; mount() { busybox mount \"$@\"; }
mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t tmpfs run /run && mount -t tmpfs tmp /tmp";

/// QEMU's words: one processor, 512 MiB that other processes may map, the root as `/dev/vda`, and a console that is QEMU's
/// standard streams. Devices may be added.
pub fn qemu(kernel: &Path, rootfs: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ])
        .args([
            "-machine",
            "q35,sata=off,smbus=off,usb=off,vmport=off,memory-backend=memory",
        ])
        .args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max,-svm,-la57,-erms,-fsrm",
        ])
        // Threads have names.
        .args(["-name", "bench,debug-threads=on"])
        .args(["-smp", "1", "-m", "512M"])
        .args([
            "-object",
            "memory-backend-memfd,id=memory,size=512M,share=on",
        ])
        .args([
            "-chardev",
            "stdio,id=console,signal=off",
            "-serial",
            "chardev:console",
        ])
        .args(["-object", "rng-random,id=entropy,filename=/dev/urandom"])
        .args(["-device", "virtio-rng-pci,rng=entropy"])
        .arg("-kernel")
        .arg(kernel)
        .args([
            "-append",
            "quiet console=ttyS0 panic=-1 root=/dev/vda ro init=/bin/sh",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    disk(&mut command, "root", rootfs);
    command
}

/// Adds a disk that can only be read.
pub fn disk(command: &mut Command, name: &str, file: &Path) {
    command
        .arg("-blockdev")
        .arg(format!(
            "driver=file,node-name={name},filename={},read-only=on,locking=off",
            file.display()
        ))
        .args(["-device", &format!("virtio-blk-pci,drive={name}")]);
}

impl Vm {
    /// Boots what [`qemu`] made and waits for its shell. `name` is for messages.
    pub fn start(name: &'static str, command: &mut Command) -> Result<Vm> {
        let mut qemu = command.spawn().context("start QEMU")?;
        let input = qemu.stdin.take().context("QEMU's input")?;
        let output = BufReader::new(qemu.stdout.take().context("QEMU's output")?);
        let mut vm = Vm {
            name,
            qemu,
            input,
            output,
        };
        vm.shell(SET_UP)?;
        Ok(vm)
    }

    /// Has the guest do something, which must succeed; what it said.
    pub fn shell(&mut self, script: &str) -> Result<String> {
        // The terminal may still echo: what is typed must not look like what is waited for.
        writeln!(self.input, "{script}\necho \"==\"\"end $?\"")
            .and_then(|()| self.input.flush())
            .context("the guest's console")?;
        let mut said = String::new();
        loop {
            let mut line = Vec::new();
            let count = self.output.read_until(b'\n', &mut line)?;
            ensure!(count > 0, "{}: the VM ended: {said}", self.name);
            let line = String::from_utf8_lossy(&line);
            if let Some((before, code)) = line.split_once("==end ") {
                said.push_str(before);
                let code = code.trim();
                ensure!(code == "0", "{script}: exit code {code}: {said}");
                return Ok(said);
            }
            said.push_str(&line);
        }
    }

    /// Seconds that QEMU has computed: for the guest's processor, and in its other threads.
    pub fn processor_time(&self) -> Result<(f64, f64)> {
        let (mut guest, mut others) = (0.0, 0.0);
        let tasks = PathBuf::from(format!("/proc/{}/task", self.qemu.id()));
        for task in std::fs::read_dir(&tasks)? {
            let task = task?;
            // A thread may end meanwhile.
            let Ok(name) = std::fs::read_to_string(task.path().join("comm")) else {
                continue;
            };
            let id = task.file_name().to_string_lossy().parse()?;
            let seconds = processor_time(&tasks, id).unwrap_or(0.0);
            match name.starts_with("CPU ") {
                true => guest += seconds,
                false => others += seconds,
            }
        }
        Ok((guest, others))
    }

    /// Pulls the plug.
    pub fn end(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Seconds that a process or thread of a folder like `/proc` has computed: fields 14 and 15 of its `stat`, user's and system's, in
/// hundredths (`USER_HZ`).
pub fn processor_time(among: &Path, id: u32) -> Result<f64> {
    let text = std::fs::read_to_string(among.join(format!("{id}/stat")))?;
    let (_, fields) = text.rsplit_once(") ").context("/proc/PID/stat")?;
    let fields = fields.split(' ').skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / 100.0)
}

/// The root file system of an image, made by gourd itself in a root of its own below `dir`.
pub fn rootfs(programs: &Path, image: &Path, dir: &Path) -> Result<PathBuf> {
    let root = dir.join("root");
    let mut command = Command::new(programs.join("gourd"));
    command.env("GOURD_ROOT", &root).args(["load", "-q", "-i"]);
    super::samples::run(command.arg(image))?;
    let made = std::fs::read_dir(root.join("rootfs"))?;
    let mut files = made.filter_map(|entry| Some(entry.ok()?.path().join("rootfs.ext4")));
    let rootfs = files.find(|file| file.is_file());
    rootfs.context("no rootfs image")
}
