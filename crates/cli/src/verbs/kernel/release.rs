//! What `uname -r` will say in a kernel: read from the file that it is.
//!
//! The file may be anybody's; whatever it holds, the answer is a short printable word or an error.

use std::path::Path;

use crate::failure::Failure;

/// The banner of a vmlinux (`linux_banner` in init/version.c).
const BANNER: &[u8] = b"Linux version ";
/// Where the setup header of a bzImage has its magic, and the offset of its version (Documentation/arch/x86/boot.rst).
const MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
const VERSION_POINTER: usize = 0x20e;
/// The kernel allows 64 bytes with the NUL (`__NEW_UTS_LEN`).
const LONGEST: usize = 64;

/// Reads a vmlinux or bzImage.
pub fn load_release(path: &Path) -> Result<String, Failure> {
    let file = std::fs::read(path).map_err(|source| Failure::Open {
        path: path.to_owned(),
        source,
    })?;
    parse_release(&file).ok_or_else(|| Failure::NoRelease {
        path: path.to_owned(),
    })
}

/// The release in the bytes of a kernel.
fn parse_release(file: &[u8]) -> Option<String> {
    if file.get(MAGIC.0..MAGIC.0 + MAGIC.1.len()) == Some(MAGIC.1) {
        let pointer = file.get(VERSION_POINTER..VERSION_POINTER + 2)?;
        let offset = usize::from(u16::from_le_bytes([pointer[0], pointer[1]]));
        return word(file.get(offset.checked_add(0x200)?..)?);
    }
    // A vmlinux holds the words of the banner in formats as well ("Linux version %s"); the first real one counts.
    let mut rest = file;
    while let Some(at) = rest.iter().position(|&byte| byte == BANNER[0]) {
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix(BANNER)
            && let Some(release) = word(after)
        {
            return Some(release);
        }
        rest = &rest[1..];
    }
    None
}

/// The word that the bytes begin with, when it looks like a release: a digit first, nothing strange after.
fn word(bytes: &[u8]) -> Option<String> {
    let end = bytes
        .iter()
        .take(LONGEST)
        .position(|&byte| byte == b' ' || byte == 0)?;
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_+~".contains(byte);
    let release = &bytes[..end];
    (release.first().is_some_and(u8::is_ascii_digit) && release.iter().all(fits))
        .then(|| String::from_utf8_lossy(release).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &[u8], expect: Option<&str>) {
        assert_eq!(parse_release(file).as_deref(), expect);
    }

    #[test]
    fn banners() {
        check(
            b"\x7fELF...Linux version %s (%s)\0Linux version 6.12.48-gourd (a@b) (gcc) #1\0",
            Some("6.12.48-gourd"),
        );
        check(
            b"Linux version 6.1.0-41-cloud-amd64 (x)",
            Some("6.1.0-41-cloud-amd64"),
        );
        check(b"Linux version 6.1", None);
        check(b"Linux version ", None);
        check(b"", None);
        check(b"LLLLinux version 7 ", Some("7"));
    }

    #[test]
    fn setup_headers() {
        let mut image = vec![0; 0x400];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
        image[0x300..0x310].copy_from_slice(b"6.1.0-41-amd64 (");
        check(&image, Some("6.1.0-41-amd64"));
        image[0x20e..0x210].copy_from_slice(&0xffffu16.to_le_bytes());
        check(&image, None);
        check(&image[..0x207], None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(mut file in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2048), header: bool) {
            if header && file.len() > 0x206 {
                file[0x202..0x206].copy_from_slice(b"HdrS");
            }
            parse_release(&file);
        }
    }
}
