//! Stdio: whole, apart, in both directions at once, to the last byte.

use std::io::{Read, Write};

use crate::harness::{Home, finish, names, tool};

const MANY: usize = 200_000_000;

/// Bytes that don't repeat soon, from a fixed seed (xorshift64*).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The oracle is coreutils' sha256sum.
fn sha256(home: &Home, bytes: &[u8]) -> String {
    let path = home.path("sum");
    std::fs::File::create(&path)
        .and_then(|mut file| file.write_all(bytes))
        .expect("a file");
    let text = tool("sha256sum", &[&path]).ok().text();
    text.split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn stdin_of_200_mb_arrives_whole() {
    let home = Home::new();
    let sent = noise(MANY);
    let out = home
        .gourd_with(&["run", "--rm", "-i", "busybox", "sha256sum"], &sent)
        .ok();
    assert_eq!(out.text(), format!("{}  -", sha256(&home, &sent)));
    home.assert_nothing_left();
}

#[test]
fn stdout_of_200_mb_arrives_whole() {
    let home = Home::new();
    let script = format!("head -c {MANY} /dev/urandom | tee /kept; sha256sum /kept >&2");
    let out = home
        .gourd(&["run", "--rm", "busybox", "sh", "-c", &script])
        .ok();
    assert_eq!(out.stdout.len(), MANY);
    assert_eq!(
        out.stderr.trim(),
        format!("{}  /kept", sha256(&home, &out.stdout))
    );
}

#[test]
fn both_directions_at_once() {
    let home = Home::new();
    let sent = noise(MANY / 4);
    let out = home
        .gourd_with(&["run", "--rm", "-i", "busybox", "cat"], &sent)
        .ok();
    assert!(
        out.stdout == sent,
        "{} of {} bytes came back",
        out.stdout.len(),
        sent.len()
    );
}

#[test]
fn stdout_and_stderr_stay_apart() {
    let home = Home::new();
    let script = "i=0; while [ $i -lt 2000 ]; do echo out$i; echo err$i >&2; i=$((i+1)); done";
    let out = home
        .gourd(&["run", "--rm", "busybox", "sh", "-c", script])
        .ok();
    let lines = |prefix: &str| {
        (0..2000)
            .map(|i| format!("{prefix}{i}\n"))
            .collect::<String>()
    };
    assert!(out.stdout == lines("out").as_bytes());
    assert!(out.stderr == lines("err"));
}

#[test]
fn nothing_is_lost_at_exit() {
    let home = Home::new();
    let mut command = home.command(&[
        "run",
        "--rm",
        "busybox",
        "sh",
        "-c",
        "seq 1 320000; echo last >&2",
    ]);
    let mut child = command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("gourd starts");
    // The process and its VM are gone long before a slow reader has its last byte: all that is on the way is full.
    let containers = home.root().join("containers");
    let is_gone = || {
        let names = names(&containers);
        !names.iter().any(|name| name.len() == 64)
    };
    let output = child.stdout.as_mut().expect("piped");
    let mut begun = vec![0; 1 << 10];
    output.read_exact(&mut begun).expect("it writes");
    while !is_gone() {
        let before = begun.len();
        begun.resize(before + (16 << 10), 0);
        output.read_exact(&mut begun[before..]).expect("more of it");
        // Slower than any guest writes, and than a VM takes to end with what is on the way.
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    // Longer than anybody waits for who does not want it all.
    std::thread::sleep(std::time::Duration::from_secs(7));
    assert!(
        child.try_wait().expect("a status").is_none(),
        "it waits for its reader"
    );
    let out = finish(child, &[]).ok();
    let read = [begun, out.stdout].concat();
    let expect: String = (1..=320_000).map(|i| format!("{i}\n")).collect();
    assert!(
        read == expect.as_bytes(),
        "{} of {} bytes",
        read.len(),
        expect.len()
    );
    assert_eq!(out.stderr, "last\n");
}

#[test]
fn half_close_reaches_the_other_side() {
    let home = Home::new();
    // End of file on stdin arrives while stdout still flows.
    let out = home
        .gourd_with(
            &[
                "run",
                "--rm",
                "-i",
                "busybox",
                "sh",
                "-c",
                "cat; echo after the end",
            ],
            b"before\n",
        )
        .ok();
    assert_eq!(out.text(), "before\nafter the end");
    // A process that closes its stdout goes on reading and talking on stderr.
    let out = home
        .gourd_with(
            &[
                "run",
                "--rm",
                "-i",
                "busybox",
                "sh",
                "-c",
                "exec >&-; wc -c >&2",
            ],
            &noise(1_000_000),
        )
        .ok();
    assert_eq!((out.text().as_str(), out.stderr.trim()), ("", "1000000"));
    // A process that does not read: what it doesn't take is thrown away, and nothing hangs.
    let out = home
        .gourd_with(
            &[
                "run",
                "--rm",
                "-i",
                "busybox",
                "sh",
                "-c",
                "exec <&-; echo deaf",
            ],
            &noise(3_000_000),
        )
        .ok();
    assert_eq!(out.text(), "deaf");
}

#[test]
fn without_i_stdin_is_empty() {
    let home = Home::new();
    let out = home
        .gourd_with(&["run", "--rm", "busybox", "wc", "-c"], b"not for you")
        .ok();
    assert_eq!(out.text(), "0");
}

#[test]
fn the_stdio_of_a_container_is_made_of_pipes() {
    let home = Home::new();
    // A socket could not be opened by its path.
    let out = home
        .gourd(&[
            "run",
            "--rm",
            "busybox",
            "sh",
            "-c",
            "echo one >/dev/stdout; echo two >/dev/stderr",
        ])
        .ok();
    assert_eq!((out.text().as_str(), out.stderr.as_str()), ("one", "two\n"));
}
