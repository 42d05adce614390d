//! Compressed clusters.

use std::io;

use flate2::{Decompress, FlushDecompress};
use zstd::bulk;
use zstd::zstd_safe;

use super::Compression;

/// Decompresses one cluster after the other; each thread has its own.
pub struct Decompressor {
    how: How,
}

enum How {
    Zlib(Decompress),
    Zstd(bulk::Decompressor<'static>),
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompressor").finish_non_exhaustive()
    }
}

impl Decompressor {
    /// For clusters of one image.
    ///
    /// # Errors
    /// No memory.
    pub fn new(compression: Compression) -> io::Result<Self> {
        let how = match compression {
            // QEMU writes with windows of 4 KiB; larger ones are read as well.
            Compression::Zlib => How::Zlib(Decompress::new(false)),
            Compression::Zstd => How::Zstd(bulk::Decompressor::new()?),
        };
        Ok(Self { how })
    }

    /// Fills all of `cluster`; what follows the compressed bytes in `source` is ignored. The error says what is wrong.
    ///
    /// # Errors
    /// Bytes that are no compressed cluster of that length.
    pub fn decompress(&mut self, source: &[u8], cluster: &mut [u8]) -> Result<(), String> {
        let len = match &mut self.how {
            How::Zlib(state) => {
                state.reset(false);
                state
                    .decompress(source, cluster, FlushDecompress::Finish)
                    .map_err(|error| error.to_string())?;
                state.total_out() as usize
            }
            How::Zstd(state) => {
                let name = zstd_safe::get_error_name;
                // What follows would count as another frame.
                let frame = zstd_safe::find_frame_compressed_size(source).map_err(name)?;
                let frame = source.get(..frame).ok_or("a frame that is cut off")?;
                state
                    .decompress_to_buffer(frame, cluster)
                    .map_err(|error| error.to_string())?
            }
        };
        if len != cluster.len() {
            return Err(format!("{len} bytes instead of {}", cluster.len()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn check(compression: Compression, compressed: Vec<u8>, plain: &[u8]) {
        let mut decompressor = Decompressor::new(compression).unwrap();
        for trailing in [0, 1, 300] {
            let mut source = compressed.clone();
            source.resize(compressed.len() + trailing, 0xa5);
            let mut cluster = vec![0xff; plain.len()];
            decompressor.decompress(&source, &mut cluster).unwrap();
            assert!(cluster == plain);
        }
        let mut cluster = vec![0; plain.len()];
        for cut in 0..compressed.len() - 8 {
            let result = decompressor.decompress(&compressed[..cut], &mut cluster);
            assert!(result.is_err(), "cut at {cut}");
        }
        let mut larger = vec![0; plain.len() + 1];
        assert!(decompressor.decompress(&compressed, &mut larger).is_err());
        let mut smaller = vec![0; plain.len() - 1];
        // The window of deflate may be larger than what is asked for: it is cut, as QEMU does.
        let cut = decompressor.decompress(&compressed, &mut smaller);
        assert_eq!(cut.is_ok(), compression == Compression::Zlib);
        decompressor.decompress(&compressed, &mut cluster).unwrap();
        assert!(cluster == plain);
    }

    #[test]
    fn clusters_come_back_whole_or_not_at_all() {
        let plain: Vec<u8> = (0..4096u32).map(|i| ((i * i) >> 7) as u8).collect();
        let mut deflate =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        deflate.write_all(&plain).unwrap();
        check(Compression::Zlib, deflate.finish().unwrap(), &plain);
        check(
            Compression::Zstd,
            bulk::compress(&plain, 3).unwrap(),
            &plain,
        );
    }
}
