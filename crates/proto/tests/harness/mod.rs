//! What a hostile guest or a hostile `gourd-net` says. Shared by `tests/hostile.rs` and the fuzz target.

// Each of those who share this uses a part of it.
#![allow(dead_code)]

use std::time::Duration;

use proto::agent::AgentClient;
use proto::network;
use proto::ttrpc::{Client, Service, Status, serve};
use tokio::io::{AsyncWriteExt, duplex, split};
use tokio::runtime::Runtime;

/// How long anything here may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(20);
/// As the supervisor has it.
const LIMIT: usize = 64 * 1024;

/// Bytes of any length by three little-endian bytes: two of the length, one that is given back.
fn piece<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (head, behind) = rest.split_first_chunk::<3>()?;
    let len = usize::from(u16::from_le_bytes([head[0], head[1]])).min(behind.len());
    let (piece, behind) = behind.split_at(len);
    *rest = behind;
    Some((head[2], piece))
}

fn frame(stream: u32, kind: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(stream.to_be_bytes());
    frame.extend([kind, 0]);
    frame.extend(message);
    frame
}

/// `containerd.ttrpc.Response` with a payload and no status.
fn response(payload: &[u8]) -> Vec<u8> {
    let mut message = vec![0x12];
    let mut length = payload.len();
    while length > 0x7f {
        message.push(length as u8 & 0x7f | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend(payload);
    message
}

/// What comes over the connection. A program's first byte chooses: bytes as they are; or pieces, of which each is a frame of its own:
/// of the stream in its third byte's lower half, and the piece is the message, its payload, or is sent as it is.
pub fn stream(bytes: &[u8]) -> Vec<u8> {
    let Some((kind, mut rest)) = bytes.split_first() else {
        return Vec::new();
    };
    if kind & 1 == 0 {
        return rest.to_vec();
    }
    let mut stream = Vec::new();
    while let Some((head, piece)) = piece(&mut rest) {
        let number = u32::from(head & 15) * 2 + 1;
        match head >> 4 {
            0..8 => stream.extend(frame(number, 2, &response(piece))),
            8..12 => stream.extend(frame(number, 2, piece)),
            12 | 13 => stream.extend(frame(number, 1, piece)),
            _ => stream.extend(piece),
        }
    }
    stream
}

/// Every call that the supervisor makes is answered with these bytes, then the connection ends. All calls end; says how many had an
/// answer.
pub fn answers(bytes: &[u8]) -> usize {
    run(async {
        let (ours, mut theirs) = duplex(1 << 20);
        let client = AgentClient(Client::new(ours, LIMIT));
        let answer = async {
            // The client may have closed already.
            let _ = theirs.write_all(bytes).await;
            drop(theirs);
        };
        macro_rules! call {
            ($($method:ident)*) => {
                [$(Box::pin(async {
                    let reply = client.$method(Default::default()).await;
                    reply.map(|reply| format!("{reply:?}").len()).is_ok()
                }) as std::pin::Pin<Box<dyn Future<Output = bool>>>),*]
            };
        }
        // The order of the streams' numbers, 1, 3, 5 and so on.
        let calls = call!(hello boot start wait signal stop resize pause stats top update stat_path read write shutdown);
        let calls = async {
            let mut answered = 0;
            let mut waiting = Vec::from(calls);
            std::future::poll_fn(|context| {
                waiting.retain_mut(|call| match call.as_mut().poll(context) {
                    std::task::Poll::Ready(ok) => {
                        answered += usize::from(ok);
                        false
                    }
                    std::task::Poll::Pending => true,
                });
                match waiting.is_empty() {
                    true => std::task::Poll::Ready(()),
                    false => std::task::Poll::Pending,
                }
            })
            .await;
            answered
        };
        tokio::join!(calls, answer).0
    })
}

struct Echo;

impl Service for Echo {
    const NAME: &'static str = "gourd.agent.v1.Agent";

    async fn call(&self, _method: &str, payload: prost::bytes::Bytes) -> Result<Vec<u8>, Status> {
        Ok(payload.to_vec())
    }
}

/// A server is asked with these bytes, then the connection ends, and so does it.
pub fn questions(bytes: &[u8]) {
    run(async {
        let (mut ours, theirs) = duplex(1 << 20);
        let (reader, writer) = split(theirs);
        let ask = async {
            let _ = ours.write_all(bytes).await;
            let _ = ours.shutdown().await;
        };
        let server = serve(
            reader,
            writer,
            std::sync::Arc::new(Echo),
            std::future::pending(),
        );
        let _ = tokio::join!(server, ask);
    });
}

fn run<T>(test: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
    }
    let ended = RUNTIME
        .with(|runtime| runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await }));
    ended.expect("it hangs")
}

/// All of it. A fuzz target.
pub fn words(bytes: &[u8]) {
    match bytes.first() {
        Some(0x80..) => {
            let (_, json) = bytes.split_at(1);
            let request = serde_json::from_slice::<network::Request>(json);
            let reply = serde_json::from_slice::<network::Reply>(json);
            if let Ok(request) = request {
                let again = serde_json::to_vec(&request).unwrap();
                assert_eq!(
                    serde_json::from_slice::<network::Request>(&again).unwrap(),
                    request
                );
            }
            if let Ok(reply) = reply {
                let again = serde_json::to_vec(&reply).unwrap();
                assert_eq!(
                    serde_json::from_slice::<network::Reply>(&again).unwrap(),
                    reply
                );
            }
        }
        Some(0x40..) => questions(&stream(bytes)),
        _ => {
            answers(&stream(bytes));
        }
    }
}
