//! `gourd inspect`, `gourd container inspect`, `gourd image inspect`.

use std::fmt::Write;

use engine::{Engine, ErrorKind};
use serde_json::Value;

use crate::app::App;
use crate::args::{Inspect, ObjectKind, container as container_args, image};
use crate::failure::{Failure, Tally};
use crate::render::{out, table::is_obeyed, template::Template};

/// Containers first, then images, then networks, then volumes, as Docker.
pub async fn any(app: &App, args: &Inspect) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let mut found = Vec::new();
    let mut tally = Tally::default();
    for name in &args.names {
        let value = match args.kind {
            Some(ObjectKind::Container) => container(&engine, name, args.size).await,
            Some(ObjectKind::Image) => engine.image_inspect(name).map_err(Failure::from),
            Some(ObjectKind::Volume) => engine.volume_inspect(name).map_err(Failure::from),
            Some(ObjectKind::Network) => engine.inspect_network(name).await.map_err(Failure::from),
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
            Err(error) if absent(&error) => match engine.inspect_network(name).await {
                Err(error) if absent(&error) => match engine.volume_inspect(name) {
                    Err(error) if absent(&error) => Err(Failure::NoSuchObject {
                        name: name.to_owned(),
                    }),
                    other => Ok(other?),
                },
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
            out::line(&inert(&text))
        }
        Some("json") => out::line(&inert(&Value::Array(found.to_vec()).to_string())),
        Some(template) => {
            let template = Template::parse(template)?;
            for value in found {
                out::line(&template.apply(value)?)?;
            }
            Ok(())
        }
    }
}

/// The same JSON, without what a terminal would obey. Of that serde_json escapes C0 only, as JSON wants it (RFC 8259, section 7), and
/// breaks lines; the rest stands in strings only, and is escaped here.
fn inert(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if is_obeyed(c) && c != '\n' {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\u{:04X}", u32::from(c));
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_says_the_same_and_commands_no_terminal() {
        let label = "é\u{1b}[2J\u{7f}\u{80}\u{9b}2J\u{9f}\u{a0}\u{202e}\u{2066}€\\";
        let value = json!([{ label: [label, 1] }]);
        for json in [
            value.to_string(),
            serde_json::to_string_pretty(&value).unwrap(),
        ] {
            let text = inert(&json);
            let obeyed = |c: char| c.is_control() && c != '\n';
            assert!(!text.contains(obeyed), "{text:?}");
            assert!(text.contains(r"\u007F\u0080\u009B2J\u009F"), "{text}");
            assert!(text.contains("\u{a0}\\u202E\\u2066€"), "{text}");
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        }
        assert_eq!(inert(r#"{"a":"\u001b"}"#), r#"{"a":"\u001b"}"#);
    }
}
