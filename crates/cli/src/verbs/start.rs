//! `gourd start`.

use engine::{AttachOptions, Engine, Error, StartMode};

use super::run::{exit_code, foreground};
use crate::app::App;
use crate::args::container::Start;
use crate::failure::{Failure, Tally};
use crate::render::out;
use crate::session::{self, Plan};

/// Starts each and prints the names of those that run; with `-a` or `-i`, joins the one.
pub async fn start(app: &App, args: &Start) -> Result<u8, Failure> {
    let engine = app.engine()?;
    if args.attach || args.interactive {
        return match args.containers.as_slice() {
            [one] => join(&engine, one, args).await,
            many => Err(Failure::AttachToMany { count: many.len() }),
        };
    }
    let mut tally = Tally::default();
    for name in &args.containers {
        match engine.start(name, StartMode::Detached).await {
            // Docker's habit: what runs is started.
            Ok(_) | Err(Error::Running { .. }) => out::line(name)?,
            Err(error) => tally.failed(error),
        }
    }
    tally.end()
}

/// What a container's process was given.
pub struct Streams {
    /// Its stdin is open.
    pub stdin: bool,
    /// It has a terminal.
    pub tty: bool,
    remove: bool,
    running: bool,
}

/// Looks at a container's configuration.
pub async fn streams(engine: &Engine, name: &str) -> Result<Streams, Failure> {
    let spec = engine.inspect(name).await?;
    let is = |path: &str| {
        spec.pointer(path)
            .and_then(serde_json::Value::as_bool)
            .unwrap_or(false)
    };
    Ok(Streams {
        stdin: is("/Config/OpenStdin"),
        tty: is("/Config/Tty"),
        remove: is("/HostConfig/AutoRemove"),
        running: is("/State/Running"),
    })
}

async fn join(engine: &Engine, name: &str, args: &Start) -> Result<u8, Failure> {
    let streams = streams(engine, name).await?;
    let plan = Plan {
        container: name.to_owned(),
        stdin: args.interactive && streams.stdin,
        tty: streams.tty,
        // Somebody else's container: a reader who leaves does not end it.
        ends_with_reader: streams.remove && !streams.running,
        sig_proxy: args.sig_proxy,
        detach_keys: args.detach_keys.clone().unwrap_or_default(),
    };
    plan.check()?;
    let ending = if streams.running {
        let options = AttachOptions {
            stdin: plan.stdin,
            stdout: true,
            stderr: true,
            size: plan.size(),
        };
        session::join(engine.attach(name, options).await?, &plan).await?
    } else {
        foreground(engine, name, &plan).await?
    };
    Ok(exit_code(ending.code))
}
