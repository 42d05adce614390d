//! Boots: both kernels, processors, memory, and a hundred in a row of which none hangs.

use crate::harness::{Home, cache};

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
fn both_kernels_from_128_mib_to_2_gib_with_1_and_2_processors() {
    let home = Home::new();
    for kernel in ["gourd", "debian"] {
        for (cpus, memory) in [("1", "128m"), ("2", "128m"), ("1", "512m"), ("2", "2g")] {
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

#[test]
fn a_hundred_boots_in_a_row() {
    let home = Home::new();
    for round in 0..100 {
        let cpus = if round % 2 == 0 { "1" } else { "2" };
        let out = home
            .gourd(&["run", "--rm", "--cpus", cpus, "busybox", "echo", "up"])
            .ok();
        assert_eq!(out.text(), "up", "round {round}");
    }
    home.assert_nothing_left();
}
