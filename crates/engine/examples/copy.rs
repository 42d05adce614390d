//! Copies a file into a container that never runs, and back, and lists what has changed in it.
//!
//! `cargo run -p engine --example copy -- IMAGE`

use engine::{CopyOptions, CreateRequest, Engine, Error, OpenOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let image = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "busybox".to_owned());
    let engine = Engine::open(OpenOptions::default())?;
    let request = CreateRequest {
        image,
        ..CreateRequest::default()
    };
    let container = engine.create(request, &|_| {}).await?;
    let result = there_and_back(&engine, &container.id).await;
    // Whatever came of it.
    engine.remove(&container.id, true).await?;
    result
}

async fn there_and_back(engine: &Engine, id: &str) -> Result<(), Error> {
    let this = std::env::current_exe().unwrap_or_else(|_| "/bin/sh".into());
    let back = std::env::temp_dir().join(format!("gourd-copy-{}", std::process::id()));
    // One connection for all of it: the VM that is started for a container's files ends with it.
    let files = engine.files(id).await?;
    let options = CopyOptions::default();
    let sent = files
        .copy_in(&this, "/tmp/program", options, &|_| {})
        .await?;
    println!("{} bytes went in", sent.bytes);
    files
        .copy_out("/tmp/program", &back, options, &|_| {})
        .await?;
    let same = std::fs::read(&this).ok() == std::fs::read(&back).ok();
    println!(
        "what came back is {}",
        if same { "the same" } else { "something else" }
    );
    // It lies in the directory for things that may be lost.
    let _ = std::fs::remove_file(&back);
    for change in files.changes().await? {
        println!(
            "{} {}",
            change.kind.letter(),
            String::from_utf8_lossy(&change.path)
        );
    }
    Ok(())
}
