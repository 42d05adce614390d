//! One member of a tar archive, and how it is written: POSIX.1-2001 `pax` where a header's fields are too small, GNU's
//! old sparse format (type `S`) for files with holes, because every reader knows it.
//!
//! Names are bytes. Extended attributes are `SCHILY.xattr.` records, as star, GNU tar and the OCI image specification
//! have them.

/// Bytes of a block: headers are one, contents are padded to a multiple.
pub(super) const BLOCK: usize = 512;

/// Bytes of a header's name and link name.
const NAME: usize = 100;

/// The biggest numbers of a header's fields with 8 and with 12 bytes: octal digits, then a zero.
const OCTAL_7: u64 = 0o777_7777;
const OCTAL_11: u64 = 0o777_7777_7777;

/// What the keyword of an extended attribute begins with.
pub(super) const XATTR: &[u8] = b"SCHILY.xattr.";

/// A stretch of a file that is no hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Contents follow: those of `extents`, or all of it.
    File {
        size: u64,
        extents: Option<Vec<Extent>>,
    },
    /// Another name of the member with this path.
    HardLink(Vec<u8>),
    SymbolicLink(Vec<u8>),
    CharacterDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Directory,
    Fifo,
}

/// Name and value.
pub(super) type Attribute = (Vec<u8>, Vec<u8>);

/// A member without its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    /// The low 12 bits of `st_mode`.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970 (rounded down), and nanoseconds on top.
    pub(super) modified: (i64, u32),
    pub(super) attributes: Vec<Attribute>,
}

impl Entry {
    /// An empty file of root's.
    pub(super) fn empty_file(path: Vec<u8>) -> Self {
        let kind = Kind::File {
            size: 0,
            extents: None,
        };
        Self {
            path,
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            modified: (0, 0),
            attributes: Vec::new(),
        }
    }

    /// Bytes of contents that follow the headers, without padding.
    pub(super) fn stored(&self) -> u64 {
        match &self.kind {
            Kind::File {
                size,
                extents: None,
            } => *size,
            Kind::File {
                extents: Some(extents),
                ..
            } => extents.iter().map(|extent| extent.length).sum(),
            _ => 0,
        }
    }

    /// Appends the headers to `to`: a whole number of blocks.
    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        let mut path = std::borrow::Cow::Borrowed(&self.path);
        if self.kind == Kind::Directory && !path.ends_with(b"/") {
            path.to_mut().push(b'/');
        }
        let records = self.records(&path);
        if !records.is_empty() {
            let mut name = b"./PaxHeaders/".to_vec();
            let last = self
                .path
                .rsplit(|&byte| byte == b'/')
                .next()
                .unwrap_or_default();
            name.extend(last.iter().take(NAME - name.len()));
            let mut header = Header::new(b'x', &name);
            header.octal(100, 8, 0o644);
            header.number(124, 12, records.len() as u64);
            header.number(
                136,
                12,
                u64::try_from(self.modified.0).unwrap_or(0).min(OCTAL_11),
            );
            header.finish(to);
            to.extend_from_slice(&records);
            pad(to);
        }
        self.header(&path, to);
    }

    fn header(&self, path: &[u8], to: &mut Vec<u8>) {
        let (flag, link) = match &self.kind {
            Kind::File { extents: None, .. } => (b'0', None),
            Kind::File { .. } => (b'S', None),
            Kind::HardLink(target) => (b'1', Some(target)),
            Kind::SymbolicLink(target) => (b'2', Some(target)),
            Kind::CharacterDevice { .. } => (b'3', None),
            Kind::BlockDevice { .. } => (b'4', None),
            Kind::Directory => (b'5', None),
            Kind::Fifo => (b'6', None),
        };
        let mut header = Header::new(flag, path);
        header.octal(100, 8, self.mode.into());
        header.number(108, 8, self.uid.into());
        header.number(116, 8, self.gid.into());
        header.number(124, 12, self.stored());
        // What does not fit here is in the records.
        header.number(
            136,
            12,
            u64::try_from(self.modified.0).unwrap_or(0).min(OCTAL_11),
        );
        if let Some(link) = link {
            header.text(157, NAME, link);
        }
        let mut more: &[Extent] = &[];
        match &self.kind {
            Kind::CharacterDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                header.number(329, 8, (*major).into());
                header.number(337, 8, (*minor).into());
            }
            Kind::File {
                size,
                extents: Some(extents),
            } => {
                header.text(257, 8, b"ustar  \0");
                header.number(483, 12, *size);
                more = header.extents(386, 4, extents);
                header.0[482] = u8::from(!more.is_empty());
            }
            _ => {}
        }
        header.finish(to);
        while !more.is_empty() {
            let mut block = Header([0; BLOCK]);
            more = block.extents(0, 21, more);
            block.0[504] = u8::from(!more.is_empty());
            to.extend_from_slice(&block.0);
        }
    }

    /// The pax records of what the header can't hold.
    fn records(&self, path: &[u8]) -> Vec<u8> {
        let mut records = Vec::new();
        let mut add = |key: &[u8], value: &[u8]| push_record(&mut records, key, value);
        if path.len() > NAME {
            add(b"path", path);
        }
        match &self.kind {
            Kind::HardLink(target) | Kind::SymbolicLink(target) if target.len() > NAME => {
                add(b"linkpath", target);
            }
            Kind::File {
                size,
                extents: None,
            } if *size > OCTAL_11 => add(b"size", size.to_string().as_bytes()),
            _ => {}
        }
        for (key, id) in [(&b"uid"[..], self.uid), (b"gid", self.gid)] {
            if u64::from(id) > OCTAL_7 {
                add(key, id.to_string().as_bytes());
            }
        }
        let (seconds, nanoseconds) = self.modified;
        if nanoseconds != 0 || !(0..=OCTAL_11.cast_signed()).contains(&seconds) {
            add(b"mtime", decimal(seconds, nanoseconds).as_bytes());
        }
        for (name, value) in &self.attributes {
            add(&[XATTR, name].concat(), value);
        }
        records
    }
}

/// Seconds with their fraction, as pax has times.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    // -1.25 is -2 seconds and 750,000,000 nanoseconds.
    let (sign, seconds, nanoseconds) = match (seconds < 0, nanoseconds) {
        (true, 0) => ("-", seconds.unsigned_abs(), 0),
        (true, fraction) => ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - fraction),
        (false, fraction) => ("", seconds.unsigned_abs(), fraction),
    };
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Appends `LENGTH KEY=VALUE\n`, where the length counts itself.
pub(super) fn push_record(to: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = 3 + key.len() + value.len();
    let digits = |number: usize| number.to_string().len();
    let mut length = rest + digits(rest);
    if rest + digits(length) > length {
        length += 1;
    }
    to.extend_from_slice(length.to_string().as_bytes());
    to.push(b' ');
    to.extend_from_slice(key);
    to.push(b'=');
    to.extend_from_slice(value);
    to.push(b'\n');
}

/// Fills the last block with zeros.
pub(super) fn pad(to: &mut Vec<u8>) {
    to.resize(to.len().next_multiple_of(BLOCK), 0);
}

struct Header([u8; BLOCK]);

impl Header {
    fn new(flag: u8, name: &[u8]) -> Self {
        let mut header = Self([0; BLOCK]);
        header.text(0, NAME, name);
        header.0[156] = flag;
        header.text(257, 8, b"ustar\x0000");
        header
    }

    /// Cut to the field's length.
    fn text(&mut self, at: usize, length: usize, text: &[u8]) {
        let length = length.min(text.len());
        self.0[at..at + length].copy_from_slice(&text[..length]);
    }

    fn octal(&mut self, at: usize, length: usize, value: u64) {
        let digits = format!("{value:0width$o}", width = length - 1);
        self.text(at, length - 1, digits.as_bytes());
    }

    /// Octal, or GNU's binary numbers where that does not fit.
    fn number(&mut self, at: usize, length: usize, value: u64) {
        let biggest = if length == 8 { OCTAL_7 } else { OCTAL_11 };
        if value <= biggest {
            self.octal(at, length, value);
            return;
        }
        let bytes = value.to_be_bytes();
        let field = &mut self.0[at..at + length];
        let from = field.len().saturating_sub(bytes.len());
        field.fill(0);
        let count = field.len() - from;
        field[from..].copy_from_slice(&bytes[bytes.len() - count..]);
        field[0] |= 0x80;
    }

    /// Puts up to `room` extents at `at`; returns those that are left.
    fn extents<'a>(&mut self, at: usize, room: usize, extents: &'a [Extent]) -> &'a [Extent] {
        let (now, later) = extents.split_at(room.min(extents.len()));
        for (index, extent) in now.iter().enumerate() {
            self.number(at + index * 24, 12, extent.offset);
            self.number(at + index * 24 + 12, 12, extent.length);
        }
        later
    }

    fn finish(mut self, to: &mut Vec<u8>) {
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|&byte| u32::from(byte)).sum();
        self.text(148, 7, format!("{sum:06o}\0").as_bytes());
        to.extend_from_slice(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_themselves() {
        let check = |value: &str, expect: &str| {
            let mut record = Vec::new();
            push_record(&mut record, b"k", value.as_bytes());
            assert_eq!(record, expect.as_bytes());
        };
        check("v", "6 k=v\n");
        check("1234", "9 k=1234\n");
        check("12345", "11 k=12345\n");
    }

    #[test]
    fn times_are_decimal() {
        let check = |time: (i64, u32), expect| assert_eq!(decimal(time.0, time.1), expect);
        check((1, 500_000_000), "1.5");
        check((0, 1), "0.000000001");
        check((10, 0), "10");
        check((-2, 750_000_000), "-1.25");
        check((-1, 999_999_999), "-0.000000001");
        check((-3, 0), "-3");
    }
}
