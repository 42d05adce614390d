//! What the engine's tests share: an engine in a temporary place, and images to put there.

#![allow(dead_code, missing_docs)]

use std::error::Error as _;
use std::path::{Path, PathBuf};

use engine::{CreateRequest, Engine, OpenOptions, PullEvent};
use testkit::image::{Image, ImageBuilder, Layer};

pub struct Setup {
    pub dir: tempfile::TempDir,
    pub engine: Engine,
}

/// A new state directory with a kernel in it that starts nothing, and no programs.
pub fn setup() -> Setup {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("bin")).unwrap();
    let engine = Engine::open(OpenOptions {
        root: Some(dir.path().join("root")),
        bin_dir: Some(dir.path().join("bin")),
        ..OpenOptions::default()
    })
    .unwrap();
    let kernel = dir.path().join("vmlinux");
    let mut bytes = vec![0; 4096];
    bytes[..4].copy_from_slice(b"\x7fELF");
    std::fs::write(&kernel, bytes).unwrap();
    engine
        .kernel_add("gourd", &kernel, None, "6.12", false)
        .unwrap();
    Setup { dir, engine }
}

impl Setup {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An OCI archive of `image`, called `name`.
    pub fn archive(&self, image: &ImageBuilder, name: &str) -> (PathBuf, Image) {
        let path = self.path("image.tar");
        let image = image.write_archive(&path, name).unwrap();
        (path, image)
    }

    pub async fn load(&self, path: &Path) -> Result<Vec<engine::LoadedImage>, engine::Error> {
        let file = std::fs::File::open(path).unwrap();
        self.engine.load(file, &|_| {}).await
    }

    pub async fn create(
        &self,
        image: &str,
        name: &str,
    ) -> Result<engine::Container, engine::Error> {
        self.engine.create(request(image, name), &quiet).await
    }
}

pub fn quiet(_: PullEvent) {}

pub fn request(image: &str, name: &str) -> CreateRequest {
    CreateRequest {
        image: image.to_owned(),
        name: Some(name.to_owned()),
        nano_cpus: Some(1_000_000_000),
        ..CreateRequest::default()
    }
}

/// Two layers, the upper one over a file of the lower one.
pub fn image() -> ImageBuilder {
    ImageBuilder::new()
        .layer(
            Layer::new()
                .dir("etc")
                .file("etc/motd", b"lower")
                .file("bin/sh", b"sh"),
        )
        .layer(Layer::new().file("etc/motd", b"upper"))
        .env("PATH", "/bin")
        .cmd(["sh"])
}

/// An error with its causes.
pub fn text(error: &engine::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Oracles: e2fsck says it is clean, debugfs says what is in it.
pub fn cat(rootfs: &str, file: &str) -> String {
    let check = std::process::Command::new("e2fsck")
        .args(["-fn", rootfs])
        .output();
    let check = check.expect("this test needs e2fsck (Debian: e2fsprogs)");
    assert!(
        check.status.success(),
        "{}",
        String::from_utf8_lossy(&check.stdout)
    );
    let output = std::process::Command::new("debugfs")
        .args(["-R", &format!("cat {file}"), rootfs])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}
