//! Boots: both kernels, processors, memory, and a hundred in a row of which none hangs and none leaves anything.

use std::fs;
use std::path::Path;
use std::time::Duration;

use hypervisor::config::{Balloon, Console, ConsoleOutput};
use hypervisor::{DriverKind, ExitReason, Programs, StartOptions, VmConfig, probe};
use testkit::attack::Bus;
use testkit::puppet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::harness::{self, Home, cache, eventually};

fn check(home: &Home, kernel: &str, cpus: &str, memory: &str) {
    let args = [
        "run",
        "--rm",
        "--kernel",
        kernel,
        "--cpus",
        cpus,
        "-m",
        memory,
        "busybox",
        "sh",
        "-c",
        "uname -r; nproc",
    ];
    let out = home.gourd(&args).ok();
    let text = out.text();
    let (release, processors) = text.split_once('\n').expect("two lines");
    let cloud = release.contains("cloud");
    assert_eq!(cloud, kernel == "debian", "{kernel}: {release}");
    assert_eq!(processors, cpus, "{kernel}");
}

#[test]
fn both_kernels_from_128_mib_to_3_gib_with_1_and_2_processors() {
    let home = Home::new();
    for kernel in ["gourd", "debian"] {
        for (cpus, memory) in [("1", "128m"), ("2", "128m"), ("1", "512m"), ("2", "3g")] {
            check(&home, kernel, cpus, memory);
        }
    }
    home.assert_nothing_left();
}

#[test]
fn any_kernel_by_its_path() {
    let home = Home::new();
    let path = cache().join("kernels/gourd/vmlinux").display().to_string();
    home.gourd(&["run", "--rm", "--kernel", &path, "busybox", "true"])
        .ok();
    // A bzImage as well, with the distribution's modules.
    let image = cache().join("kernels/debian/vmlinuz").display().to_string();
    let modules = cache().join("kernels/debian/modules").display().to_string();
    home.gourd(&[
        "system",
        "kernel",
        "add",
        "bz",
        &image,
        "--modules",
        &modules,
    ])
    .ok();
    let release = home
        .gourd(&["run", "--rm", "--kernel", "bz", "busybox", "uname", "-r"])
        .ok();
    assert!(release.text().contains("cloud"), "{}", release.text());
    let listed = home.gourd(&["system", "kernel", "ls"]).ok().text();
    assert!(
        listed.contains("gourd") && listed.contains("debian"),
        "{listed}"
    );
}

/// What VMs could leave on a machine, all of it together.
#[derive(Debug)]
struct Machine {
    /// Threads of programs, not of the kernel.
    threads: usize,
    /// Open files that the kernel keeps.
    handles: u64,
    /// KiB that belong to no file of a disk.
    pages: u64,
}

impl Machine {
    fn now() -> Machine {
        let memory = fs::read_to_string("/proc/meminfo").expect("/proc");
        let kib = |name: &str| -> u64 {
            let mut words = memory.split_whitespace().skip_while(|word| *word != name);
            let number = words.nth(1).and_then(|word| word.parse().ok());
            number.expect("a number")
        };
        let threads = fs::read_dir("/proc")
            .expect("/proc")
            .flatten()
            .map(|entry| {
                let path = entry.path();
                // The kernel's own have no command line.
                match fs::read(path.join("cmdline")) {
                    Ok(line) if !line.is_empty() => {
                        fs::read_dir(path.join("task")).map_or(0, Iterator::count)
                    }
                    _ => 0,
                }
            });
        let handles = fs::read_to_string("/proc/sys/fs/file-nr").expect("/proc");
        let handles = handles
            .split_whitespace()
            .next()
            .and_then(|word| word.parse().ok());
        Machine {
            threads: threads.sum(),
            handles: handles.expect("a number"),
            pages: kib("AnonPages:") + kib("Shmem:"),
        }
    }
}

/// In the rig, where nothing else runs, what the whole machine has is compared too.
fn in_a_row(count: u64) {
    let home = Home::new();
    let boot = |round: u64| {
        let cpus = (1 + round % harness::processors() as u64).to_string();
        let out = home
            .gourd(&["run", "--rm", "--cpus", &cpus, "busybox", "echo", "up"])
            .ok();
        assert_eq!(out.text(), "up", "round {round}");
    };
    let settled = || eventually("all processes are gone", || home.leftovers().is_empty());
    // The first ones fill caches.
    boot(0);
    boot(1);
    settled();
    let before = Machine::now();
    (0..count).for_each(boot);
    settled();
    home.assert_nothing_left();
    let after = Machine::now();
    println!("boots: {count} in a row, {before:?} before, {after:?} after");
    if harness::driver().is_some_and(|driver| driver == "kvm") {
        assert_eq!(after.threads, before.threads, "threads are left");
        // The kernel counts these per processor and adds up now and then.
        let handles = after.handles.saturating_sub(before.handles);
        assert!(handles < count.max(64), "{handles} open files are left");
        // A test's own heap and shared libraries' pages come and go: less than 64 KiB a boot.
        let pages = after.pages.saturating_sub(before.pages);
        assert!(pages < 1024 + 64 * count, "{pages} KiB are left");
    }
}

#[test]
fn a_hundred_boots_in_a_row() {
    in_a_row(100);
}

/// The same for those who can't wait: part of the core tier on the driver kvm.
#[test]
fn a_few_boots_in_a_row() {
    in_a_row(5);
}

/// What the library can do with a machine and the product does not: as `examples/boot.rs` of the crate `hypervisor` starts one, with a guest
/// that answers to each letter that is typed.
#[test]
fn a_machine_stands_still_goes_on_and_is_switched_off() {
    let folder = tempfile::tempdir().expect("a folder");
    // The monitors die with this thread, and not before.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .expect("a runtime")
        .block_on(play(&folder.path().join("puppet")));
}

fn bill(kernel: &Path) -> VmConfig {
    let bill = serde_json::json!({
        "id": "puppet",
        "vcpus": 1,
        "memory": 128 << 20,
        "boot": { "linux": { "kernel": kernel } },
        "power_button": true,
    });
    let mut config: VmConfig = serde_json::from_value(bill).expect("a bill of materials");
    config.balloon = Some(Balloon::default());
    config.consoles = vec![Console {
        output: ConsoleOutput::Stream,
    }];
    config
}

async fn says(console: &mut UnixStream, expect: &str) {
    let mut bytes = vec![0; expect.len()];
    let read = console.read_exact(&mut bytes);
    let read = tokio::time::timeout(Duration::from_secs(60), read).await;
    read.expect("the guest says nothing").expect("a console");
    assert_eq!(String::from_utf8_lossy(&bytes), expect);
}

async fn play(kernel: &Path) {
    let programs = Programs {
        vmm: harness::programs().join("gourd-vmm"),
        qemu: None,
    };
    let wanted = harness::driver().and_then(|driver| match driver.as_str() {
        "kvm" => Some(DriverKind::Kvm),
        "qemu" => Some(DriverKind::Qemu),
        _ => None,
    });
    let driver = probe::open(wanted, &programs, None).expect("a driver");
    let ours = driver.kind() == DriverKind::Kvm;
    let bus = if ours { Bus::Mmio } else { Bus::Pci };
    puppet::write(kernel, bus).expect("the guest");
    let config = bill(kernel);
    let started = driver.start(&config, StartOptions::default()).await;
    let vm = started.expect("it starts").vm;
    let mut console = vm.console(0).expect("its console");
    assert!(vm.console(0).is_err(), "a console is taken once");
    says(&mut console, puppet::READY).await;
    console.write_all(b"1").await.expect("a letter");
    says(&mut console, "1").await;

    vm.pause().await.expect("it stands still");
    console.write_all(b"2").await.expect("a letter");
    let mut byte = [0];
    // It answers within a turn of its loop when it runs.
    let read = tokio::time::timeout(Duration::from_millis(500), console.read(&mut byte));
    assert!(read.await.is_err(), "it runs while it is paused: {byte:?}");
    vm.resume().await.expect("it goes on");
    says(&mut console, "2").await;

    if ours {
        vm.balloon(config.memory - (u64::from(b'M') << 20))
            .await
            .expect("a balloon");
        // Orders are followed in their order: when this one is answered, the one before is with the guest.
        vm.resume().await.expect("it runs already");
        console
            .write_all(&[puppet::BALLOON])
            .await
            .expect("a letter");
        says(&mut console, "M").await;
    }

    let exit = vm.stop(Duration::from_secs(60)).await;
    assert_eq!(exit.reason, ExitReason::PoweredOff);
    says(&mut console, puppet::OFF).await;
    assert_eq!(console.read(&mut byte).await.expect("a console"), 0);
}
