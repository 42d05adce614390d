//! `gourd system disk` and `gourd system fsck` as a person runs them. Oracles: qemu-img, mke2fs, cmp(1).

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn run(program: &str, folder: &Path, line: &[&str]) -> Output {
    let path = std::env::var("PATH").unwrap_or_default();
    Command::new(program)
        .args(line)
        .current_dir(folder)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("GOURD_ROOT", folder.join("root"))
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"))
}

fn gourd(folder: &Path, line: &[&str]) -> (i32, String, String) {
    let output = run(env!("CARGO_BIN_EXE_gourd"), folder, line);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (
        output.status.code().expect("an exit code"),
        text(output.stdout),
        text(output.stderr),
    )
}

fn tool(program: &str, folder: &Path, line: &[&str]) {
    let output = run(program, folder, line);
    assert!(output.status.success(), "{program} {line:?}: {output:?}");
}

#[test]
fn an_image_becomes_a_raw_disk() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path();
    let raw = fs::File::create(folder.join("a.raw")).expect("a file");
    raw.set_len(8 << 20).expect("a hole");
    raw.write_all_at(&[7; 100_000], 3 << 20).expect("data");
    tool(
        "qemu-img",
        folder,
        &["convert", "-c", "-O", "qcow2", "a.raw", "a.qcow2"],
    );
    tool("xz", folder, &["-k", "a.qcow2"]);
    for image in ["a.qcow2", "a.qcow2.xz"] {
        let convert = ["system", "disk", "convert", image, "out"];
        assert_eq!(
            gourd(folder, &convert),
            (0, "out\n".to_owned(), String::new())
        );
        tool("cmp", folder, &["a.raw", "out"]);
        let blocks = fs::metadata(folder.join("out")).expect("a file").blocks();
        assert!(blocks * 512 < 200_000, "{blocks} blocks");
        let (code, out, err) = gourd(folder, &convert);
        assert_eq!((code, out.as_str()), (125, ""));
        assert!(
            err.contains("cannot create out") && err.contains("hint: choose another name"),
            "{err}"
        );
        fs::remove_file(folder.join("out")).expect("gone");
    }
    // A state directory is nobody's business here.
    assert!(!folder.join("root").exists());
    let (code, out, _) = gourd(folder, &["system", "disk", "info", "a.qcow2"]);
    assert_eq!(code, 0);
    assert!(
        out.starts_with("Format: qcow2\nVirtual size: 8.39MB (8388608 bytes)\n"),
        "{out}"
    );
    let info = [
        "system",
        "disk",
        "info",
        "-f",
        "{{.Format}} {{.VirtualSize}}",
        "a.qcow2",
    ];
    assert_eq!(gourd(folder, &info).1, "qcow2 8388608\n");
    let limited = [
        "system", "disk", "convert", "--limit", "1m", "a.qcow2", "out",
    ];
    let (code, _, err) = gourd(folder, &limited);
    assert_eq!(code, 125);
    assert!(
        err.contains("the limit is 1048576") && err.contains("hint: "),
        "{err}"
    );
    let outside = [
        "create",
        "-q",
        "-u",
        "-f",
        "qcow2",
        "-b",
        "/etc/passwd",
        "-F",
        "raw",
        "top",
        "1M",
    ];
    tool("qemu-img", folder, &outside);
    let (code, _, err) = gourd(folder, &["system", "disk", "convert", "top", "out"]);
    assert_eq!(code, 125);
    assert!(
        err.contains("/etc/passwd") && err.contains("--backing any"),
        "{err}"
    );
    let any = [
        "system",
        "disk",
        "convert",
        "--backing",
        "any",
        "top",
        "out",
    ];
    assert_eq!(gourd(folder, &any).0, 0);
    // What is there stays, and what failed has left nothing.
    let (code, _, err) = gourd(folder, &any);
    assert_eq!(code, 125);
    assert!(err.contains("cannot create out"), "{err}");
    let names = std::fs::read_dir(folder).expect("a folder");
    let names = names.map(|entry| entry.expect("an entry").file_name().into_string());
    let hidden = names.flatten().find(|name| name.starts_with('.'));
    assert_eq!(hidden, None);
}

#[test]
fn a_file_system_is_checked() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path();
    tool(
        "mke2fs",
        folder,
        &[
            "-q",
            "-t",
            "ext4",
            "-b",
            "4096",
            "-O",
            "^metadata_csum",
            "fs",
            "32M",
        ],
    );
    let (code, out, err) = gourd(folder, &["system", "fsck", "fs"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(
        out.starts_with("fs: clean, 11/8192 inodes, 2 directories, "),
        "{out}"
    );
    let file = fs::OpenOptions::new()
        .write(true)
        .open(folder.join("fs"))
        .expect("a file");
    // s_free_inodes_count
    file.write_all_at(&[9, 9], 1024 + 0x10).expect("damage");
    let (code, out, err) = gourd(folder, &["system", "fsck", "./fs"]);
    assert_eq!(code, 4, "{out}{err}");
    assert!(
        out.starts_with("superblock: s_free_inodes_count is 2313, should be 8181\n./fs: 1 error, "),
        "{out}"
    );
    assert!(err.contains("e2fsck -fy ./fs"), "{err}");
    let (code, out, _) = gourd(folder, &["system", "fsck", "-f", "json", "fs"]);
    assert_eq!(code, 4);
    assert!(
        out.contains("\"Clean\":false") && out.contains("\"Errors\":1"),
        "{out}"
    );
    fs::write(folder.join("text"), vec![b'x'; 5000]).expect("a file");
    let (code, out, err) = gourd(folder, &["system", "fsck", "text"]);
    assert_eq!((code, out.as_str()), (125, ""));
    assert!(
        err.contains("not an ext4 file system") && err.contains("hint: "),
        "{err}"
    );
    let (code, _, err) = gourd(folder, &["system", "fsck", "nothing"]);
    assert_eq!(code, 125);
    assert!(err.contains("no such image: nothing"), "{err}");
}

#[test]
fn a_volume_is_checked_by_its_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path();
    let (code, _, err) = gourd(folder, &["volume", "create", "--size", "32m", "data"]);
    assert_eq!(code, 0, "{err}");
    let disk = folder.join("root/volumes/data/volume.ext4");
    let (code, out, err) = gourd(folder, &["system", "fsck", "data"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let expect = format!("{}: clean, ", disk.canonicalize().expect("it").display());
    assert!(out.starts_with(&expect), "{out}");
    // As the kernel locks it: whoever writes has the lease.
    let lock = fs::File::open(folder.join("root/volumes/data/lock")).expect("a lock");
    lock.lock().expect("the lease");
    let (code, _, err) = gourd(folder, &["system", "fsck", "data"]);
    assert_eq!(code, 125);
    assert!(err.contains("data") && err.contains("in use"), "{err}");
    lock.unlock().expect("the lease");
    let file = fs::OpenOptions::new().write(true).open(&disk);
    // s_free_inodes_count
    file.expect("a file")
        .write_all_at(&[9, 9], 1024 + 0x10)
        .expect("damage");
    let (code, out, err) = gourd(folder, &["system", "fsck", "data"]);
    assert_eq!(code, 4, "{out}{err}");
    assert!(out.contains("s_free_inodes_count is 2313"), "{out}");
}
