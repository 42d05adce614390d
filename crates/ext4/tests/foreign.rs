//! File systems that mke2fs made, read by this crate's reader.

mod oracle;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;

use ext4::read::Reader;
use tempfile::{NamedTempFile, tempdir};

#[test]
fn the_reader_reads_what_mke2fs_makes_with_every_block_size() {
    let source = tempdir().unwrap();
    let contents: Vec<u8> = (0..700_000u32).map(|i| (i / 3) as u8).collect();
    fs::write(source.path().join("file"), &contents).unwrap();
    symlink("t".repeat(200), source.path().join("link")).unwrap();
    fs::create_dir(source.path().join("many")).unwrap();
    for i in 0..2000 {
        fs::write(source.path().join(format!("many/{i}")), "").unwrap();
    }
    for (block_size, features) in [
        ("1024", "metadata_csum,64bit"),
        ("4096", "metadata_csum,metadata_csum_seed"),
        ("4096", "^metadata_csum,^64bit,^flex_bg"),
        ("65536", "metadata_csum"),
    ] {
        let image = NamedTempFile::new().unwrap();
        image.as_file().set_len(256 << 20).unwrap();
        let (from, to) = (
            source.path().to_str().unwrap(),
            image.path().to_str().unwrap(),
        );
        let args = [
            "-q", "-F", "-t", "ext4", "-b", block_size, "-O", features, "-d", from, to,
        ];
        let output = oracle::run("mke2fs", &args, "y\n");
        assert!(output.status.success(), "{output:?}");
        let reader = Reader::open(File::open(image.path()).unwrap()).unwrap();
        let inode = reader.lookup(b"/file").unwrap().unwrap();
        let mut found = Vec::new();
        reader
            .contents(&inode)
            .unwrap()
            .read_to_end(&mut found)
            .unwrap();
        assert!(found == contents, "{block_size} {features}");
        let link = reader.lookup(b"link").unwrap().unwrap();
        assert_eq!(reader.read_link(&link).unwrap(), "t".repeat(200).as_bytes());
        let many = reader.lookup(b"/many").unwrap().unwrap();
        assert_eq!(reader.read_dir(&many).unwrap().len(), 2002);
        for i in [0, 999, 1999] {
            let path = format!("/many/{i}");
            assert!(reader.lookup(path.as_bytes()).unwrap().is_some());
        }
    }
}
