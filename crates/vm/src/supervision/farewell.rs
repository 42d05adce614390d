//! Taking leave of the clients. Nothing of the container is left by then, and nobody waits for it.
//!
//! What a client has not read yet is in here: in its queue and in its connection's buffers. So one that reads slowly is waited for,
//! for as long as it is connected; a client's death ends its connection. That ends when somebody is in a hurry: a person who ended
//! the container, or the host.

use std::pin::pin;
use std::time::Duration;

use proto::supervisor::Exited;
use tokio::sync::watch;

use super::Supervision;
use crate::hub::Hub;
use crate::life::last_message;

/// How long a first call is waited for after the end; how long everybody may take when there is a hurry, and who does not read
/// output in any case.
pub const FAREWELL: Duration = Duration::from_secs(5);

impl Supervision {
    /// Tells the clients of the last run how it ended, and waits until `server`, which ends after `over` is true, has sent all that
    /// there is for anybody. `patience`: [`FAREWELL`], but for tests.
    pub async fn take_leave(
        &self,
        hub: &Hub,
        exited: Exited,
        over: watch::Sender<bool>,
        server: impl Future,
        patience: Duration,
    ) {
        let leave = async {
            if hub.finish(last_message(exited)).await {
                self.told.send_replace(true);
            }
            // A life that was over before its client's first call still has something to say to it.
            if !self.maintenance {
                let mut told = self.told.subscribe();
                let told = told.wait_for(|told| *told);
                if tokio::time::timeout(patience, told).await.is_err() {
                    tracing::debug!("nobody asked how it went");
                }
            }
            over.send_replace(true);
            let mut server = pin!(server);
            tokio::select! {
                _ = &mut server => return,
                () = self.presence.unread() => {}
            }
            let _ = tokio::time::timeout(patience, server).await;
        };
        let hurry = async {
            let mut hastened = self.hastened.subscribe();
            tokio::select! {
                () = hub.is_hurried() => {}
                // The sender lives as long as this.
                _ = hastened.wait_for(|hastened| *hastened) => {}
            }
            tokio::time::sleep(patience).await;
        };
        tokio::select! {
            () = leave => {}
            () = hurry => tracing::debug!("somebody has not read all of it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use proto::supervisor::supervisor_client::SupervisorClient;
    use proto::supervisor::{AttachOptions, Input, Output, input, output};
    use store::logs::Stream;
    use tokio::net::{UnixListener, UnixStream};
    use tokio::task::JoinHandle;
    use tonic::Streaming;

    use super::super::fresh;
    use super::*;
    use crate::life::Shared;
    use crate::serve;

    const PATIENCE: Duration = Duration::from_millis(100);
    /// Longer than the patience, by far.
    const REST: Duration = Duration::from_millis(600);
    /// As much as one read of the guest's stream brings; and more of them than a client takes that does not read (hyper's window of
    /// 2 MiB), but no more than there is room for on the way, in a queue and a connection's buffer.
    const PIECE: Bytes = Bytes::from_static(&[7; 64 << 10]);
    const PIECES: usize = 36;

    /// A container that runs as far as its clients can tell, and one of them that reads nothing.
    struct Setup {
        _dir: tempfile::TempDir,
        supervision: Arc<Supervision>,
        shared: Arc<Shared>,
        server: JoinHandle<()>,
        over: watch::Sender<bool>,
        client: SupervisorClient<tonic::transport::Channel>,
        /// The client's end, once more.
        line: std::os::unix::net::UnixStream,
    }

    impl Setup {
        async fn new() -> Setup {
            let (dir, supervision, shared) = fresh();
            let path = dir.path().join("socket");
            let listener = UnixListener::bind(&path).unwrap();
            let (over, is_over) = watch::channel(false);
            let server = tokio::spawn(serve::serve(listener, supervision.clone(), is_over));
            let stream = UnixStream::connect(&path).await.unwrap();
            let stream = stream.into_std().unwrap();
            let line = stream.try_clone().unwrap();
            let stream = UnixStream::from_std(stream).unwrap();
            let client = SupervisorClient::new(proto::connect::once(stream).await.unwrap());
            Setup {
                _dir: dir,
                supervision,
                shared,
                server,
                over,
                client,
                line,
            }
        }

        /// Attached, the process's output on its way.
        async fn attach(&mut self) -> Streaming<Output> {
            let options = AttachOptions {
                stdout: true,
                ..AttachOptions::default()
            };
            let first = Input {
                input: Some(input::Input::Attach(options)),
            };
            // Its direction stays open, as that of a client that has more to say.
            let inputs = tokio_stream::StreamExt::chain(
                tokio_stream::once(first),
                tokio_stream::pending::<Input>(),
            );
            let outputs = self.client.attach(inputs).await.unwrap().into_inner();
            let written = async {
                for _ in 0..PIECES {
                    self.shared.hub.write(Stream::Stdout, PIECE).await;
                }
            };
            let written = tokio::time::timeout(Duration::from_secs(20), written);
            written.await.expect("there is room");
            self.shared.settled.send_replace(true);
            outputs
        }

        /// It is over; what `main` does then.
        fn leave(self) -> (Arc<Supervision>, Arc<Shared>, JoinHandle<()>) {
            let (supervision, shared) = (self.supervision.clone(), self.shared.clone());
            let leaving = tokio::spawn(async move {
                let (hub, exited) = (&self.shared.hub, Exited::default());
                let leave =
                    self.supervision
                        .take_leave(hub, exited, self.over, self.server, PATIENCE);
                leave.await;
            });
            (supervision, shared, leaving)
        }
    }

    /// In time, or the test fails.
    async fn ends(leaving: JoinHandle<()>) {
        let ended = tokio::time::timeout(Duration::from_secs(20), leaving).await;
        ended.expect("it leaves").expect("no panic");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_slow_reader_gets_all_of_it() {
        let mut setup = Setup::new().await;
        let mut outputs = setup.attach().await;
        let (_supervision, _shared, leaving) = setup.leave();
        tokio::time::sleep(REST).await;
        assert!(!leaving.is_finished());
        let (mut bytes, mut exited) = (0, false);
        while let Some(message) = outputs.message().await.unwrap() {
            match message.output {
                Some(output::Output::Stdout(piece)) => bytes += piece.len(),
                Some(output::Output::Exited(_)) => exited = true,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((bytes, exited), (PIECES * PIECE.len(), true));
        ends(leaving).await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_client_that_dies_or_a_hurry_is_the_end() {
        type Hurry = fn(&Supervision, &Shared);
        let hurries: [Option<Hurry>; 3] = [
            None,
            Some(|_, shared| shared.hub.hurry()),
            Some(|supervision, _| {
                supervision.hastened.send_replace(true);
            }),
        ];
        for hurry in hurries {
            let mut setup = Setup::new().await;
            let _outputs = setup.attach().await;
            let line = setup.line.try_clone().unwrap();
            let (supervision, shared, leaving) = setup.leave();
            tokio::time::sleep(PATIENCE * 3).await;
            assert!(!leaving.is_finished());
            match hurry {
                Some(hurry) => hurry(&supervision, &shared),
                // As the kernel does it.
                None => line.shutdown(std::net::Shutdown::Both).unwrap(),
            }
            ends(leaving).await;
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_never_called_or_does_not_read_is_not_waited_for() {
        // Connected, and nothing was asked.
        let setup = Setup::new().await;
        let _client = setup.client.clone();
        ends(setup.leave().2).await;
    }
}
