//! An image with its backing files, top first.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::foreign;
use crate::image_error::ImageError;
use crate::qcow2::{self, Compression, Cursor, Decompressor, Header, Kind, Qcow2};

/// More backing files than anybody has; each costs an open file.
const DEEPEST: usize = 32;
/// How much of a file is read to see what it is.
pub(crate) const START: usize = 512;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The bytes of the disk.
    Raw,
    /// QEMU's.
    Qcow2,
}

/// Which backing files may be opened: an image that somebody else made may name any file of this machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Backing {
    /// Those in the folder of the image that was asked for, or beneath it.
    #[default]
    Beneath,
    /// Any.
    Any,
    /// None.
    Refuse,
}

/// How to open an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOptions {
    /// What it is; by default its first bytes tell. With a format it is not looked for compression around it.
    pub format: Option<Format>,
    /// Which backing files may be opened.
    pub backing: Backing,
    /// The longest disk that is accepted, in bytes.
    pub limit: u64,
}

impl Default for OpenOptions {
    /// Told by the first bytes, backing files beneath the image's folder, at most 16 TiB.
    fn default() -> Self {
        Self {
            format: None,
            backing: Backing::default(),
            limit: 16 << 40,
        }
    }
}

/// An open image and all its backing files.
#[derive(Debug)]
pub struct Image {
    /// Top first.
    layers: Vec<Layer>,
    size: u64,
}

#[derive(Debug)]
struct Layer {
    path: PathBuf,
    size: u64,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Raw(File),
    Qcow2(Box<Qcow2>),
}

/// What a range of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Zeros.
    Zero,
    /// Bytes of a layer's file, from this offset on.
    Data { layer: usize, offset: u64 },
    /// A part of a compressed cluster of a layer.
    Compressed {
        layer: usize,
        offset: u64,
        len: u32,
        cluster: u64,
    },
}

/// A range of the disk that is of one kind: bytes, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) place: Place,
    pub(crate) len: u64,
}

/// What one thread needs to read an image.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    image: &'a Image,
    /// By layer.
    cursors: Vec<Cursor>,
    decompressors: Vec<Option<Decompressor>>,
    compressed: Vec<u8>,
    /// The cluster that was decompressed last: layer, where it begins on the disk.
    last: Option<(usize, u64)>,
    cluster: Vec<u8>,
}

impl Image {
    /// Opens an image and its backing files, which are looked for from the folder of the image that names them.
    ///
    /// # Errors
    /// Any of them cannot be read, is damaged, refused, or longer than the limit.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, ImageError> {
        let file = File::open(path).map_err(ImageError::at("open", path))?;
        Self::open_file(file, path, options)
    }

    /// The same with a file that was opened; `path` is where it would be.
    pub(crate) fn open_file(
        file: File,
        path: &Path,
        options: &OpenOptions,
    ) -> Result<Self, ImageError> {
        let folder = folder_of(path).map_err(ImageError::at("resolve", path))?;
        let mut layers = Vec::new();
        let mut seen = HashSet::new();
        let mut next = Some((file, path.to_owned(), options.format));
        while let Some((file, path, format)) = next.take() {
            let metadata = file.metadata().map_err(ImageError::at("stat", &path))?;
            if !seen.insert((metadata.dev(), metadata.ino())) {
                return Err(ImageError::Damaged {
                    path,
                    what: "it is its own backing file, by one or more others".to_owned(),
                });
            }
            if layers.len() > DEEPEST {
                return Err(ImageError::Damaged {
                    path,
                    what: format!("there are more than {DEEPEST} backing files above it"),
                });
            }
            let layer = Layer::open(file, &path, format)?;
            next = layer.backing(&folder, options.backing)?;
            layers.push(layer);
        }
        let size = layers.first().map_or(0, |layer| layer.size);
        if size > options.limit {
            return Err(ImageError::TooLarge {
                path: path.to_owned(),
                size: Some(size),
                limit: options.limit,
            });
        }
        Ok(Self { layers, size })
    }

    /// Length of the disk in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file itself when the disk is nothing but its bytes.
    pub(crate) fn as_raw(&self) -> Option<&File> {
        match &self.layers[..] {
            [
                Layer {
                    data: Data::Raw(file),
                    ..
                },
            ] => Some(file),
            _ => None,
        }
    }

    /// Reads `buf.len()` bytes at `at`; bytes behind the end of the disk read as zeros.
    ///
    /// # Errors
    /// As [`open`](Self::open), for what is read.
    pub fn read_at(&self, buf: &mut [u8], at: u64) -> Result<(), ImageError> {
        let mut reader = Reader::new(self);
        let mut done = 0;
        while done < buf.len() {
            let piece = reader.locate(at + done as u64, (buf.len() - done) as u64)?;
            let end = done + piece.len as usize;
            reader.read(piece, at + done as u64, &mut buf[done..end])?;
            done = end;
        }
        Ok(())
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn new(image: &'a Image) -> Self {
        Self {
            image,
            cursors: image.layers.iter().map(|_| Cursor::default()).collect(),
            decompressors: image.layers.iter().map(|_| None).collect(),
            compressed: Vec::new(),
            last: None,
            cluster: Vec::new(),
        }
    }

    /// What stands at a byte of the disk, and for how long, at most `most` bytes.
    pub(crate) fn locate(&mut self, at: u64, most: u64) -> Result<Piece, ImageError> {
        let mut most = most;
        for (number, layer) in self.image.layers.iter().enumerate() {
            // A backing file may be shorter than what stands on it.
            if at >= layer.size {
                break;
            }
            most = most.min(layer.size - at);
            let run = layer.map(&mut self.cursors[number], at, most)?;
            let place = match run.kind {
                Kind::Unallocated => {
                    most = run.len;
                    continue;
                }
                Kind::Zero => Place::Zero,
                Kind::Data { offset } => Place::Data {
                    layer: number,
                    offset,
                },
                Kind::Compressed {
                    offset,
                    len,
                    cluster,
                } => Place::Compressed {
                    layer: number,
                    offset,
                    len,
                    cluster,
                },
            };
            return Ok(Piece {
                place,
                len: run.len,
            });
        }
        Ok(Piece {
            place: Place::Zero,
            len: most,
        })
    }

    /// Reads a piece that was located at `at`; `buf` has its length.
    pub(crate) fn read(&mut self, piece: Piece, at: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        match piece.place {
            Place::Zero => {
                buf.fill(0);
                Ok(())
            }
            Place::Data { layer, offset } => {
                let layer = &self.image.layers[layer];
                qcow2::read_at(layer.file(), buf, offset).map_err(|error| layer.error(error))
            }
            Place::Compressed {
                layer,
                offset,
                len,
                cluster,
            } => {
                let size = self.image.layers[layer].cluster_size();
                if at == cluster && buf.len() == size {
                    return self.decompress(layer, offset, len, cluster, buf);
                }
                if self.last != Some((layer, cluster)) {
                    let mut whole = std::mem::take(&mut self.cluster);
                    whole.resize(size, 0);
                    self.last = None;
                    self.decompress(layer, offset, len, cluster, &mut whole)?;
                    self.cluster = whole;
                    self.last = Some((layer, cluster));
                }
                let from = (at - cluster) as usize;
                buf.copy_from_slice(&self.cluster[from..from + buf.len()]);
                Ok(())
            }
        }
    }

    fn decompress(
        &mut self,
        number: usize,
        offset: u64,
        len: u32,
        cluster: u64,
        buf: &mut [u8],
    ) -> Result<(), ImageError> {
        let layer = &self.image.layers[number];
        self.compressed.resize(len as usize, 0);
        qcow2::read_at(layer.file(), &mut self.compressed, offset)
            .map_err(|error| layer.error(error))?;
        let slot = &mut self.decompressors[number];
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot.insert(
                Decompressor::new(layer.compression())
                    .map_err(ImageError::at("decompress", &layer.path))?,
            ),
        };
        decompressor
            .decompress(&self.compressed, buf)
            .map_err(|reason| ImageError::Damaged {
                path: layer.path.clone(),
                what: format!(
                    "the compressed cluster at {offset:#x} ({cluster:#x} of the disk): {reason}"
                ),
            })
    }
}

impl Layer {
    fn open(file: File, path: &Path, format: Option<Format>) -> Result<Self, ImageError> {
        let start = read_start(&file, START).map_err(ImageError::at("read", path))?;
        let format = match format {
            Some(format) => format,
            None => detect(&start, path)?,
        };
        let path = path.to_owned();
        match format {
            Format::Raw => {
                // A block device has no length of its own; its end has an offset.
                let size = rustix::fs::seek(&file, SeekFrom::End(0))
                    .map_err(ImageError::at("measure", &path))?;
                Ok(Self {
                    path,
                    size,
                    data: Data::Raw(file),
                })
            }
            Format::Qcow2 => {
                let header = read_header(&file, &path)?;
                if let Some(refusal) = &header.refusal {
                    return Err(ImageError::Refused {
                        path,
                        what: refusal.what(),
                        remedy: refusal.remedy(),
                    });
                }
                let size = header.size;
                let image = Qcow2::open(file, header).map_err(|error| wrap(&path, error))?;
                Ok(Self {
                    path,
                    size,
                    data: Data::Qcow2(Box::new(image)),
                })
            }
        }
    }

    fn file(&self) -> &File {
        match &self.data {
            Data::Raw(file) => file,
            Data::Qcow2(image) => image.file(),
        }
    }

    fn error(&self, error: qcow2::Error) -> ImageError {
        wrap(&self.path, error)
    }

    fn cluster_size(&self) -> usize {
        match &self.data {
            Data::Raw(_) => 0,
            Data::Qcow2(image) => image.header().cluster_size() as usize,
        }
    }

    fn compression(&self) -> Compression {
        match &self.data {
            Data::Raw(_) => Compression::Zlib,
            Data::Qcow2(image) => image.header().compression,
        }
    }

    fn map(&self, cursor: &mut Cursor, at: u64, most: u64) -> Result<qcow2::Run, ImageError> {
        match &self.data {
            Data::Qcow2(image) => image
                .map(cursor, at, most)
                .map_err(|error| self.error(error)),
            Data::Raw(file) => {
                map_raw(file, at, most).map_err(ImageError::at("seek in", &self.path))
            }
        }
    }

    /// Opens the backing file, if there is one. `folder` is where files may be.
    fn backing(
        &self,
        folder: &Path,
        policy: Backing,
    ) -> Result<Option<(File, PathBuf, Option<Format>)>, ImageError> {
        let Data::Qcow2(image) = &self.data else {
            return Ok(None);
        };
        let Some(name) = &image.header().backing else {
            return Ok(None);
        };
        let refuse = |reason| ImageError::Backing {
            path: self.path.clone(),
            name: String::from_utf8_lossy(name).into_owned(),
            reason,
        };
        if policy == Backing::Refuse {
            return Err(refuse("backing files are not allowed"));
        }
        let format = match image.header().backing_format.as_deref() {
            None | Some(b"") => None,
            Some(b"raw") => Some(Format::Raw),
            Some(b"qcow2") => Some(Format::Qcow2),
            Some(_) => return Err(refuse("its format is neither raw nor qcow2")),
        };
        let name = name.strip_prefix(b"file:").unwrap_or(name);
        // QEMU takes what stands before a colon in front of the first slash for a protocol: nbd:, json:, rbd:, https:.
        let first = name.split(|byte| *byte == b'/').next().unwrap_or_default();
        if first.contains(&b':') {
            return Err(refuse("it is not a path"));
        }
        let beside = self.path.parent().unwrap_or(Path::new(""));
        let path = beside.join(OsStr::from_bytes(name));
        let file = File::open(&path).map_err(ImageError::at("open the backing file", &path))?;
        // Links are resolved: a name beneath the folder may be a link that leads out of it.
        let real = path
            .canonicalize()
            .map_err(ImageError::at("resolve", &path))?;
        if policy == Backing::Beneath && !real.starts_with(folder) {
            return Err(refuse("it lies outside of the image's folder"));
        }
        let metadata = file.metadata().map_err(ImageError::at("stat", &path))?;
        if !metadata.is_file() && policy != Backing::Any {
            return Err(refuse("it is no regular file"));
        }
        Ok(Some((file, path, format)))
    }
}

/// The folder that holds a file, without links.
fn folder_of(path: &Path) -> std::io::Result<PathBuf> {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.canonicalize(),
        _ => std::env::current_dir()?.canonicalize(),
    }
}

fn wrap(path: &Path, error: qcow2::Error) -> ImageError {
    match error {
        qcow2::Error::Damaged(what) => ImageError::Damaged {
            path: path.to_owned(),
            what,
        },
        qcow2::Error::Read { source, .. } => ImageError::at("read", path)(source),
    }
}

/// Raw or qcow2, by the first bytes; refuses other formats of disk images.
pub(crate) fn detect(start: &[u8], path: &Path) -> Result<Format, ImageError> {
    if let Some(format) = foreign::detect(start) {
        return Err(ImageError::Foreign {
            path: path.to_owned(),
            format,
        });
    }
    Ok(if start.starts_with(qcow2::MAGIC) {
        Format::Qcow2
    } else {
        Format::Raw
    })
}

pub(crate) fn read_header(file: &File, path: &Path) -> Result<Header, ImageError> {
    let start = read_start(file, qcow2::MOST).map_err(ImageError::at("read", path))?;
    parse_header(&start, path)
}

pub(crate) fn parse_header(start: &[u8], path: &Path) -> Result<Header, ImageError> {
    qcow2::parse(start).map_err(|what| ImageError::Damaged {
        path: path.to_owned(),
        what,
    })
}

/// The first bytes of a file, fewer where it is shorter.
pub(crate) fn read_start(file: &File, most: usize) -> std::io::Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut start = vec![0; most];
    let mut done = 0;
    while done < most {
        match file.read_at(&mut start[done..], done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    start.truncate(done);
    Ok(start)
}

/// Holes of a raw file are zeros; a file system that does not tell holes from data has none.
fn map_raw(file: &File, at: u64, most: u64) -> Result<qcow2::Run, Errno> {
    let run = |kind, end: u64| qcow2::Run {
        kind,
        len: (end - at).clamp(1, most),
    };
    let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => data.max(at),
        // Nothing but a hole is left.
        Err(Errno::NXIO) => return Ok(run(Kind::Zero, at.saturating_add(most))),
        Err(Errno::INVAL | Errno::SPIPE) => at,
        Err(errno) => return Err(errno),
    };
    if data > at {
        return Ok(run(Kind::Zero, data));
    }
    let end = match rustix::fs::seek(file, SeekFrom::Hole(at)) {
        Ok(end) => end.max(at),
        Err(Errno::NXIO | Errno::INVAL | Errno::SPIPE) => at.saturating_add(most),
        Err(errno) => return Err(errno),
    };
    Ok(run(Kind::Data { offset: at }, end))
}
