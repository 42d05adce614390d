use std::io::Write;
use std::path::Path;

use proptest::prelude::*;

use super::lines::LINE;
use super::*;
use crate::container::LogLimits;

mod rotation;

const ALL: LogLimits = LogLimits { size: 0, files: 1 };

fn record(stream: Stream, time_ns: u64, bytes: &[u8]) -> Record {
    Record {
        time_ns,
        stream,
        bytes: bytes.to_vec(),
    }
}

fn write(path: &Path, records: &[Record]) {
    let mut writer = Writer::open(path, ALL).unwrap();
    for record in records {
        writer
            .append(record.stream, &record.bytes, record.time_ns)
            .unwrap();
    }
}

fn read(path: &Path) -> Vec<Record> {
    Reader::open(path, Start::Oldest)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

fn any_record() -> impl Strategy<Value = Record> {
    let stream = prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)];
    let bytes = prop::collection::vec(any::<u8>(), 0..200);
    (stream, any::<u64>(), bytes).prop_map(|(stream, time_ns, bytes)| Record {
        time_ns,
        stream,
        bytes,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(
        records in prop::collection::vec(any_record(), 0..20),
        cut in 0..400_usize,
        more in any_record(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output.log");
        write(&path, &records);
        prop_assert_eq!(&read(&path), &records);
        // A crash tears the end off, anywhere.
        let length = std::fs::metadata(&path).unwrap().len();
        let kept = length.saturating_sub(cut as u64);
        std::fs::File::options().write(true).open(&path).unwrap().set_len(kept).unwrap();
        let whole = read(&path);
        prop_assert_eq!(&whole[..], &records[..whole.len()]);
        // The next writer goes on after the last whole frame.
        write(&path, std::slice::from_ref(&more));
        let mut expect = whole;
        expect.push(more);
        prop_assert_eq!(read(&path), expect);
    }

    #[test]
    fn any_bytes_are_an_error_or_records(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output.log");
        std::fs::write(&path, bytes).unwrap();
        let _ = Reader::open(&path, Start::Oldest).unwrap().collect::<Result<Vec<_>, _>>();
        let _ = Writer::open(&path, ALL);
    }

    #[test]
    fn lines_are_the_same_bytes(records in prop::collection::vec(any_record(), 0..20)) {
        let joined = |records: &[Record], stream| -> Vec<u8> {
            let of_it = records.iter().filter(|record| record.stream == stream);
            of_it.flat_map(|record| record.bytes.clone()).collect()
        };
        let lines: Vec<Record> =
            Lines::new(records.iter().cloned().map(Ok)).collect::<Result<_, _>>().unwrap();
        for stream in [Stream::Stdout, Stream::Stderr] {
            prop_assert_eq!(joined(&lines, stream), joined(&records, stream));
        }
        for line in &lines {
            let inner = &line.bytes[..line.bytes.len() - 1];
            prop_assert!(!inner.contains(&b'\n'));
        }
    }
}

#[test]
fn the_format_is_as_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("output.log");
    write(
        &path,
        &[
            record(Stream::Stdout, 17, b"hello\n"),
            record(Stream::Stderr, 18, b""),
        ],
    );
    assert_eq!(
        std::fs::read(&path).unwrap(),
        b"17 stdout 6\nhello\n\n18 stderr 0\n\n"
    );
    assert_eq!(read(&dir.path().join("absent")), []);
}

#[test]
fn what_is_no_frame_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("output.log");
    for bad in [
        "17 stdlog 1\nx\n",
        "17 stdout +1\nx\n",
        "17 stdout 1 \nx\n",
        "-7 stdout 1\nx\n",
        "17 stdout 99999999999\n",
        "no newline for a very long time, longer than a header",
        "17 stdout 1\nxy",
    ] {
        let _ = std::fs::remove_file(dir.path().join("output.log.1"));
        std::fs::write(&path, format!("5 stderr 1\na\n{bad}")).unwrap();
        let mut reader = Reader::open(&path, Start::Oldest).unwrap();
        assert!(reader.next_record().unwrap().is_some());
        let error = reader.next_record().unwrap_err().to_string();
        assert!(error.ends_with("is corrupt at byte 13"), "{bad:?}: {error}");
        // It does not keep a container from starting: what is there is put aside.
        let limits = LogLimits { size: 0, files: 2 };
        let mut writer = Writer::open(&path, limits).unwrap();
        writer.append(Stream::Stdout, b"new", 7).unwrap();
        assert_eq!(
            read(&path),
            [
                record(Stream::Stderr, 5, b"a"),
                record(Stream::Stdout, 7, b"new"),
            ],
            "{bad:?}"
        );
    }
}

#[test]
fn lines_keep_streams_apart() {
    let records = [
        record(Stream::Stdout, 1, b"a"),
        record(Stream::Stderr, 2, b"x\ny"),
        record(Stream::Stdout, 3, b"b\nc\n"),
        record(Stream::Stdout, 4, &[b'z'; LINE + 1]),
    ];
    let lines: Vec<_> = Lines::new(records.into_iter().map(Ok))
        .map(|line| line.map(|line| (line.time_ns, line.bytes.len())).unwrap())
        .collect();
    assert_eq!(lines, [(2, 2), (1, 3), (3, 2), (4, LINE), (4, 1), (2, 1)]);
}

/// A frame that is read in two halves, with bytes of the guest's in it that look like frames.
#[test]
fn a_frame_that_comes_in_halves_is_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("output.log");
    let inner = b"9 stderr 4\nfake\n1 stdout 1\nx\n";
    let records = [
        record(Stream::Stdout, 1, b"one"),
        record(Stream::Stdout, 2, inner),
        record(Stream::Stderr, 3, b"three"),
    ];
    write(&path, &records);
    let whole = std::fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let mut reader = Reader::open(&path, Start::Oldest).unwrap();
        let mut read = Vec::new();
        let mut go_on = || read.extend(std::iter::from_fn(|| reader.next_record().unwrap()));
        go_on();
        go_on();
        let mut file = std::fs::File::options().append(true).open(&path).unwrap();
        file.write_all(&whole[cut..]).unwrap();
        go_on();
        assert_eq!(read, records, "cut at {cut}");
    }
}

#[test]
fn unended_lines_wait_for_their_end() {
    let mut splitter = Splitter::default();
    splitter.take(&record(Stream::Stdout, 1, b"a\nb"));
    assert_eq!(splitter.line(), Some(record(Stream::Stdout, 1, b"a\n")));
    assert_eq!(splitter.line(), None);
    splitter.take(&record(Stream::Stderr, 2, b"e"));
    splitter.take(&record(Stream::Stdout, 3, b"c\nd"));
    assert_eq!(splitter.line(), Some(record(Stream::Stdout, 1, b"bc\n")));
    assert_eq!(splitter.line(), None);
    assert_eq!(splitter.rest(), Some(record(Stream::Stdout, 3, b"d")));
    assert_eq!(splitter.rest(), Some(record(Stream::Stderr, 2, b"e")));
    assert_eq!(splitter.rest(), None);
}
