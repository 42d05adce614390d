//! Boots a kernel and an initramfs from a bill of materials and prints the console:
//! `boot GOURD-VMM KERNEL [INITRAMFS [COMMAND LINE]]`.

use std::error::Error;
use std::path::PathBuf;

use hypervisor::config::{BootLoader, Console, ConsoleOutput};
use hypervisor::{Programs, StartOptions, VmConfig, probe, validate};

// One thread: the monitors die with the thread that starts them.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let vmm = args.next().ok_or("which gourd-vmm?")?;
    let kernel = args.next().ok_or("which kernel?")?;
    let initramfs = args.next().map(PathBuf::from);
    let command_line = args.next();
    let config = VmConfig {
        id: "example".into(),
        vcpus: 1,
        memory: 256 << 20,
        boot: BootLoader::Linux {
            kernel: kernel.into(),
            initramfs,
            command_line: command_line.unwrap_or("console=ttyS0 panic=-1".into()),
        },
        disks: Vec::new(),
        networks: Vec::new(),
        shares: Vec::new(),
        vsock: None,
        consoles: vec![Console {
            output: ConsoleOutput::Stream,
        }],
        entropy: true,
        balloon: None,
        power_button: true,
        graphics: None,
        audio: None,
        usb: None,
        translation: None,
        virtualization: false,
    };
    let programs = Programs {
        vmm: vmm.into(),
        qemu: None,
    };
    // The best driver that works here; what it can't do is named before anything starts.
    let driver = probe::open(None, &programs, None)?;
    validate(&config, driver.kind())?;
    let started = driver.start(&config, StartOptions::default()).await?;
    let mut console = started.vm.console(0)?;
    let mut out = tokio::io::stdout();
    tokio::io::copy(&mut console, &mut out).await?;
    println!("{} under {}", started.vm.wait().await, driver.kind());
    Ok(())
}
