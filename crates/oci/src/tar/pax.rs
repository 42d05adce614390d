//! Extended headers (POSIX.1-2001, `pax`): records of `length key=value\n`.

use std::collections::BTreeMap;

use super::error::TarProblem;
use super::sparse::DataExtent;
use crate::merge::Timestamp;

const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// What the extended headers before an entry say about it. An empty value takes back what an
/// earlier record or a global header said.
#[derive(Debug, Clone, Default)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) sparse: PaxSparse,
}

/// GNU tar's records about a sparse file, formats 0.0, 0.1 and 1.0.
#[derive(Debug, Clone, Default)]
pub(super) struct PaxSparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// The map, in the formats that have it here.
    pub(super) map: Option<Vec<DataExtent>>,
    /// An offset of format 0.0 whose length is still to come.
    offset: Option<u64>,
}

impl PaxSparse {
    /// Whether any record says that the file is sparse.
    pub(super) fn is_present(&self) -> bool {
        self.major.is_some() || self.map.is_some() || self.real_size.is_some()
    }
}

impl Extended {
    /// Takes in the records of one header. A global one must not name a file or set its size: that
    /// would make every entry the same file.
    pub(super) fn apply(&mut self, mut bytes: &[u8], global: bool) -> Result<(), TarProblem> {
        while !bytes.is_empty() {
            let Record { key, value, rest } = split_record(bytes)?;
            bytes = rest;
            if global && !matches!(key, b"uid" | b"gid" | b"mtime") {
                if matches!(key, b"path" | b"linkpath" | b"size")
                    || key.starts_with(b"GNU.sparse.")
                    || key.starts_with(XATTR_PREFIX)
                {
                    return Err(TarProblem::Extended(
                        "a global header names or shapes files",
                    ));
                }
                continue;
            }
            self.record(key, value)
                .ok_or_else(|| TarProblem::Record(String::from_utf8_lossy(key).into_owned()))?;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => self.path = unless_empty(value),
            b"linkpath" => self.link = unless_empty(value),
            b"size" => self.size = decimal_unless_empty(value)?,
            b"uid" => self.uid = decimal_unless_empty(value)?,
            b"gid" => self.gid = decimal_unless_empty(value)?,
            b"mtime" => {
                self.mtime = match value {
                    b"" => None,
                    value => Some(timestamp(value)?),
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    self.xattr(name, value)?;
                } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.record(name, value)?;
                }
            }
        }
        Some(())
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        let name = decode_xattr_name(name);
        if name.is_empty() || name.len() > 255 || name.contains(&0) || value.len() > 65536 {
            return None;
        }
        self.xattrs.insert(name, value.to_vec());
        Some(())
    }
}

impl PaxSparse {
    fn record(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        match name {
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.real_size = Some(decimal(value)?),
            b"numblocks" => {
                decimal(value)?;
                self.map.get_or_insert_default();
            }
            b"offset" => {
                if self.offset.replace(decimal(value)?).is_some() {
                    return None;
                }
            }
            b"numbytes" => {
                let offset = self.offset.take()?;
                let len = decimal(value)?;
                let map = self.map.get_or_insert_default();
                map.push(DataExtent { offset, len });
            }
            b"map" => {
                let mut map = Vec::new();
                let mut numbers = value.split(|c| *c == b',').filter(|n| !n.is_empty());
                while let Some(offset) = numbers.next() {
                    let offset = decimal(offset)?;
                    let len = decimal(numbers.next()?)?;
                    map.push(DataExtent { offset, len });
                }
                self.map = Some(map);
            }
            _ => return None,
        }
        Some(())
    }
}

/// A record, and what follows it.
struct Record<'a> {
    key: &'a [u8],
    value: &'a [u8],
    rest: &'a [u8],
}

fn split_record(bytes: &[u8]) -> Result<Record<'_>, TarProblem> {
    let bad = |what| move || TarProblem::Extended(what);
    let space = bytes.iter().take(20).position(|b| *b == b' ');
    let space = space.ok_or_else(bad("a record has no length"))?;
    let len = decimal(&bytes[..space]).ok_or_else(bad("a record's length is no number"))?;
    let len = usize::try_from(len).ok().filter(|len| *len > space + 1);
    let record = len.and_then(|len| bytes.split_at_checked(len));
    let (record, rest) = record.ok_or_else(bad("a record's length is out of range"))?;
    let body = record[space + 1..].strip_suffix(b"\n");
    let body = body.ok_or_else(bad("a record does not end in a newline"))?;
    let equals = body.iter().position(|b| *b == b'=').filter(|at| *at > 0);
    let equals = equals.ok_or_else(bad("a record has no key"))?;
    Ok(Record {
        key: &body[..equals],
        value: &body[equals + 1..],
        rest,
    })
}

fn unless_empty(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty()).then(|| value.to_vec())
}

fn decimal_unless_empty(value: &[u8]) -> Option<Option<u64>> {
    match value {
        b"" => Some(None),
        value => decimal(value).map(Some),
    }
}

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// `[-]seconds[.fraction]`; more than nine digits of fraction are cut off, towards the past.
fn timestamp(value: &[u8]) -> Option<Timestamp> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |c| *c == b'.');
    let secs = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at| fraction.get(at).map_or(0, |d| u32::from(d - b'0'));
    let nanos = (0..9).fold(0, |value, at| value * 10 + digit(at));
    if !negative {
        return Some(Timestamp { secs, nanos });
    }
    let cut_off = fraction.iter().skip(9).any(|d| *d != b'0');
    let nanos = nanos + u32::from(cut_off);
    Some(match nanos {
        0 => Timestamp { secs: -secs, nanos },
        nanos => Timestamp {
            secs: -secs - 1,
            nanos: 1_000_000_000 - nanos,
        },
    })
}

/// GNU tar writes `=` and `%` in the names of attributes as `%3D` and `%25`.
fn decode_xattr_name(name: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, tail)) = rest.split_first() {
        let (byte, tail) = match rest.get(..3) {
            Some(b"%3D") => (b'=', &rest[3..]),
            Some(b"%25") => (b'%', &rest[3..]),
            _ => (*first, tail),
        };
        decoded.push(byte);
        rest = tail;
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_round_down() {
        let check = |text: &str, expect: Option<(i64, u32)>| {
            let got = timestamp(text.as_bytes()).map(|t| (t.secs, t.nanos));
            assert_eq!(got, expect, "{text}");
        };
        check("0", Some((0, 0)));
        check("1700000000.123456789", Some((1_700_000_000, 123_456_789)));
        check("1.5", Some((1, 500_000_000)));
        check("1.", Some((1, 0)));
        check("1.1234567899", Some((1, 123_456_789)));
        check("-1", Some((-1, 0)));
        check("-1.5", Some((-2, 500_000_000)));
        check("-0.0000000001", Some((-1, 999_999_999)));
        check("-1.9999999999", Some((-2, 0)));
        check("", None);
        check("1.x", None);
        check("99999999999999999999", None);
    }

    #[test]
    fn records_split_at_their_length() {
        let mut extended = Extended::default();
        let records = b"9 path=a\n12 path=b\nc\n36 SCHILY.xattr.user.a%3Db%25=\0=\n\xff\n";
        assert_eq!(records.len() - 9 - 12, 35);
        assert!(extended.apply(records, false).is_err(), "36 is too long");
        let mut extended = Extended::default();
        let records = b"9 path=a\n12 path=b\nc\n35 SCHILY.xattr.user.a%3Db%25=\0=\n\xff\n";
        extended.apply(records, false).unwrap();
        assert_eq!(extended.path.as_deref(), Some(&b"b\nc"[..]));
        assert_eq!(extended.xattrs[&b"user.a=b%"[..]], b"\0=\n\xff");
        extended.apply(b"8 path=\n", false).unwrap();
        assert_eq!(extended.path, None);
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"x"[..],
            b"5 a=b",
            b"9 path=a",
            b"100 path=a\n",
            b"3 a\n",
            b"4 =\n",
            b"18446744073709551616 a=b\n",
            b"99999999999999999999999 a=b\n",
            b"0 path=a\n",
            b"2 path=a\n",
            b"10 uid=-1\n",
            b"11 mtime=x\n",
        ] {
            assert!(Extended::default().apply(bad, false).is_err(), "{bad:?}");
        }
        assert!(Extended::default().apply(b"9 path=a\n", true).is_err());
        Extended::default().apply(b"8 uid=1\n", true).unwrap();
    }
}
