//! `gourd attach`.

use engine::AttachOptions;

use super::run::exit_code;
use super::start::streams;
use crate::app::App;
use crate::args::container::Attach;
use crate::failure::Failure;
use crate::session::{self, Plan};

/// Joins a running container's first process until it ends, and ends with its code.
pub async fn attach(app: &App, args: &Attach) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let streams = streams(&engine, &args.container).await?;
    let plan = Plan {
        container: args.container.clone(),
        stdin: streams.stdin && !args.no_stdin,
        tty: streams.tty,
        // Somebody else's container: a reader who leaves does not end it.
        ends_with_reader: false,
        sig_proxy: args.sig_proxy,
        detach_keys: args.detach_keys.clone().unwrap_or_default(),
    };
    plan.check()?;
    let options = AttachOptions {
        stdin: plan.stdin,
        stdout: true,
        stderr: true,
        size: plan.size(),
    };
    let attachment = engine.attach(&args.container, options).await?;
    let ending = session::join(attachment, &plan).await?;
    Ok(exit_code(ending.code))
}
