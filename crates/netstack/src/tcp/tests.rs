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
