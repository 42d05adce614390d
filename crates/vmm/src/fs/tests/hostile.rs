//! A guest that wants out, or in, or the server's end.

use proptest::prelude::*;

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::fs::abi::Op;
use crate::virtio::driver::{hostile, wild_registers};

/// A folder beside the shared ones, and links to it from within.
fn with_a_secret() -> Guest {
    let guest = Guest::new();
    fs::create_dir(guest.host("secret")).unwrap();
    fs::write(guest.host("secret/key"), "secret").unwrap();
    for (target, name) in [
        ("../secret", "rw/up"),
        ("/etc", "rw/absolute"),
        ("../secret/key", "rw/key"),
        ("/proc/self/fd", "rw/proc"),
        ("loop", "rw/loop"),
    ] {
        symlink(target, guest.host(name)).unwrap();
    }
    guest
}

#[test]
fn links_are_the_guests_to_follow() {
    let mut guest = with_a_secret();
    for name in ["up", "absolute", "key", "proc", "loop"] {
        let (node, attr) = guest.look_up(RW, name).unwrap();
        assert_eq!(attr.mode & libc::S_IFMT, libc::S_IFLNK);
        let target = guest.call(5, node, &[]).unwrap();
        let oracle = fs::read_link(guest.host("rw").join(name)).unwrap();
        assert_eq!(target, oracle.as_os_str().as_bytes());
        // Nothing is beneath a link, and it is no file.
        for below in ["key", "passwd", "0"] {
            assert_eq!(
                guest.look_up(node, below),
                Err(libc::ENOTDIR),
                "{name}/{below}"
            );
        }
        assert_eq!(guest.open(node, libc::O_RDONLY), Err(libc::ELOOP));
        assert_eq!(guest.call(27, node, &words(&[0])), Err(libc::ENOTDIR));
        let made = guest.create(RW, name, libc::O_RDWR, 0o644);
        assert_eq!(made, Err(libc::ELOOP), "{name}");
        assert_eq!(guest.set(node, 8, 0, (0, 0), 0, (0, 0)), Err(libc::EINVAL));
    }
    assert_eq!(fs::read(guest.host("secret/key")).unwrap(), b"secret");
}

#[test]
fn names_that_are_none() {
    let mut guest = with_a_secret();
    let long = [b'x'; 256];
    for (name, errno) in [
        (&b".."[..], libc::EINVAL),
        (b".", libc::EINVAL),
        (b"", libc::EINVAL),
        (b"../secret/key", libc::EINVAL),
        (b"a/b", libc::EINVAL),
        (b"/etc/passwd", libc::EINVAL),
        (&long, libc::ENAMETOOLONG),
    ] {
        let named = |head: &[u64]| [&words(head)[..], name, b"\0"].concat();
        let second = [&words(&[RW, 0])[..], b"up\0", name, b"\0"].concat();
        for (opcode, body) in [
            (1, named(&[])),
            (6, [name, b"\0target\0"].concat()),
            (8, named(&[pair(libc::S_IFREG, 0), 0])),
            (9, named(&[0])),
            (10, named(&[])),
            (11, named(&[])),
            (13, named(&[RW])),
            (35, named(&[2, 0])),
            (45, second),
        ] {
            let answer = guest.call(opcode, RW, &body);
            assert_eq!(answer, Err(errno), "{opcode} {name:?}");
        }
    }
    // Without its end.
    assert_eq!(guest.call(1, RW, b"up"), Err(libc::EINVAL));
    let mut here: Vec<_> = fs::read_dir(guest.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    here.sort();
    assert_eq!(here, ["ro", "rw", "secret"]);
}

#[test]
fn read_only_is_the_hosts_word() {
    let mut guest = Guest::new();
    fs::write(guest.host("ro/f"), "kept").unwrap();
    fs::create_dir(guest.host("ro/d")).unwrap();
    let node = guest.path("ro/f").unwrap();
    let name = |head: &[u64], name: &[u8]| [&words(head)[..], name, b"\0"].concat();
    let xattr = [&words(&[pair(1, 0)])[..], b"user.x\0x"].concat();
    for (opcode, about, body) in [
        (4, node, words(&[pair(1, 0), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        (6, RO, text(&[b"l", b"t"])),
        (8, RO, name(&[pair(libc::S_IFREG, 0), 0], b"n")),
        (9, RO, name(&[0], b"n")),
        (10, RO, name(&[], b"f")),
        (11, RO, name(&[], b"d")),
        (13, RO, name(&[node], b"n")),
        (14, node, words(&[pair(libc::O_WRONLY as u32, 0)])),
        (14, node, words(&[pair(libc::O_RDWR as u32, 0)])),
        (14, node, words(&[pair(libc::O_TRUNC as u32, 0)])),
        (21, node, xattr.clone()),
        (24, node, text(&[b"user.x"])),
        (35, RO, name(&[pair(libc::O_RDWR as u32, 0), 0], b"f")),
        (45, RO, [&words(&[RW, 0])[..], b"f\0f\0"].concat()),
        (45, RO, [&words(&[RO, 0])[..], b"f\0g\0"].concat()),
        (13, RW, name(&[node], b"n")),
        // The list of folders is nobody's to change either.
        (9, 1, name(&[0], b"n")),
        (10, 1, name(&[], b"rw")),
        (4, 1, words(&[pair(1, 0), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
    ] {
        assert_eq!(
            guest.call(opcode, about, &body),
            Err(libc::EROFS),
            "{opcode}"
        );
    }
    let setuid = fs::Permissions::from_mode(0o6755);
    fs::set_permissions(guest.host("ro/f"), setuid).unwrap();
    let (fh, _) = guest.open(node, libc::O_RDONLY).unwrap();
    assert_eq!(guest.write(fh, 0, b"x"), Err(libc::EBADF));
    // FUSE_WRITE_CACHE, FUSE_WRITE_KILL_SUIDGID: nothing is written, and so the kernel would not ask for a right.
    for flags in [0, 1, 4, 5] {
        let nothing = words(&[fh, 0, pair(0, flags), 0, 0]);
        assert_eq!(guest.call(16, node, &nothing), Err(libc::EBADF), "{flags}");
    }
    let meta = fs::metadata(guest.host("ro/f")).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o6755);
    assert_eq!(
        guest.call(43, node, &words(&[fh, 0, 10, 0])),
        Err(libc::EBADF)
    );
    let copy = words(&[fh, 0, 0, fh, 10, 1, 0]);
    assert_eq!(guest.call(47, node, &copy), Err(libc::EBADF));
    assert_eq!(fs::read(guest.host("ro/f")).unwrap(), b"kept");
    assert_eq!(fs::read_dir(guest.host("ro")).unwrap().count(), 2);
    // Between two shared folders nothing moves.
    fs::write(guest.host("rw/w"), "").unwrap();
}

#[test]
fn numbers_that_mean_nothing() {
    let mut guest = Guest::new();
    for node in [0, 4, 99, u64::MAX] {
        assert_eq!(guest.look_up(node, "x"), Err(libc::ESTALE));
        assert_eq!(guest.attr(node), Err(libc::ESTALE));
        assert_eq!(guest.open(node, 0), Err(libc::ESTALE));
        assert_eq!(guest.call(27, node, &words(&[0])), Err(libc::ESTALE));
    }
    for fh in [0, 77, u64::MAX] {
        assert_eq!(guest.read(fh, 0, 1), Err(libc::EBADF));
        assert_eq!(guest.write(fh, 0, b"x"), Err(libc::EBADF));
        assert_eq!(
            guest.call(28, RW, &words(&[fh, 0, 4096, 0, 0])),
            Err(libc::EBADF)
        );
        assert_eq!(guest.call(20, RW, &words(&[fh, 0])), Err(libc::EBADF));
    }
    for opcode in [0, 7, 31, 32, 33, 36, 37, 39, 44, 48, 51, 52, 4096, u32::MAX] {
        assert_eq!(
            guest.call(opcode, RW, &words(&[0; 12])),
            Err(libc::ENOSYS),
            "{opcode}"
        );
    }
    // Offsets and lengths at the end of the world.
    let (_, fh) = guest.create(RW, "f", libc::O_RDWR, 0o644).unwrap();
    assert_eq!(guest.read(fh, u64::MAX, 1), Err(libc::EINVAL));
    assert_eq!(
        guest.write(fh, i64::MAX as u64 + 1, b"x"),
        Err(libc::EINVAL)
    );
    assert!(guest.write(fh, i64::MAX as u64, b"xy").is_err());
    // A length that is not the request's, too few bytes for anything, no room for an answer.
    let header = |len: u32| words(&[pair(len, 3), 77, RW, 0, 0]);
    assert_eq!(guest.raw(&header(4096), ROOM).unwrap().0, -libc::EINVAL);
    assert_eq!(guest.raw(&header(40)[..39], ROOM), None);
    assert_eq!(guest.raw(&header(40), 15), None);
    let get = [&header(56)[..], &[0; 16]].concat();
    assert_eq!(guest.raw(&get, 100).unwrap().0, -libc::EINVAL);
    let long = [
        &words(&[pair(100_040, 1), 77, RW, 0, 0])[..],
        &vec![b'x'; 100_000],
    ]
    .concat();
    assert_eq!(guest.raw(&long, ROOM).unwrap().0, -libc::E2BIG);
    // A FIFO of the host is not opened, and so nobody waits.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        guest.host("rw/fifo"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let fifo = guest.path("rw/fifo").unwrap();
    assert_eq!(guest.open(fifo, libc::O_RDONLY), Err(libc::ENXIO));
}

/// Oracle: a reader of a FIFO is told that there was a writer (`POLLHUP`), and only then.
#[test]
fn creating_opens_files_and_nothing_else() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::fs::{CWD, FileType, Mode, OFlags};
    let mut guest = Guest::new();
    let fifo = guest.host("rw/fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, 0o600.into(), 0).unwrap();
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let reader = rustix::fs::open(&fifo, flags, Mode::empty()).unwrap();
    let had_a_writer = || {
        let mut reader = [PollFd::new(&reader, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut reader, Some(&now)).unwrap() == 1
    };
    let _socket = std::os::unix::net::UnixListener::bind(guest.host("rw/socket")).unwrap();
    fs::create_dir(guest.host("rw/dir")).unwrap();
    fs::write(guest.host("rw/file"), "kept").unwrap();
    let access = [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR];
    for flags in access.into_iter().chain([libc::O_WRONLY | libc::O_TRUNC]) {
        for (name, errno) in [
            ("fifo", libc::ENXIO),
            ("socket", libc::ENXIO),
            ("dir", libc::EISDIR),
        ] {
            let made = guest.create(RW, name, flags, 0o600);
            assert_eq!(made, Err(errno), "{name} {flags:o}");
        }
        for name in ["fifo", "socket", "dir", "file"] {
            let made = guest.create(RW, name, flags | libc::O_EXCL, 0o600);
            assert_eq!(made, Err(libc::EEXIST), "{name} {flags:o}");
        }
    }
    assert!(!had_a_writer());
    drop(File::options().write(true).open(&fifo).unwrap());
    assert!(had_a_writer(), "the oracle");

    // A file that is there is opened as it is.
    let mode = fs::metadata(guest.host("rw/file")).unwrap().mode();
    let (node, fh) = guest.create(RW, "file", libc::O_RDWR, 0o600).unwrap();
    assert_eq!(guest.read(fh, 0, 9).unwrap(), b"kept");
    assert_eq!(guest.write(fh, 4, b"!").unwrap(), 1);
    let flags = libc::O_WRONLY | libc::O_TRUNC;
    let (again, _) = guest.create(RW, "file", flags, 0o600).unwrap();
    let attr = guest.attr(node).unwrap();
    assert_eq!((again, attr.size, attr.mode), (node, 0, mode));
}

#[test]
fn nothing_before_the_first_word() {
    let dir = tempfile::tempdir().unwrap();
    let driver = Driver::new(device(dir.path(), 64));
    let mut guest = Guest { driver, dir };
    assert_eq!(guest.look_up(RW, "x"), Err(libc::EIO));
    let old = guest.call(26, 0, &words(&[pair(7, 23), 0]));
    assert_eq!(old, Err(libc::EPROTO));
    let newer = guest.call(26, 0, &words(&[pair(8, 0), 0])).unwrap();
    assert_eq!(word(&newer, 0), pair(7, 38), "it may ask again");
    guest.init();
    guest.create(RW, "f", libc::O_RDWR, 0o644).unwrap();
    assert_eq!(guest.counts(), (3, 1, 1));
    // Another guest starts with nothing of the one before.
    guest.init();
    assert_eq!(guest.counts(), (2, 0, 0));
    guest.create(RW, "f", libc::O_RDWR, 0o644).unwrap();
    guest.call(38, 0, &[]).unwrap();
    assert_eq!(guest.counts(), (2, 0, 0));
}

/// `tests/corpus/fs`: an opcode, and what follows the header.
#[test]
fn corpus() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/fs");
    let mut guest = with_a_secret();
    let mut replayed = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        let (opcode, body) = bytes.split_at(4);
        let opcode = u32::from_le_bytes(opcode.try_into().unwrap());
        for node in [0, 1, RW, RO, 4] {
            let request = request(opcode, node, body);
            guest.raw(&request, ROOM);
            guest.raw(&request, 16);
        }
        replayed += 1;
    }
    assert!(replayed >= 10, "{replayed} files in {folder}");
    assert_eq!(fs::read(guest.host("secret/key")).unwrap(), b"secret");
}

fn request(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let head = words(&[pair(40 + body.len() as u32, opcode), 77, node, 0, 0]);
    [&head[..], body].concat()
}

/// Requests that are nearly right: known numbers, known names, some noise.
fn nearly() -> impl Strategy<Value = (u32, u64, Vec<u8>)> {
    let number = prop_oneof![4 => 0u64..8, 1 => any::<u64>()];
    const NAMES: [&[u8]; 6] = [b"a", b"b", b"..", b"up", b"../secret", b"key"];
    let name = prop::sample::select(&NAMES[..]);
    let opcode = prop_oneof![9 => 1u32..54, 1 => any::<u32>()];
    let head = prop::collection::vec(number.clone(), 0..12);
    (opcode, 0u64..8, head, prop::collection::vec(name, 0..3)).prop_map(
        |(opcode, node, head, names)| {
            let mut body = words(&head);
            body.extend(text(&names));
            (opcode, node, body)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_an_operation_or_an_error(opcode in 0u32..60, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Op::parse(opcode, &bytes);
    }

    #[test]
    fn requests_of_any_kind_stay_inside(requests in prop::collection::vec(nearly(), 1..60)) {
        let mut guest = with_a_secret();
        for (opcode, node, body) in requests {
            guest.raw(&request(opcode, node, &body), ROOM);
        }
        prop_assert_eq!(fs::read(guest.host("secret/key")).unwrap(), b"secret");
        prop_assert_eq!(fs::read_dir(guest.host("secret")).unwrap().count(), 1);
        prop_assert_eq!(fs::read_dir(guest.host("ro")).unwrap().count(), 0);
        prop_assert_eq!(fs::read_dir(guest.dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn rings_and_registers(bytes in prop::collection::vec(any::<u8>(), 0..20_000), writes in prop::collection::vec((any::<u16>(), any::<u64>(), any::<u8>()), 0..50)) {
        let dir = tempfile::tempdir().unwrap();
        hostile(device(dir.path(), 64), &bytes);
        wild_registers(device(dir.path(), 64), &writes);
    }
}
