//! A hostile guest, for real: in place of Linux the VM runs `testkit::attack`, which does to each device what no driver does. Nobody of the
//! host's may fall over, hang or say anything but that the guest ended; and what the guest was not given stays as it was.

use std::fs;

use testkit::attack::{self, Bus};

use crate::harness::{self, Home};

#[test]
fn a_guest_that_attacks_all_of_its_devices() {
    let home = Home::new();
    let bus = match harness::driver().as_deref() {
        Some("kvm") => Bus::Mmio,
        _ => Bus::Pci,
    };
    let kernel = home.path("attack");
    attack::write(&kernel, bus).expect("the guest");
    let folders = home.path("folders");
    for name in ["shared", "beside"] {
        fs::create_dir_all(folders.join(name)).expect("a folder");
    }
    fs::write(folders.join("beside/key"), "secret").expect("a file");
    let volume = format!("{}:/work", folders.join("shared").display());
    let kernel = kernel.display().to_string();
    let mut line = vec!["run", "--name", "it", "--kernel", &kernel, "--cpus", "1"];
    line.extend(["-m", "128m", "-v", &volume, "busybox", "true"]);
    let out = home.gourd(&line);
    assert!(out.code > 0, "{}", out.stderr);
    let id = home.gourd(&["ps", "-aq", "--no-trunc"]).ok().text();
    let logs = home.container(&id).join("logs");
    let console = fs::read(logs.join("console.log")).expect("the console's log");
    let console = String::from_utf8_lossy(&console);
    // QEMU passes on where the guest puts a ring: an odd place ends the VM, with these words.
    let ended = bus == Bus::Pci && out.stderr.contains("vhost-user message from QEMU");
    assert!(
        ended || console.contains(attack::DONE),
        "{console:?}\n{}",
        out.stderr
    );
    for log in harness::names(&logs) {
        let text = fs::read(logs.join(&log)).expect("a log");
        let text = String::from_utf8_lossy(&text);
        for word in ["panicked", "SIGSYS", "Sanitizer", "core dumped"] {
            assert!(!text.contains(word), "{log}: {text}");
        }
    }
    if bus == Bus::Mmio {
        // It is told, and no more often than it takes to know.
        let log = fs::read_to_string(logs.join("supervisor.log")).expect("a log");
        let told = log.matches("what no sane driver does").count();
        assert!((1..=2 * 17).contains(&told), "{log}");
    }
    println!("hostile: {}", out.stderr.trim_end());
    home.gourd(&["rm", "it"]).ok();
    assert_eq!(harness::names(&folders), ["beside", "shared"]);
    assert_eq!(harness::names(&folders.join("beside")), ["key"]);
    let key = fs::read_to_string(folders.join("beside/key")).expect("the file");
    assert_eq!(key, "secret");
    // The next one finds all in order.
    let next = home.gourd(&["run", "--rm", "busybox", "echo", "fine"]).ok();
    assert_eq!(next.text(), "fine");
    home.assert_nothing_left();
}
