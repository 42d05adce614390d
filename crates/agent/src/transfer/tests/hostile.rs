//! Archives that nobody wrote in good faith: they end with an error or without one, never with a panic, and nothing
//! outside of the root changes.

use proptest::prelude::*;

use super::*;

/// Unpacks into a root beside a witness; the witness has to stay as it is.
fn check_stays_inside(bytes: &[u8]) -> Result<(), String> {
    let place = place(&["root", "outside"]);
    let [root, outside, archive] =
        ["root", "outside", "archive"].map(|name| place.path().join(name));
    fs::write(outside.join("witness"), "untouched").unwrap();
    fs::create_dir(root.join("outside")).unwrap();
    symlink("../outside", root.join("out")).unwrap();
    symlink(&outside, root.join("absolute")).unwrap();
    fs::write(&archive, bytes).unwrap();
    let before = snapshot(&outside);
    let result = unpack(&archive, &root, "/", KEEP);
    assert_eq!(snapshot(&outside), before);
    let mut beside: Vec<_> = fs::read_dir(place.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    beside.sort();
    assert_eq!(beside, ["archive", "outside", "root"]);
    result
}

fn check_members(members: &[(&str, Kind)]) -> Result<(), String> {
    let place = place(&[]);
    let archive = place.path().join("archive");
    archive_of(members, &archive);
    check_stays_inside(&fs::read(archive).unwrap())
}

#[test]
fn nothing_leaves_the_root() {
    let error = |members: &[(&str, Kind)]| check_members(members).unwrap_err();
    assert_eq!(
        error(&[("../evil", FILE)]),
        "unpack ../evil: it leads out of the directory"
    );
    assert_eq!(
        error(&[("a/../../evil", FILE)]),
        "unpack a/../../evil: it leads out of the directory"
    );
    let stays = |members: &[(&str, Kind)]| check_members(members).unwrap();
    stays(&[("/evil", FILE), ("//etc/evil", FILE)]);
    stays(&[("out/witness", FILE), ("out/new", FILE)]);
    stays(&[("up", link("../../../../..")), ("up/outside/witness", FILE)]);
    stays(&[
        ("d", Kind::Directory),
        ("d/l", link("/..")),
        ("d/l/outside/witness", FILE),
    ]);
    // A link whose target is not there inside of the root.
    error(&[("absolute/witness", FILE)]);
    // Nothing to link to: the links end in the root.
    error(&[("hard", Kind::HardLink(b"out/witness".to_vec()))]);
    error(&[("hard", Kind::HardLink(b"../outside/witness".to_vec()))]);
}

#[test]
fn broken_archives_are_told() {
    let place = place(&["tree"]);
    let [tree, archive] = ["tree", "archive"].map(|name| place.path().join(name));
    fs::write(tree.join("file"), [b'x'; 2000]).unwrap();
    pack(&tree, &archive);
    let bytes = fs::read(&archive).unwrap();
    let error = |bytes: &[u8]| check_stays_inside(bytes).unwrap_err();
    assert!(error(&bytes[..1024]).ends_with("it ends too early"));
    assert!(error(&bytes[..700]).ends_with("it ends too early"));
    let mut broken = bytes.clone();
    broken[0] ^= 1;
    assert!(error(&broken).ends_with("a header's checksum is wrong"));
    // No end is an end, as for other readers.
    check_stays_inside(&bytes[..bytes.len() - 1024]).unwrap();
    check_stays_inside(b"").unwrap();
}

/// Every file that ever broke something, and some that might.
#[test]
fn the_corpus_is_answered() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/archive");
    let mut count = 0;
    for entry in fs::read_dir(&directory).expect("the corpus is part of the repository") {
        let _ = check_stays_inside(&fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0);
}

/// An archive with one of everything but big holes.
fn seed() -> Vec<u8> {
    let place = place(&[]);
    let archive = place.path().join("archive");
    let extents = Some(vec![super::super::entry::Extent {
        offset: 4096,
        length: 0,
    }]);
    let long = "l".repeat(150);
    archive_of(
        &[
            ("d", Kind::Directory),
            ("d/f", FILE),
            ("d/h", Kind::HardLink(b"d/f".to_vec())),
            ("s", link("d")),
            ("s/g", FILE),
            (&long, Kind::Fifo),
            (
                "holes",
                Kind::File {
                    size: 4096,
                    extents: extents.clone(),
                },
            ),
        ],
        &archive,
    );
    let mut bytes = fs::read(&archive).unwrap();
    bytes.truncate(bytes.len() - 1024);
    let mut entry = Entry::empty_file(b"sparse".to_vec());
    entry.kind = Kind::File {
        size: 4096,
        extents,
    };
    entry.modified = (1, 1);
    entry.attributes.push((b"user.a".to_vec(), b"b".to_vec()));
    entry.encode(&mut bytes);
    bytes.extend([0; 1024]);
    bytes
}

/// Sums a header again that was changed, so that what is behind the check is reached.
fn mend(bytes: &mut [u8], header: usize) {
    let Some(block) = bytes.get_mut(header * 512..header * 512 + 512) else {
        return;
    };
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Reads an archive without unpacking it.
fn read_through(bytes: &[u8]) {
    let file = rustix::fs::memfd_create("archive", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::io::pwrite(&file, bytes, 0).unwrap();
    let mut archive = Archive::new(Input::new(file));
    while let Ok(Some(entry)) = archive.next() {
        let mut again = Vec::new();
        entry.encode(&mut again);
        assert_eq!(again.len() % 512, 0);
    }
}

/// Blocks of an archive, places in them, and what is put there.
fn changes() -> impl Strategy<Value = Vec<(usize, usize, u8)>> {
    let byte = prop_oneof![
        any::<u8>(),
        Just(b'/'),
        Just(b'.'),
        Just(b'7'),
        Just(0),
        Just(0xff),
        Just(b'S'),
        Just(b'x')
    ];
    // Where a header has its numbers and its type, more often.
    let place = prop_oneof![0..512_usize, 100..160_usize, 380..512_usize];
    proptest::collection::vec((0..20_usize, place, byte), 1..8)
}

fn changed(mut bytes: Vec<u8>, changes: Vec<(usize, usize, u8)>) -> Vec<u8> {
    for (block, at, byte) in changes {
        if let Some(place) = bytes.get_mut(block * 512 + at) {
            *place = byte;
        }
        mend(&mut bytes, block);
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_near_miss_is_read(changes in changes()) {
        static SEED: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        read_through(&changed(SEED.get_or_init(seed).clone(), changes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = check_stays_inside(&bytes);
    }

    #[test]
    fn any_near_miss_is_answered(changes in changes()) {
        let _ = check_stays_inside(&changed(seed(), changes));
    }
}
