//! Programs that are written by hand, the corpus, and changes of both.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::acts::{self, Act};
use super::mutate::Random;
use super::play;
use super::surface::{self, BALLOON, BLOCK, ENTROPY, FS, NET, Surface, VSOCK};

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/guest"))
}

fn corpus() -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder())
        .expect("tests/corpus/guest")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let read = |path: &PathBuf| std::fs::read(path).expect("a program");
    paths.iter().map(read).collect()
}

/// Programs that a sane driver could have written, one for each device: where changes begin.
fn seeds() -> Vec<Vec<u8>> {
    let start = |slot| acts::start(slot, 0xff);
    let mut block = start(BLOCK);
    for kind in [0, 1, 4, 8, 11, 13, 99] {
        block.extend(acts::disk_request(kind, 8, 4096));
    }
    let mut net = start(NET);
    net.extend(acts::chain(
        NET,
        0,
        &[(0, 0x1000, true), (0x100, 0x3000, true)],
    ));
    net.extend(acts::frame(60));
    net.extend(acts::frame(9000));
    net.extend(acts::chain(NET, 1, &[(0, 12, false), (1, 60, false)]));
    let mut vsock = start(VSOCK);
    for buffer in 0..8u16 {
        let at = 0x200 + buffer * 0x20;
        vsock.extend(acts::chain(VSOCK, 0, &[(at, 0x200, true)]));
    }
    // Request, data, credit, a host that answers and dials, half a close, a reset.
    for (op, len) in [(1, 0), (5, 100), (6, 0), (7, 0)] {
        vsock.extend(acts::packet(op, len));
        vsock.extend(acts::host(VSOCK, op));
    }
    vsock.extend(acts::packet(2, 0));
    vsock.extend(acts::packet(4, 0));
    vsock.extend(acts::packet(3, 0));
    let mut entropy = start(ENTROPY);
    entropy.extend(acts::chain(ENTROPY, 0, &[(0, 64, true)]));
    let mut balloon = start(BALLOON);
    balloon.extend(acts::data(
        0,
        &[0x40, 0, 0, 0, 0x41, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
    ));
    balloon.extend(acts::chain(BALLOON, 0, &[(0, 12, false)]));
    balloon.extend(acts::chain(BALLOON, 2, &[(0x100, 0x1000, true)]));
    balloon.extend(acts::host(BALLOON, 3));
    let mut ports = Vec::new();
    for byte in b"AT\r\n" {
        ports.extend(acts::port_out(0, *byte));
        ports.extend(acts::port_out(8, *byte));
    }
    ports.extend(acts::host(surface::SERIAL, 9));
    vec![block, net, vsock, entropy, balloon, ports, folders()]
}

/// What a guest does in shared folders: 1 is their list, 2 the one that it may write in, 3 the other, 4 and on what it found.
fn folders() -> Vec<u8> {
    let mut folders = acts::start(0xff, 0xff);
    for (opcode, node, words, names) in [
        (
            26,
            0,
            &[7 | 38 << 32, 1 << 20 | 0xffff_ffff << 32][..],
            &[][..],
        ),
        (1, 1, &[], &[&b"rw"[..]]),
        (1, 1, &[], &[b"ro"]),
        (1, 2, &[], &[b"a"]),
        (1, 2, &[], &[b".."]),
        (3, 4, &[0, 0], &[]),
        // A file: made, written (by the next), read, cut, closed.
        (35, 2, &[2 | 0o644 << 32, 0], &[b"b"]),
        (
            16,
            5,
            &[1, 0, 8, 0, 0, u64::from_le_bytes(*b"contents")],
            &[],
        ),
        (15, 5, &[1, 0, 64, 0, 0], &[]),
        (4, 5, &[8, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0], &[]),
        (18, 5, &[1, 0, 0], &[]),
        // The one that is read-only, by all ways.
        (35, 3, &[2 | 0o644 << 32, 0], &[b"b"]),
        (10, 3, &[], &[b"a"]),
        (45, 3, &[2, 0], &[b"a", b"z"]),
        (9, 2, &[0o755], &[b"new"]),
        (6, 2, &[], &[b"link", b"../key"]),
        (1, 2, &[], &[b"link"]),
        (5, 7, &[], &[]),
        (14, 7, &[0], &[]),
        (27, 2, &[0], &[]),
        (28, 2, &[2, 0, 4096, 0, 0], &[]),
        (29, 2, &[2, 0, 0], &[]),
        (21, 5, &[4], &[b"user.x", b"abc"]),
        (22, 5, &[64], &[b"user.x"]),
        (43, 5, &[1, 0, 4096, 0], &[]),
        (45, 2, &[2, 0], &[b"b", b"c"]),
        (11, 2, &[], &[b"new"]),
        (2, 5, &[1], &[]),
        (17, 1, &[], &[]),
        (38, 0, &[], &[]),
    ] {
        folders.extend(acts::fuse(opcode, node, words, names));
    }
    folders
}

#[test]
fn seeds_reach_what_they_are_for() {
    for seed in seeds() {
        let reached = play(&seed);
        assert!(reached.iter().any(|&bucket| bucket > 0), "{seed:?}");
    }
    // The sane part of a driver does its work: nothing is a violation, and the request is answered.
    let mut surface = Surface::new();
    let program = [acts::start(BLOCK, 0xff), acts::disk_request(0, 8, 4096)].concat();
    let mut rest = &program[..];
    while let Some(act) = Act::read(&mut rest) {
        surface.act(&act);
    }
    assert_eq!(surface.counters(BLOCK), (1, 0, 0));
    // One at a time in a thread: they share its ground.
    drop(surface);
    let mut surface = Surface::new();
    let program = folders();
    let mut rest = &program[..];
    while let Some(act) = Act::read(&mut rest) {
        surface.act(&act);
    }
    // Only the name that is none is against the protocol.
    assert_eq!(surface.counters(FS), (30, 1, 0));
}

#[test]
fn corpus_of_programs() {
    let programs = corpus();
    assert!(programs.len() >= 20, "{} programs", programs.len());
    for program in programs {
        play(&program);
    }
}

/// The same changes in each run, unless `GOURD_FUZZ_SECONDS` wants others.
#[test]
fn changed_programs() {
    let seconds = std::env::var("GOURD_FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let keep = std::env::var_os("GOURD_FUZZ_KEEP").map(PathBuf::from);
    let begin = Instant::now();
    let mut random = match seconds {
        Some(_) => Random::new(u64::from(std::process::id()) << 20 | 1),
        None => Random::new(0x676f_7572_6421),
    };
    let more = |count: u32| match seconds {
        Some(seconds) => begin.elapsed() < Duration::from_secs(seconds),
        None => count < 600,
    };
    let mut pool = [seeds(), corpus()].concat();
    let mut known: BTreeSet<(usize, u8)> = BTreeSet::new();
    for program in &pool {
        known.extend(play(program).into_iter().enumerate());
    }
    let (mut count, mut new) = (0, 0);
    while more(count) {
        let program = random.change(&pool);
        let before = known.len();
        known.extend(play(&program).into_iter().enumerate());
        if known.len() > before {
            new += 1;
            if let Some(folder) = &keep {
                let name = format!("{}-{count}", std::process::id());
                std::fs::write(folder.join(name), &program).expect("keep a program");
            }
            pool.push(program);
        }
        count += 1;
    }
    println!(
        "{count} programs in {:.1} s, {new} reached something new, {} things in all",
        begin.elapsed().as_secs_f64(),
        known.len()
    );
}
