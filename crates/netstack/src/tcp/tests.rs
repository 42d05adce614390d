//! When acknowledgements are due.

use super::*;

const NOW: Duration = Duration::from_secs(1);

/// A connection that a guest dialled, and what it expects next of both.
fn open() -> Tcp {
    let syn = Header {
        sequence: 99,
        flags: flag::SYN,
        window: 9000,
        mss: Some(1460),
        window_scale: Some(7),
        selective: true,
        ..Header::default()
    };
    let mut tcp = Tcp::held(&syn, 1460, 500, NOW);
    tcp.accept();
    emit(&mut tcp);
    tcp.on_segment(&header(100, flag::ACK), &[], NOW);
    assert!(tcp.is_open() && !tcp.wants_to_speak());
    tcp
}

fn header(sequence: u32, flags: u8) -> Header {
    Header {
        sequence,
        acknowledgement: 501,
        flags,
        window: 9000,
        ..Header::default()
    }
}

/// Sends what is due.
fn emit(tcp: &mut Tcp) -> Header {
    assert!(tcp.wants_to_speak());
    let mut bytes = Vec::new();
    let segment = tcp.emit(&mut bytes, (1, 2));
    tcp.sent(segment, NOW);
    parse(&bytes).expect("a header").0
}

#[test]
fn one_segment_waits_for_a_moment() {
    let mut tcp = open();
    tcp.on_segment(&header(100, flag::ACK), &[7; 1000], NOW);
    assert!(!tcp.wants_to_speak());
    let deadline = NOW + ACKNOWLEDGEMENT_DELAY;
    assert_eq!(tcp.deadline(), Some(deadline));
    tcp.on_time(deadline);
    assert_eq!(emit(&mut tcp).acknowledgement, 1100);
    assert_eq!((tcp.wants_to_speak(), tcp.deadline()), (false, None));
}

#[test]
fn two_segments_do_not() {
    let mut tcp = open();
    tcp.on_segment(&header(100, flag::ACK), &[7; 1000], NOW);
    tcp.on_segment(&header(1100, flag::ACK), &[7; 1000], NOW);
    assert_eq!(emit(&mut tcp).acknowledgement, 2100);
    // A small one behind a large one is not a second one.
    tcp.on_segment(&header(2100, flag::ACK), &[7; 10], NOW);
    assert!(!tcp.wants_to_speak());
}

#[test]
fn data_takes_it_along() {
    let mut tcp = open();
    tcp.on_segment(&header(100, flag::ACK), b"question", NOW);
    tcp.write(b"answer", NOW);
    assert_eq!(emit(&mut tcp).acknowledgement, 108);
    // What is left is the time-out of what was sent.
    assert_eq!(tcp.deadline(), Some(NOW + FIRST_TIMEOUT));
}

/// The guest has to know at once that something is missing, that it sends again what is there, and that its end was heard.
#[test]
fn what_is_odd_is_answered_at_once() {
    for (sequence, flags, expect) in [
        (2000, flag::ACK, 100),
        (100, flag::ACK | flag::FIN, 111),
        (90, flag::ACK, 100),
    ] {
        let mut tcp = open();
        tcp.on_segment(&header(sequence, flags), &[7; 10], NOW);
        assert_eq!(emit(&mut tcp).acknowledgement, expect, "{sequence} {flags}");
    }
}

/// A segment that found no room on the link is made again.
#[test]
fn what_was_not_sent_is_due_still() {
    let mut tcp = open();
    tcp.write(b"hello", NOW);
    let mut bytes = Vec::new();
    let segment = tcp.emit(&mut bytes, (1, 2));
    assert_eq!(tcp.payload(segment).0, b"hello");
    let first = parse(&bytes).expect("a header").0;
    assert_eq!(emit(&mut tcp), first);
    assert!(!tcp.wants_to_speak());
}

fn blocks(list: &[(u32, u32)]) -> Blocks {
    let mut blocks = Blocks::default();
    list.iter().for_each(|block| blocks.push(*block));
    blocks
}

#[test]
fn what_comes_before_its_turn_is_kept_and_told() {
    let mut tcp = open();
    // The end of all comes first, and what comes behind it is nothing.
    for (sequence, flags, expect) in [
        (140, flag::ACK | flag::FIN, &[(140, 150)][..]),
        (110, flag::ACK, &[(110, 120), (140, 150)]),
        (145, flag::ACK, &[(110, 120), (140, 150)]),
    ] {
        tcp.on_segment(&header(sequence, flags), &[sequence as u8; 10], NOW);
        let said = emit(&mut tcp);
        assert_eq!((said.acknowledgement, said.blocks), (100, blocks(expect)));
    }
    tcp.on_segment(&header(100, flag::ACK), &[100; 10], NOW);
    let said = emit(&mut tcp);
    assert_eq!(
        (said.acknowledgement, said.blocks),
        (120, blocks(&[(140, 150)]))
    );
    // Beside what it owes it says what it has to say.
    tcp.write(b"data", NOW);
    tcp.on_segment(&header(115, flag::ACK), &[115; 25], NOW);
    let said = emit(&mut tcp);
    assert_eq!((said.acknowledgement, said.blocks), (151, blocks(&[])));
    let (front, _) = tcp.input();
    let expect = [&[100; 10][..], &[110; 10], &[115; 20], &[140; 10]].concat();
    assert_eq!(front, expect);
    assert!(tcp.input_ended());
}

/// What is sent now: where it begins and how long it is.
fn sends(tcp: &mut Tcp) -> Vec<(u32, u32)> {
    let mut all = Vec::new();
    while tcp.wants_to_speak() {
        let mut bytes = Vec::new();
        let segment = tcp.emit(&mut bytes, (1, 2));
        tcp.sent(segment, NOW);
        let (header, _) = parse(&bytes).expect("a header");
        all.push((header.sequence, segment.count));
    }
    all
}

/// Ten segments of 100 bytes were sent, of which the guest has some.
fn with_holes(theirs: &[(u32, u32)]) -> Tcp {
    let mut tcp = open();
    tcp.mss = 100;
    tcp.write(&[7; 1000], NOW);
    assert_eq!(sends(&mut tcp).len(), 10);
    let said = Header {
        blocks: blocks(theirs),
        ..header(100, flag::ACK)
    };
    tcp.on_segment(&said, &[], NOW);
    tcp
}

#[test]
fn only_what_the_guest_lacks_is_sent_again() {
    // Not enough to say that anything is lost.
    assert_eq!(sends(&mut with_holes(&[(601, 801)])), []);
    let holes = [(501, 100), (801, 100)];
    let has = [(601, 801), (901, 1401)];
    let mut tcp = with_holes(&has);
    assert_eq!(sends(&mut tcp), holes);
    // The first of them is lost again: nothing but time says so.
    let soon = NOW + RECOVERY_TIMEOUT;
    assert_eq!(tcp.deadline(), Some(soon));
    tcp.on_time(soon);
    assert_eq!(sends(&mut tcp), holes);
    // Then it may be anything.
    let late = NOW + FIRST_TIMEOUT;
    assert_eq!(tcp.deadline(), Some(late));
    tcp.on_time(late);
    assert_eq!(sends(&mut tcp).len(), 10);
}

#[test]
fn what_is_sent_behind_what_is_sent_again_says_that_this_was_lost_again() {
    let mut tcp = with_holes(&[(601, 1501)]);
    tcp.write(&[8; 300], NOW);
    assert_eq!(
        sends(&mut tcp),
        [(501, 100), (1501, 100), (1601, 100), (1701, 100)]
    );
    let said = Header {
        blocks: blocks(&[(601, 1801)]),
        ..header(100, flag::ACK)
    };
    tcp.on_segment(&said, &[], NOW);
    assert_eq!(sends(&mut tcp), [(501, 100)]);
}

/// A guest that says nonsense.
#[test]
fn blocks_of_what_was_never_sent_are_none() {
    for block in [
        (400, 900),
        (900, 700),
        (700, 5000),
        (501, 900),
        (3_000_000_000, 900),
    ] {
        assert_eq!(sends(&mut with_holes(&[block])), [], "{block:?}");
    }
}

/// How long a connection that hears nothing lasts, and until when it would be looked for at another address.
fn lasts(mut tcp: Tcp) -> (Duration, Option<Duration>) {
    let (mut now, mut ignored) = (NOW, None);
    loop {
        while tcp.wants_to_speak() {
            let segment = tcp.emit(&mut Vec::new(), (1, 2));
            tcp.sent(segment, now);
        }
        now = tcp.deadline().expect("it waits");
        if tcp.on_time(now) {
            return (now - NOW, ignored);
        }
        if tcp.is_ignored() {
            ignored.get_or_insert(now - NOW);
        }
    }
}

/// RFC 9293, 3.8.3: three minutes for a SYN; for data as long as Linux's.
#[test]
fn a_guest_that_was_paused_is_waited_for() {
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let (greeting, ignored) = lasts(Tcp::dial(1460, 500, NOW));
    assert!(
        greeting >= minutes(3) && greeting < minutes(4),
        "{greeting:?}"
    );
    assert!(
        ignored.is_some_and(|ignored| ignored < Duration::from_secs(20)),
        "{ignored:?}"
    );
    let mut tcp = open();
    tcp.write(b"data", NOW);
    let (data, _) = lasts(tcp);
    assert!(data >= minutes(15) && data < minutes(16), "{data:?}");
}

/// RFC 9293, 3.8.4: with a byte of garbage or without.
#[test]
fn a_keep_alive_is_heard() {
    let later = NOW + Duration::from_secs(3600);
    let hears = |said: &Header, payload: &[u8]| {
        let mut tcp = open();
        tcp.on_segment(said, payload, later);
        assert_eq!(emit(&mut tcp).acknowledgement, 100);
        tcp.heard() == later
    };
    let keep_alive = header(99, flag::ACK);
    assert!(hears(&keep_alive, &[]) && hears(&keep_alive, &[0]));
    assert!(!hears(&header(98, flag::ACK), &[]));
    assert!(!hears(&header(99, flag::PSH), &[]));
    for acknowledgement in [500, 502] {
        let other = Header {
            acknowledgement,
            ..keep_alive
        };
        assert!(!hears(&other, &[]), "{acknowledgement}");
    }
}
