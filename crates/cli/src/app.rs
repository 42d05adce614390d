//! From the command line to a verb: the runtime, the engine, the exit code.

use std::ffi::OsString;
use std::path::PathBuf;

use engine::{Engine, OpenOptions};

use crate::args::{Verb, container, image, system, value};
use crate::failure::{self, FAILED, Failure};
use crate::line::{self, Refusal};
use crate::{complete, render, verbs};

/// What every verb may need.
pub struct App {
    /// `--root`.
    root: Option<PathBuf>,
    /// `--max-unpacked`, in bytes.
    max_unpacked: Option<u64>,
    /// CLOCK_MONOTONIC at the start of `main`.
    pub started_ns: u64,
}

impl App {
    /// Opens the state directory.
    pub fn engine(&self) -> Result<Engine, Failure> {
        Ok(Engine::open(OpenOptions {
            root: self.root.clone(),
            bin_dir: None,
            started: Some(self.started_ns),
            max_unpacked: self.max_unpacked()?,
        })?)
    }

    /// The flag, or the environment.
    fn max_unpacked(&self) -> Result<Option<u64>, Failure> {
        const NAME: &str = "GOURD_MAX_UNPACKED";
        let set = std::env::var_os(NAME).filter(|value| !value.is_empty());
        match (self.max_unpacked, set) {
            (Some(bytes), _) => Ok(Some(bytes)),
            (None, None) => Ok(None),
            (None, Some(text)) => match value::size(&text.to_string_lossy()) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(wrong) => Err(Failure::Flags(format!("{NAME}: {wrong}"))),
            },
        }
    }
}

/// Does what the command line asks for; gives the exit code.
pub fn main(started_ns: u64) -> u8 {
    if std::env::args_os().len() == 2
        && std::env::args_os()
            .nth(1)
            .is_some_and(|arg| arg == "-v" || arg == "--version")
    {
        return version();
    }
    if std::env::args_os()
        .nth(1)
        .is_some_and(|arg| arg == complete::VERB)
    {
        return complete::main(std::env::args_os().skip(2));
    }
    let words: Vec<OsString> = std::env::args_os().collect();
    let line = match line::parse(&words) {
        Ok(line) => line,
        Err(refusal) => return refuse(refusal),
    };
    log_when_asked();
    let app = App {
        root: line.root,
        max_unpacked: line.max_unpacked,
        started_ns,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(verb(&app, line.verb));
            // Blocking calls that still run (a look-up, a read) must not hold up the end.
            runtime.shutdown_background();
            result
        }
        Err(source) => Err(Failure::SetUp {
            what: "the runtime",
            source,
        }),
    };
    end(result)
}

fn end(result: Result<u8, Failure>) -> u8 {
    crate::terminal::restore();
    result.unwrap_or_else(|failure| {
        failure::report(&failure);
        failure.code()
    })
}

/// Help goes to stdout with 0; a line that cannot be read to stderr with 125, as Docker's `run`.
fn refuse(refusal: Refusal) -> u8 {
    match refusal {
        Refusal::Version => version(),
        Refusal::Help(help) => {
            // Whoever asked for help may have closed stdout.
            let _ = help.print();
            0
        }
        Refusal::Wrong(said) => {
            // stderr may be closed; the exit code still tells.
            let _ = render::out::stderr(&said);
            FAILED
        }
    }
}

fn version() -> u8 {
    end(render::out::line(&format!("gourd version {}", env!("CARGO_PKG_VERSION"))).map(|()| 0))
}

/// `GOURD_LOG=debug` shows the libraries' logs on stderr.
fn log_when_asked() {
    if let Ok(filter) = std::env::var("GOURD_LOG") {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
            .with_writer(std::io::stderr)
            // It would say on stderr, by a panic, that stderr cannot be written: a full disk must not end us.
            .log_internal_errors(false)
            .init();
    }
}

async fn verb(app: &App, verb: Verb) -> Result<u8, Failure> {
    match verb {
        Verb::Containers(verb) => containers(app, verb).await,
        Verb::Container(container::Group::Verb(verb)) => containers(app, verb).await,
        Verb::Container(container::Group::Inspect(args)) => {
            verbs::inspect::containers(app, &args).await
        }
        Verb::Container(container::Group::Prune(args)) => {
            verbs::container_prune::prune(app, &args).await
        }
        Verb::Inspect(args) => verbs::inspect::any(app, &args).await,
        Verb::Pull(args) | Verb::Image(image::Group::Pull(args)) => {
            verbs::pull::pull(app, &args).await
        }
        Verb::Push(args) | Verb::Image(image::Group::Push(args)) => {
            verbs::push::push(app, &args).await
        }
        Verb::Load(args) | Verb::Image(image::Group::Load(args)) => {
            verbs::load::load(app, &args).await
        }
        Verb::Save(args) | Verb::Image(image::Group::Save(args)) => {
            verbs::save::save(app, &args).await
        }
        Verb::Login(args) => verbs::login::login(app, &args).await,
        Verb::Logout(args) => verbs::login::logout(app, &args).await,
        Verb::Tag(args) | Verb::Image(image::Group::Tag(args)) => verbs::tag::tag(app, &args),
        Verb::History(args) | Verb::Image(image::Group::History(args)) => {
            verbs::history::history(app, &args)
        }
        Verb::Image(image::Group::Prune(args)) => verbs::image_prune::prune(app, &args),
        Verb::Import(args) | Verb::Image(image::Group::Import(args)) => {
            verbs::import::import(app, &args).await
        }
        Verb::Images(args) | Verb::Image(image::Group::Ls(args)) => {
            verbs::images::images(app, &args)
        }
        Verb::Rmi(args) | Verb::Image(image::Group::Rm(args)) => verbs::rmi::rmi(app, &args),
        Verb::Image(image::Group::Inspect(args)) => verbs::inspect::images(app, &args),
        Verb::Network(verb) => verbs::network::network(app, &verb).await,
        Verb::Volume(verb) => verbs::volume::volume(app, verb).await,
        Verb::System(system::Group::Info(args)) => verbs::info::info(app, &args).await,
        Verb::System(system::Group::Df(args)) => verbs::df::df(app, &args).await,
        Verb::System(system::Group::Prune(args)) => verbs::system_prune::prune(app, &args).await,
        Verb::System(system::Group::Doctor(args)) => verbs::doctor::doctor(app, &args).await,
        Verb::System(system::Group::Enable(_)) => verbs::unit::enable(app),
        Verb::System(system::Group::Disable(_)) => verbs::unit::disable(app),
        Verb::System(system::Group::Boot(_)) => verbs::boot::boot(app).await,
        Verb::System(system::Group::Shutdown(args)) => verbs::boot::shutdown(app, &args).await,
        Verb::System(system::Group::Kernel(verb)) => verbs::kernel::kernel(app, &verb),
        Verb::System(system::Group::Disk(verb)) => verbs::disk::disk(&verb).await,
        Verb::System(system::Group::Fsck(args)) => verbs::fsck::fsck(app, &args).await,
        Verb::Events(args) | Verb::System(system::Group::Events(args)) => {
            verbs::events::events(app, &args).await
        }
        Verb::Completion(args) => verbs::completion::completion(&args),
        Verb::Man(args) => verbs::man::man(&args),
        Verb::Version(args) => verbs::version::version(&args),
    }
}

async fn containers(app: &App, verb: container::Verb) -> Result<u8, Failure> {
    match verb {
        container::Verb::Run(args) => verbs::run::run(app, *args).await,
        container::Verb::Create(args) => verbs::create::create(app, *args).await,
        container::Verb::Start(args) => verbs::start::start(app, &args).await,
        container::Verb::Stop(args) => verbs::stop::stop(app, &args).await,
        container::Verb::Kill(args) => verbs::kill::kill(app, &args).await,
        container::Verb::Rm(args) => verbs::rm::rm(app, &args).await,
        container::Verb::Ps(args) => verbs::ps::ps(app, &args).await,
        container::Verb::Exec(args) => verbs::exec::exec(app, args).await,
        container::Verb::Logs(args) => verbs::logs::logs(app, &args).await,
        container::Verb::Wait(args) => verbs::wait::wait(app, &args).await,
        container::Verb::Restart(args) => verbs::restart::restart(app, &args).await,
        container::Verb::Rename(args) => verbs::rename::rename(app, &args),
        container::Verb::Update(args) => verbs::update::update(app, &args).await,
        container::Verb::Attach(args) => verbs::attach::attach(app, &args).await,
        container::Verb::Pause(args) => verbs::pause::pause(app, &args).await,
        container::Verb::Unpause(args) => verbs::pause::unpause(app, &args).await,
        container::Verb::Port(args) => verbs::port::port(app, &args).await,
        container::Verb::Stats(args) => verbs::stats::stats(app, &args).await,
        container::Verb::Top(args) => verbs::top::top(app, &args).await,
        container::Verb::Cp(args) => verbs::cp::cp(app, &args).await,
        container::Verb::Export(args) => verbs::export::export(app, &args).await,
        container::Verb::Diff(args) => verbs::diff::diff(app, &args).await,
        container::Verb::Commit(args) => verbs::commit::commit(app, &args).await,
    }
}
