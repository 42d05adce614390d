//! Starts a container in the background, runs a program in it with bytes on its stdin, and removes it.
//!
//! `cargo run -p engine --example exec -- IMAGE`

use engine::{CreateRequest, Engine, Error, Event, ExecRequest, OpenOptions, StartMode};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let image = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "busybox".to_owned());
    let engine = Engine::open(OpenOptions::default())?;
    let request = CreateRequest {
        image,
        args: ["sleep", "1000"].map(str::to_owned).to_vec(),
        ..CreateRequest::default()
    };
    let container = engine.create(request, &|_| {}).await?;
    engine.start(&container.id, StartMode::Detached).await?;
    let result = count(&engine, &container.id).await;
    // Whatever came of it.
    engine.remove(&container.id, true).await?;
    println!("wc counted {} bytes", result?.trim());
    Ok(())
}

/// Has `wc -c` count some bytes in the container.
async fn count(engine: &Engine, id: &str) -> Result<String, Error> {
    let request = ExecRequest {
        args: ["wc", "-c"].map(str::to_owned).to_vec(),
        stdin: true,
        ..ExecRequest::default()
    };
    let (input, mut output) = engine.exec(id, request).await?.split();
    let feed = async {
        input.stdin(vec![b'x'; 100_000].into()).await?;
        input.close_stdin().await
    };
    let read = async {
        let mut text = String::new();
        loop {
            match output.next().await? {
                Event::Stdout(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
                Event::Started | Event::Stderr(_) => {}
                Event::Exited(_) => return Ok(text),
                Event::Failed(error) => return Err(error),
            }
        }
    };
    // At the same time: a program may write before it has read all.
    let (fed, text) = tokio::join!(feed, read);
    fed?;
    text
}
