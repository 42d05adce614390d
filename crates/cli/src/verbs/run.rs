//! `gourd run`.

use std::path::PathBuf;

use engine::{Attach, AttachOptions, Attachment, Engine, ErrorKind, Running, StartMode};

use crate::app::App;
use crate::args::container::Run;
use crate::clock;
use crate::failure::{self, FAILED, Failure};
use crate::render::out;
use crate::render::waterfall::{Moment, Waterfall};
use crate::session::{self, Ending, Plan, Signals};
use crate::terminal;

/// Where the timings go.
#[derive(Debug, PartialEq, Eq)]
enum Timings {
    Picture,
    Json,
    File(PathBuf),
}

impl Timings {
    fn parse(target: &str) -> Result<Timings, Failure> {
        match target {
            "picture" => Ok(Timings::Picture),
            "json" => Ok(Timings::Json),
            path if path.ends_with(".json") => Ok(Timings::File(path.into())),
            _ => Err(Failure::TimingsTarget {
                target: target.to_owned(),
            }),
        }
    }
}

/// Creates and starts a container; in the foreground, joins it until it is gone and ends with its code.
pub async fn run(app: &App, args: Run) -> Result<u8, Failure> {
    let timings = args.timings.as_deref().map(Timings::parse).transpose()?;
    let mut plan = Plan {
        container: String::new(),
        stdin: args.process.interactive,
        tty: args.process.tty,
        ends_with_reader: args.process.rm,
        sig_proxy: args.sig_proxy,
        detach_keys: args.detach_keys.clone().unwrap_or_default(),
    };
    if !args.detach {
        plan.check()?;
    }
    let read_ns = clock::monotonic_ns();
    let engine = app.engine()?;
    // From here on: a signal between the making and the session must not leave a container behind.
    let mut signals = Signals::catch()?;
    let remove = args.process.rm;
    let attach = args.process.attached();
    let container = tokio::select! {
        biased;
        made = super::create::make(&engine, args.process) => made?,
        number = signals.end() => return Err(Failure::Signal { number }),
    };
    let created_ns = clock::monotonic_ns();
    if args.detach {
        let started = tokio::select! {
            biased;
            started = engine.start(&container.id, StartMode::Detached) => started.map_err(Failure::from),
            number = signals.end() => Err(Failure::Signal { number }),
        };
        if let Err(failure) = started {
            clear(&engine, &container.id, remove).await;
            return Err(failure);
        }
        out::line(&container.id)?;
        return Ok(0);
    }
    plan.container = container.name;
    let running = tokio::select! {
        biased;
        running = start(&engine, &container.id, &plan, attach) => running,
        number = signals.end() => Err(Failure::Signal { number }),
    };
    if running.is_err() {
        clear(&engine, &container.id, remove).await;
    }
    let running = running?;
    if !attach.stdout && !attach.stderr {
        // As Docker: otherwise there would be nothing to go by.
        out::line(&container.id)?;
    }
    let spawned_ns = clock::monotonic_ns();
    let ending = session::join_heeding(attachment(running, &plan)?, &plan, signals).await?;
    if let Some(timings) = timings {
        let ours = [
            ("arguments read", read_ns),
            ("container created", created_ns),
            ("supervisor spawned", spawned_ns),
        ];
        show(&timings, app.started_ns, &ours, &ending)?;
    }
    Ok(exit_code(ending.code))
}

/// Removes what was to be removed at its end and has not got as far.
async fn clear(engine: &Engine, id: &str, remove: bool) {
    if !remove {
        return;
    }
    match engine.remove(id, true).await {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound) => {
            failure::report(&error.into());
        }
        // Its supervisor did it, as a rule.
        _ => {}
    }
}

/// Starts a container and joins its first process.
pub async fn foreground(engine: &Engine, id: &str, plan: &Plan) -> Result<Ending, Failure> {
    let both = Attach {
        stdin: plan.stdin,
        stdout: true,
        stderr: true,
    };
    let running = start(engine, id, plan, both).await?;
    session::join(attachment(running, plan)?, plan).await
}

async fn start(engine: &Engine, id: &str, plan: &Plan, attach: Attach) -> Result<Running, Failure> {
    let options = AttachOptions {
        stdin: plan.stdin,
        stdout: attach.stdout,
        stderr: attach.stderr,
        size: plan.size(),
    };
    Ok(engine.start(id, StartMode::Foreground(options)).await?)
}

fn attachment(running: Running, plan: &Plan) -> Result<Attachment, Failure> {
    running.attachment.ok_or_else(|| Failure::NoStreams {
        container: plan.container.clone(),
    })
}

/// The guest's code as this command's.
pub fn exit_code(code: u32) -> u8 {
    u8::try_from(code).unwrap_or(FAILED)
}

fn show(
    target: &Timings,
    started_ns: u64,
    ours: &[(&str, u64)],
    ending: &Ending,
) -> Result<(), Failure> {
    let ours = ours.iter().map(|&(name, at_ns)| Moment {
        name: name.to_owned(),
        at_ns,
    });
    let theirs = ending.phases.iter().map(|phase| Moment {
        name: phase.name.clone(),
        at_ns: phase.at_ns,
    });
    let first = ending.first_byte_ns.map(|at_ns| Moment {
        name: "first byte here".to_owned(),
        at_ns,
    });
    let last = Moment {
        name: "supervisor gone".to_owned(),
        at_ns: ending.gone_ns,
    };
    let waterfall = Waterfall::new(
        started_ns,
        ours.chain(theirs).chain(first).chain([last]).collect(),
    );
    let write = |text: String| out::stderr(&text);
    match target {
        Timings::Picture => {
            let width = terminal::stderr_columns().unwrap_or(100);
            write(waterfall.picture(width, terminal::speaks_utf8()))
        }
        Timings::Json => write(format!("{}\n", waterfall.json(ending.code))),
        Timings::File(path) => std::fs::write(path, format!("{}\n", waterfall.json(ending.code)))
            .map_err(|source| Failure::Timings {
                path: path.clone(),
                source,
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_targets() {
        let check =
            |text: &str, expect: Option<Timings>| assert_eq!(Timings::parse(text).ok(), expect);
        check("picture", Some(Timings::Picture));
        check("json", Some(Timings::Json));
        check("out/t.json", Some(Timings::File("out/t.json".into())));
        check("yaml", None);
        check("", None);
    }
}
