//! Runs a program in a container of its own, prints what it writes, and ends with its exit code.
//!
//! `cargo run -p engine --example run -- IMAGE PROGRAM [ARG]...`; `GOURD_ROOT` and `GOURD_LIBEXEC` as for `gourd`.

use std::io::Write;

use engine::{AttachOptions, CreateRequest, Engine, Error, Event, OpenOptions, StartMode};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut words = std::env::args().skip(1);
    let image = words.next().unwrap_or_else(|| "busybox".to_owned());
    let engine = Engine::open(OpenOptions::default())?;
    let request = CreateRequest {
        image,
        args: words.collect(),
        remove: true,
        ..CreateRequest::default()
    };
    let container = engine
        .create(request, &|event| eprintln!("{event:?}"))
        .await?;
    let streams = AttachOptions {
        stdin: false,
        stdout: true,
        stderr: true,
        size: None,
    };
    let mode = StartMode::Foreground(streams);
    let running = engine.start(&container.id, mode).await?;
    let Some(attachment) = running.attachment else {
        return Ok(());
    };
    // The input is kept: dropping it ends the program's stdin.
    let (_input, mut output) = attachment.split();
    let code = loop {
        match output.next().await? {
            Event::Started => {}
            // Whoever reads us may have left; the program goes on.
            Event::Stdout(bytes) => drop(std::io::stdout().write_all(&bytes)),
            Event::Stderr(bytes) => drop(std::io::stderr().write_all(&bytes)),
            Event::Exited(exit) => break exit.code,
            Event::Failed(error) => return Err(error),
        }
    };
    // Everything of it is gone after this.
    output.finish().await?;
    std::process::exit(i32::try_from(code).unwrap_or(125));
}
