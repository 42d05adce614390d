//! `gourd exec`.

use engine::ExecRequest;

use super::run::exit_code;
use crate::app::App;
use crate::args::{container::Exec, value};
use crate::failure::Failure;
use crate::session::{self, Plan};

/// Runs a further program in a container and ends with its code.
pub async fn exec(app: &App, args: Exec) -> Result<u8, Failure> {
    let mut words = args.words.into_iter();
    // The parser asks for two words at least.
    let container = words.next().unwrap_or_default();
    let plan = Plan {
        container: container.clone(),
        stdin: args.interactive,
        tty: args.tty,
        ends_with_reader: true,
    };
    plan.check()?;
    let request = ExecRequest {
        args: words.collect(),
        env: value::pass_on(&args.env, |key| std::env::var(key).ok()),
        user: args.user,
        workdir: args.workdir,
        tty: args.tty,
        size: plan.size(),
        stdin: args.interactive,
    };
    let attachment = app.engine()?.exec(&container, request).await?;
    Ok(exit_code(session::join(attachment, &plan).await?.code))
}
