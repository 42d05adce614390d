//! The container's files: what lies at a path, archives out of it and into it.
//!
//! ```text
//! Read:   agent ─ stream of its own ─► supervisor ─ messages ─► client      (the slowest of them sets the pace)
//! Write:  client ─ messages ─► supervisor ─ stream of its own ─► agent
//! ```
//!
//! An archive counts as whole when the agent's answer says so, and not before.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use proto::agent::{WriteRequest, read_request};
use proto::supervisor::{
    Failure, PathStat, ReadOutput, ReadRequest, WriteInput, WriteTarget, failure::Kind,
    read_output, write_input,
};
use store::fault;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::Service;
use crate::guest::Guest;
use crate::hub::QUEUE;
use crate::life::Shared;
use crate::streams::Expected;
use crate::{failure, process};

type Sender = mpsc::Sender<Result<ReadOutput, Status>>;

/// How a copy ended before the agent answered.
enum Broken {
    /// The client is gone, or broke off.
    Client,
    /// The agent takes no more.
    Guest,
}

impl Service {
    /// The VM of the container's files, which is there without its process in maintenance.
    async fn files(&self) -> Result<(Arc<Shared>, Guest), Failure> {
        let run = self.run()?;
        let guest = run.guest().await?;
        Ok((run, guest))
    }

    pub(super) async fn look_at(&self, path: String) -> Result<PathStat, Failure> {
        let (run, guest) = self.files().await?;
        let stat = guest
            .stat_path(path)
            .await
            .map_err(|failure| self.explain(&run, failure))?;
        Ok(PathStat {
            name: stat.name,
            size: stat.size,
            mode: stat.mode,
            modified_s: stat.modified_s,
            modified_ns: stat.modified_ns,
            link_target: stat.link_target,
        })
    }

    pub(super) fn read_files(
        &self,
        asked: ReadRequest,
    ) -> ReceiverStream<Result<ReadOutput, Status>> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let service = self.clone();
        // A task of its own: it ends what it began, also when the client goes away.
        tokio::spawn(async move {
            let last = match service.read_to(asked, &sender).await {
                Ok(()) => read_output::Output::Done(true),
                Err(failure) => read_output::Output::Failed(failure),
            };
            let _ = sender.send(Ok(message(last))).await;
        });
        ReceiverStream::new(receiver)
    }

    async fn read_to(&self, asked: ReadRequest, sender: &Sender) -> Result<(), Failure> {
        let (run, guest) = self.files().await?;
        if !asked.pause || self.supervision.maintenance {
            return self.copy_out(&run, &guest, asked, sender).await;
        }
        fault::point("vm.read-freeze");
        run.freezer.hold(&guest).await?;
        fault::point("vm.read-frozen");
        let read = self.copy_out(&run, &guest, asked, sender).await;
        run.freezer.release(&guest).await;
        fault::point("vm.read-thawed");
        read
    }

    async fn copy_out(
        &self,
        run: &Shared,
        guest: &Guest,
        asked: ReadRequest,
        sender: &Sender,
    ) -> Result<(), Failure> {
        let stream = expect(run)?;
        let what = match asked.what() {
            proto::supervisor::read_request::What::Path => read_request::What::Path,
            proto::supervisor::read_request::What::Root => read_request::What::Root,
            proto::supervisor::read_request::What::Layer => read_request::What::Layer,
            proto::supervisor::read_request::What::Changes => read_request::What::Changes,
        };
        let call = guest.read(what, asked.path, asked.follow, stream.id());
        let copy = async {
            let stream = stream.arrived().await.ok_or(Broken::Guest)?;
            pump_out(stream, sender).await
        };
        let explain = |failure| self.explain(run, failure);
        let (mut call, mut copy) = (std::pin::pin!(call), std::pin::pin!(copy));
        // Whichever fails first ends both; dropping the stream ends the agent's part.
        tokio::select! {
            result = &mut call => {
                let said = result.map_err(explain)?;
                match copy.await {
                    Ok(came) if came == said => Ok(()),
                    Ok(_) | Err(Broken::Guest) => Err(explain(broken_off())),
                    Err(Broken::Client) => Err(client_gone()),
                }
            }
            copied = &mut copy => match copied {
                Err(Broken::Client) => Err(client_gone()),
                Err(Broken::Guest) => call.await.and(Err(broken_off())).map_err(explain),
                Ok(came) => {
                    let said = call.await.map_err(explain)?;
                    if said == came { Ok(()) } else { Err(explain(broken_off())) }
                }
            },
        }
    }

    pub(super) async fn write_files(
        &self,
        mut inputs: Streaming<WriteInput>,
    ) -> Result<Option<Failure>, Status> {
        let first = inputs.message().await?.and_then(|input| input.input);
        let Some(write_input::Input::Target(target)) = first else {
            return Err(Status::invalid_argument("the first message must be target"));
        };
        Ok(self.copy_in(target, inputs).await.err())
    }

    async fn copy_in(
        &self,
        target: WriteTarget,
        inputs: Streaming<WriteInput>,
    ) -> Result<(), Failure> {
        let (run, guest) = self.files().await?;
        let stream = expect(&run)?;
        fault::point("vm.write");
        let call = guest.write(WriteRequest {
            container: String::new(),
            path: target.path,
            stream: stream.id().into(),
            no_overwrite_dir_non_dir: target.no_overwrite_dir_non_dir,
            keep_owner: target.keep_owner,
        });
        let copy = async {
            let stream = stream.arrived().await.ok_or(Broken::Guest)?;
            pump_in(inputs, stream).await
        };
        let explain = |failure| self.explain(&run, failure);
        let (mut call, mut copy) = (std::pin::pin!(call), std::pin::pin!(copy));
        // The agent may refuse before all came; and what was broken off is given up before its stream ends, or the agent
        // could take what came for the whole.
        tokio::select! {
            result = &mut call => result.map(drop).map_err(explain)?,
            copied = &mut copy => match copied {
                Err(Broken::Client) => return Err(client_gone()),
                Ok(_stream) => call.await.map(drop).map_err(explain)?,
                Err(Broken::Guest) => call.await.and(Err(broken_off())).map_err(explain)?,
            },
        }
        fault::point("vm.written");
        Ok(())
    }
}

fn expect(run: &Shared) -> Result<Expected, Failure> {
    run.streams
        .expect()
        .map_err(|error| failure::from_error("make a stream's id", "", &error))
}

/// Copies a stream to a client until its end: how many bytes.
async fn pump_out(mut stream: UnixStream, sender: &Sender) -> Result<u64, Broken> {
    let mut buffer = BytesMut::new();
    let mut bytes = 0;
    loop {
        let next = tokio::select! {
            next = process::next(&mut stream, &mut buffer) => next,
            // One that is gone is noticed also while nothing comes.
            () = sender.closed() => return Err(Broken::Client),
        };
        let Some(next) = next else { return Ok(bytes) };
        bytes += next.len() as u64;
        let sent = sender.send(Ok(message(read_output::Output::Bytes(next))));
        sent.await.map_err(|_| Broken::Client)?;
    }
}

/// Copies what a client sends until it says that this was all. The stream has ended then, towards the guest; the caller
/// keeps it until the agent has answered.
async fn pump_in(
    mut inputs: Streaming<WriteInput>,
    mut stream: UnixStream,
) -> Result<UnixStream, Broken> {
    loop {
        let input = match inputs.next().await {
            Some(Ok(WriteInput { input: Some(input) })) => input,
            Some(Ok(WriteInput { input: None })) => continue,
            Some(Err(_)) | None => return Err(Broken::Client),
        };
        match input {
            write_input::Input::Bytes(bytes) => write(&mut stream, bytes).await?,
            write_input::Input::Done(true) => {
                stream.shutdown().await.map_err(|_| Broken::Guest)?;
                return Ok(stream);
            }
            write_input::Input::Done(false) | write_input::Input::Target(_) => {
                return Err(Broken::Client);
            }
        }
    }
}

async fn write(stream: &mut UnixStream, bytes: Bytes) -> Result<(), Broken> {
    stream.write_all(&bytes).await.map_err(|_| Broken::Guest)
}

fn message(output: read_output::Output) -> ReadOutput {
    ReadOutput {
        output: Some(output),
    }
}

fn broken_off() -> Failure {
    failure::lost("the guest broke the archive off")
}

fn client_gone() -> Failure {
    Failure {
        kind: Kind::Invalid.into(),
        ..failure::own("copy", "the archive", "it was broken off")
    }
}
