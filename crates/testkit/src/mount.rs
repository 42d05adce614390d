//! File systems on loop devices, for tests that run as root.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// Runs a program, which must succeed; its output.
#[track_caller]
pub fn run(program: &str, args: &[impl AsRef<OsStr>]) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(program)
        .args(args)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    let args: Vec<_> = args.iter().map(AsRef::as_ref).collect();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}{}\nthis test needs root and loop devices",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout),
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A mounted file system; unmounted when dropped, which frees its loop device.
#[derive(Debug)]
pub struct Mounted(TempDir);

impl Mounted {
    /// The one in the file `image`, with the options of mount(8) besides `loop`.
    #[track_caller]
    pub fn new(image: &Path, options: &[&str]) -> Self {
        let target = tempfile::tempdir().expect("a temporary folder");
        let options = [&["loop"], options].concat().join(",");
        let words = ["-o", &options].map(OsStr::new);
        let places = [image.as_os_str(), target.path().as_os_str()];
        run("mount", &[&words[..], &places].concat());
        Self(target)
    }

    /// One of `size` bytes that `mkfs`, a program and its arguments, makes in the new file `image`.
    #[track_caller]
    pub fn made(image: &Path, size: u64, mkfs: &[&str]) -> Self {
        let file = File::create(image).expect("the file system's file");
        file.set_len(size).expect("its size");
        let (program, args) = mkfs.split_first().expect("a program");
        let mut args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
        args.push(image.as_os_str());
        run(program, &args);
        Self::new(image, &[])
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}
