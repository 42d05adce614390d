//! The records of a pax extended header: `LENGTH KEY=VALUE\n`, one after the other. Every byte is hostile.

use super::entry::{Attribute, Extent, XATTR};

/// What the records say about the next member; what they say twice, the last says.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) modified: Option<(i64, u32)>,
    pub(super) attributes: Vec<Attribute>,
    pub(super) sparse: Option<Sparse>,
}

/// GNU's sparse files of versions 0.0, 0.1 and 1.0.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    /// `None` in version 1.0: it is in the contents.
    pub(super) extents: Option<Vec<Extent>>,
}

/// Reads the records; `None` when they are broken.
pub(super) fn parse(mut bytes: &[u8]) -> Option<Records> {
    let mut records = Records::default();
    let mut major = 0;
    let mut offset = None;
    while !bytes.is_empty() {
        let blank = bytes.iter().position(|&byte| byte == b' ')?;
        let length = usize::try_from(decimal(&bytes[..blank])?).ok()?;
        let record = bytes.get(blank + 1..length)?.strip_suffix(b"\n")?;
        bytes = &bytes[length..];
        let equals = record.iter().position(|&byte| byte == b'=')?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        let id = || u32::try_from(decimal(value)?).ok();
        match key {
            b"path" => records.path = Some(name(value)?),
            b"linkpath" => records.link = Some(name(value)?),
            b"size" => records.size = Some(decimal(value)?),
            b"uid" => records.uid = Some(id()?),
            b"gid" => records.gid = Some(id()?),
            b"mtime" => records.modified = Some(time(value)?),
            b"GNU.sparse.major" => {
                major = decimal(value)?;
                records.sparse();
            }
            b"GNU.sparse.name" => records.sparse().name = Some(name(value)?),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                records.sparse().size = Some(decimal(value)?);
            }
            b"GNU.sparse.offset" => offset = Some(decimal(value)?),
            b"GNU.sparse.numbytes" => {
                let (offset, length) = (offset.take()?, decimal(value)?);
                let extents = records.sparse().extents.get_or_insert_default();
                extents.push(Extent { offset, length });
            }
            b"GNU.sparse.map" => records.sparse().extents = Some(map(value)?),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR)
                    && !name.is_empty()
                    && !name.contains(&0)
                {
                    records.attributes.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
    if let Some(sparse) = &mut records.sparse {
        match major {
            0 => {
                // A file that is one hole has no extents.
                sparse.extents.get_or_insert_default();
            }
            1 => sparse.extents = None,
            _ => return None,
        }
    }
    Some(records)
}

impl Records {
    fn sparse(&mut self) -> &mut Sparse {
        self.sparse.get_or_insert_default()
    }
}

fn name(value: &[u8]) -> Option<Vec<u8>> {
    (!value.contains(&0)).then(|| value.to_vec())
}

/// `offset,length,offset,length…`
fn map(value: &[u8]) -> Option<Vec<Extent>> {
    if value.is_empty() {
        return Some(Vec::new());
    }
    let mut numbers = value.split(|&byte| byte == b',').map(decimal);
    let mut extents = Vec::new();
    while let Some(offset) = numbers.next() {
        let (offset, length) = (offset?, numbers.next()??);
        extents.push(Extent { offset, length });
    }
    Some(extents)
}

/// A number of decimal digits only.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds rounded down and the nanoseconds on top; finer digits are dropped.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let point = text.iter().position(|&byte| byte == b'.');
    let (whole, fraction) = match point {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &b""[..]),
    };
    let whole = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction
        .iter()
        .copied()
        .chain(std::iter::repeat(b'0'))
        .take(9);
    let nanoseconds = digits.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanoseconds) {
        (false, _) => (whole, nanoseconds),
        (true, 0) => (-whole, 0),
        (true, _) => (-whole - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::super::entry::push_record;
    use super::*;

    #[test]
    fn times_are_rounded_down() {
        let check = |text: &[u8], expect| assert_eq!(time(text), expect);
        check(b"12", Some((12, 0)));
        check(b"12.5", Some((12, 500_000_000)));
        check(b"0.0000000019", Some((0, 1)));
        check(b"-1.25", Some((-2, 750_000_000)));
        check(b"-3", Some((-3, 0)));
        check(b"1.2.3", None);
        check(b"", None);
        check(b"99999999999999999999", None);
    }

    #[test]
    fn records_are_read() {
        let mut bytes = Vec::new();
        push_record(&mut bytes, b"path", b"a");
        push_record(&mut bytes, b"path", b"b=c\nd");
        push_record(&mut bytes, b"unknown", b"");
        push_record(&mut bytes, b"SCHILY.xattr.user.x", b"\0\n=\xff");
        let records = parse(&bytes).unwrap();
        assert_eq!(records.path.unwrap(), b"b=c\nd");
        assert_eq!(
            records.attributes,
            [(b"user.x".to_vec(), b"\0\n=\xff".to_vec())]
        );
        for broken in [
            &b"9 path=a"[..],
            b"5 a\n",
            b" x=y\n",
            b"99 path=a\n",
            b"0 \n",
        ] {
            assert!(parse(broken).is_none(), "{broken:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_near_miss_is_answered(text in "([0-9]{1,2} (GNU.sparse.(map|size|offset|major)|mtime|uid)=[0-9,.-]{0,5}\n){0,5}") {
            let _ = parse(text.as_bytes());
        }
    }
}
