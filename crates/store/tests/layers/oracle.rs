//! A directory as the kernel shows it, entry by entry, and the programs that make one of layers.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci::{Descriptor, Digest, Document, MediaType};
use store::content::Ingest;
use store::rootfs::{self, Layer, Options};
use store::{Root, content};
use tempfile::TempDir;
use testkit::image::{Image, ImageBuilder};
use testkit::mount::{Mounted, run};

/// An image in an OCI layout, and in a store of its own.
pub struct Sample {
    pub dir: TempDir,
    pub root: Root,
    pub layers: Vec<Layer>,
    pub image: Image,
}

impl Sample {
    pub fn new(image: &ImageBuilder) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = image.write_layout(&dir.path().join("layout"), "x").unwrap();
        let root = Root::open(&dir.path().join("root")).unwrap();
        let layers = keep(&root, &image);
        Self {
            dir,
            root,
            layers,
            image,
        }
    }

    /// The image of an archive, as skopeo unpacks that.
    pub fn from_archive(archive: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = dir.path().join("layout");
        let from = format!("oci-archive:{}", archive.display());
        let to = format!("oci:{}:x", layout.display());
        run("skopeo", &["copy", "-q", &from, &to].map(OsStr::new));
        let blob = |digest: &Digest| {
            let bytes = fs::read(layout.join("blobs/sha256").join(digest.hex())).unwrap();
            (*digest, bytes)
        };
        let index = fs::read(layout.join("index.json")).unwrap();
        let Ok(Document::Index(index)) = oci::parse_document(None, &index) else {
            panic!("index.json is none");
        };
        let descriptor = index.manifests[0].clone();
        let (_, manifest) = blob(&descriptor.digest);
        let Ok(Document::Manifest(manifest)) = oci::parse_document(None, &manifest) else {
            panic!("no manifest");
        };
        let layers = manifest.layers;
        let blobs: BTreeMap<_, _> = layers.iter().map(|layer| blob(&layer.digest)).collect();
        let diff_id = |layer: &Descriptor| {
            let mut tar = rootfs::decompress(blobs[&layer.digest].as_slice()).unwrap();
            Digest::of_reader(&mut tar).unwrap().0
        };
        let image = Image {
            diff_ids: layers.iter().map(diff_id).collect(),
            manifest: descriptor,
            config: manifest.config,
            layers,
            blobs,
        };
        let root = Root::open(&dir.path().join("root")).unwrap();
        let layers = keep(&root, &image);
        Self {
            dir,
            root,
            layers,
            image,
        }
    }

    /// What umoci makes of it, as root. Debian's reads gzip alone: what is packed in another way it gets from skopeo.
    pub fn umoci(&self) -> PathBuf {
        let bundle = self.dir.path().join("bundle");
        let layout = |name: &str| format!("{}:x", self.dir.path().join(name).display());
        let mut image = layout("layout");
        if self
            .image
            .layers
            .iter()
            .any(|l| l.media_type != MediaType::OciLayerGzip)
        {
            let to = layout("gzip");
            let (from, to) = (format!("oci:{image}"), format!("oci:{to}"));
            let args = ["copy", "-q", "--dest-compress-format", "gzip", &from, &to];
            run("skopeo", &args.map(OsStr::new));
            image = layout("gzip");
        }
        let args = ["unpack", "--image", &image].map(OsStr::new);
        run("umoci", &[&args[..], &[bundle.as_os_str()]].concat());
        bundle.join("rootfs")
    }

    /// What we make of it. Oracle: e2fsck.
    pub fn build(&self) -> Result<PathBuf, rootfs::Error> {
        let image = rootfs::build_with(&self.root, &self.layers, &Options::default())?;
        let check = run("e2fsck", &[OsStr::new("-fn"), image.as_os_str()]);
        assert!(!check.contains("? no"), "{check}");
        Ok(image)
    }
}

/// Puts an image's layers into a store.
pub fn keep(root: &Root, image: &Image) -> Vec<Layer> {
    let mut layers = Vec::new();
    for (blob, diff_id) in image.layers.iter().zip(&image.diff_ids) {
        if !content::has(root, blob) {
            let mut ingest = Ingest::begin(root, Some(blob)).unwrap();
            ingest.write(&image.blobs[&blob.digest]).unwrap();
            ingest.finish().unwrap();
        }
        layers.push(Layer {
            blob: blob.clone(),
            diff_id: *diff_id,
        });
    }
    layers
}

/// A rootfs image as it is, mounted.
pub fn mounted(image: &Path) -> Mounted {
    Mounted::new(image, &["ro", "noload"])
}

/// Every entry of a directory by name: kind, mode, owner, time, size, content, attributes, hard links. The root is `.`.
pub fn entries(root: &Path) -> Vec<(String, String)> {
    let mut found = vec![(b".".to_vec(), root.to_owned())];
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap();
            found.push((name.as_os_str().as_bytes().to_vec(), path.clone()));
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                open.push(path);
            }
        }
    }
    found.sort();
    let mut first_names = HashMap::new();
    found
        .into_iter()
        .map(|(name, path)| {
            let name = name.escape_ascii().to_string();
            let line = describe(&path, &name, &mut first_names);
            (name, line)
        })
        .collect()
}

fn describe(path: &Path, name: &str, first_names: &mut HashMap<u64, String>) -> String {
    let meta = fs::symlink_metadata(path).unwrap();
    let kind = meta.file_type();
    if !kind.is_dir() {
        let first = first_names
            .entry(meta.ino())
            .or_insert_with(|| name.to_owned());
        if first != name {
            return format!("= {first}");
        }
    }
    let what = if kind.is_dir() {
        "dir".to_owned()
    } else if kind.is_symlink() {
        let target = fs::read_link(path).unwrap();
        format!("-> {}", target.as_os_str().as_bytes().escape_ascii())
    } else if kind.is_fifo() {
        "fifo".to_owned()
    } else if kind.is_char_device() || kind.is_block_device() {
        let (kind, device) = (kind.is_char_device(), meta.rdev());
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        format!("{} {major}:{minor}", if kind { 'c' } else { 'b' })
    } else {
        let mut file = fs::File::open(path).unwrap();
        let (digest, _) = Digest::of_reader(&mut file).unwrap();
        format!("file {} {}", meta.len(), digest.short())
    };
    format!(
        "{what} {:o} {}:{} {}.{:09} {}",
        meta.mode() & 0o7777,
        meta.uid(),
        meta.gid(),
        meta.mtime(),
        meta.mtime_nsec(),
        xattrs(path)
    )
}

/// Names and values, sorted.
fn xattrs(path: &Path) -> String {
    let mut names = vec![0; 64 << 10];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut pairs: Vec<String> = names[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            let digest = Digest::of(&value[..len]);
            format!("{}={len}:{}", name.escape_ascii(), digest.short())
        })
        .collect();
    pairs.sort();
    pairs.join(",")
}

/// What every rootfs image has, whatever its layers: places to mount on, and what ext4 has itself.
const OURS: [&str; 8] = [
    "dev",
    "etc",
    "etc/hostname",
    "etc/hosts",
    "etc/resolv.conf",
    "lost+found",
    "proc",
    "sys",
];

/// Compares what umoci and we make of the same layers.
#[track_caller]
pub fn assert_same_as_umoci(sample: &Sample) {
    let expect = entries(&sample.umoci());
    assert_tree(sample, &expect);
}

/// As [`assert_same_as_umoci`], but for the entries in `but`, where umoci is wrong.
#[track_caller]
pub fn assert_same_as_umoci_but(sample: &Sample, but: &[(&str, &str)]) {
    let mut expect = entries(&sample.umoci());
    for (name, right) in but {
        let (_, line) = expect.iter_mut().find(|(other, _)| other == name).unwrap();
        assert_ne!(line, right, "umoci has learned it");
        *line = (*right).to_owned();
    }
    assert_tree(sample, &expect);
}

/// Compares what we make of the layers with what should come out.
#[track_caller]
pub fn assert_tree(sample: &Sample, expect: &[(String, String)]) {
    let image = match sample.build() {
        Ok(image) => image,
        Err(error) => panic!("{}", causes(&error)),
    };
    let mounted = mounted(&image);
    let mut found = entries(mounted.path());
    found.retain(|(name, _)| {
        let expected = expect.iter().any(|(other, _)| other == name);
        expected || !OURS.contains(&name.as_str())
    });
    for (found, expect) in found.iter().zip(expect) {
        assert_eq!(found, expect);
    }
    assert_eq!(found.len(), expect.len());
}

/// An error with its causes.
pub fn causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        None => error.to_string(),
        Some(source) => format!("{error}: {}", causes(source)),
    }
}
