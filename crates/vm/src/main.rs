//! `gourd-vm`, the supervisor: one process per container, from its start by a person to its end.
//!
//! It owns the container ([`supervision`]) through all its runs ([`life`]) and tells engines about it ([`service`]). It is not
//! confined; of what the guest controls it touches the agent's messages and the bytes of its streams only. Everything runs on the main thread: the monitors die with
//! the thread that started them, and this one lives as long as the process.

mod args;
mod bill;
mod capabilities;
mod clock;
mod console;
mod drivers;
mod failure;
mod freezer;
mod guest;
mod health;
mod hub;
mod life;
mod network;
mod networks;
mod policy;
mod presence;
mod process;
mod record;
mod serve;
mod service;
mod sockets;
mod streams;
mod supervision;
mod sys;
mod timeline;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::sync::Arc;

use proto::supervisor::StopRequest;
use store::container::Container;
use store::{Root, fault};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::args::{Command, Run};
use crate::supervision::{Dismissal, End, FAREWELL, Supervision};
use crate::timeline::Timeline;

type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let command = match args::parse(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("gourd-vm: {error}\n{}", args::USAGE);
            return ExitCode::from(125);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(dispatch(command)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gourd-vm: {}", failure::chain(&*error));
            ExitCode::from(125)
        }
    }
}

async fn dispatch(command: Command) -> Result<(), Error> {
    match command {
        Command::Run(run) => supervise(run).await,
        Command::Probe => {
            let report = drivers::report(&root()?);
            print(&report.map_err(|failure| failure::describe(&failure))?)
        }
        Command::Validate => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            print(&drivers::validate(&serde_json::from_str(&text)?))
        }
        Command::Config(dir) => {
            let container = Container::from_dir(&root()?, &dir)?;
            let programs = store::locate::Programs::new(None);
            let volumes = bill::all_volumes(container.spec());
            let wanted = &container.spec().vm.driver;
            let config = drivers::choose(container.root(), wanted, &programs).and_then(|driver| {
                let processors = drivers::processors(&*driver);
                bill::vm_config(&container, &volumes, &programs, processors)
            });
            print(&config.map_err(|failure| failure::describe(&failure))?)
        }
    }
}

fn print(value: &impl serde::Serialize) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn root() -> Result<Root, Error> {
    Ok(Root::open(&Root::default_path()?)?)
}

async fn supervise(run: Run) -> Result<(), Error> {
    let timeline = Timeline::default();
    timeline.mark("supervisor started");
    if let Some(at_ns) = run.started_ns {
        timeline.mark_at("started", at_ns);
    }
    let leases = run
        .leases
        .iter()
        .map(|number| sys::inherit(*number))
        .collect::<Result<Vec<OwnedFd>, _>>()?;
    let listener = UnixListener::from(sys::inherit(run.socket)?);
    listener.set_nonblocking(true)?;
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        // It would say on stderr, by a panic, that stderr cannot be written: a full disk must not end us.
        .log_internal_errors(false)
        .with_ansi(false)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("GOURD_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .init();
    // Before there is anything that would have to be ended.
    let endings = Endings::catch()?;
    let container = Container::from_dir(&root()?, &run.dir)?;
    let supervision = Supervision::new(&container, timeline, run.maintenance, run.volumes)?;
    let supervision = Arc::new(supervision);
    let (over, is_over) = watch::channel(false);
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let server = tokio::spawn(serve::serve(listener, supervision.clone(), is_over));
    tokio::spawn(end_on_signal(supervision.clone(), endings));
    let End { mut exited, shared } = supervision.clone().lead(leases, run.attached).await;
    exited.phases = shared.timeline.phases();
    fault::point("vm.tell");
    supervision.ended.send_replace(Some(exited.clone()));
    let hub = &shared.hub;
    let leave = supervision.take_leave(hub, exited, over, server, FAREWELL);
    leave.await;
    fault::point("vm.told");
    Ok(())
}

/// Signals that ask the supervisor to end.
struct Endings {
    term: Signal,
    interrupt: Signal,
}

impl Endings {
    /// Catches them, from now on. A hang-up is caught, too, and not heeded: a supervisor is in a session of its own, without a
    /// terminal, so that nobody who hangs up means it. Under logind, which sends it to all of a session that ends, TERM comes first.
    fn catch() -> std::io::Result<Endings> {
        // Once caught, a signal stays so.
        drop(signal(SignalKind::hangup())?);
        Ok(Endings {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The host's session ends, or a person kills the supervisor politely: the container is stopped as `gourd stop` would. Its monitors
/// and networks get the same signal, if it was for everybody, and wait for us: see `hypervisor::spawn::hold_endings`.
async fn end_on_signal(supervision: Arc<Supervision>, mut endings: Endings) {
    endings.next().await;
    tracing::info!("told to end: stopping the container");
    supervision.hastened.send_replace(true);
    service::stop(&supervision, Dismissal::Host, &StopRequest::default()).await;
}
