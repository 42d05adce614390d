//! QEMU's machine protocol: one JSON object per line, commands from us, answers and events from QEMU.
//!
//! Format: QEMU's `docs/interop/qmp-spec.txt` and `qapi/run-state.json`. QEMU is confined because its guest may have
//! taken it over, so what it says is hostile: lines are bounded, and what is no message is an error, never a panic.
//! Commands may be written before QEMU has started: they wait in the socket. So nothing waits for the greeting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;

/// The longest line that is read, in bytes: the commands used here have answers of less than 200.
const MAX_LINE: usize = 64 << 10;

/// Why QEMU ends, or that its guest crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest powered off.
    GuestShutdown,
    /// The guest asked for a reset.
    GuestReset,
    /// The guest's kernel said that it panicked.
    GuestPanic,
    /// Somebody sent QEMU a signal to end.
    HostSignal,
    /// Somebody told QEMU to quit, or another cause on the host.
    Host,
}

/// One line from QEMU.
#[derive(Debug, PartialEq)]
pub enum Message {
    /// The first line.
    Greeting,
    /// The answer to the command with this number: its value, or the reason for refusing.
    Answer(u64, Result<Value, String>),
    /// An answer that says that a line of ours was not understood.
    Misunderstood(String),
    /// The VM is ending.
    Ending(Ending),
    /// An event of no interest.
    Event,
}

/// Why QEMU's words are not understood.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// A line without an end.
    #[error("a QMP line of more than {MAX_LINE} bytes")]
    Length,
    /// No JSON, or not of the protocol's shape.
    #[error("no QMP message")]
    Json(#[from] serde_json::Error),
    /// A JSON object that is neither greeting, answer nor event.
    #[error("a QMP message of no known kind")]
    Kind,
    /// The socket failed.
    #[error("the QMP socket")]
    Io(#[from] std::io::Error),
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    value: Option<Value>,
    error: Option<Refusal>,
    id: Option<u64>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    desc: String,
}

/// Reads one line, without its end.
pub fn parse_line(line: &[u8]) -> Result<Message, QmpError> {
    let line: Line = serde_json::from_slice(line)?;
    if line.greeting.is_some() {
        return Ok(Message::Greeting);
    }
    if let Some(event) = line.event {
        return Ok(ending(&event, &line.data).map_or(Message::Event, Message::Ending));
    }
    match (line.id, line.value, line.error) {
        (Some(id), Some(value), None) => Ok(Message::Answer(id, Ok(value))),
        (Some(id), None, Some(error)) => Ok(Message::Answer(id, Err(clean(&error.desc)))),
        (None, None, Some(error)) => Ok(Message::Misunderstood(clean(&error.desc))),
        _ => Err(QmpError::Kind),
    }
}

fn ending(event: &str, data: &Value) -> Option<Ending> {
    match event {
        "SHUTDOWN" => Some(match data["reason"].as_str() {
            Some("guest-shutdown") => Ending::GuestShutdown,
            Some("guest-reset" | "subsystem-reset") => Ending::GuestReset,
            Some("guest-panic") => Ending::GuestPanic,
            Some("host-signal") => Ending::HostSignal,
            _ => Ending::Host,
        }),
        "GUEST_PANICKED" => Some(Ending::GuestPanic),
        _ => None,
    }
}

/// QEMU's words go to terminals and logs.
fn clean(text: &str) -> String {
    let printable = text.chars().filter(|letter| !letter.is_control());
    printable.take(400).collect()
}

/// Sends commands. Any number of tasks may.
#[derive(Clone)]
pub(crate) struct Qmp {
    writer: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    waiting: HashMap<u64, oneshot::Sender<Result<Value, String>>>,
    next: u64,
    gone: bool,
}

impl Qmp {
    /// The line that has to be QEMU's first.
    pub(crate) const HELLO: &[u8] = b"{\"execute\":\"qmp_capabilities\",\"id\":0}\n";

    /// Takes the socket. The task ends when QEMU closes it, and says why QEMU ended if it knows, or when QEMU talks
    /// nonsense.
    pub(crate) fn new(
        reader: OwnedReadHalf,
        writer: OwnedWriteHalf,
    ) -> (
        Qmp,
        impl Future<Output = Result<Option<Ending>, QmpError>> + Send + 'static,
    ) {
        let qmp = Qmp {
            writer: Arc::new(tokio::sync::Mutex::new(writer)),
            shared: Arc::default(),
        };
        let shared = qmp.shared.clone();
        let task = async move {
            let mut last = None;
            let result = read(reader, |message| match message {
                // A panic is followed by the reset or the power-off that it caused: keep the cause.
                Message::Ending(ending) if last != Some(Ending::GuestPanic) => last = Some(ending),
                Message::Answer(id, answer) => {
                    if let Some(waiting) = lock(&shared).waiting.remove(&id) {
                        let _ = waiting.send(answer);
                    }
                }
                Message::Misunderstood(reason) => tracing::warn!(reason, "QEMU misunderstood"),
                Message::Ending(_) | Message::Greeting | Message::Event => {}
            })
            .await;
            let mut shared = lock(&shared);
            shared.gone = true;
            shared.waiting.clear();
            result.map(|()| last)
        };
        (qmp, task)
    }

    /// Runs a command. `None`: QEMU is gone.
    pub(crate) async fn execute(
        &self,
        command: &'static str,
        arguments: Value,
    ) -> Option<Result<Value, String>> {
        let (sender, answer) = oneshot::channel();
        let id = {
            let mut shared = lock(&self.shared);
            if shared.gone {
                return None;
            }
            // 0 is the first line's.
            shared.next += 1;
            let id = shared.next;
            shared.waiting.insert(id, sender);
            id
        };
        let mut line = json!({"execute": command, "arguments": arguments, "id": id}).to_string();
        line.push('\n');
        {
            let mut writer = self.writer.lock().await;
            if writer.write_all(line.as_bytes()).await.is_err() {
                lock(&self.shared).waiting.remove(&id);
                return None;
            }
        }
        answer.await.ok()
    }
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    // Nothing panics while it is held.
    shared
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Calls `handle` for each line until the end of the stream.
async fn read(
    mut from: impl AsyncRead + Unpin,
    mut handle: impl FnMut(Message),
) -> Result<(), QmpError> {
    let mut buffer = Vec::new();
    loop {
        let mut start = 0;
        while let Some(length) = buffer[start..].iter().position(|&byte| byte == b'\n') {
            handle(parse_line(&buffer[start..start + length])?);
            start += length + 1;
        }
        buffer.drain(..start);
        if buffer.len() > MAX_LINE {
            return Err(QmpError::Length);
        }
        buffer.reserve(4096);
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(line: &str, expect: Option<Message>) {
        assert_eq!(parse_line(line.as_bytes()).ok(), expect, "{line}");
    }

    /// The first four are QEMU 7.2's own words.
    #[test]
    fn lines() {
        check(
            r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}"#,
            Some(Message::Greeting),
        );
        check(
            r#"{"return": {}, "id": 4}"#,
            Some(Message::Answer(4, Ok(json!({})))),
        );
        check(
            r#"{"timestamp": {"seconds": 1795409668, "microseconds": 10}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#,
            Some(Message::Ending(Ending::GuestReset)),
        );
        check(
            r#"{"id": 5, "error": {"class": "CommandNotFound", "desc": "The command x has not been found"}}"#,
            Some(Message::Answer(
                5,
                Err("The command x has not been found".into()),
            )),
        );
        check(
            r#"{"event": "NIC_RX_FILTER_CHANGED"}"#,
            Some(Message::Event),
        );
        check(
            r#"{"event": "SHUTDOWN", "data": 5}"#,
            Some(Message::Ending(Ending::Host)),
        );
        check(r#"{"return": {}}"#, None);
        check(r#"{"id": -1, "return": {}}"#, None);
        check(r#"{"id": 1}"#, None);
        check("[]", None);
        check("", None);
        check("{", None);
    }

    #[tokio::test]
    async fn split_lines_and_endless_ones() {
        let mut events = 0;
        let lines = tokio_test_reader(b"{\"event\":\"A\"}\n{\"event\":\"B\"}\n{\"eve");
        read(lines, |_| events += 1).await.unwrap();
        assert_eq!(events, 2);
        let endless = vec![b' '; 3 * MAX_LINE];
        let error = read(&endless[..], |_| {}).await.unwrap_err();
        assert!(matches!(error, QmpError::Length));
    }

    /// One byte per read.
    fn tokio_test_reader(bytes: &'static [u8]) -> impl AsyncRead + Unpin {
        let (mut writer, reader) = tokio::io::duplex(1);
        tokio::spawn(async move { writer.write_all(bytes).await });
        reader
    }

    /// QEMU made of its protocol only.
    #[tokio::test]
    async fn commands_and_the_end() {
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        let (reader, writer) = ours.into_split();
        let (qmp, task) = Qmp::new(reader, writer);
        let task = tokio::spawn(task);
        let (mut from, mut to) = theirs.into_split();
        let command = tokio::spawn({
            let qmp = qmp.clone();
            async move { qmp.execute("stop", json!({})).await }
        });
        let mut line = vec![0; 200];
        let count = from.read(&mut line).await.unwrap();
        assert_eq!(
            std::str::from_utf8(&line[..count]).unwrap(),
            "{\"arguments\":{},\"execute\":\"stop\",\"id\":1}\n"
        );
        to.write_all(b"{\"return\":{},\"id\":1}\n").await.unwrap();
        assert_eq!(command.await.unwrap(), Some(Ok(json!({}))));
        to.write_all(b"{\"event\":\"GUEST_PANICKED\"}\n{\"event\":\"SHUTDOWN\",\"data\":{\"reason\":\"guest-reset\"}}\n")
            .await
            .unwrap();
        drop((from, to));
        assert_eq!(task.await.unwrap().unwrap(), Some(Ending::GuestPanic));
        assert_eq!(qmp.execute("cont", json!({})).await, None);
    }

    proptest! {
        #[test]
        fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse_line(&bytes);
        }

        #[test]
        fn nearly_right(
            key in "(QMP|return|error|event|data|id|desc)",
            other in "(QMP|return|error|event|data|id)",
            value in "(null|1|-1|\"SHUTDOWN\"|\\{\\}|\\[\\]|\\{\"desc\":1\\}|\\{\"reason\":\\[\\]\\})",
        ) {
            let line = format!("{{\"{key}\":{value},\"{other}\":\"SHUTDOWN\"}}");
            let _ = parse_line(line.as_bytes());
        }
    }
}
