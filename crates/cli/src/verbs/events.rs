//! `gourd events`.

use engine::{EventFilter, EventsOptions, SystemEvent, TimeRange};
use serde_json::{Value, json};

use crate::app::App;
use crate::args::events::Events;
use crate::clock;
use crate::failure::Failure;
use crate::render::template::{Template, TemplateError};
use crate::render::{human, out};

/// What an event looks like.
enum Format {
    Line,
    Json,
    Template(Template),
}

/// Prints events as they come, until the time that was asked for, or a signal.
pub async fn events(app: &App, args: &Events) -> Result<u8, Failure> {
    let format = match args.format.as_deref() {
        None | Some("") => Format::Line,
        Some("json") => Format::Json,
        Some(template) => Format::Template(Template::parse(template)?),
    };
    let mut filter = EventFilter::default();
    for (key, value) in &args.filter {
        // The parser has tried it.
        let _ = filter.add(key, value);
    }
    let mut stream = app.engine()?.events(EventsOptions {
        range: TimeRange {
            since_ns: args.since,
            until_ns: args.until,
        },
        follow: args.until.is_none_or(|until| until > clock::wall_ns()),
        filter,
    })?;
    while let Some(event) = stream.next().await? {
        out::line(&show(&event, &format)?)?;
    }
    Ok(0)
}

fn show(event: &SystemEvent, format: &Format) -> Result<String, TemplateError> {
    match format {
        Format::Line => Ok(line(event)),
        Format::Json => Ok(to_json(event).to_string()),
        Format::Template(template) => template.apply(&fields(event)),
    }
}

/// Docker's line: `TIME TYPE ACTION ID (KEY=VALUE, …)`.
fn line(event: &SystemEvent) -> String {
    let attributes: Vec<String> = event
        .attributes
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let attributes = match attributes.is_empty() {
        true => String::new(),
        false => format!(" ({})", attributes.join(", ")),
    };
    format!(
        "{} {} {} {}{attributes}",
        human::local_with_nanoseconds(event.time_ns),
        event.kind.name(),
        event.action,
        event.id
    )
    .chars()
    .map(|c| if c.is_control() { '?' } else { c })
    .collect()
}

fn from(event: &SystemEvent) -> &str {
    event
        .attributes
        .get("image")
        .map(String::as_str)
        .unwrap_or_default()
}

/// The shape of Docker's API.
fn to_json(event: &SystemEvent) -> Value {
    json!({
        "status": event.action,
        "id": event.id,
        "from": from(event),
        "Type": event.kind.name(),
        "Action": event.action,
        "Actor": { "ID": event.id, "Attributes": event.attributes },
        "scope": "local",
        "time": event.time_ns / 1_000_000_000,
        "timeNano": event.time_ns,
    })
}

/// The names of templates.
fn fields(event: &SystemEvent) -> Value {
    json!({
        "Type": event.kind.name(),
        "Action": event.action,
        "Status": event.action,
        "ID": event.id,
        "From": from(event),
        "Actor": { "ID": event.id, "Attributes": event.attributes },
        "Scope": "local",
        "Time": event.time_ns / 1_000_000_000,
        "TimeNano": event.time_ns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: `docker events` of Docker 28.
    #[test]
    fn formats() {
        let event = SystemEvent {
            time_ns: 951_782_400_000_000_007,
            kind: engine::EventKind::Container,
            action: "die".to_owned(),
            id: "ab".repeat(32),
            attributes: [("name", "box"), ("image", "busybox"), ("exitCode", "7")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        };
        let id = &event.id;
        assert_eq!(
            line(&event),
            format!(
                "2000-02-29T00:00:00.000000007Z container die {id} (exitCode=7, image=busybox, name=box)"
            )
        );
        let check = |text: &str, expect: &str| {
            let template = Format::Template(Template::parse(text).unwrap());
            assert_eq!(show(&event, &template).as_deref(), Ok(expect), "{text}");
        };
        check("{{.Type}} {{.Action}} {{.From}}", "container die busybox");
        check("{{.Actor.Attributes.exitCode}}", "7");
        check("{{.Time}}", "951782400");
        let json = to_json(&event);
        assert_eq!(json["Actor"]["Attributes"]["name"], "box");
        assert_eq!(json["timeNano"], 951_782_400_000_000_007_u64);
    }
}
