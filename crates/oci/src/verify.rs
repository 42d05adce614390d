//! Checks bytes against a descriptor's size and digest while they arrive.
//!
//! What a registry or an archive sends is not trusted. A check fails as early as it can: one byte
//! too many is an error at once, the digest is compared as soon as the last byte is there.

use std::io::{self, Read};

use crate::{Descriptor, Digest, Hasher};

/// How content differs from its descriptor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The content ended early.
    #[error("{digest} is truncated: got {got} of {expected} bytes")]
    Truncated {
        /// What was being read.
        digest: Digest,
        /// The size in the descriptor, in bytes.
        expected: u64,
        /// The bytes that came.
        got: u64,
    },
    /// The content goes on after the descriptor's size.
    #[error("{digest} is longer than its {expected} bytes")]
    TooLong {
        /// What was being read.
        digest: Digest,
        /// The size in the descriptor, in bytes.
        expected: u64,
    },
    /// The content has the right size and is something else.
    #[error("digest mismatch: expected {expected}, got {got}")]
    Mismatch {
        /// The digest in the descriptor.
        expected: Digest,
        /// The digest of what came.
        got: Digest,
    },
}

/// The push form of a check: feed it bytes, then ask.
#[derive(Debug, Clone)]
pub struct DigestCheck {
    hasher: Hasher,
    digest: Digest,
    size: u64,
}

impl DigestCheck {
    /// A check against `size` bytes whose digest is `digest`.
    pub fn new(digest: Digest, size: u64) -> Self {
        Self {
            hasher: Hasher::new(),
            digest,
            size,
        }
    }

    /// A check against a descriptor.
    pub fn of(descriptor: &Descriptor) -> Self {
        Self::new(descriptor.digest, descriptor.size)
    }

    /// Takes in the next bytes.
    ///
    /// # Errors
    /// [`VerifyError::TooLong`] if there are now more than the descriptor allows.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), VerifyError> {
        if bytes.len() as u64 > self.remaining() {
            return Err(VerifyError::TooLong {
                digest: self.digest,
                expected: self.size,
            });
        }
        self.hasher.update(bytes);
        Ok(())
    }

    /// How many bytes are still missing.
    pub fn remaining(&self) -> u64 {
        self.size - self.hasher.len()
    }

    /// How many bytes came so far.
    pub fn received(&self) -> u64 {
        self.hasher.len()
    }

    /// The verdict.
    ///
    /// # Errors
    /// [`VerifyError::Truncated`] or [`VerifyError::Mismatch`].
    pub fn finish(self) -> Result<(), VerifyError> {
        if self.remaining() > 0 {
            return Err(VerifyError::Truncated {
                digest: self.digest,
                expected: self.size,
                got: self.hasher.len(),
            });
        }
        let got = self.hasher.finish();
        if got != self.digest {
            return Err(VerifyError::Mismatch {
                expected: self.digest,
                got,
            });
        }
        Ok(())
    }
}

/// The pull form: a reader that passes on what another one yields and checks it.
///
/// Reading to the end returns `Ok(0)` only if size and digest are right; otherwise the error is of
/// kind [`io::ErrorKind::InvalidData`] (or `UnexpectedEof`) and wraps a [`VerifyError`], which
/// [`VerifyError::from_io`] gets back. Bytes that were handed out before that are unverified.
#[derive(Debug)]
pub struct Verifier<R> {
    reader: R,
    check: DigestCheck,
    verified: bool,
}

impl VerifyError {
    /// The verification error inside an I/O error, if that is what it is.
    pub fn from_io(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<VerifyError> for io::Error {
    fn from(error: VerifyError) -> Self {
        let kind = match error {
            VerifyError::Truncated { .. } => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}

impl<R: Read> Verifier<R> {
    /// Checks what `reader` yields against `descriptor`.
    pub fn new(reader: R, descriptor: &Descriptor) -> Self {
        Self {
            reader,
            check: DigestCheck::of(descriptor),
            verified: false,
        }
    }

    /// Reads whatever is left, checks it, and gives the inner reader back.
    ///
    /// # Errors
    /// I/O errors of the inner reader, and a [`VerifyError`] wrapped in one.
    pub fn finish(mut self) -> io::Result<R> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.reader)
    }
}

impl<R: Read> Read for Verifier<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.verified {
            return Ok(0);
        }
        let n = self.reader.read(buffer)?;
        if n == 0 {
            self.check.clone().finish()?;
            self.verified = true;
        } else {
            self.check.update(&buffer[..n])?;
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MediaType;

    fn check(content: &[u8], size: u64, digest: Digest) -> Result<(), VerifyError> {
        let descriptor = Descriptor::new(MediaType::OciLayer, digest, size);
        Verifier::new(content, &descriptor)
            .finish()
            .map(drop)
            .map_err(|e| VerifyError::from_io(&e).unwrap().clone())
    }

    #[test]
    fn size_and_digest_are_both_checked() {
        let digest = Digest::of(b"hello");
        assert_eq!(check(b"hello", 5, digest), Ok(()));
        assert_eq!(check(b"", 0, Digest::of(b"")), Ok(()));
        assert_eq!(
            check(b"hell", 5, digest),
            Err(VerifyError::Truncated {
                digest,
                expected: 5,
                got: 4
            })
        );
        assert_eq!(
            check(b"hello!", 5, digest),
            Err(VerifyError::TooLong {
                digest,
                expected: 5
            })
        );
        assert_eq!(
            check(b"jello", 5, digest),
            Err(VerifyError::Mismatch {
                expected: digest,
                got: Digest::of(b"jello")
            })
        );
    }
}
