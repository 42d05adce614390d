//! What changed against an image: from directories as the kernel's overlay leaves them (oracle: overlayfs.rst), because
//! mounting an overlay takes root. A whiteout does not. With root, the kernel makes them itself.

use super::*;
use crate::failure::Failed;
use crate::transfer::changes::{Roots, walk};
use crate::transfer::layer::{Layer, List};

struct Overlay(tempfile::TempDir);

impl Overlay {
    /// `lower` and `upper` are grown by hand; `merged` as well where it matters.
    fn new() -> Self {
        Self(place(&["lower", "upper", "merged"]))
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn roots(&self) -> Roots {
        let [lower, upper, merged] =
            ["lower", "upper", "merged"].map(|name| open(&self.path(name)));
        Roots {
            upper,
            lower,
            merged,
        }
    }

    /// The records, each with a blank behind the letter.
    fn changes(&self) -> Vec<String> {
        let to = self.path("list");
        let mut list = List(Output::new(File::create(&to).unwrap().into()));
        walk(self.roots(), &mut list).unwrap();
        list.0.finish().unwrap();
        let bytes = fs::read(to).unwrap();
        bytes
            .split(|&byte| byte == 0)
            .filter(|record| !record.is_empty())
            .map(|record| {
                format!(
                    "{} {}",
                    char::from(record[0]),
                    String::from_utf8_lossy(&record[1..])
                )
            })
            .collect()
    }

    fn layer(&self) -> Result<Vec<Entry>, Failed> {
        let to = self.path("layer");
        let mut layer = Layer(Packer::new(Output::new(File::create(&to).unwrap().into())));
        walk(self.roots(), &mut layer)?;
        layer.0.finish()?;
        let mut archive = Archive::new(Input::new(open(&to)));
        let mut entries = Vec::new();
        while let Some(entry) = archive.next()? {
            entries.push(entry);
        }
        Ok(entries)
    }

    fn whiteout(&self, path: &str) {
        let path = self.path("upper").join(path);
        rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }

    /// The same file in both, as a copy up leaves it.
    fn copied_up(&self, path: &str, bytes: &str) {
        for side in ["lower", "upper"] {
            let path = self.path(side).join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bytes).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 5);
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(time)
                .unwrap();
        }
    }

    /// What the container sees of a directory: of this test's making.
    fn mirror(&self, directory: &str) {
        fs::create_dir_all(self.path("merged").join(directory)).unwrap();
    }
}

#[test]
fn changes_of_plain_directories() {
    let overlay = Overlay::new();
    let write = |path: &str, bytes: &str| {
        let path = overlay.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    overlay.copied_up("etc/same", "as it was");
    overlay.copied_up("var/touched/same", "as it was");
    write("lower/etc/passwd", "root");
    write("upper/etc/passwd", "root and more");
    write("lower/etc/gone", "");
    overlay.whiteout("etc/gone");
    // Made and removed again.
    overlay.whiteout("etc/never-there");
    write("upper/new/sub/file", "");
    write("lower/kind", "a file");
    write("upper/kind/now-a-directory", "");
    write("lower/a-b", "");
    write("upper/a-b", "x");
    write("lower/a/c", "");
    write("upper/a/c", "x");
    for directory in ["etc", "var/touched", "new/sub", "kind", "a"] {
        overlay.mirror(directory);
    }
    // What the boot mounts on.
    write("upper/etc/hosts", "");
    fs::create_dir(overlay.path("upper/proc")).unwrap();
    let expect = [
        "C /a",
        "C /a/c",
        "C /a-b",
        "C /etc",
        "D /etc/gone",
        "C /etc/passwd",
        "C /kind",
        "A /kind/now-a-directory",
        "A /new",
        "A /new/sub",
        "A /new/sub/file",
    ];
    assert_eq!(overlay.changes(), expect);
    let layer: Vec<_> = overlay
        .layer()
        .unwrap()
        .into_iter()
        .map(|entry| (String::from_utf8(entry.path).unwrap(), entry.kind))
        .collect();
    let paths: Vec<_> = layer.iter().map(|(path, _)| path.as_str()).collect();
    let expect = [
        "a/",
        "a/c",
        "a-b",
        "etc/",
        "etc/.wh.gone",
        "etc/passwd",
        "kind/",
        "kind/now-a-directory",
        "new/",
        "new/sub/",
        "new/sub/file",
    ];
    assert_eq!(paths, expect);
}

#[test]
fn metadata_counts_and_so_do_contents() {
    let overlay = Overlay::new();
    overlay.copied_up("mode", "x");
    overlay.copied_up("contents", "x");
    overlay.copied_up("attribute", "x");
    overlay.copied_up("same", "x");
    overlay.copied_up("dir/x", "x");
    overlay.mirror("dir");
    let upper = overlay.path("upper");
    for path in ["mode", "dir"] {
        fs::set_permissions(upper.join(path), fs::Permissions::from_mode(0o700)).unwrap();
    }
    let time = fs::metadata(upper.join("contents"))
        .unwrap()
        .modified()
        .unwrap();
    let file = File::options()
        .write(true)
        .open(upper.join("contents"))
        .unwrap();
    file.write_all_at(b"y", 0).unwrap();
    file.set_modified(time).unwrap();
    let value = b"1";
    rustix::fs::setxattr(
        upper.join("attribute"),
        "user.a",
        value,
        XattrFlags::empty(),
    )
    .unwrap();
    assert_eq!(
        overlay.changes(),
        ["C /attribute", "C /contents", "C /dir", "C /mode"]
    );
}

#[test]
fn a_directory_that_the_boot_made_counts_with_what_is_in_it() {
    let overlay = Overlay::new();
    fs::create_dir(overlay.path("upper/etc")).unwrap();
    overlay.mirror("etc");
    fs::write(overlay.path("upper/etc/hosts"), "").unwrap();
    assert!(overlay.changes().is_empty());
    fs::write(overlay.path("upper/etc/motd"), "").unwrap();
    assert_eq!(overlay.changes(), ["A /etc", "A /etc/motd"]);
}

#[test]
fn a_layer_has_no_way_to_hold_a_whiteouts_name() {
    let overlay = Overlay::new();
    fs::write(overlay.path("upper/.wh.x"), "").unwrap();
    let failed = overlay.layer().unwrap_err().to_string();
    assert!(failed.contains(".wh.x"), "{failed}");
}

/// Unmounts when it is dropped, so that what it is in can be removed.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Oracle: the kernel's own overlay.
#[test]
fn replaced_and_renamed_directories() {
    assert!(
        is_root(),
        "mounting an overlay whose notes are trusted.* takes root"
    );
    let overlay = Overlay::new();
    let lower = overlay.path("lower");
    for directory in ["replaced/old-dir", "renamed/deep", "onto", "kept", "doc"] {
        fs::create_dir_all(lower.join(directory)).unwrap();
    }
    for file in [
        "replaced/old",
        "replaced/both",
        "renamed/a",
        "renamed/deep/b",
        "kept/x",
        "doc/1",
        "doc/2",
    ] {
        fs::write(lower.join(file), file).unwrap();
    }
    fs::create_dir(overlay.path("work")).unwrap();
    let [lower, upper, work, merged] =
        ["lower", "upper", "work", "merged"].map(|name| overlay.path(name));
    let options = format!(
        "lowerdir={},upperdir={},workdir={},redirect_dir=on,metacopy=off,index=off,xino=on",
        lower.display(),
        upper.display(),
        work.display()
    );
    let options = CString::new(options).unwrap();
    // Its own mount namespace, so that nothing is left of it. The thread ends with the test.
    crate::sys::unshare(rustix::thread::UnshareFlags::NEWNS | rustix::thread::UnshareFlags::FS)
        .unwrap();
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).unwrap();
    mount(
        "overlay",
        &merged,
        "overlay",
        MountFlags::empty(),
        &*options,
    )
    .unwrap();
    let _mounted = Mounted(&merged);

    let at = |name: &str| merged.join(name);
    fs::remove_dir_all(at("replaced")).unwrap();
    fs::create_dir(at("replaced")).unwrap();
    fs::write(at("replaced/both"), "new").unwrap();
    fs::rename(at("renamed"), at("moved")).unwrap();
    fs::write(at("moved/deep/new"), "").unwrap();
    fs::remove_file(at("moved/a")).unwrap();
    fs::remove_dir_all(at("onto")).unwrap();
    fs::rename(at("doc"), at("onto")).unwrap();
    fs::create_dir(at("brand-new")).unwrap();
    fs::rename(at("moved/deep"), at("brand-new/inner")).unwrap();
    File::options().append(true).open(at("kept/x")).unwrap();
    let expect = [
        "A /brand-new",
        "A /brand-new/inner",
        "A /brand-new/inner/b",
        "A /brand-new/inner/new",
        "D /doc",
        "A /moved",
        "C /onto",
        "A /onto/1",
        "A /onto/2",
        "D /renamed",
        "C /replaced",
        "C /replaced/both",
        "D /replaced/old",
        "D /replaced/old-dir",
    ];
    assert_eq!(overlay.changes(), expect);
    let entries = overlay.layer().unwrap();
    let find = |path: &str| entries.iter().find(|entry| entry.path == path.as_bytes());
    assert!(
        find("brand-new/inner/b")
            .is_some_and(|entry| entry.stored() == "renamed/deep/b".len() as u64)
    );
    assert!(find("replaced/.wh.old").is_some() && find(".wh.doc").is_some());
    assert!(entries.iter().all(|entry| entry.attributes.is_empty()));
}
