//! A guest's requests over real rings and real guest memory, on folders of this host. Oracle: what the host's own kernel says of
//! the same files.

mod hostile;

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::{Folder, Server};
use crate::virtio::driver::{DATA, Driver, Piece, readable, writable};
use crate::virtio::fs::Fs;

/// Where requests and answers lie.
const ASK: u64 = DATA;
const ANSWER: u64 = DATA + 0x4_0000;
const ROOM: u32 = 0x4_0000;
const REQUESTS: u64 = 1;

/// Numbers of the first and the second folder: one for writing, one for reading.
const RW: u64 = 2;
const RO: u64 = 3;

/// A guest, and the folder that holds what is shared with it, and what is not.
struct Guest {
    driver: Driver<Fs>,
    dir: tempfile::TempDir,
}

/// A device that shares `rw` and `ro` of a folder.
fn device(dir: &Path, descriptors: usize) -> Fs {
    let folder = |name: &str, read_only| {
        let path = dir.join(name);
        let _ = fs::create_dir(&path);
        Folder {
            name: CString::new(name).unwrap(),
            fd: File::open(path).unwrap().into(),
            read_only,
        }
    };
    let folders = vec![folder("rw", false), folder("ro", true)];
    Fs::new(Server::new(folders, descriptors).unwrap(), "shares")
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Two halves of a word.
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn text(parts: &[&[u8]]) -> Vec<u8> {
    parts
        .iter()
        .flat_map(|part| part.iter().copied().chain([0]))
        .collect()
}

fn word(bytes: &[u8], index: usize) -> u64 {
    u64::from_le_bytes(bytes[8 * index..8 * index + 8].try_into().unwrap())
}

/// What `struct fuse_attr` says, at some offset of an answer.
#[derive(Debug, PartialEq)]
struct Attr {
    ino: u64,
    size: u64,
    mtime: (u64, u32),
    mode: u32,
    owner: (u32, u32),
}

fn attr(bytes: &[u8], at: usize) -> Attr {
    let bytes = &bytes[at..];
    let half = |index: usize| word(bytes, index / 2) >> (32 * (index % 2)) & 0xffff_ffff;
    let half = |index| half(index) as u32;
    Attr {
        ino: word(bytes, 0),
        size: word(bytes, 1),
        mtime: (word(bytes, 4), half(13)),
        mode: half(15),
        owner: (half(17), half(18)),
    }
}

const IN_ENTRY: usize = 40;
const IN_ATTR: usize = 16;

impl Guest {
    fn new() -> Guest {
        Guest::with(4096)
    }

    fn with(descriptors: usize) -> Guest {
        let dir = tempfile::tempdir().unwrap();
        let driver = Driver::new(device(dir.path(), descriptors));
        let mut guest = Guest { driver, dir };
        guest.init();
        guest
    }

    fn init(&mut self) {
        let init = words(&[pair(7, 41), pair(1 << 20, u32::MAX)]);
        let answer = self.call(26, 0, &init).unwrap();
        assert_eq!((answer.len(), word(&answer, 0)), (64, pair(7, 38)));
    }

    fn host(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Sends bytes as they are; the answer's header, and what follows it.
    fn raw(&mut self, bytes: &[u8], room: u32) -> Option<(i32, Vec<u8>)> {
        self.driver.put(ASK, bytes);
        // In two pieces each, so that headers and bodies are cut.
        let (a, b) = (
            bytes.len().min(50) as u32,
            bytes.len().saturating_sub(50) as u32,
        );
        let (c, d) = (room.min(24), room.saturating_sub(24));
        let pieces: [Piece; 4] = [
            readable(ASK, a),
            readable(ASK + u64::from(a), b),
            writable(ANSWER, c),
            writable(ANSWER + u64::from(c), d),
        ];
        let used: Vec<_> = pieces.into_iter().filter(|piece| piece.len > 0).collect();
        let len = self.driver.request(REQUESTS, &used);
        if len == 0 {
            return None;
        }
        let answer = self.driver.get(ANSWER, len as usize);
        assert_eq!(word(&answer, 0) as u32, len, "the header's length");
        assert_eq!(word(&answer, 1), 77, "the request's name");
        Some((
            (word(&answer, 0) >> 32) as u32 as i32,
            answer[16..].to_vec(),
        ))
    }

    fn call(&mut self, opcode: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        let len = 40 + body.len() as u32;
        let mut bytes = words(&[pair(len, opcode), 77, node, pair(4711, 4711), 1]);
        bytes.extend(body);
        let (errno, answer) = self.raw(&bytes, ROOM).expect("an answer");
        match errno {
            0 => Ok(answer),
            errno => Err(-errno),
        }
    }

    fn look_up(&mut self, parent: u64, name: &str) -> Result<(u64, Attr), i32> {
        let answer = self.call(1, parent, &text(&[name.as_bytes()]))?;
        assert_eq!(answer.len(), 128);
        Ok((word(&answer, 0), attr(&answer, IN_ENTRY)))
    }

    fn path(&mut self, path: &str) -> Result<u64, i32> {
        let mut node = 1;
        for name in path.split('/') {
            node = self.look_up(node, name)?.0;
        }
        Ok(node)
    }

    fn open(&mut self, node: u64, flags: i32) -> Result<(u64, bool), i32> {
        let answer = self.call(14, node, &words(&[pair(flags as u32, 0)]))?;
        Ok((word(&answer, 0), word(&answer, 1) & 2 != 0))
    }

    fn create(
        &mut self,
        parent: u64,
        name: &str,
        flags: i32,
        mode: u32,
    ) -> Result<(u64, u64), i32> {
        let mut body = words(&[pair(flags as u32, mode), 0]);
        body.extend(text(&[name.as_bytes()]));
        let answer = self.call(35, parent, &body)?;
        assert_eq!(answer.len(), 144);
        Ok((word(&answer, 0), word(&answer, 16)))
    }

    fn read(&mut self, fh: u64, offset: u64, size: u32) -> Result<Vec<u8>, i32> {
        self.call(15, 0, &words(&[fh, offset, pair(size, 0), 0, 0]))
    }

    fn write(&mut self, fh: u64, offset: u64, data: &[u8]) -> Result<u64, i32> {
        let mut body = words(&[fh, offset, pair(data.len() as u32, 0), 0, 0]);
        body.extend(data);
        Ok(word(&self.call(16, 0, &body)?, 0))
    }

    fn attr(&mut self, node: u64) -> Result<Attr, i32> {
        self.call(3, node, &words(&[0, 0]))
            .map(|answer| attr(&answer, IN_ATTR))
    }

    /// `SETATTR`: which, size, mtime with nanoseconds, mode, owner.
    fn set(
        &mut self,
        node: u64,
        valid: u32,
        size: u64,
        mtime: (u64, u32),
        mode: u32,
        owner: (u32, u32),
    ) -> Result<Attr, i32> {
        let body = words(&[
            valid.into(),
            0,
            size,
            0,
            mtime.0,
            mtime.0,
            0,
            pair(mtime.1, mtime.1),
            pair(0, mode),
            pair(0, owner.0),
            pair(owner.1, 0),
        ]);
        self.call(4, node, &body)
            .map(|answer| attr(&answer, IN_ATTR))
    }

    /// Names and types in a directory, by answers of `room` bytes.
    fn list(&mut self, node: u64, room: u32) -> Vec<(Vec<u8>, u32)> {
        let fh = word(&self.call(27, node, &words(&[0])).unwrap(), 0);
        let (mut found, mut offset) = (Vec::new(), 0);
        loop {
            let body = words(&[fh, offset, pair(room, 0), 0, 0]);
            let answer = self.call(28, node, &body).unwrap();
            let mut rest = &answer[..];
            assert!(rest.len() <= room as usize);
            if rest.is_empty() {
                break;
            }
            while !rest.is_empty() {
                offset = word(rest, 1);
                let (len, kind) = (word(rest, 2) as u32, (word(rest, 2) >> 32) as u32);
                found.push((rest[24..24 + len as usize].to_vec(), kind));
                rest = &rest[(24 + len as usize).next_multiple_of(8)..];
            }
        }
        self.call(29, node, &words(&[fh, 0, 0])).unwrap();
        found.sort();
        found
    }

    fn counts(&self) -> (usize, usize, usize) {
        self.driver.slot.lock().device.server().counts()
    }
}

#[test]
fn what_is_written_is_the_hosts_and_what_the_host_writes_is_read() {
    let mut guest = Guest::new();
    let (node, fh) = guest.create(RW, "new", libc::O_RDWR, 0o640).unwrap();
    assert_eq!(guest.write(fh, 0, b"hello, host").unwrap(), 11);
    assert_eq!(guest.write(fh, 5000, &[7; 3000]).unwrap(), 3000);
    let bytes = fs::read(guest.host("rw/new")).unwrap();
    assert_eq!((&bytes[..11], bytes.len()), (&b"hello, host"[..], 8000));
    let meta = fs::metadata(guest.host("rw/new")).unwrap();
    assert_eq!(meta.mode() & 0o777, 0o640);
    // An edit of the host, seen by the handle and by the next look.
    fs::write(guest.host("rw/new"), "edited").unwrap();
    assert_eq!(guest.read(fh, 0, 100).unwrap(), b"edited");
    assert_eq!(guest.read(fh, 4, 100).unwrap(), b"ed");
    assert_eq!(guest.read(fh, 6, 100).unwrap(), b"");
    let meta = fs::metadata(guest.host("rw/new")).unwrap();
    let seen = guest.attr(node).unwrap();
    let mtime = (meta.mtime() as u64, meta.mtime_nsec() as u32);
    assert_eq!((seen.size, seen.ino, seen.mtime), (6, meta.ino(), mtime));
    guest.call(18, node, &words(&[fh, 0, 0])).unwrap();
    assert_eq!(guest.read(fh, 0, 1), Err(libc::EBADF));
    // What is appended goes to the end, wherever the guest thinks that it is; a page of its cache to its place.
    let (append, _) = guest.open(node, libc::O_WRONLY | libc::O_APPEND).unwrap();
    fs::write(guest.host("rw/new"), "longer than before").unwrap();
    guest.write(append, 6, b"!").unwrap();
    let mut page = words(&[append, 0, pair(1, 1), 0, 0]);
    page.push(b'L');
    guest.call(16, node, &page).unwrap();
    let text = fs::read_to_string(guest.host("rw/new")).unwrap();
    assert_eq!(text, "Longer than before!");
    // More than the room for an answer is not asked for; more than the file has is not given.
    fs::write(guest.host("rw/new"), vec![9; 100_000]).unwrap();
    let (fh, _) = guest.open(node, libc::O_RDONLY).unwrap();
    assert_eq!(guest.read(fh, 0, u32::MAX).unwrap(), vec![9; 100_000]);
    assert_eq!(guest.write(fh, 0, b"x"), Err(libc::EBADF));
}

#[test]
fn names_are_made_moved_and_removed() {
    let mut guest = Guest::new();
    let mode = |kind: u32| [&words(&[pair(kind | 0o750, 0), 0])[..], b"n\0"].concat();
    let mut dir = words(&[pair(0o750, 0)]);
    dir.extend(text(&[b"d\xff"]));
    let made = guest.call(9, RW, &dir).unwrap();
    let d = word(&made, 0);
    let on_host = guest.host("rw").join(std::ffi::OsStr::from_bytes(b"d\xff"));
    assert_eq!(fs::metadata(&on_host).unwrap().mode() & 0o777, 0o750);
    guest.call(8, d, &mode(libc::S_IFIFO)).unwrap();
    assert_eq!(guest.call(8, d, &mode(libc::S_IFREG)), Err(libc::EEXIST));
    for kind in [libc::S_IFCHR, libc::S_IFBLK, 0, libc::S_IFDIR] {
        assert_eq!(guest.call(8, d, &mode(kind)), Err(libc::EPERM));
    }
    let (file, _) = guest.create(d, "f", libc::O_WRONLY, 0o600).unwrap();
    guest.call(6, d, &text(&[b"l", b"/etc/passwd"])).unwrap();
    // A hard link, a move into another directory, an exchange.
    let link = |from: u64, name: &str| [&words(&[from])[..], name.as_bytes(), b"\0"].concat();
    guest.call(13, RW, &link(file, "second")).unwrap();
    assert_eq!(fs::metadata(on_host.join("f")).unwrap().nlink(), 2);
    let rename = |to: u64, flags: u32, from: &str, name: &str| {
        let mut body = words(&[to, flags.into()]);
        body.extend(text(&[from.as_bytes(), name.as_bytes()]));
        body
    };
    guest.call(45, d, &rename(RW, 0, "f", "moved")).unwrap();
    assert_eq!(
        guest.call(45, d, &rename(RW, 1, "l", "moved")),
        Err(libc::EEXIST),
        "RENAME_NOREPLACE"
    );
    guest.call(45, d, &rename(RW, 2, "l", "moved")).unwrap();
    assert_eq!(
        fs::read_link(guest.host("rw/moved")).unwrap(),
        Path::new("/etc/passwd")
    );
    assert_eq!(
        guest.call(45, d, &rename(RW, 4, "l", "w")),
        Err(libc::EINVAL)
    );
    let listed = guest.list(d, 4096);
    let kinds = [
        (b".".to_vec(), 4),
        (b"..".to_vec(), 4),
        (b"l".to_vec(), 8),
        (b"n".to_vec(), 1),
    ];
    assert_eq!(listed, kinds);
    // Removing: each by its own call.
    assert_eq!(guest.call(10, RW, b"d\xff\0"), Err(libc::EISDIR));
    assert_eq!(guest.call(11, RW, b"d\xff\0"), Err(libc::ENOTEMPTY));
    guest.call(10, d, b"l\0").unwrap();
    guest.call(10, d, b"n\0").unwrap();
    guest.call(11, RW, b"d\xff\0").unwrap();
    assert!(!on_host.exists());
    assert_eq!(guest.look_up(RW, "f"), Err(libc::ENOENT));
}

#[test]
fn attributes_are_set_and_owners_told() {
    let mut guest = Guest::new();
    let (node, fh) = guest.create(RW, "f", libc::O_RDWR, 0o644).unwrap();
    let set = guest.set(
        node,
        1 | 8 | 32,
        10,
        (1_000_000_007, 123_456_789),
        0o400,
        (0, 0),
    );
    let set = set.unwrap();
    assert_eq!((set.size, set.mtime), (10, (1_000_000_007, 123_456_789)));
    assert_eq!(set.mode, libc::S_IFREG | 0o400);
    let meta = fs::metadata(guest.host("rw/f")).unwrap();
    assert_eq!(
        (meta.mtime(), meta.mtime_nsec()),
        (1_000_000_007, 123_456_789)
    );
    // By the handle a file can be cut that its mode would protect.
    let body = words(&[pair(8 | 64, 0), fh, 3, 0, 0, 0, 0, 0, 0, 0, 0]);
    guest.call(4, node, &body).unwrap();
    assert_eq!(fs::metadata(guest.host("rw/f")).unwrap().len(), 3);
    // What this process makes is the guest's root's, until the guest's root says otherwise.
    assert_eq!(guest.attr(node).unwrap().owner, (0, 0));
    let mut owner = words(&[pair(9, 0)]);
    owner.extend(text(&[b"trusted.gourd.owner"]));
    owner.extend(b"1000:100x");
    assert_eq!(guest.call(21, 1, &owner), Err(libc::EINVAL));
    owner.truncate(owner.len() - 1);
    owner[0] = 8;
    guest.call(21, 1, &owner).unwrap();
    assert_eq!(guest.attr(node).unwrap().owner, (1000, 100));
    let own = guest.set(node, 2 | 4, 0, (0, 0), 0, (1000, 100));
    assert_eq!(own.unwrap().owner, (1000, 100));
    let given = guest.set(node, 2, 0, (0, 0), 0, (0, 0));
    assert_eq!(given, Err(libc::EPERM), "nothing is given away");
    let setuid = guest.set(node, 1, 0, (0, 0), 0o4755, (0, 0));
    assert_eq!(setuid, Err(libc::EPERM), "nobody runs as the host's user");
    let (made, _) = guest.create(RW, "g", libc::O_WRONLY, 0o6755).unwrap();
    assert_eq!(guest.attr(made).unwrap().mode & 0o7777, 0o755);
    // Somebody else's are nobody's.
    let root = File::open("/proc/self/ns").unwrap();
    let stat = rustix::fs::fstat(&root).unwrap();
    let mut owners = super::attr::Owners::of_this_process().unwrap();
    owners.guest = (5, 6);
    let mut other = stat;
    other.st_uid += 12345;
    other.st_gid += 54321;
    assert_eq!(owners.shown(&other), (65534, 65534));
}

#[test]
fn ranges_holes_and_copies() {
    let mut guest = Guest::new();
    let (node, fh) = guest.create(RW, "f", libc::O_RDWR, 0o644).unwrap();
    guest.write(fh, 0, &[5; 1 << 16]).unwrap();
    let allocate = |fh: u64, mode: u32| words(&[fh, 1 << 20, 1 << 16, mode.into()]);
    guest.call(43, node, &allocate(fh, 0)).unwrap();
    let meta = fs::metadata(guest.host("rw/f")).unwrap();
    assert_eq!(meta.len(), (1 << 20) + (1 << 16));
    assert_eq!(
        guest.call(43, node, &allocate(fh, 0x1000)),
        Err(libc::EOPNOTSUPP)
    );
    let seek = |guest: &mut Guest, at: u64, whence: u64| {
        guest
            .call(46, node, &words(&[fh, at, whence]))
            .map(|answer| word(&answer, 0))
    };
    assert_eq!(seek(&mut guest, 0, 4), Ok(1 << 16), "SEEK_HOLE");
    assert_eq!(seek(&mut guest, 0, 3), Ok(0), "SEEK_DATA");
    assert_eq!(seek(&mut guest, 0, 2), Err(libc::EINVAL), "SEEK_END");
    let (_, copy) = guest.create(RW, "copy", libc::O_RDWR, 0o644).unwrap();
    let body = words(&[fh, 0, 0, copy, 10, 1000, 0]);
    assert_eq!(word(&guest.call(47, node, &body).unwrap(), 0), 1000);
    let copied = fs::read(guest.host("rw/copy")).unwrap();
    assert_eq!(
        (copied.len(), &copied[..12]),
        (1010, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 5][..])
    );
    for opcode in [20, 30] {
        guest.call(opcode, node, &words(&[fh, 1])).unwrap();
        guest.call(opcode, node, &words(&[fh, 0])).unwrap();
    }
    let statfs = guest.call(17, node, &[]).unwrap();
    let oracle = rustix::fs::statfs(guest.dir.path()).unwrap();
    assert_eq!((statfs.len(), word(&statfs, 0)), (80, oracle.f_blocks));
}

#[test]
fn attributes_of_users_and_no_others() {
    let mut guest = Guest::new();
    let (node, _) = guest.create(RW, "f", libc::O_RDWR, 0o644).unwrap();
    let set = |name: &str, value: &[u8]| {
        let head = words(&[pair(value.len() as u32, 0)]);
        [&head[..], name.as_bytes(), b"\0", value].concat()
    };
    let get = |name: &str, size: u32| [&words(&[size.into()])[..], name.as_bytes(), b"\0"].concat();
    guest.call(21, node, &set("user.note", b"a\0b")).unwrap();
    assert_eq!(
        guest.call(22, node, &get("user.note", 10)).unwrap(),
        b"a\0b"
    );
    assert_eq!(
        word(&guest.call(22, node, &get("user.note", 0)).unwrap(), 0),
        3
    );
    assert_eq!(
        guest.call(22, node, &get("user.note", 2)),
        Err(libc::ERANGE)
    );
    assert_eq!(
        guest.call(22, node, &get("user.none", 9)),
        Err(libc::ENODATA)
    );
    assert_eq!(
        guest.call(23, node, &words(&[100])).unwrap(),
        b"user.note\0"
    );
    for name in [
        "security.capability",
        "trusted.x",
        "system.posix_acl_access",
    ] {
        assert_eq!(
            guest.call(21, node, &set(name, b"x")),
            Err(libc::EOPNOTSUPP)
        );
        assert_eq!(guest.call(22, node, &get(name, 9)), Err(libc::EOPNOTSUPP));
    }
    guest.call(24, node, b"user.note\0").unwrap();
    assert_eq!(guest.call(23, node, &words(&[100])).unwrap(), b"");
}

#[test]
fn a_thousand_names_in_small_answers() {
    let mut guest = Guest::new();
    let mut expect = vec![(b".".to_vec(), 4), (b"..".to_vec(), 4)];
    for index in 0..1000 {
        let name = format!("{index:>0width$}", width = 1 + index % 200);
        fs::write(guest.host("rw").join(&name), "").unwrap();
        expect.push((name.into_bytes(), 8));
    }
    expect.sort();
    expect.dedup();
    for room in [300, 4096, 65536] {
        assert_eq!(guest.list(RW, room), expect, "{room}");
    }
    for (name, _) in &expect[2..] {
        let name = String::from_utf8(name.clone()).unwrap();
        guest.look_up(RW, &name).unwrap();
        guest.look_up(RW, &name).unwrap();
    }
    assert_eq!(guest.counts().0, expect.len());
    let mut all = words(&[2000]);
    for node in 2..2002 {
        all.extend(words(&[node, 1000]));
    }
    let len = 40 + all.len() as u32;
    let mut bytes = words(&[pair(len, 42), 77, 0, 0, 0]);
    bytes.extend(all);
    assert_eq!(guest.raw(&bytes, 0), None, "nobody answers that");
    assert_eq!(guest.counts().0, 2, "the folders stay");
    let root = guest.list(1, 4096);
    let names: Vec<_> = root.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, [&b"."[..], b"..", b"ro", b"rw"]);
}

#[test]
fn few_descriptors_for_many_files() {
    let mut guest = Guest::with(64);
    let mut nodes = Vec::new();
    for dir in 0..10 {
        for file in 0..50 {
            let path = guest.host(&format!("rw/{dir}/sub"));
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join(file.to_string()), format!("{dir} {file}")).unwrap();
            nodes.push(guest.path(&format!("rw/{dir}/sub/{file}")).unwrap());
        }
    }
    let (known, open, _) = guest.counts();
    assert!(known >= 520 && open <= 32, "{known} known, {open} open");
    // Each is found again, by name from the nearest directory that is open.
    for (index, &node) in nodes.iter().enumerate() {
        let (fh, _) = guest.open(node, libc::O_RDONLY).unwrap();
        let expect = format!("{} {}", index / 50, index % 50);
        assert_eq!(guest.read(fh, 0, 100).unwrap(), expect.as_bytes());
        guest.call(18, node, &words(&[fh, 0, 0])).unwrap();
    }
    assert!(guest.counts().1 <= 32);
    // A directory that the guest moved is found where it is; what the host put in a file's place is another file.
    let mut rename = words(&[RW, 0]);
    rename.extend(text(&[b"0", b"zero"]));
    guest.call(45, RW, &rename).unwrap();
    assert_eq!(guest.attr(nodes[7]).unwrap().size, 3);
    fs::remove_file(guest.host("rw/3/sub/0")).unwrap();
    fs::write(guest.host("rw/3/sub/other"), "").unwrap();
    fs::write(guest.host("rw/3/sub/0"), "another").unwrap();
    for &node in &nodes[300..450] {
        guest.attr(node).unwrap();
    }
    let stale = guest.attr(nodes[150]);
    assert!(matches!(stale, Err(libc::ESTALE)), "{stale:?}");
    // Too many open files are refused, and those that are open go on.
    let handles: Vec<_> = (0..20)
        .map(|_| guest.open(nodes[300], libc::O_RDONLY))
        .collect();
    assert_eq!(handles.iter().filter(|open| open.is_ok()).count(), 16);
    assert!(handles[16..].iter().all(|open| *open == Err(libc::ENFILE)));
    let (fh, _) = handles[0].unwrap();
    assert_eq!(guest.read(fh, 0, 9).unwrap(), b"6 0");
}

#[test]
fn pages_are_kept_when_nothing_can_have_changed() {
    let mut guest = Guest::new();
    // A file that has not changed for longer than the host's clock is coarse.
    let old = File::open(env!("CARGO_MANIFEST_DIR")).unwrap();
    let folder = Folder {
        name: c"crate".into(),
        fd: old.into(),
        read_only: true,
    };
    let server = Server::new(vec![folder], 64).unwrap();
    guest.driver = Driver::new(Fs::new(server, "shares"));
    guest.init();
    let node = guest.path("crate/Cargo.toml").unwrap();
    assert!(!guest.open(node, libc::O_RDONLY).unwrap().1, "never read");
    assert!(guest.open(node, libc::O_RDONLY).unwrap().1);

    let mut guest = Guest::new();
    let path = guest.host("rw/f");
    fs::write(&path, "one").unwrap();
    let node = guest.path("rw/f").unwrap();
    for text in ["two", "six"] {
        assert!(!guest.open(node, libc::O_RDONLY).unwrap().1);
        assert!(
            !guest.open(node, libc::O_RDONLY).unwrap().1,
            "changed just now"
        );
        fs::write(&path, text).unwrap();
        let old = fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_times(old).unwrap();
    }
    assert!(
        !guest.open(node, libc::O_RDONLY).unwrap().1,
        "it has another ctime"
    );
}
