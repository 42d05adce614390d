//! Runs a short container, and prints what happened to it.
//!
//! `cargo run -p engine --example events -- IMAGE`

use engine::{CreateRequest, Engine, Error, EventFilter, EventsOptions, OpenOptions, StartMode};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let image = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "busybox".to_owned());
    let engine = Engine::open(OpenOptions::default())?;
    let mut filter = EventFilter::default();
    filter
        .add("type", "container")
        .expect("a filter that there is");
    // From now on, before anything happens.
    let mut events = engine.events(EventsOptions {
        follow: true,
        filter,
        ..EventsOptions::default()
    })?;
    let request = CreateRequest {
        image,
        args: vec!["true".to_owned()],
        ..CreateRequest::default()
    };
    let container = engine.create(request, &|_| {}).await?;
    engine.start(&container.id, StartMode::Detached).await?;
    engine.wait(&container.id).await?;
    engine.remove(&container.id, false).await?;
    while let Some(event) = events.next().await? {
        // Others may be at work in the same state directory.
        if event.id == container.id {
            println!("{} {}", event.action, event.attributes["name"]);
            if event.action == "destroy" {
                break;
            }
        }
    }
    Ok(())
}
