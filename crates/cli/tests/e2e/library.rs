//! What the library `hypervisor` can do with a machine and the product does not, as its `examples/boot.rs` starts one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hypervisor::config::{Balloon, BootLoader, Console, ConsoleOutput};
use hypervisor::{Driver, DriverKind, ExitReason, Programs, StartOptions, VmConfig, probe};
use testkit::attack::Bus;
use testkit::puppet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::harness::{self, cache};

/// With a guest that answers to each letter that is typed.
#[test]
fn a_machine_stands_still_goes_on_and_is_switched_off() {
    let folder = tempfile::tempdir().expect("a folder");
    on_this_thread(play(&folder.path().join("puppet")));
}

/// The monitors die with the thread that started them, and not before.
fn on_this_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(test);
}

fn driver() -> Box<dyn Driver> {
    let programs = Programs {
        vmm: harness::programs().join("gourd-vmm"),
        qemu: None,
    };
    let wanted = harness::driver().and_then(|driver| match driver.as_str() {
        "kvm" => Some(DriverKind::Kvm),
        "qemu" => Some(DriverKind::Qemu),
        _ => None,
    });
    probe::open(wanted, &programs, None).expect("a driver")
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
    let driver = driver();
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

/// A program's words and what is typed for it go by the port's interrupt, where the kernel's own words need none.
#[test]
fn a_program_is_spoken_to_over_the_serial_port() {
    let folder = tempfile::tempdir().expect("a folder");
    let initramfs = folder.path().join("initramfs");
    archive(&folder.path().join("root"), &initramfs);
    on_this_thread(async {
        for kernel in ["gourd", "debian"] {
            let kernel = cache().join("kernels").join(kernel).join("vmlinux");
            let mut config = bill(&kernel);
            config.memory = 256 << 20;
            config.boot = BootLoader::Linux {
                kernel,
                initramfs: Some(initramfs.clone()),
                command_line: "console=ttyS0 quiet panic=-1".into(),
            };
            talk(&config).await;
        }
    });
}

/// An initramfs whose `/init` repeats a line and ends at the next. Oracle: cpio(1).
fn archive(root: &Path, to: &Path) {
    fs::create_dir_all(root.join("bin")).expect("a folder");
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox");
    let init = root.join("init");
    let script = "#!/bin/busybox sh\necho speak; read line; echo \"heard $line\"; read line\nexec /bin/busybox poweroff -f\n";
    fs::write(&init, script).expect("a script");
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).expect("mode");
    let made = Command::new("sh")
        .args(["-c", "find . | cpio -o -H newc --quiet"])
        .current_dir(root)
        .stdout(fs::File::create(to).expect("a file"))
        .status();
    assert!(made.expect("cpio starts").success());
}

async fn talk(config: &VmConfig) {
    let started = driver().start(config, StartOptions::default()).await;
    let vm = started.expect("it starts").vm;
    let mut console = vm.console(0).expect("its console");
    until(&mut console, "speak\r\n").await;
    console.write_all(b"words\n").await.expect("a line");
    until(&mut console, "heard words\r\n").await;
    console.write_all(b"\n").await.expect("a line");
    let exit = tokio::time::timeout(Duration::from_secs(60), vm.wait()).await;
    assert_eq!(exit.expect("it stays").reason, ExitReason::PoweredOff);
}

/// Reads on until the guest has said this, whatever its kernel says in between.
async fn until(console: &mut UnixStream, expect: &str) {
    let mut said = String::new();
    let read = async {
        while !said.contains(expect) {
            let mut bytes = [0; 512];
            let count = console.read(&mut bytes).await.expect("a console");
            assert!(count > 0, "it ended after {said:?}");
            said.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(60), read).await;
    read.unwrap_or_else(|_| panic!("it says no {expect:?}: {said:?}"));
}
