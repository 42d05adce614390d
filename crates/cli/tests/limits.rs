//! What an image may unpack to, as a person meets it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use testkit::image::{ImageBuilder, Layer};

/// Runs gourd; its exit code and what it says on stderr.
fn gourd(root: &Path, variable: Option<&str>, line: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gourd"));
    command
        .env("GOURD_ROOT", root)
        .env_remove("GOURD_MAX_UNPACKED");
    if let Some(variable) = variable {
        command.env("GOURD_MAX_UNPACKED", variable);
    }
    let output = command
        .args(line)
        .stdin(Stdio::null())
        .output()
        .expect("gourd runs");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    (output.status.code().expect("an exit code"), said)
}

#[test]
fn an_image_that_unpacks_to_more_than_it_may_is_refused_and_the_way_around_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().join("root");
    let layer = Layer::new().file("zeros", vec![0; 3 << 20]);
    let layout = dir.path().join("layout");
    fs::create_dir(&layout).expect("a folder");
    let image = ImageBuilder::new().layer(layer);
    let image = image.write_layout(&layout, "dense:1").expect("a layout");
    let load = ["load", "-i", layout.to_str().expect("UTF-8")];
    let refused = |variable: Option<&str>, line: &[&str]| {
        let (code, said) = gourd(&root, variable, line);
        assert_eq!(code, 125, "{said}");
        let digest = image.layers[0].digest.to_string();
        for expect in [
            digest.as_str(),
            "more than the 2 MiB allowed",
            "--max-unpacked",
            "GOURD_MAX_UNPACKED",
        ] {
            assert!(said.contains(expect), "{said}");
        }
        let left = fs::read_dir(root.join("rootfs")).expect("a folder");
        assert_eq!(left.count(), 0, "nothing stays");
    };
    refused(Some("2m"), &load);
    let flag = |size: &'static str| [&["--max-unpacked", size][..], &load].concat();
    refused(None, &flag("2m"));
    refused(Some("1g"), &flag("2m"));
    let (code, said) = gourd(&root, Some("much"), &load);
    assert_eq!(code, 125, "{said}");
    assert!(
        said.contains("GOURD_MAX_UNPACKED: \"much\" is no size"),
        "{said}"
    );
    let (code, said) = gourd(&root, Some("2m"), &flag("4m"));
    assert_eq!(code, 0, "{said}");
}
