//! `gourd exec`.

use engine::{Event, ExecRequest};

use super::create::{environment, with_terminal};
use super::run::exit_code;
use crate::app::App;
use crate::args::container::Exec;
use crate::failure::Failure;
use crate::session::{self, Plan};

/// Runs a further program in a container and ends with its code.
pub async fn exec(app: &App, args: Exec) -> Result<u8, Failure> {
    let mut words = args.words.into_iter();
    // The parser asks for two words at least.
    let container = words.next().unwrap_or_default();
    let plan = Plan {
        container: container.clone(),
        stdin: args.interactive && !args.detach,
        tty: args.tty,
        ends_with_reader: true,
        sig_proxy: true,
        detach_keys: args.detach_keys.unwrap_or_default(),
    };
    plan.check()?;
    let request = ExecRequest {
        args: words.collect(),
        env: with_terminal(environment(&args.env_file, &args.env)?, args.tty),
        user: args.user,
        workdir: args.workdir,
        tty: args.tty,
        size: plan.size(),
        stdin: plan.stdin,
        privileged: args.privileged,
    };
    let attachment = app.engine()?.exec(&container, request).await?;
    if args.detach {
        return started(attachment).await;
    }
    Ok(exit_code(session::join(attachment, &plan).await?.code))
}

/// Leaves when the program runs; it goes on without us.
async fn started(attachment: engine::Attachment) -> Result<u8, Failure> {
    // Its input stays open until then: its end would be the call's.
    let (_input, mut output) = attachment.split();
    loop {
        match output.next().await? {
            // One that was over so soon has started, too.
            Event::Started | Event::Exited(_) => return Ok(0),
            Event::Failed(error) => return Err(error.into()),
            Event::Stdout(_) | Event::Stderr(_) => {}
        }
    }
}
