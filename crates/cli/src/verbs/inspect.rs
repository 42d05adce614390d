//! `gourd inspect`, `gourd container inspect`, `gourd image inspect`.

use engine::{Engine, ErrorKind};
use serde_json::Value;

use crate::app::App;
use crate::args::{Inspect, ObjectKind, container as container_args, image};
use crate::failure::{Failure, Tally};
use crate::render::{out, template::Template};

/// Containers first, then images, then volumes, as Docker.
pub async fn any(app: &App, args: &Inspect) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let mut found = Vec::new();
    let mut tally = Tally::default();
    for name in &args.names {
        let value = match args.kind {
            Some(ObjectKind::Container) => container(&engine, name, args.size).await,
            Some(ObjectKind::Image) => engine.image_inspect(name).map_err(Failure::from),
            Some(ObjectKind::Volume) => engine.volume_inspect(name).map_err(Failure::from),
            None => either(&engine, name, args.size).await,
        };
        value
            .map(|value| found.push(value))
            .unwrap_or_else(|failure| tally.failed(failure));
    }
    show(&found, args.format.as_deref())?;
    tally.end()
}

/// With `size`, also what it takes on the disk.
async fn container(engine: &Engine, name: &str, size: bool) -> Result<Value, Failure> {
    let mut found = engine.inspect(name).await?;
    if size {
        let size = engine.container_size(name)?;
        found["SizeRw"] = size.writable.into();
        found["SizeRootFs"] = size.whole.into();
    }
    Ok(found)
}

async fn either(engine: &Engine, name: &str, size: bool) -> Result<Value, Failure> {
    let absent =
        |error: &engine::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Invalid);
    match container(engine, name, size).await {
        Err(Failure::Engine(error)) if absent(&error) => match engine.image_inspect(name) {
            Err(error) if absent(&error) => match engine.volume_inspect(name) {
                Err(error) if absent(&error) => Err(Failure::NoSuchObject {
                    name: name.to_owned(),
                }),
                other => Ok(other?),
            },
            other => Ok(other?),
        },
        other => other,
    }
}

/// Containers only.
pub async fn containers(app: &App, args: &container_args::Inspect) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let mut found = Vec::new();
    let mut tally = Tally::default();
    for name in &args.containers {
        container(&engine, name, args.size)
            .await
            .map(|value| found.push(value))
            .unwrap_or_else(|failure| tally.failed(failure));
    }
    show(&found, args.format.as_deref())?;
    tally.end()
}

/// Images only.
pub fn images(app: &App, args: &image::Inspect) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let mut found = Vec::new();
    let mut tally = Tally::default();
    for name in &args.images {
        engine
            .image_inspect(name)
            .map(|value| found.push(value))
            .unwrap_or_else(|error| tally.failed(error));
    }
    show(&found, args.format.as_deref())?;
    tally.end()
}

/// A JSON list for people, a line each for `json` and templates.
pub fn show(found: &[Value], format: Option<&str>) -> Result<(), Failure> {
    match format {
        None | Some("") => {
            // serde_json's own values always become text.
            let text = serde_json::to_string_pretty(&found).unwrap_or_default();
            out::line(&text)
        }
        Some("json") => out::line(&Value::Array(found.to_vec()).to_string()),
        Some(template) => {
            let template = Template::parse(template)?;
            for value in found {
                out::line(&template.apply(value)?)?;
            }
            Ok(())
        }
    }
}
