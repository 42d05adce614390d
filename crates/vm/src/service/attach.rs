//! Attach: the streams of a container's first process, for any number of clients.
//!
//! Each gets what the process writes from when it came. What any of them types goes to the process. Only the primary one,
//! for which the container was started, closes its stdin, and takes a `--rm` container with it when it dies.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use proto::supervisor::{AttachOptions, Input, Output, TerminalSize, input, output};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Service, message};
use crate::hub::{QUEUE, Sender};
use crate::life::{MAIN, Shared, last_message};
use crate::supervision::Now;

/// SIGKILL, as every Linux has it.
const KILL: u32 = 9;

impl Service {
    pub(super) async fn attach_to(
        &self,
        mut inputs: Streaming<Input>,
    ) -> Result<ReceiverStream<Result<Output, Status>>, Status> {
        let first = inputs.message().await?.and_then(|input| input.input);
        let Some(input::Input::Attach(options)) = first else {
            return Err(Status::invalid_argument("the first message must be attach"));
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        let over = self.supervision.ended.borrow().clone();
        let refused = match (over, self.supervision.now()) {
            _ if self.supervision.maintenance => {
                Some(output::Output::Failed(self.is_not_running()))
            }
            (Some(exited), _) => {
                self.supervision.told.send_replace(true);
                Some(last_message(exited))
            }
            (None, Now::Run(run)) => {
                self.join(&run, sender.clone(), inputs, options).await;
                None
            }
            (None, Now::Waiting) => {
                let failure = self.refusal("is restarting", "wait until it runs");
                Some(output::Output::Failed(failure))
            }
            // Its last message is on its way.
            (None, Now::Over) => Some(last_message(self.ended().await)),
        };
        if let Some(refused) = refused {
            let _ = sender.send(Ok(message(refused))).await;
        }
        Ok(ReceiverStream::new(receiver))
    }

    async fn join(
        &self,
        run: &Arc<Shared>,
        sender: Sender,
        inputs: Streaming<Input>,
        options: AttachOptions,
    ) {
        if matches!(*run.started.borrow(), Some(Ok(()))) {
            // The queue is new: there is room.
            let _ = sender.try_send(Ok(message(output::Output::Started(true))));
            self.supervision.told.send_replace(true);
        }
        let detached = Arc::new(AtomicBool::new(false));
        run.hub.add(sender.clone(), options.stdout, options.stderr);
        let (service, its_run) = (self.clone(), run.clone());
        let leaving = detached.clone();
        tokio::spawn(async move {
            let mut settled = its_run.settled.subscribe();
            tokio::select! {
                () = service.attach_input(its_run.clone(), inputs, options, leaving) => {}
                // The process is over: a client that keeps this direction open must not keep the call open.
                _ = settled.wait_for(|settled| *settled) => {}
            }
        });
        if options.primary {
            run.primary.send_replace(true);
            if run.spec.remove {
                tokio::spawn(look_after(run.clone(), sender, detached));
            }
        }
    }

    async fn attach_input(
        self,
        run: Arc<Shared>,
        mut inputs: Streaming<Input>,
        options: AttachOptions,
        detached: Arc<AtomicBool>,
    ) {
        while let Some(Ok(Input { input: Some(input) })) = inputs.next().await {
            match input {
                input::Input::Stdin(bytes) if options.stdin => {
                    if run.is_started().await.is_err() {
                        return;
                    }
                    let mut stdin = run.stdin.lock().await;
                    if let Some(writer) = stdin.as_mut()
                        && writer.write_all(&bytes).await.is_err()
                    {
                        // The process closed its end; what still comes is thrown away, as a broken pipe would.
                        *stdin = None;
                    }
                }
                input::Input::StdinClosed(true) if options.stdin && options.primary => {
                    close_stdin(&run).await;
                }
                input::Input::Size(size) => resize(&run, size).await,
                input::Input::Signal(signal) => {
                    // It may be gone; the client will be told.
                    let _ = self.kill(signal).await;
                }
                input::Input::Detach(true) => {
                    detached.store(true, Ordering::Relaxed);
                    return;
                }
                _ => {}
            }
        }
        if options.primary && options.stdin {
            close_stdin(&run).await;
        }
    }
}

/// A `--rm` container is ended without grace when its owner dies, and goes on when the owner only leaves.
async fn look_after(run: Arc<Shared>, client: Sender, detached: Arc<AtomicBool>) {
    let mut settled = run.settled.subscribe();
    let gone = tokio::select! {
        () = client.closed() => true,
        _ = settled.wait_for(|settled| *settled) => false,
    };
    drop(client);
    if gone
        && !detached.load(Ordering::Relaxed)
        && let Ok(guest) = run.guest().await
    {
        let _ = guest.signal(MAIN, KILL).await;
    }
}

async fn close_stdin(run: &Shared) {
    if run.is_started().await.is_ok() {
        // Dropping the half shuts it down.
        *run.stdin.lock().await = None;
    }
}

async fn resize(run: &Shared, size: TerminalSize) {
    let running = run.started.borrow().is_some();
    if !running {
        let first = run.size.lock();
        *first.unwrap_or_else(PoisonError::into_inner) = Some(size);
    } else if let Ok(guest) = run.guest().await {
        let _ = guest.resize(MAIN, size.rows, size.columns).await;
    }
}
