//! An archive of images on its way into the store, in one pass; or a folder that was unpacked from one.
//!
//! Two layouts, both tars: the OCI image layout (`index.json`, `blobs/sha256/…`), and `docker save`'s
//! (`manifest.json`, which names configurations and layers by path). The archive is a stranger's: every blob is hashed
//! as it comes, names that would leave the archive are refused, documents have a limit.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use oci::{Descriptor, Digest, MediaType};
use store::content::{self, Ingest};
use store::{Root, file, rootfs};
use tar::EntryType;

use super::{PullEvent, unpack};

/// Entries of an archive: an image has a handful of blobs.
const ENTRIES: usize = 100_000;

/// Links that are followed: a layer that is there twice is a link to the first.
const LINKS: usize = 8;

/// Bytes of a blob after which it is worth a bar.
const SHOWN: u64 = 1 << 20;

/// Why an archive cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no tar, is truncated, or cannot be read.
    #[error("the archive cannot be read")]
    Read(#[source] io::Error),
    /// The other end of it is full, closed or broken.
    #[error("the archive cannot be written")]
    Write(#[source] io::Error),
    /// An entry's name leaves the archive.
    #[error("the archive has an entry {0:?}, which leaves it")]
    Escapes(String),
    /// Far too many entries.
    #[error("the archive has more than {ENTRIES} entries")]
    TooMany,
    /// A document that is too large.
    #[error(
        "{name} in the archive has {size} bytes, more than the {} allowed",
        oci::MAX_DOCUMENT_SIZE
    )]
    TooLarge {
        /// Its name.
        name: String,
        /// Its size.
        size: u64,
    },
    /// A document that is not what it should be.
    #[error("{name} in the archive is not valid")]
    Document {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A manifest names a file that is not there.
    #[error("the archive lacks {0:?}")]
    Missing(String),
    /// Neither of the two layouts.
    #[error("the archive has no images: it has neither index.json nor manifest.json")]
    NoImages,
    /// It has images, all of them something else.
    #[error("the archive's index names no image")]
    Empty,
}

/// What came out of an archive.
pub(super) struct Archive<'f> {
    /// `index.json`
    pub(super) index: Option<Vec<u8>>,
    /// `manifest.json`
    pub(super) manifest: Option<Vec<u8>>,
    files: BTreeMap<String, File>,
    /// Blobs that were not here before.
    fresh: &'f mut Vec<Digest>,
    progress: &'f dyn Fn(PullEvent),
}

#[derive(Debug)]
enum File {
    Blob {
        digest: Digest,
        size: u64,
        magic: [u8; 4],
    },
    Link(String),
}

impl<'f> Archive<'f> {
    /// Reads a tar, plain or packed, to its end. The caller holds the lease on content. What an archive's blobs are
    /// for is said anywhere in it, so all are taken; `fresh` tells, in case of an error too, which were not here before.
    pub(super) fn read(
        root: &Root,
        source: impl Read + Send + 'static,
        fresh: &'f mut Vec<Digest>,
        progress: &'f dyn Fn(PullEvent),
    ) -> Result<Self, crate::Error> {
        let tar = unpack::unpack_within(source, root.max_unpacked()).map_err(Error::Read)?;
        let mut tar = tar::Archive::new(tar);
        let mut archive = Self::new(fresh, progress);
        for (index, entry) in tar.entries().map_err(Error::Read)?.enumerate() {
            if index >= ENTRIES {
                return Err(Error::TooMany.into());
            }
            archive.take(root, entry.map_err(Error::Read)?)?;
        }
        Ok(archive)
    }

    fn new(fresh: &'f mut Vec<Digest>, progress: &'f dyn Fn(PullEvent)) -> Self {
        Self {
            index: None,
            manifest: None,
            files: BTreeMap::new(),
            fresh,
            progress,
        }
    }

    /// Reads a folder with an OCI layout (or with what `docker save` writes). Links are followed: it is the caller's folder.
    pub(super) fn read_folder(
        root: &Root,
        folder: &Path,
        fresh: &'f mut Vec<Digest>,
        progress: &'f dyn Fn(PullEvent),
    ) -> Result<Self, crate::Error> {
        let mut archive = Self::new(fresh, progress);
        for name in ["index.json", "manifest.json"] {
            let path = folder.join(name);
            match fs::File::open(&path) {
                Ok(mut file) => archive.take_file(root, name, &mut file, &path)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(file::Error::new("open", &path, error).into()),
            }
        }
        let blobs = folder.join("blobs/sha256");
        for (index, hex) in file::names(&blobs)?.iter().enumerate() {
            if index >= ENTRIES {
                return Err(Error::TooMany.into());
            }
            let path = blobs.join(hex);
            let mut file = fs::File::open(&path).map_err(file::Error::at("open", &path))?;
            archive.take_file(root, &format!("blobs/sha256/{hex}"), &mut file, &path)?;
        }
        Ok(archive)
    }

    fn take_file(
        &mut self,
        root: &Root,
        name: &str,
        file: &mut fs::File,
        path: &Path,
    ) -> Result<(), crate::Error> {
        let found = file.metadata().map_err(file::Error::at("stat", path))?;
        if found.is_file() {
            self.take_bytes(root, name.to_owned(), found.len(), file)?;
        }
        Ok(())
    }

    fn take(
        &mut self,
        root: &Root,
        mut entry: tar::Entry<'_, impl Read>,
    ) -> Result<(), crate::Error> {
        let name = normal(&entry.path_bytes(), "")?;
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::Symlink | EntryType::Link) {
            let target = entry.link_name_bytes().unwrap_or_default();
            // A symbolic link's target begins in its folder, a hard link's at the top.
            let folder = match kind {
                EntryType::Symlink => name.rsplit_once('/').map_or("", |(folder, _)| folder),
                _ => "",
            };
            let target = normal(&target, folder)?;
            self.files.insert(name, File::Link(target));
            return Ok(());
        }
        if !kind.is_file() {
            return Ok(());
        }
        let size = entry.size();
        self.take_bytes(root, name, size, &mut entry)
    }

    fn take_bytes(
        &mut self,
        root: &Root,
        name: String,
        size: u64,
        from: &mut impl Read,
    ) -> Result<(), crate::Error> {
        match name.as_str() {
            "index.json" => self.index = Some(document(&name, size, from)?),
            "manifest.json" => self.manifest = Some(document(&name, size, from)?),
            "oci-layout" | "repositories" => {}
            _ => {
                let blob = ingest(root, &name, size, from, self.fresh, self.progress)?;
                self.files.insert(name, blob);
            }
        }
        Ok(())
    }

    /// The blob at a path, with a media type by its first bytes.
    pub(super) fn layer(&self, path: &str) -> Result<Descriptor, Error> {
        let (digest, size, magic) = self.blob(path)?;
        let media_type = match rootfs::compression(&magic) {
            oci::Compression::None => MediaType::OciLayer,
            oci::Compression::Gzip => MediaType::OciLayerGzip,
            oci::Compression::Zstd => MediaType::OciLayerZstd,
        };
        Ok(Descriptor::new(media_type, digest, size))
    }

    /// The configuration at a path.
    pub(super) fn config(&self, path: &str) -> Result<Descriptor, Error> {
        let (digest, size, _) = self.blob(path)?;
        Ok(Descriptor::new(MediaType::OciConfig, digest, size))
    }

    fn blob(&self, path: &str) -> Result<(Digest, u64, [u8; 4]), Error> {
        let mut name = normal(path.as_bytes(), "")?;
        for _ in 0..LINKS {
            match self.files.get(&name) {
                Some(File::Blob {
                    digest,
                    size,
                    magic,
                }) => return Ok((*digest, *size, *magic)),
                Some(File::Link(target)) => name.clone_from(target),
                None => break,
            }
        }
        Err(Error::Missing(path.to_owned()))
    }
}

/// A name without `.` and `..`, relative to the top.
fn normal(name: &[u8], folder: &str) -> Result<String, Error> {
    let escapes = || Error::Escapes(String::from_utf8_lossy(name).into_owned());
    let name = std::str::from_utf8(name).map_err(|_| escapes())?;
    if name.starts_with('/') {
        return Err(escapes());
    }
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop().ok_or_else(escapes)?),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

fn document(name: &str, size: u64, from: &mut impl Read) -> Result<Vec<u8>, Error> {
    if size > oci::MAX_DOCUMENT_SIZE {
        return Err(Error::TooLarge {
            name: name.to_owned(),
            size,
        });
    }
    let mut bytes = Vec::new();
    from.take(size)
        .read_to_end(&mut bytes)
        .map_err(Error::Read)?;
    whole(size, bytes.len() as u64)?;
    Ok(bytes)
}

/// The tar reader takes an archive that ends within an entry for one that ends.
fn whole(expected: u64, found: u64) -> Result<(), Error> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Read(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        format!("it ends after {found} of an entry's {expected} bytes"),
    )))
}

fn ingest(
    root: &Root,
    name: &str,
    size: u64,
    from: &mut impl Read,
    fresh: &mut Vec<Digest>,
    progress: &dyn Fn(PullEvent),
) -> Result<File, crate::Error> {
    // In `blobs/sha256/` the name is a promise.
    let promised = name
        .strip_prefix("blobs/sha256/")
        .and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok())
        .map(|digest| Descriptor::new(MediaType::Other(String::new()), digest, size));
    let shown = promised.as_ref().filter(|_| size >= SHOWN);
    let mut ingest = Ingest::begin(root, promised.as_ref())?;
    let mut magic = [0; 4];
    let mut buffer = vec![0; 256 << 10];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::Read(error).into()),
        };
        let before = usize::try_from(ingest.len()).unwrap_or(usize::MAX).min(4);
        let fresh = (4 - before).min(length);
        magic[before..before + fresh].copy_from_slice(&buffer[..fresh]);
        ingest.write(&buffer[..length])?;
        if let Some(blob) = shown {
            progress(PullEvent::LayerProgress {
                digest: blob.digest.to_string(),
                done: ingest.len(),
                total: size,
            });
        }
    }
    whole(size, ingest.len())?;
    if let Some(promised) = &promised
        && content::has(root, promised)
    {
        // Here already; what came must match all the same.
        let found = ingest.discard();
        if found != promised.digest {
            return Err(content::Error::Digest {
                expected: promised.digest,
                found,
            }
            .into());
        }
        return Ok(File::Blob {
            digest: found,
            size,
            magic,
        });
    }
    let (digest, size) = ingest.finish()?;
    fresh.push(digest);
    Ok(File::Blob {
        digest,
        size,
        magic,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        let check = |name: &str, folder: &str, expect: Option<&str>| {
            let result = normal(name.as_bytes(), folder).ok();
            assert_eq!(result.as_deref(), expect, "{name} in {folder}");
        };
        check("./blobs//sha256/a", "", Some("blobs/sha256/a"));
        check("../a/layer.tar", "b", Some("a/layer.tar"));
        check("../../a", "b", None);
        check("..", "", None);
        check("/etc/passwd", "", None);
        assert!(normal(b"\xff", "").is_err());
    }
}
