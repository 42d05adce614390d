//! A tar writer for tests: POSIX headers, extended headers where a value does not fit.

/// One entry of a layer.
#[derive(Debug, Clone)]
pub struct Entry {
    path: Vec<u8>,
    kind: u8,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    link: Vec<u8>,
    device: (u32, u32),
    content: Vec<u8>,
    pax: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// An entry of any type, empty, with mode 0644, owned by root, dated 1970.
    pub fn new(kind: u8, path: impl AsRef<[u8]>) -> Self {
        Self {
            path: path.as_ref().to_vec(),
            kind,
            mode: 0o644,
            owner: (0, 0),
            mtime: 0,
            link: Vec::new(),
            device: (0, 0),
            content: Vec::new(),
            pax: Vec::new(),
        }
    }

    /// A regular file.
    pub fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        Self {
            content: content.as_ref().to_vec(),
            ..Self::new(b'0', path)
        }
    }

    /// A directory with mode 0755.
    pub fn dir(path: impl AsRef<[u8]>) -> Self {
        let mut path = path.as_ref().to_vec();
        if !path.ends_with(b"/") {
            path.push(b'/');
        }
        Self::new(b'5', path).mode(0o755)
    }

    /// A symbolic link.
    pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::new(b'2', path).link(target).mode(0o777)
    }

    /// A hard link to an earlier entry.
    pub fn hard_link(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::new(b'1', path).link(target)
    }

    /// A named pipe.
    pub fn fifo(path: impl AsRef<[u8]>) -> Self {
        Self::new(b'6', path)
    }

    /// A character device.
    pub fn char_device(path: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        Self {
            device: (major, minor),
            ..Self::new(b'3', path)
        }
    }

    /// A block device.
    pub fn block_device(path: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        Self {
            device: (major, minor),
            ..Self::new(b'4', path)
        }
    }

    /// Sets the link target.
    pub fn link(mut self, target: impl AsRef<[u8]>) -> Self {
        self.link = target.as_ref().to_vec();
        self
    }

    /// Sets the permission bits.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets user and group.
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// Sets the modification time in seconds since 1970.
    pub fn mtime(mut self, secs: u64) -> Self {
        self.mtime = secs;
        self
    }

    /// Adds a record to the extended header.
    pub fn pax(mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.pax
            .push((key.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// Adds an extended attribute.
    pub fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(format!("SCHILY.xattr.{name}"), value)
    }

    fn write(mut self, out: &mut Vec<u8>) {
        if self.path.len() > 100 {
            let path = self.path.clone();
            self = self.pax("path", path);
        }
        if self.link.len() > 100 {
            let link = self.link.clone();
            self = self.pax("linkpath", link);
        }
        if !self.pax.is_empty() {
            let records: Vec<u8> = self.pax.iter().flat_map(|(k, v)| record(k, v)).collect();
            let header = Entry::file("PaxHeader", records);
            header.write_blocks(b'x', out);
        }
        self.write_blocks(self.kind, out);
    }

    fn write_blocks(&self, kind: u8, out: &mut Vec<u8>) {
        let mut block = [0_u8; 512];
        let mut put = |at: usize, max: usize, bytes: &[u8]| {
            let len = bytes.len().min(max);
            block[at..at + len].copy_from_slice(&bytes[..len]);
        };
        put(0, 100, &self.path);
        put(100, 8, format!("{:07o}", self.mode).as_bytes());
        put(108, 8, &number(self.owner.0, 8));
        put(116, 8, &number(self.owner.1, 8));
        put(124, 12, &number(self.content.len() as u64, 12));
        put(136, 12, &number(self.mtime, 12));
        put(148, 8, b"        ");
        put(156, 1, &[kind]);
        put(157, 100, &self.link);
        put(257, 8, b"ustar\x0000");
        put(329, 8, &number(self.device.0.into(), 8));
        put(337, 8, &number(self.device.1.into(), 8));
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&block);
        out.extend_from_slice(&self.content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
}

/// Octal, or base 256 where that is too small.
fn number(value: u64, width: usize) -> Vec<u8> {
    let octal = format!("{value:0width$o}", width = width - 1);
    if octal.len() < width {
        return octal.into_bytes();
    }
    let mut bytes = vec![0; width];
    let binary = value.to_be_bytes();
    let len = width.min(8);
    bytes[width - len..].copy_from_slice(&binary[8 - len..]);
    bytes[0] |= 0x80;
    bytes
}

/// `length key=value\n`, where the length counts its own digits.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    let mut record = format!("{len} ").into_bytes();
    record.extend_from_slice(key);
    record.push(b'=');
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

/// A layer in the making.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    tar: Vec<u8>,
}

impl Layer {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry.
    pub fn entry(mut self, entry: Entry) -> Self {
        entry.write(&mut self.tar);
        self
    }

    /// Adds blocks as they are.
    pub fn raw(mut self, blocks: &[u8]) -> Self {
        self.tar.extend_from_slice(blocks);
        self
    }

    /// Adds a regular file with mode 0644.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(Entry::file(path, content))
    }

    /// Adds a directory with mode 0755.
    pub fn dir(self, path: &str) -> Self {
        self.entry(Entry::dir(path))
    }

    /// Adds a symbolic link.
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(Entry::symlink(path, target))
    }

    /// Adds a hard link.
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(Entry::hard_link(path, target))
    }

    /// Hides a lower layer's file: adds `.wh.NAME` beside it.
    pub fn whiteout(self, path: &str) -> Self {
        match path.rsplit_once('/') {
            Some((dir, name)) => self.file(&format!("{dir}/.wh.{name}"), ""),
            None => self.file(&format!(".wh.{path}"), ""),
        }
    }

    /// Hides what lower layers have in a directory.
    pub fn opaque(self, dir: &str) -> Self {
        self.file(&format!("{dir}/.wh..wh..opq"), "")
    }

    /// The archive with its end marker.
    pub fn finish(mut self) -> Vec<u8> {
        self.tar.resize(self.tar.len() + 1024, 0);
        self.tar
    }
}
