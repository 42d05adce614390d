//! `gourd create`, and the part that it shares with `gourd run`.

use engine::{Container, CreateRequest, Engine, Pull as EnginePull};

use crate::app::App;
use crate::args::container::{Create, Process, Pull};
use crate::args::value;
use crate::failure::Failure;
use crate::render::{out, progress::Progress};

/// Creates a container and prints its id.
pub async fn create(app: &App, args: Create) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let container = make(&engine, args.process).await?;
    out::line(&container.id)?;
    Ok(0)
}

/// Creates a container, pulling its image when that is asked for or needed.
pub async fn make(engine: &Engine, args: Process) -> Result<Container, Failure> {
    let progress = Progress::new(false);
    let made = engine
        .create(request(args), &|event| progress.show(event))
        .await;
    progress.end();
    Ok(made?)
}

fn request(args: Process) -> CreateRequest {
    let mut words = args.words.into_iter();
    CreateRequest {
        // The parser asks for one word at least.
        image: words.next().unwrap_or_default(),
        args: words.collect(),
        name: args.name,
        // An empty one takes the image's away, as with Docker.
        entrypoint: args.entrypoint.map(|program| {
            if program.is_empty() {
                Vec::new()
            } else {
                vec![program]
            }
        }),
        env: value::pass_on(&args.env, |key| std::env::var(key).ok()),
        user: args.user,
        workdir: args.workdir,
        tty: args.tty,
        stdin: args.interactive,
        hostname: args.hostname,
        labels: args.labels.into_iter().collect(),
        memory: args.memory,
        cpus: args.cpus,
        driver: args.driver,
        kernel: args.kernel,
        remove: args.rm,
        pull: match args.pull {
            Pull::Always => EnginePull::Always,
            Pull::Missing => EnginePull::Missing,
            Pull::Never => EnginePull::Never,
        },
        platform: args.platform,
        // The image's, until there are flags for them.
        stop_signal: None,
        stop_timeout: None,
    }
}
