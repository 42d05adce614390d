//! Several files: what the limits keep, crashes between any two steps, readers beside a writer.

use std::time::Duration;

use super::*;
use crate::logs::files::numbered;

/// From 10 on, 15 bytes each: `NN stdout 2\nNN\n`.
fn numbers(range: std::ops::Range<u64>) -> Vec<Record> {
    range
        .map(|number| record(Stream::Stdout, number, format!("{number:02}").as_bytes()))
        .collect()
}

fn append(path: &Path, limits: LogLimits, records: &[Record]) {
    let mut writer = Writer::open(path, limits).unwrap();
    for record in records {
        writer
            .append(record.stream, &record.bytes, record.time_ns)
            .unwrap();
    }
}

fn times(reader: Reader) -> Vec<u64> {
    reader.map(|record| record.unwrap().time_ns).collect()
}

fn names(path: &Path) -> Vec<String> {
    crate::file::names(path.parent().unwrap()).unwrap()
}

#[test]
fn limits_are_kept() {
    // Three records are a file: 10–12, 13–15, 16–18, 19.
    for (files, first) in [(1, 19), (2, 16), (3, 13), (4, 10), (5, 10)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("output.log");
        let limits = LogLimits { size: 50, files };
        append(&path, limits, &numbers(10..20));
        // Opened again, it goes on where it was.
        append(&path, limits, &[]);
        let read = times(Reader::open(&path, Start::Oldest).unwrap());
        assert_eq!(read, (first..20).collect::<Vec<_>>(), "{files}");
        assert_eq!(names(&path).len(), files.min(4) as usize);
        for name in names(&path) {
            let length = std::fs::metadata(dir.path().join(&name)).unwrap().len();
            assert!(length <= 50, "{name}: {length}");
        }
    }
}

#[test]
fn a_frame_larger_than_a_file_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("output.log");
    let records: Vec<_> = (0..3)
        .map(|number| record(Stream::Stderr, number, &[b'x'; 100]))
        .collect();
    append(&path, LogLimits { size: 10, files: 5 }, &records);
    assert_eq!(read(&path), records);
    assert_eq!(names(&path).len(), 3);
}

#[test]
fn a_lower_limit_removes_what_is_too_much() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("output.log");
    append(&path, LogLimits { size: 20, files: 9 }, &numbers(10..18));
    assert_eq!(names(&path).len(), 8);
    append(&path, LogLimits { size: 20, files: 3 }, &[]);
    assert_eq!(names(&path), ["output.log", "output.log.1", "output.log.2"]);
    assert_eq!(
        times(Reader::open(&path, Start::Oldest).unwrap()),
        [15, 16, 17]
    );
}

/// A crash after any number of a rotation's renames, and after a second one's; then a writer that goes on. Nothing is lost
/// that the limits keep, and all comes in order; for a reader that comes now, and one that was half-way through.
#[test]
fn a_crash_between_any_two_steps_loses_nothing() {
    const FILES: u32 = 5;
    let limits = LogLimits {
        size: 20,
        files: FILES,
    };
    for there in 1..=FILES {
        for steps in 0..=there {
            for read_before in 0..=there {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("output.log");
                let end = 10 + u64::from(there);
                append(&path, limits, &numbers(10..end));
                let mut reader = Reader::open(&path, Start::Oldest).unwrap();
                let mut seen: Vec<u64> = (0..read_before)
                    .map(|_| reader.next_record().unwrap().unwrap().time_ns)
                    .collect();
                // As the writer would: from the highest number that may move.
                let top = there.min(FILES - 1);
                for number in (0..top).rev().take(steps as usize) {
                    std::fs::rename(numbered(&path, number), numbered(&path, number + 1)).unwrap();
                }
                let lost = u64::from(there == FILES && steps > 0);
                let all: Vec<u64> = (10 + lost..end).collect();
                let case = format!("{there} files, {steps} steps, {read_before} read");
                assert_eq!(
                    times(Reader::open(&path, Start::Oldest).unwrap()),
                    all,
                    "{case}"
                );
                append(&path, limits, &numbers(end..end + 2));
                // At most two files had to go for the two new ones.
                let kept = times(Reader::open(&path, Start::Oldest).unwrap());
                let first = kept[0];
                assert_eq!(kept, (first..end + 2).collect::<Vec<_>>(), "{case}");
                assert!(
                    kept.len() as u64 >= u64::from(FILES).min(all.len() as u64 + 2),
                    "{case}"
                );
                seen.extend(std::iter::from_fn(|| {
                    reader.next_record().unwrap().map(|record| record.time_ns)
                }));
                assert!(
                    seen.windows(2).all(|pair| pair[0] < pair[1]),
                    "{case}: {seen:?}"
                );
                assert_eq!(seen.last(), Some(&(end + 1)), "{case}");
                assert!(
                    kept.iter()
                        .all(|time| seen.contains(time) || *time < seen[0]),
                    "{case}"
                );
            }
        }
    }
}

#[test]
fn the_start_leaves_files_out_but_no_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("output.log");
    let lines: Vec<_> = (10..40)
        .map(|number| record(Stream::Stdout, number, b"x\n"))
        .collect();
    append(
        &path,
        LogLimits {
            size: 60,
            files: 99,
        },
        &lines,
    );
    let from = |start| times(Reader::open(&path, start).unwrap());
    assert_eq!(from(Start::Oldest), (10..40).collect::<Vec<_>>());
    for lines in 0..40 {
        let read = from(Start::Tail(lines));
        assert_eq!(read.last(), Some(&39));
        assert!(read.len() >= lines.min(30), "{lines}: {read:?}");
        assert!(read.len() <= lines + 10, "{lines}: {read:?}");
    }
    // Older files are left out by their time, the newest of these not.
    let all = names(&path).len() as u32;
    let now = crate::now_ns();
    for number in 4..all {
        let file = std::fs::File::options()
            .append(true)
            .open(numbered(&path, number))
            .unwrap();
        let then = std::time::SystemTime::now() - Duration::from_secs(60);
        file.set_modified(then).unwrap();
    }
    let read = from(Start::Since(now - 30_000_000_000));
    let older = (30 - read.len()) as u64;
    assert_eq!(read, (10 + older..40).collect::<Vec<_>>());
    assert!(older > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A reader beside a writer, in any order of steps, over any number of rotations: with room for all files it sees all;
    /// with less it sees an ordered part that ends with the end.
    #[test]
    fn readers_see_each_record_once(
        steps in prop::collection::vec((any::<bool>(), 1..6_usize), 1..40),
        size in 1..120_u64,
        few in 1..4_u32,
    ) {
        for files in [few, 1000] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("output.log");
            let mut writer = Writer::open(&path, LogLimits { size, files }).unwrap();
            let mut reader = Reader::open(&path, Start::Oldest).unwrap();
            let mut written = 0;
            let mut seen = Vec::new();
            for (writes, count) in &steps {
                for _ in 0..*count {
                    if *writes {
                        writer.append(Stream::Stdout, &vec![b'\n'; written % 7], written as u64).unwrap();
                        written += 1;
                    } else {
                        seen.extend(reader.next_record().unwrap());
                    }
                }
            }
            seen.extend(std::iter::from_fn(|| reader.next_record().unwrap()));
            let times: Vec<u64> = seen.iter().map(|record| record.time_ns).collect();
            if files == 1000 {
                prop_assert_eq!(times, (0..written as u64).collect::<Vec<_>>());
            } else {
                prop_assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", times);
                prop_assert_eq!(times.last().copied(), (written as u64).checked_sub(1));
            }
        }
    }
}

/// In two threads, as fast as they can.
#[test]
fn a_reader_keeps_up_with_a_rotating_writer() {
    const COUNT: u64 = 3000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("output.log");
    let limits = LogLimits {
        size: 1000,
        files: 200,
    };
    let writer = {
        let path = path.clone();
        std::thread::spawn(move || {
            let mut writer = Writer::open(&path, limits).unwrap();
            for number in 0..COUNT {
                writer
                    .append(Stream::Stdout, b"a line of it\n", number)
                    .unwrap();
            }
        })
    };
    let mut reader = Reader::open(&path, Start::Oldest).unwrap();
    let mut next = 0;
    while next < COUNT {
        match reader.next_record().unwrap() {
            Some(record) => {
                assert_eq!(record.time_ns, next);
                next += 1;
            }
            None => std::thread::yield_now(),
        }
    }
    writer.join().unwrap();
}
