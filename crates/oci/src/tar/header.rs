//! The 512-byte header block.

use super::error::TarProblem;

pub(super) const BLOCK: usize = 512;
pub(super) type Block = [u8; BLOCK];

/// Which of the header's formats it is, as far as it matters for the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// Before POSIX: no prefix.
    V7,
    /// POSIX: a prefix of 155 bytes.
    Ustar,
    /// star: a prefix of 131 bytes, then times.
    Star,
    /// GNU: sparse map and times where the prefix would be.
    Gnu,
}

/// A header's fields, checked and decoded.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: u8,
    pub(super) mode: u16,
    pub(super) uid: i128,
    pub(super) gid: i128,
    pub(super) size: i128,
    pub(super) mtime: i128,
    pub(super) major: i128,
    pub(super) minor: i128,
}

/// Parses a header block. `None` is a block of zeros: the end of the archive.
pub(super) fn parse_header(block: &Block) -> Result<Option<Header>, TarProblem> {
    if block.iter().all(|b| *b == 0) {
        return Ok(None);
    }
    check_sum(block)?;
    let format = format(block);
    let prefix: &[u8] = match format {
        Format::Ustar => &block[345..500],
        Format::Star => &block[345..476],
        Format::V7 | Format::Gnu => &[],
    };
    let mut name = text(prefix).to_vec();
    if !name.is_empty() {
        name.push(b'/');
    }
    name.extend_from_slice(text(&block[..100]));
    let kind = block[156];
    let device = |field: &'static str, bytes: &[u8]| match kind {
        b'3' | b'4' => number(field, bytes),
        _ => Ok(0),
    };
    Ok(Some(Header {
        name,
        link: text(&block[157..257]).to_vec(),
        kind,
        mode: (number("mode", &block[100..108])? & 0o7777) as u16,
        uid: number("uid", &block[108..116])?,
        gid: number("gid", &block[116..124])?,
        size: number("size", &block[124..136])?,
        mtime: number("mtime", &block[136..148])?,
        major: device("devmajor", &block[329..337])?,
        minor: device("devminor", &block[337..345])?,
    }))
}

fn format(block: &Block) -> Format {
    match &block[257..265] {
        b"ustar  \0" => Format::Gnu,
        magic if magic.starts_with(b"ustar\0") => match &block[508..512] {
            b"tar\0" => Format::Star,
            _ => Format::Ustar,
        },
        _ => Format::V7,
    }
}

/// The sum of all bytes, those of the field itself taken as spaces. Old writers added up signed
/// bytes.
fn check_sum(block: &Block) -> Result<(), TarProblem> {
    let expected = number("chksum", &block[148..156]).map_err(|_| TarProblem::Checksum)?;
    let (mut unsigned, mut signed) = (0_i128, 0_i128);
    for (at, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&at) {
            b' '
        } else {
            *byte
        };
        unsigned += i128::from(byte);
        signed += i128::from(byte as i8);
    }
    if expected == unsigned || expected == signed {
        return Ok(());
    }
    Err(TarProblem::Checksum)
}

/// A field's text: up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    match field.iter().position(|b| *b == 0) {
        Some(end) => &field[..end],
        None => field,
    }
}

/// A number: octal digits between spaces and NULs, or GNU's base 256 with the first bit set.
/// Nothing at all is 0.
pub(super) fn number(name: &'static str, field: &[u8]) -> Result<i128, TarProblem> {
    let (first, rest) = field.split_first().ok_or(TarProblem::Number(name))?;
    if first & 0x80 != 0 {
        // Two's complement, the first bit being the mark and the second the sign. Fields have at
        // most 12 bytes, so that this fits.
        let sign_extended = i128::from((first << 1) as i8 >> 1);
        return Ok(rest
            .iter()
            .fold(sign_extended, |value, byte| value << 8 | i128::from(*byte)));
    }
    let blank = |b: &u8| *b == b' ' || *b == 0;
    let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    let (digits, tail) = digits.split_at(end);
    if !tail.iter().all(blank) && !matches!(tail.first(), Some(0)) {
        return Err(TarProblem::Number(name));
    }
    digits.iter().try_fold(0_i128, |value, digit| match digit {
        b'0'..=b'7' => Ok(value << 3 | i128::from(digit - b'0')),
        _ => Err(TarProblem::Number(name)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let check = |field: &[u8], expect: Option<i128>| {
            assert_eq!(number("x", field).ok(), expect, "{field:?}");
        };
        check(b"0000755\0", Some(0o755));
        check(b"  755 \0\0", Some(0o755));
        check(b"77777777", Some(0o77777777));
        check(b"\0\0\0\0\0\0\0\0", Some(0));
        check(b"12345678", None);
        check(b"1 2     ", None);
        check(b"-1\0\0\0\0\0\0", None);
        check(&[0x80, 0, 0, 0, 0, 0x20, 0, 0], Some(1 << 21));
        check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe], Some(-2));
        check(&[0xff; 12], Some(-1));
        check(b"", None);
    }
}
