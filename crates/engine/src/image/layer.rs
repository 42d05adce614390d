//! A new layer on its way into the store: a tar comes, its digest is the diff ID, gzip of it is the blob.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use oci::{Descriptor, Digest, Hasher, MediaType};
use store::content::{self, Ingest};
use store::{Root, fault};

/// Bytes that are taken at once.
const CHUNK: usize = 256 << 10;

/// A layer that is being written. What is dropped unfinished is removed.
#[derive(Debug)]
pub(super) struct LayerWriter {
    gzip: GzEncoder<Blob>,
    diff_id: Hasher,
}

/// A layer that is in the store.
#[derive(Debug, Clone)]
pub(super) struct NewLayer {
    pub(super) blob: Descriptor,
    pub(super) diff_id: Digest,
}

/// The packed end. The store's own error is kept: the encoder knows only those of I/O.
#[derive(Debug)]
struct Blob {
    ingest: Ingest,
    failed: Option<content::Error>,
}

impl Write for Blob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.ingest.write(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                self.failed = Some(error);
                Err(io::ErrorKind::Other.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LayerWriter {
    /// Begins. The caller holds the lease on content until the layer belongs to an image.
    pub(super) fn begin(root: &Root) -> Result<Self, content::Error> {
        let blob = Blob {
            ingest: Ingest::begin(root, None)?,
            failed: None,
        };
        Ok(Self {
            // Layers are packed once and read at each start's first time: speed counts for both.
            gzip: GzEncoder::new(blob, Compression::fast()),
            diff_id: Hasher::new(),
        })
    }

    /// Takes the next bytes of the tar.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), content::Error> {
        self.diff_id.update(bytes);
        let written = self.gzip.write_all(bytes);
        written.map_err(|error| blob_error(self.gzip.get_mut(), error))
    }

    /// Bytes of the tar so far.
    pub(super) fn len(&self) -> u64 {
        self.diff_id.len()
    }

    /// The tar is whole: the blob gets its name.
    pub(super) fn finish(mut self) -> Result<NewLayer, content::Error> {
        if let Err(error) = self.gzip.try_finish() {
            return Err(blob_error(self.gzip.get_mut(), error));
        }
        let Blob { ingest, .. } = match self.gzip.finish() {
            Ok(blob) => blob,
            // Nothing is left to be written.
            Err(error) => {
                return Err(store::file::Error::new("pack", "layer".as_ref(), error).into());
            }
        };
        fault::point("layer.written");
        let (digest, size) = ingest.finish()?;
        fault::point("layer.named");
        Ok(NewLayer {
            blob: Descriptor::new(MediaType::OciLayerGzip, digest, size),
            diff_id: self.diff_id.finish(),
        })
    }

    /// Takes a whole tar.
    pub(super) fn copy(
        mut self,
        tar: &mut impl Read,
        progress: &dyn Fn(u64),
    ) -> Result<NewLayer, CopyError> {
        let mut buffer = vec![0; CHUNK];
        loop {
            match tar.read(&mut buffer) {
                Ok(0) => return Ok(self.finish()?),
                Ok(length) => {
                    self.write(&buffer[..length])?;
                    progress(self.len());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CopyError::Read(error)),
            }
        }
    }
}

/// Which end failed.
#[derive(Debug)]
pub(super) enum CopyError {
    Read(io::Error),
    Content(content::Error),
}

impl From<content::Error> for CopyError {
    fn from(error: content::Error) -> Self {
        Self::Content(error)
    }
}

fn blob_error(blob: &mut Blob, error: io::Error) -> content::Error {
    blob.failed
        .take()
        .unwrap_or_else(|| store::file::Error::new("pack", "layer".as_ref(), error).into())
}
