//! Exec: further processes in a container that runs.

use bytes::{Bytes, BytesMut};
use proto::agent::WaitReply;
use proto::supervisor::{Exited, Failure, Input, Output, Process, input, output};
use store::{container, fault};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Service, message};
use crate::guest::Guest;
use crate::hub::{QUEUE, Sender};
use crate::{bill, process};

impl Service {
    pub(super) async fn execute(
        &self,
        mut inputs: Streaming<Input>,
    ) -> Result<ReceiverStream<Result<Output, Status>>, Status> {
        let first = inputs.message().await?.and_then(|input| input.input);
        let Some(input::Input::Exec(asked)) = first else {
            return Err(Status::invalid_argument("the first message must be exec"));
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        let service = self.clone();
        tokio::spawn(async move {
            let last = match service.run_exec(asked, inputs, &sender).await {
                Ok(reply) => output::Output::Exited(Exited {
                    exit_code: reply.exit_code & 0xff,
                    oom_killed: reply.oom_killed,
                    ..Exited::default()
                }),
                Err(failure) => output::Output::Failed(failure),
            };
            let _ = sender.send(Ok(message(last))).await;
        });
        Ok(ReceiverStream::new(receiver))
    }

    async fn run_exec(
        &self,
        asked: Process,
        inputs: Streaming<Input>,
        sender: &Sender,
    ) -> Result<WaitReply, Failure> {
        let (run, guest) = self.running().await?;
        if self.supervision.is(container::Status::Paused) {
            return Err(self.refusal("is paused", "unpause it first"));
        }
        let draining = run.execs.clone().read_owned().await;
        let name = self.supervision.process_name("exec");
        let with_stdin = asked.stdin;
        let spec = bill::exec_process(&run.spec, asked)?;
        fault::point("vm.exec-start");
        let running = process::start(&guest, &run.streams, &name, spec, with_stdin)
            .await
            .map_err(|failure| self.explain(&run, failure))?;
        fault::point("vm.exec-started");
        if sender
            .send(Ok(message(output::Output::Started(true))))
            .await
            .is_err()
        {
            // Docker leaves an exec'd process alone when its client goes; so do we.
            tracing::debug!("an exec's client went away at its start");
        }
        let feed = tokio::spawn(feed(guest.clone(), name.clone(), inputs, running.stdin));
        let (reply, (), ()) = tokio::join!(
            guest.wait(&name),
            forward(Some(running.stdout), sender, output::Output::Stdout),
            forward(running.stderr, sender, output::Output::Stderr),
        );
        feed.abort();
        fault::point("vm.exec-exited");
        drop(draining);
        reply
    }
}

/// What the client sends, until the process's end.
async fn feed(
    guest: Guest,
    name: String,
    mut inputs: Streaming<Input>,
    mut stdin: Option<OwnedWriteHalf>,
) {
    while let Some(Ok(Input { input: Some(input) })) = inputs.next().await {
        match input {
            input::Input::Stdin(bytes) => {
                if let Some(writer) = stdin.as_mut()
                    && writer.write_all(&bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            input::Input::StdinClosed(true) => stdin = None,
            input::Input::Size(size) => {
                let _ = guest.resize(&name, size.rows, size.columns).await;
            }
            input::Input::Signal(signal) => {
                let _ = guest.signal(&name, signal).await;
            }
            input::Input::Detach(true) => {
                // It goes on as it is, its stdin open: until it ends, and this task with it.
                std::future::pending::<()>().await;
            }
            _ => {}
        }
    }
}

/// Copies a stream to one client. When the client is gone the bytes are still taken, so that the process is not held back.
async fn forward(stream: Option<UnixStream>, sender: &Sender, wrap: fn(Bytes) -> output::Output) {
    let Some(mut stream) = stream else { return };
    let mut buffer = BytesMut::new();
    while let Some(bytes) = process::next(&mut stream, &mut buffer).await {
        let _ = sender.send(Ok(message(wrap(bytes)))).await;
    }
}
