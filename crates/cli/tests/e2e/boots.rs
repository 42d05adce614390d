//! Boots: both kernels, processors, memory, and a hundred in a row of which none hangs and none leaves anything.

use std::fs;

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
