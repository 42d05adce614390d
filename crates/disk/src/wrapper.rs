//! Compression around an image: which, and the stream inside.

use std::fmt;
use std::io::{self, BufRead, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::MtStreamBuilder;

/// What a decompressor may take, in bytes: `xz -9` needs 65 MiB, `zstd --ultra -22` 128.
const MEMORY: u64 = 1 << 30;
const XZ_THREADS_MEMORY: u64 = 256 << 20;
const MAX_THREADS: u32 = 16;

/// A way of compressing whole files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapper {
    /// RFC 1952.
    Gzip,
    /// bzip2.
    Bzip2,
    /// The .xz format.
    Xz,
    /// RFC 8878.
    Zstd,
}

impl fmt::Display for Wrapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        })
    }
}

impl Wrapper {
    /// By a file's first bytes.
    pub(crate) fn detect(start: &[u8]) -> Option<Self> {
        const BZIP2_BLOCK: &[u8] = &[0x31, 0x41, 0x59, 0x26, 0x53, 0x59];
        const BZIP2_END: &[u8] = &[0x17, 0x72, 0x45, 0x38, 0x50, 0x90];
        match start {
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            [b'B', b'Z', b'h', b'1'..=b'9', rest @ ..]
                if rest.starts_with(BZIP2_BLOCK) || rest.starts_with(BZIP2_END) =>
            {
                Some(Self::Bzip2)
            }
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            // A frame, or a frame to be skipped before it (pzstd writes those).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The stream inside. All members of a file that has several.
    pub(crate) fn reader<'a>(
        self,
        source: impl BufRead + Send + 'a,
    ) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(source)),
            Self::Bzip2 => Box::new(MultiBzDecoder::new(source)),
            Self::Xz => Box::new(MultiXz::Between(source)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(source)?),
        })
    }
}

/// All streams of an .xz file, blocks of one side by side where it says how long they are (`xz -T` writes so).
enum MultiXz<R> {
    Between(R),
    Within(XzDecoder<R>),
    /// Something failed, or everything was read.
    Ended,
}

impl<R: BufRead> Read for MultiXz<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(self, Self::Ended) {
                Self::Ended => return Ok(0),
                Self::Between(mut source) => {
                    skip_zeros(&mut source)?;
                    if source.fill_buf()?.is_empty() {
                        return Ok(0);
                    }
                    *self = Self::Within(decoder(source)?);
                }
                Self::Within(mut decoder) => {
                    let count = decoder.read(buf)?;
                    if count > 0 || buf.is_empty() {
                        *self = Self::Within(decoder);
                        return Ok(count);
                    }
                    *self = Self::Between(decoder.into_inner());
                }
            }
        }
    }
}

/// Stream padding.
fn skip_zeros(source: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = source.fill_buf()?;
        let zeros = buffer.iter().take_while(|byte| **byte == 0).count();
        if zeros == 0 {
            return Ok(());
        }
        source.consume(zeros);
    }
}

fn decoder<R: BufRead>(source: R) -> io::Result<XzDecoder<R>> {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    let stream = MtStreamBuilder::new()
        .threads(threads.min(MAX_THREADS))
        .memlimit_threading(XZ_THREADS_MEMORY)
        .memlimit_stop(MEMORY)
        .decoder()?;
    Ok(XzDecoder::new_stream(source, stream))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// Oracle: the program of that name.
    fn compress(program: &str, bytes: &[u8]) -> Vec<u8> {
        let mut child = Command::new(program)
            .arg("-c")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
        let mut stdin = child.stdin.take().unwrap();
        let input = bytes.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.status.success());
        output.stdout
    }

    fn decompress(wrapper: Wrapper, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        wrapper.reader(bytes)?.read_to_end(&mut plain)?;
        Ok(plain)
    }

    fn check(program: &str, wrapper: Wrapper) {
        let plain: Vec<u8> = (0..60_000u32).map(|i| ((i * i) >> 11) as u8).collect();
        let one = compress(program, &plain);
        assert_eq!(Wrapper::detect(&one), Some(wrapper));
        assert_eq!(wrapper.to_string(), program);
        assert!(decompress(wrapper, &one).unwrap() == plain);
        // Files may be put one behind the other.
        let two = [&one[..], &compress(program, b"more")].concat();
        assert!(decompress(wrapper, &two).unwrap() == [&plain[..], b"more"].concat());
        for cut in [one.len() / 2, one.len() - 1] {
            assert!(
                decompress(wrapper, &one[..cut]).is_err(),
                "{program} cut at {cut}"
            );
        }
        let mut damaged = one.clone();
        damaged[one.len() / 2] ^= 0x10;
        assert!(decompress(wrapper, &damaged).is_err(), "{program} damaged");
        assert!(
            decompress(wrapper, &compress(program, b""))
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn what_programs_compress_comes_back_whole_or_not_at_all() {
        check("gzip", Wrapper::Gzip);
        check("bzip2", Wrapper::Bzip2);
        check("xz", Wrapper::Xz);
        check("zstd", Wrapper::Zstd);
    }

    #[test]
    fn other_bytes_are_no_wrapper() {
        for start in [
            &b""[..],
            b"BZh9 is how this text begins",
            b"QFI\xfb",
            &[0; 512],
        ] {
            assert_eq!(Wrapper::detect(start), None);
        }
    }
}
