//! Homes in namespaces of their own: a small file system, or a network.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Home, Out, cache, programs, tool};

impl Home {
    /// With the gourd kernel and `busybox`, on a file system that has no more than `size` bytes. It is a tmpfs in a mount
    /// namespace of its own, so that nobody needs to be root, and it goes with the process that holds it.
    pub fn on_a_small_disk(size: u64) -> Home {
        let mut home = Home::empty();
        let mount = format!(
            "mount -t tmpfs -o size={size},mode=700 none '{}' && echo ready && exec sleep 100000",
            home.root().display()
        );
        home.enter(&["-Urm"], "-m", &mount);
        let cached = |name: &str| cache().join(name).display().to_string();
        let kernel = cached("kernels/gourd/vmlinux");
        home.gourd(&["system", "kernel", "add", "gourd", &kernel])
            .ok();
        home.gourd(&["load", "-i", &cached("images/busybox.tar")])
            .ok();
        home
    }

    /// As [`Home::new`], in a network namespace of its own in which `setup` has run, with every right over it; nothing of it reaches the
    /// machine's own network. What `setup` starts goes with it.
    pub fn in_a_network(setup: &str) -> Home {
        let mut home = Home::new();
        let script =
            format!("exec 3>&1 >&2; set -e; {setup}\necho ready >&3; exec 3>&-; exec sleep 100000");
        home.enter(&["-cnp", "--keep-caps", "--kill-child"], "-n", &script);
        home
    }

    /// As [`Home::in_a_network`], where the file `resolv.conf` of `setup`'s folder stands in the place of the host's; that file is returned.
    pub fn in_a_network_with_a_resolver(setup: &str) -> (Home, PathBuf) {
        let mut home = Home::new();
        let mount = "mount --bind resolv.conf \"$(readlink -f /etc/resolv.conf)\"";
        let script = format!(
            "exec 3>&1 >&2; set -e; {setup}\n{mount}; echo ready >&3; exec 3>&-; exec sleep 100000"
        );
        home.enter(&["-Urnmp", "--kill-child"], "-n -m", &script);
        let file = home.path("resolv.conf");
        (home, file)
    }

    /// Everything happens in namespaces from now on: those that unshare(1) makes with these flags, held by a shell's script that says
    /// `ready`, and entered with those flags of nsenter(1).
    fn enter(&mut self, unshare: &[&str], flags: &str, script: &str) {
        let mut holder = Command::new("unshare")
            .args(unshare)
            .args(["sh", "-c", script])
            .current_dir(self.path("."))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare starts");
        let mut ready = [0; 5];
        let told = holder.stdout.take().expect("piped").read_exact(&mut ready);
        let enter = format!(
            "nsenter -t {} -U {flags} --preserve-credentials --",
            holder.id()
        );
        self.holder = Some(holder);
        assert!(
            told.is_ok() && ready == *b"ready",
            "this test needs user namespaces for everybody: sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces"
        );
        let inside = self.path("inside");
        fs::create_dir(&inside).expect("a folder");
        let gourd = programs().join("gourd");
        for (name, line) in [
            ("gourd", format!("{enter} '{}' \"$@\"", gourd.display())),
            ("sh", format!("{enter} sh -c \"$@\"")),
        ] {
            let path = inside.join(name);
            fs::write(&path, format!("#!/bin/sh\nexec {line}\n")).expect("a script");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("mode");
        }
        self.programs = inside;
    }

    /// A shell's line where a small disk, or a network, is to be seen, in the root.
    pub fn inside(&self, script: &str) -> Out {
        let script = format!("cd '{}' && {script}", self.root().display());
        tool(&self.programs.join("sh").display().to_string(), &[&script])
    }
}
