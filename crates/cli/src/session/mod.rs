//! A session: the streams, signals and terminal of a process in a guest, joined to the command's own.
//!
//! Owned by the main task; three futures run side by side in it: stdin to the guest, signals to the guest, and output
//! from it. The output's future decides when the session ends; the others only fail it.
//!
//! ```text
//!   stdin ──► pump ──► AttachInput ─┐
//!   signals ─► wishes ─► AttachInput │ supervisor ─► guest
//!   stdout ◄─ writer ◄─ AttachOutput ┘
//!   stderr ◄─ (thread)
//! ```

pub mod keys;
mod signals;
mod stdin;
mod writer;

use std::collections::VecDeque;
use std::pin::pin;

use bytes::Bytes;
use engine::{AttachInput, AttachOutput, Attachment, Event, Exit, Phase, TerminalSize};

use crate::clock;
use crate::failure::Failure;
use crate::render::out;
use crate::terminal::{self, RawMode};
use keys::Keys;
pub use signals::Signals;
use signals::Wish;
use stdin::Typed;
use writer::{Stream, Writer};

/// How the session is joined.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name or id, for messages.
    pub container: String,
    /// stdin is passed on.
    pub stdin: bool,
    /// The process has a terminal.
    pub tty: bool,
    /// The process must not outlive the reader of its output (`--rm`).
    pub ends_with_reader: bool,
    /// Signals are passed on; otherwise they have their usual effect here.
    pub sig_proxy: bool,
    /// The keys that leave the session, where input comes from a terminal.
    pub detach_keys: Keys,
}

impl Plan {
    /// Docker's check: a terminal that input goes to must be one.
    pub fn check(&self) -> Result<(), Failure> {
        if self.stdin && self.tty && !terminal::stdin_is_terminal() {
            Err(Failure::NotATty)
        } else {
            Ok(())
        }
    }

    /// The size that the process's terminal begins with.
    pub fn size(&self) -> Option<TerminalSize> {
        terminal::size().filter(|_| self.tty)
    }
}

/// How a session ended.
#[derive(Debug)]
pub struct Ending {
    /// The process's exit code; 128 + n when a signal ended it; 0 when it goes on without us.
    pub code: u32,
    /// The moments that the supervisor saw.
    pub phases: Vec<Phase>,
    /// CLOCK_MONOTONIC when the first output came.
    pub first_byte_ns: Option<u64>,
    /// CLOCK_MONOTONIC when the supervisor was gone.
    pub gone_ns: u64,
}

/// Joins a process until it ends, everything it wrote is written, and its supervisor is gone (of a foreground start).
pub async fn join(attachment: Attachment, plan: &Plan) -> Result<Ending, Failure> {
    join_heeding(attachment, plan, Signals::catch()?).await
}

/// The same with signals that are caught already; those that came meanwhile are heeded.
pub async fn join_heeding(
    attachment: Attachment,
    plan: &Plan,
    mut signals: Signals,
) -> Result<Ending, Failure> {
    let (input, mut output) = attachment.split();
    let raw = match plan.stdin && plan.tty {
        true => Some(RawMode::enter().map_err(Failure::Terminal)?),
        false => None,
    };
    if raw.is_some() {
        signals.catch_stop().map_err(|source| Failure::SetUp {
            what: "signal handlers",
            source,
        })?;
    }
    let keys = raw.as_ref().map(|_| &plan.detach_keys);
    let left = async {
        match plan.stdin {
            true => unless_ended(stdin::pump(&input, keys)).await,
            false => std::future::pending().await,
        }
    };
    let received = tokio::select! {
        received = receive(&mut output, &input, plan) => received?,
        failure = heed(&mut signals, &input, plan, raw.as_ref()) => return Err(failure),
        left = left => {
            left?;
            return detach(&input).await;
        }
    };
    drop(raw);
    // The supervisor leaves when its clients have left.
    drop(input);
    let gone = tokio::select! {
        gone = output.finish() => gone,
        failure = impatience(&mut signals, plan) => return Err(failure),
    };
    // How the process ended matters more than what became of its output, and that more than a late wait.
    let exit = received.last?;
    received.written?;
    gone?;
    if let Some(trouble) = exit.error {
        let trouble = crate::render::table::plain(&trouble.to_string());
        out::stderr(&format!("gourd: {}: {trouble}\n", plan.container))?;
    }
    Ok(Ending {
        code: exit.code,
        phases: exit.phases,
        first_byte_ns: received.first_byte_ns,
        gone_ns: clock::monotonic_ns(),
    })
}

/// Signals after the process's end: there is nobody to pass them on to, but one may still want to leave.
async fn impatience(signals: &mut Signals, plan: &Plan) -> Failure {
    loop {
        match signals.next().await {
            Wish::End(number) => return Failure::Signal { number },
            Wish::GiveUp => {
                return Failure::GaveUp {
                    container: plan.container.clone(),
                };
            }
            Wish::PassOn(_) | Wish::Resize | Wish::Continue | Wish::Stop => {}
        }
    }
}

/// Leaves what goes on.
async fn detach(input: &AttachInput) -> Result<Ending, Failure> {
    match input.detach().await {
        // It ended in this very moment.
        Ok(()) | Err(engine::Error::NotRunning { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Ending {
        code: 0,
        phases: Vec::new(),
        first_byte_ns: None,
        gone_ns: clock::monotonic_ns(),
    })
}

/// A message that the supervisor no longer takes is no failure of the session: how it ended is the output's to say.
/// Comes back when the session is left, or reading failed.
async fn unless_ended(
    sending: impl Future<Output = Result<Typed, Failure>>,
) -> Result<(), Failure> {
    match sending.await {
        Err(Failure::Engine(error)) => {
            tracing::debug!(%error, "stdin is not taken any more");
            std::future::pending().await
        }
        Err(failure) => Err(failure),
        Ok(Typed::Keys) => Ok(()),
        Ok(Typed::End) => std::future::pending().await,
    }
}

async fn resize(input: &AttachInput, plan: &Plan) -> Result<(), engine::Error> {
    match plan.size() {
        Some(size) => input.resize(size).await,
        None => Ok(()),
    }
}

/// Does what signals ask for; comes back only when they end the session. A supervisor that does not answer does not
/// keep the third interrupt from being heard.
async fn heed(
    signals: &mut Signals,
    input: &AttachInput,
    plan: &Plan,
    raw: Option<&RawMode>,
) -> Failure {
    let mut wishes = VecDeque::new();
    loop {
        let wish = match wishes.pop_front() {
            Some(wish) => wish,
            None => signals.next().await,
        };
        let mut done = pin!(async {
            match wish {
                Wish::PassOn(number) => input.signal(number).await,
                Wish::Resize => resize(input, plan).await,
                Wish::Continue => {
                    // A terminal that is gone shows itself as the end of stdin.
                    let _ = raw.map(RawMode::again);
                    resize(input, plan).await
                }
                Wish::Stop => {
                    let _ = raw.map(RawMode::stop_here);
                    resize(input, plan).await
                }
                Wish::End(_) | Wish::GiveUp => Ok(()),
            }
        });
        match wish {
            Wish::End(number) => return Failure::Signal { number },
            Wish::PassOn(number) if !plan.sig_proxy => {
                // It goes on without us.
                let _ = input.detach().await;
                return Failure::Signal { number };
            }
            Wish::GiveUp => {
                return Failure::GaveUp {
                    container: plan.container.clone(),
                };
            }
            Wish::PassOn(_) | Wish::Resize | Wish::Continue | Wish::Stop => {}
        }
        loop {
            tokio::select! {
                sent = &mut done => {
                    if let Err(error) = sent {
                        tracing::debug!(%error, ?wish, "the supervisor takes no more of it");
                    }
                    break;
                }
                next = signals.next() => match next {
                    // These don't wait for the others.
                    Wish::End(number) => return Failure::Signal { number },
                    Wish::GiveUp => return Failure::GaveUp { container: plan.container.clone() },
                    other => wishes.push_back(other),
                },
            }
        }
    }
}

/// Output on its way to stdout and stderr.
struct Outlet<'s> {
    writer: Option<Writer>,
    /// Why nothing more can be written.
    broken: Option<Failure>,
    first_byte_ns: Option<u64>,
    input: &'s AttachInput,
    plan: &'s Plan,
}

impl Outlet<'_> {
    /// Writes a piece. When the reader has left, the session fails; or, when the process must not outlive its reader,
    /// the process is killed and the rest dropped, so that its end is seen and nothing is left behind.
    async fn write(&mut self, stream: Stream, bytes: Bytes) -> Result<(), Failure> {
        self.first_byte_ns.get_or_insert_with(clock::monotonic_ns);
        let Some(writer) = &self.writer else {
            return Ok(());
        };
        if writer.write(stream, bytes).await {
            return Ok(());
        }
        let failure = self.finish().await.err().unwrap_or(Failure::ReaderGone);
        if !self.plan.ends_with_reader {
            return Err(failure);
        }
        self.broken = Some(failure);
        if let Err(error) = self.input.signal(SIGKILL).await {
            tracing::debug!(%error, "it has ended already");
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        match self.writer.take() {
            Some(writer) => writer.finish().await.map_err(Failure::stdout),
            None => Ok(()),
        }
    }
}

/// What came until the last event, all of it written.
struct Received {
    last: Result<Exit, engine::Error>,
    written: Result<(), Failure>,
    first_byte_ns: Option<u64>,
}

/// Writes what comes until the end.
async fn receive(
    output: &mut AttachOutput,
    input: &AttachInput,
    plan: &Plan,
) -> Result<Received, Failure> {
    let writer = Writer::start().map_err(|source| Failure::SetUp {
        what: "the output thread",
        source,
    })?;
    let mut outlet = Outlet {
        writer: Some(writer),
        broken: None,
        first_byte_ns: None,
        input,
        plan,
    };
    let last = loop {
        match output.next().await {
            Ok(Event::Started) => {}
            Ok(Event::Stdout(bytes)) => outlet.write(Stream::Stdout, bytes).await?,
            Ok(Event::Stderr(bytes)) => outlet.write(Stream::Stderr, bytes).await?,
            Ok(Event::Exited(exit)) => break Ok(exit),
            Ok(Event::Failed(error)) | Err(error) => break Err(error),
        }
    };
    let finished = outlet.finish().await;
    let written = outlet.broken.map_or(finished, Err);
    Ok(Received {
        last,
        written,
        first_byte_ns: outlet.first_byte_ns,
    })
}

/// Ends any process.
const SIGKILL: u32 = 9;
