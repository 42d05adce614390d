//! What a VM costs beside the container that it is for. Prints the figures; fails when they have doubled.

use std::fs;

use crate::harness::{self, Home, eventually};

/// A field of /proc/PID/status, in KiB.
fn status(pid: u32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find(|line| line.starts_with(field));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{field} of {pid}: {text}"))
}

fn on_kvm() -> bool {
    harness::driver().is_some_and(|driver| driver == "kvm")
}

/// KiB of a process that are resident, but for the mapping that is its guest's memory: the one that is larger than all that a
/// monitor has.
fn beside_guest_memory(pid: u32) -> u64 {
    const GUEST: u64 = 64 * 1024;
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("it runs");
    let (mut sum, mut size) = (0, 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (name, number) = (
            words.next(),
            words.next().and_then(|word| word.parse().ok()),
        );
        match (name, number) {
            (Some("Size:"), Some(number)) => size = number,
            (Some("Rss:"), Some(number)) if size < GUEST => sum += number,
            _ => {}
        }
    }
    sum
}

#[test]
fn what_a_vm_costs_beside_its_container() {
    let home = Home::new();
    let id = home.sleeper(&["--name", "it", "-m", "256m", "--cpus", "1"]);
    let processes = home.processes(&id);
    let supervisor = status(processes.supervisor, "RssAnon:");
    // Under the driver kvm, guest memory is its too.
    let vmm = match on_kvm() {
        true => beside_guest_memory(processes.vmm),
        false => status(processes.vmm, "RssAnon:"),
    };
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
    println!("overhead: gourd-vmm's private memory; under kvm all but the guest's {vmm} KiB");
    println!("overhead: the monitor's memory, the guest's included {qemu} KiB");
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

/// Free page reporting: the kernel of the guest tells of free pages after a while, in blocks of 2 MiB.
#[test]
fn memory_that_the_guest_frees_goes_back_to_the_host() {
    const MIB: u64 = 1024;
    let home = Home::new();
    let id = home.sleeper(&[
        "--name",
        "it",
        "-m",
        "384m",
        "--cpus",
        "1",
        "--tmpfs",
        "/t:size=256m",
    ]);
    let monitor = home.processes(&id).qemu;
    let resident = || status(monitor, "VmRSS:");
    let before = resident();
    let fill = "head -c 167772160 /dev/zero >/t/big";
    home.gourd(&["exec", "it", "sh", "-c", fill]).ok();
    let full = resident();
    assert!(full > before + 150 * MIB, "{before} KiB, then {full} KiB");
    home.gourd(&["exec", "it", "rm", "/t/big"]).ok();
    eventually("the memory is the host's again", || {
        resident() < full - 120 * MIB
    });
    println!(
        "overhead: 160 MiB in the guest: {before} KiB before, {full} with, {} after",
        resident()
    );
}
