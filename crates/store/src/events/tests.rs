use super::*;
use crate::TimeRange;
use proptest::prelude::*;

fn event(number: u64) -> Event {
    Event {
        time_ns: number,
        kind: Kind::Container,
        action: "start".to_owned(),
        id: "ab".repeat(32),
        attributes: BTreeMap::from([("name".to_owned(), format!("n{number}"))]),
    }
}

fn root() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    (dir, root)
}

fn times(root: &Root, range: TimeRange) -> Vec<u64> {
    let events = Events::open(root, range).unwrap();
    events.map(|event| event.unwrap().time_ns).collect()
}

#[test]
fn the_format_is_as_written_down() {
    let (_dir, root) = root();
    let event = Event {
        kind: Kind::Image,
        action: "pull".to_owned(),
        id: "busybox".to_owned(),
        attributes: BTreeMap::new(),
        time_ns: 17,
    };
    append(&root, &event.clone().with("name", "busybox")).unwrap();
    assert_eq!(
        std::fs::read_to_string(root.events().join(NAME)).unwrap(),
        "{\"time_ns\":17,\"kind\":\"image\",\"action\":\"pull\",\"id\":\"busybox\",\"attributes\":{\"name\":\"busybox\"}}\n"
    );
}

#[test]
fn a_range_is_chosen() {
    let (_dir, root) = root();
    assert!(times(&root, TimeRange::default()).is_empty());
    for number in 1..=5 {
        append(&root, &event(number)).unwrap();
    }
    let range = |since_ns, until_ns| TimeRange { since_ns, until_ns };
    assert_eq!(times(&root, range(None, None)), [1, 2, 3, 4, 5]);
    assert_eq!(times(&root, range(Some(2), Some(4))), [2, 3, 4]);
    assert!(times(&root, range(Some(6), None)).is_empty());
}

#[test]
fn torn_and_hostile_lines_are_skipped() {
    let (_dir, root) = root();
    append(&root, &event(1)).unwrap();
    let path = root.events().join(NAME);
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    let long = vec![b'x'; (3 << 20) + 17];
    for piece in [
        &b"not json\n"[..],
        b"{\"time_ns\":2,\"kind\":\"starship\",\"action\":\"x\",\"id\":\"\"}\n",
        b"\xff\xfe\0\n\n",
        &long,
        b"\n{\"time_ns\":3,\"ki",
    ] {
        file.write_all(piece).unwrap();
    }
    append(&root, &event(4)).unwrap();
    assert_eq!(times(&root, TimeRange::default()), [1, 4]);
}

#[test]
fn rotation_keeps_one_old_file() {
    let (_dir, root) = root();
    for number in 0..40 {
        append_to(&root, &event(number), 1000).unwrap();
    }
    let read = times(&root, TimeRange::default());
    assert_eq!(read.last(), Some(&39));
    assert!(
        read.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "{read:?}"
    );
    let dir = crate::file::names(&root.events()).unwrap();
    assert_eq!(dir, [NAME, OLD, "lock"]);
}

/// Writers in several threads (each with its own open file description, so its own flock) rotate all the time; who follows
/// sees each event once, and each writer's in order.
#[test]
fn followers_lose_nothing_while_writers_rotate() {
    const WRITERS: u64 = 4;
    const EACH: u64 = 250;
    // Two rotations in all: a reader that is three files behind has lost one.
    const FULL: u64 = 70_000;
    let (_dir, root) = root();
    append_to(&root, &event(u64::MAX), FULL).unwrap();
    let mut follow = Follow::open(&root, TimeRange::default(), true).unwrap();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let root = root.clone();
            std::thread::spawn(move || {
                for number in 0..EACH {
                    append_to(&root, &event(writer * 1000 + number), FULL).unwrap();
                }
            })
        })
        .collect();
    let mut next = [0; WRITERS as usize];
    let mut seen = 0;
    while seen < WRITERS * EACH {
        let mut polled = [rustix::event::PollFd::new(
            &follow,
            rustix::event::PollFlags::IN,
        )];
        let limit = rustix::event::Timespec {
            tv_sec: 20,
            tv_nsec: 0,
        };
        assert_eq!(
            rustix::event::poll(&mut polled, Some(&limit)).unwrap(),
            1,
            "{seen} seen"
        );
        follow.drain().unwrap();
        while let Some(event) = follow.next_event().unwrap() {
            let writer = usize::try_from(event.time_ns / 1000).unwrap();
            assert_eq!(event.time_ns % 1000, next[writer]);
            next[writer] += 1;
            seen += 1;
        }
    }
    for writer in writers {
        writer.join().unwrap();
    }
    assert!(follow.next_event().unwrap().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (_dir, root) = root();
        append(&root, &event(1)).unwrap();
        let path = root.events().join(NAME);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&bytes).unwrap();
        append(&root, &event(2)).unwrap();
        prop_assert_eq!(times(&root, TimeRange::default()), [1, 2]);
    }
}
