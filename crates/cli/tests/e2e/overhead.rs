//! What a VM costs beside the container that it is for. Prints the figures; fails when they have doubled.

use std::fs;

use crate::harness::Home;

/// A field of /proc/PID/status, in KiB.
fn status(pid: u32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find(|line| line.starts_with(field));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{field} of {pid}: {text}"))
}

#[test]
fn what_a_vm_costs_beside_its_container() {
    let home = Home::new();
    let id = home.sleeper(&["--name", "it", "-m", "256m"]);
    let processes = home.processes(&id);
    let (supervisor, vmm) = (
        status(processes.supervisor, "RssAnon:"),
        status(processes.vmm, "RssAnon:"),
    );
    let qemu = status(processes.qemu, "VmRSS:");
    let memory = home
        .gourd(&[
            "exec",
            "it",
            "cat",
            "/sys/fs/cgroup/memory.max",
            "/proc/meminfo",
        ])
        .ok()
        .text();
    let mut lines = memory.lines();
    let limit: u64 = lines
        .next()
        .and_then(|line| line.parse().ok())
        .expect("bytes");
    let total = lines.next().and_then(|line| line.split_whitespace().nth(1));
    let total: u64 = total.and_then(|text| text.parse().ok()).expect("KiB");
    let free = lines.nth(1).and_then(|line| line.split_whitespace().nth(1));
    let free: u64 = free.and_then(|text| text.parse().ok()).expect("KiB");
    println!("overhead: the supervisor's private memory {supervisor} KiB");
    println!("overhead: gourd-vmm's private memory {vmm} KiB");
    println!("overhead: QEMU's memory, the guest's included {qemu} KiB");
    println!(
        "overhead: of {total} KiB that the guest has, {} are in use, and {} are the container's limit",
        total - free,
        limit / 1024
    );
    // Design section 10: 2 MiB. The allocator's pages beyond that come and go with clients.
    assert!(supervisor <= 4096, "{supervisor} KiB");
    assert!(vmm <= 5 * 1024, "{vmm} KiB");
    assert_eq!(limit, 256 << 20);
    assert!(total > limit / 1024, "the container can have all of it");
    assert!(total - free < 64 * 1024, "{} KiB in use", total - free);
}
