//! The row *death* of design section 7: each process killed with -9 at a running container. `ps` tells the truth at once and
//! says why, nothing leaks, `start` works again, what was fsynced is there, and e2fsck finds nothing.

use std::fs;
use std::time::Instant;

use crate::harness::{
    self, Home, Processes, assert_ext4_clean, dead, eventually, finish, kill, tool,
};

/// Writes, fsyncs, says so, and waits to be killed.
const SCRIPT: &str = "if [ -f /kept ]; then echo again; cat /kept; else echo precious > /kept; sync; echo synced; sleep 1000; fi";

fn victim(home: &Home) -> (String, Processes) {
    let id = home
        .gourd(&[
            "run", "-d", "--name", "victim", "busybox", "sh", "-c", SCRIPT,
        ])
        .ok()
        .text();
    eventually("it has synced", || {
        home.gourd(&["logs", "victim"]).text().contains("synced")
    });
    let processes = home.processes(&id);
    (id, processes)
}

fn check(name: &str, reason: &[&str], pick: impl Fn(Processes) -> u32) {
    let home = Home::new();
    let (id, processes) = victim(&home);
    let pid = pick(processes);
    kill(pid, "-9");
    eventually("the kernel has killed it", || dead(pid));
    // At once: no waiting from here on.
    let table = home.gourd(&["ps", "-a", "--no-trunc"]).ok().text();
    assert!(table.contains("Exited (255)"), "{name}: {table}");
    assert_eq!(home.gourd(&["ps", "-q"]).ok().text(), "", "{name}");
    let error = home.inspect("victim", "{{.State.Error}}");
    for word in reason {
        assert!(error.contains(word), "{name}: {word:?} is not in {error:?}");
    }
    // The supervisor that told it is on its last steps.
    eventually("all processes are gone", || home.leftovers().is_empty());
    assert_eq!(
        crate::harness::names(&home.root().join("run")),
        Vec::<String>::new(),
        "{name}"
    );
    let upper = home.container(&id).join("upper.ext4");
    assert_ext4_clean(&upper);
    let again = home.gourd(&["start", "-a", "victim"]).ok();
    assert_eq!(again.text(), "again\nprecious", "{name}");
    assert_ext4_clean(&upper);
    home.gourd(&["rm", "victim"]).ok();
    home.assert_nothing_left();
}

#[test]
fn the_supervisor_killed() {
    check("gourd-vm", &["supervisor"], |processes| {
        processes.supervisor
    });
}

#[test]
fn qemu_killed() {
    let name = match harness::driver().as_deref() {
        Some("kvm") => "gourd-vmm",
        _ => "QEMU",
    };
    check("qemu", &[name, "signal 9"], |processes| processes.qemu);
}

#[test]
fn gourd_vmm_killed() {
    check("gourd-vmm", &["gourd-vmm", "signal 9"], |processes| {
        processes.vmm
    });
}

/// A guest that hangs keeps no container from ending. One that is stopped has the process's time and ten seconds, one that is killed
/// ten seconds.
#[test]
fn a_guest_that_hangs_is_cut_off_by_stop_and_by_kill() {
    let home = Home::new();
    let names = ["stopped", "killed"];
    for name in names {
        // A policy that would start it again.
        let id = home.sleeper(&["--name", name, "--restart", "always"]);
        kill(home.processes(&id).qemu, "-STOP");
    }
    let begun = Instant::now();
    // Side by side: each takes its whole time.
    let stop = home.start(&["stop", "-t", "1", "stopped"]);
    let killing = home.start(&["kill", "killed"]);
    finish(stop, &[]).ok();
    finish(killing, &[]).ok();
    let took = begun.elapsed().as_secs();
    assert!((11..30).contains(&took), "{took} s");
    for name in names {
        // At once.
        let state = home.inspect(name, "{{.State.Status}} {{.State.ExitCode}}");
        assert_eq!(state, "exited 137", "{name}");
        let error = home.inspect(name, "{{.State.Error}}");
        assert!(error.contains("cut off"), "{name}: {error:?}");
    }
    // The supervisor of the one that was killed is on its last steps.
    eventually("all processes are gone", || home.leftovers().is_empty());
    for name in names {
        let id = home.inspect(name, "{{.Id}}");
        assert_ext4_clean(&home.container(&id).join("upper.ext4"));
    }
    home.gourd(&["start", "stopped"]).ok();
    home.gourd(&["rm", "-f", "stopped", "killed"]).ok();
    home.assert_nothing_left();
}

#[test]
fn all_killed_as_by_a_reboot_of_the_host() {
    let home = Home::new();
    let (id, processes) = victim(&home);
    for pid in [processes.supervisor, processes.vmm, processes.qemu] {
        // The supervisor's death may have been quicker than we.
        let _ = std::process::Command::new("kill")
            .args(["-9", &pid.to_string()])
            .output();
    }
    eventually("all are dead", || home.leftovers().is_empty());
    fs::remove_dir_all(home.root().join("run")).expect("a reboot clears it");
    assert!(
        home.gourd(&["ps", "-a"])
            .ok()
            .text()
            .contains("Exited (255)")
    );
    assert_eq!(
        home.gourd(&["start", "-a", "victim"]).ok().text(),
        "again\nprecious"
    );
    assert_ext4_clean(&home.container(&id).join("upper.ext4"));
}

#[test]
fn the_cli_killed_leaves_a_detached_container_alone() {
    let home = Home::new();
    let (_, processes) = victim(&home);
    let logs = home.start(&["logs", "-f", "victim"]);
    kill(logs.id(), "-9");
    finish(logs, &[]);
    let exec = home.start(&["exec", "victim", "sleep", "1000"]);
    let exec_pid = exec.id();
    eventually("the exec runs", || {
        home.gourd(&["exec", "victim", "ps"])
            .text()
            .matches("sleep 1000")
            .count()
            >= 2
    });
    kill(exec_pid, "-9");
    finish(exec, &[]);
    assert_eq!(
        home.inspect("victim", "{{.State.Pid}}"),
        processes.supervisor.to_string()
    );
    assert_eq!(
        home.gourd(&["exec", "victim", "cat", "/kept"]).ok().text(),
        "precious"
    );
}

#[test]
fn the_cli_killed_takes_its_foreground_rm_container_along() {
    let home = Home::new();
    let run = home.start(&[
        "run",
        "--rm",
        "-i",
        "--name",
        "mine",
        "busybox",
        "sh",
        "-c",
        "echo up; sleep 1000",
    ]);
    let pid = run.id();
    eventually("it runs", || {
        home.gourd(&["logs", "mine"]).text().contains("up")
    });
    kill(pid, "-9");
    finish(run, &[]);
    eventually("the container is gone", || {
        home.gourd(&["ps", "-aq"]).text().is_empty()
    });
    eventually("its processes are gone", || home.leftovers().is_empty());
    home.assert_nothing_left();
}

#[test]
fn the_cli_killed_leaves_a_foreground_container_without_rm_running() {
    let home = Home::new();
    let run = home.start(&[
        "run",
        "--name",
        "mine",
        "busybox",
        "sh",
        "-c",
        "echo up; sleep 1000",
    ]);
    let pid = run.id();
    eventually("it runs", || {
        home.gourd(&["logs", "mine"]).text().contains("up")
    });
    kill(pid, "-9");
    finish(run, &[]);
    assert_eq!(
        home.gourd(&["exec", "mine", "echo", "alive"]).ok().text(),
        "alive"
    );
}

#[test]
fn a_panic_of_the_guests_kernel_is_told() {
    let home = Home::new();
    // PID 1 of the VM is out of reach for a container; the sysrq trigger is too.
    let out = home.gourd(&[
        "run",
        "--rm",
        "busybox",
        "sh",
        "-c",
        "echo c > /proc/sysrq-trigger",
    ]);
    assert_ne!(
        out.code, 0,
        "a container must not crash its kernel: {}",
        out.stderr
    );
    assert_ne!(out.code, 255, "the VM lives on: {}", out.stderr);
}

#[test]
fn a_rootfs_image_is_never_changed() {
    let home = Home::new();
    let path = home
        .gourd(&["image", "inspect", "-f", "{{.RootfsImage}}", "busybox"])
        .ok()
        .text();
    let before = tool("sha256sum", &[&path]).ok().text();
    home.gourd(&[
        "run",
        "--rm",
        "busybox",
        "sh",
        "-c",
        "rm -rf /bin/vi /etc; echo x > /new; sync",
    ])
    .ok();
    assert_eq!(tool("sha256sum", &[&path]).ok().text(), before);
    tool("e2fsck", &[&"-fn", &path]).ok();
}
