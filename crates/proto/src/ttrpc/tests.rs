//! Client and server against each other, and each against bytes that no peer of theirs would send.

use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::sync::Notify;

use super::frame::{self, LONGEST};
use super::*;
use crate::agent::{Agent, AgentClient, AgentServer, HelloReply, HelloRequest};

/// How long anything here may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is called: `method`, `payload` is answered with their lengths; `wait` with nothing when it is let go.
#[derive(Default)]
struct Echo {
    go: Notify,
}

impl Service for Echo {
    const NAME: &'static str = "test.Echo";

    async fn call(&self, method: &str, payload: Bytes) -> Result<Vec<u8>, Status> {
        match method {
            "wait" => {
                self.go.notified().await;
                Ok(Vec::new())
            }
            "fail" => Err(Status::new(Code::NotFound, "nothing there")),
            "long" => Ok(vec![0; LONGEST]),
            _ => Ok(payload.to_vec()),
        }
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await });
    ended.expect("it hangs")
}

fn serving(stream: DuplexStream, echo: &std::sync::Arc<Echo>) {
    let (reader, writer) = split(stream);
    let echo = std::sync::Arc::clone(echo);
    tokio::spawn(async move {
        let _ = serve(reader, writer, echo, std::future::pending()).await;
    });
}

fn code<T>(result: Result<T, Status>) -> Code {
    match result {
        Ok(_) => Code::Ok,
        Err(status) => Code::try_from(status.code).unwrap(),
    }
}

#[test]
fn calls_overtake_each_other() {
    run(async {
        let (ours, theirs) = duplex(64);
        let echo = std::sync::Arc::<Echo>::default();
        serving(theirs, &echo);
        let client = Client::new(ours, LONGEST);
        let status = Status::new(Code::Internal, "x".repeat(1000));
        let slow = client.call::<_, Status>("test.Echo", "wait", &status);
        let quick = async {
            for method in ["a", "b"] {
                let answer: Status = client.call("test.Echo", method, &status).await.unwrap();
                assert_eq!(answer, status);
            }
            echo.go.notify_one();
        };
        let (slow, ()) = tokio::join!(slow, quick);
        assert_eq!(slow.unwrap(), Status::default());
    });
}

#[test]
fn refusals_have_a_code() {
    run(async {
        let (ours, theirs) = duplex(1 << 16);
        let echo = std::sync::Arc::<Echo>::default();
        serving(theirs, &echo);
        let client = Client::new(ours, LONGEST);
        let empty = Status::default();
        let call =
            async |service, method| code(client.call::<_, Status>(service, method, &empty).await);
        assert_eq!(call("test.Echo", "fail").await, Code::NotFound);
        assert_eq!(call("test.Other", "a").await, Code::Unimplemented);
        assert_eq!(call("test.Echo", "long").await, Code::ResourceExhausted);
        let huge = Status::new(Code::Internal, "x".repeat(LONGEST));
        let huge = client.call::<_, Status>("test.Echo", "a", &huge).await;
        assert_eq!(code(huge), Code::ResourceExhausted);
        assert_eq!(call("test.Echo", "a").await, Code::Ok);
    });
}

#[test]
fn a_call_that_is_given_up_disturbs_no_other() {
    run(async {
        let (ours, theirs) = duplex(64);
        let echo = std::sync::Arc::<Echo>::default();
        serving(theirs, &echo);
        let client = Client::new(ours, LONGEST);
        let empty = Status::default();
        let given_up = client.call::<_, Status>("test.Echo", "wait", &empty);
        assert!(
            tokio::time::timeout(Duration::ZERO, given_up)
                .await
                .is_err()
        );
        echo.go.notify_one();
        for _ in 0..3 {
            let answer = client.call::<_, Status>("test.Echo", "a", &empty).await;
            assert_eq!(answer.unwrap(), empty);
        }
    });
}

#[test]
fn the_connections_end_ends_what_waits_and_what_comes() {
    run(async {
        let (ours, theirs) = duplex(64);
        let client = Client::new(ours, LONGEST);
        let empty = Status::default();
        let waiting = client.call::<_, Status>("test.Echo", "wait", &empty);
        let (waiting, ()) = tokio::join!(waiting, async { drop(theirs) });
        assert_eq!(code(waiting), Code::Unavailable);
        let late = client.call::<_, Status>("test.Echo", "a", &empty).await;
        assert_eq!(code(late), Code::Unavailable);
    });
}

#[test]
fn the_last_client_closes_the_connection() {
    run(async {
        let (ours, mut theirs) = duplex(64);
        let client = Client::new(ours, LONGEST);
        drop((client.with_limit(1), client));
        assert_eq!(theirs.read(&mut [0; 1]).await.unwrap(), 0);
    });
}

#[test]
fn a_server_that_stops_answers_what_it_has_taken() {
    run(async {
        let (ours, theirs) = duplex(64);
        let echo = std::sync::Arc::<Echo>::default();
        let (reader, writer) = split(theirs);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (server, go) = (std::sync::Arc::clone(&echo), std::sync::Arc::clone(&echo));
        tokio::spawn(async move {
            let stop = async { stopped.await.unwrap() };
            let rest = serve(reader, writer, server, stop).await.unwrap().unwrap();
            go.go.notify_one();
            rest.await.unwrap();
        });
        let client = Client::new(ours, LONGEST);
        let empty = Status::default();
        let waiting = client.call::<_, Status>("test.Echo", "wait", &empty);
        let stop = async {
            let _: Status = client.call("test.Echo", "a", &empty).await.unwrap();
            stop.send(()).unwrap();
        };
        let (waiting, ()) = tokio::join!(waiting, stop);
        assert_eq!(waiting.unwrap(), empty);
        let late = client.call::<_, Status>("test.Echo", "a", &empty).await;
        assert_eq!(code(late), Code::Unavailable);
    });
}

/// The bytes are those of `PROTOCOL.md`: a header of ten bytes, then `containerd.ttrpc.Request` as protoc encodes it.
#[test]
fn requests_look_as_the_format_says() {
    run(async {
        let (ours, mut theirs) = duplex(256);
        let client = Client::new(ours, LONGEST);
        let request = Status::new(Code::NotFound, "x");
        let call = client.call::<_, Status>("s", "m", &request);
        let read = async {
            let mut bytes = [0; 23];
            theirs.read_exact(&mut bytes).await.unwrap();
            drop(theirs);
            bytes
        };
        let (_, bytes) = tokio::join!(call, read);
        let head = [0, 0, 0, 13, 0, 0, 0, 1, 1, 0];
        let message = [
            0x0a, 1, b's', 0x12, 1, b'm', 0x1a, 5, 0x08, 5, 0x12, 1, b'x',
        ];
        assert_eq!(bytes[..], [&head[..], &message].concat());
    });
}

struct Greeter;

/// Only the first method is called: the others can't be reached by the test's client.
macro_rules! refuse {
    ($($method:ident: $request:ident -> $reply:ident,)*) => {
        $(async fn $method(&self, _: crate::agent::$request) -> Result<crate::agent::$reply, Status> {
            Err(Status::new(Code::Internal, stringify!($method)))
        })*
    };
}

impl Agent for Greeter {
    async fn hello(&self, request: HelloRequest) -> Result<HelloReply, Status> {
        Ok(HelloReply {
            protocol: request.protocol + 1,
            agent_version: request.vm,
            ..HelloReply::default()
        })
    }

    refuse! {
        boot: BootRequest -> BootReply, start: StartRequest -> StartReply, wait: WaitRequest -> WaitReply,
        signal: SignalRequest -> SignalReply, stop: StopRequest -> StopReply, resize: ResizeRequest -> ResizeReply,
        pause: PauseRequest -> PauseReply, stats: StatsRequest -> StatsReply, top: TopRequest -> TopReply,
        set_clock: SetClockRequest -> SetClockReply, update: UpdateRequest -> UpdateReply, networks: NetworksRequest -> NetworksReply,
        stat_path: StatPathRequest -> StatPathReply,
        read: ReadRequest -> TransferReply, write: WriteRequest -> TransferReply,
        connect: ConnectRequest -> ConnectReply, shutdown: ShutdownRequest -> ShutdownReply,
    }
}

#[test]
fn the_generated_code_calls_what_it_names() {
    run(async {
        let (ours, theirs) = duplex(64);
        let (reader, writer) = split(theirs);
        let server = std::sync::Arc::new(AgentServer(std::sync::Arc::new(Greeter)));
        tokio::spawn(async move {
            let _ = serve(reader, writer, server, std::future::pending()).await;
        });
        let client = AgentClient(Client::new(ours, LONGEST));
        let hello = HelloRequest {
            protocol: 6,
            vm: "box".to_owned(),
        };
        let reply = client.hello(hello).await.unwrap();
        assert_eq!((reply.protocol, &reply.agent_version[..]), (7, "box"));
        let refused = client.stat_path(Default::default()).await.unwrap_err();
        assert_eq!(refused.message, "stat_path");
    });
}

/// What a hostile guest may answer to one call. Whatever it is, the call ends and so does the connection.
fn answer_with(bytes: &[u8], limit: usize) -> Result<Status, Status> {
    run(async {
        let (ours, mut theirs) = duplex(1 << 16);
        let client = Client::new(ours, limit);
        let empty = Status::default();
        let call = client.call::<_, Status>("s", "m", &empty);
        let answer = async {
            // The client may have closed already.
            let _ = theirs.write_all(bytes).await;
            drop(theirs);
        };
        tokio::join!(call, answer).0
    })
}

#[test]
fn hostile_answers() {
    let frame = |stream, kind, status| {
        let response = Response {
            status,
            payload: Bytes::new(),
        };
        frame::encode(stream, kind, &response).unwrap()
    };
    let refused = || Some(Status::new(Code::NotFound, "no"));
    assert_eq!(answer_with(&frame(1, 2, None), 64), Ok(Status::default()));
    assert_eq!(
        code(answer_with(&frame(1, 2, refused()), 64)),
        Code::NotFound
    );
    // A request, an answer to nobody, a long one, one that says to be longer than any.
    assert_eq!(code(answer_with(&frame(1, 1, None), 64)), Code::Unavailable);
    assert_eq!(code(answer_with(&frame(3, 2, None), 64)), Code::Unavailable);
    assert_eq!(
        code(answer_with(&frame(1, 2, refused()), 3)),
        Code::ResourceExhausted
    );
    let huge = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 2, 0];
    assert_eq!(code(answer_with(&huge, 64)), Code::Unavailable);
    // Cut off, and no message.
    assert_eq!(
        code(answer_with(&frame(1, 2, refused())[..12], 64)),
        Code::Unavailable
    );
    assert_eq!(
        code(answer_with(&[0, 0, 0, 1, 0, 0, 0, 1, 2, 0, 0xff], 64)),
        Code::InvalidArgument
    );
}

proptest! {
    #[test]
    fn any_bytes_end_a_call(bytes in prop::collection::vec(any::<u8>(), 0..64), right in any::<bool>()) {
        let mut bytes = bytes;
        if right && bytes.len() >= 10 {
            let length = u8::try_from(bytes.len() - 10).unwrap();
            bytes[..10].copy_from_slice(&[0, 0, 0, length, 0, 0, 0, 1, 2, 0]);
        }
        let _ = answer_with(&bytes, 64);
    }

    #[test]
    fn any_bytes_end_a_server(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        run(async {
            let (mut ours, theirs) = duplex(1 << 16);
            let (reader, writer) = split(theirs);
            ours.write_all(&bytes).await.unwrap();
            ours.shutdown().await.unwrap();
            let _ = serve(reader, writer, std::sync::Arc::<Echo>::default(), std::future::pending()).await;
        });
    }
}
