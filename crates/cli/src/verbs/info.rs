//! `gourd system info`.

use std::fmt::Write as _;

use engine::Info;
use serde_json::Value;

use crate::app::App;
use crate::args::system;
use crate::failure::Failure;
use crate::render::{human, out, template::Template};

/// What this installation is.
pub async fn info(app: &App, args: &system::Info) -> Result<u8, Failure> {
    let info = app.engine()?.info().await?;
    // The engine's own types always become JSON.
    let value = || serde_json::to_value(&info).unwrap_or_default();
    match args.format.as_deref() {
        None | Some("") => out::print(&text(&info))?,
        Some("json") => out::line(&value().to_string())?,
        Some(template) => out::line(&Template::parse(template)?.apply(&value())?)?,
    }
    Ok(0)
}

fn text(info: &Info) -> String {
    let counts = info.containers;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}: {value}");
    };
    line("Version", info.version.clone());
    line("State directory", info.root.display().to_string());
    line("Platform", info.platform.clone());
    line("Processors", info.cpus.to_string());
    line("Memory", human::size(info.memory));
    line(
        "Containers",
        (counts.running + counts.paused + counts.created + counts.exited + counts.dead).to_string(),
    );
    line("  Running", counts.running.to_string());
    line("  Paused", counts.paused.to_string());
    line("  Created", counts.created.to_string());
    line("  Exited", counts.exited.to_string());
    if counts.dead > 0 {
        line("  Dead", counts.dead.to_string());
    }
    line("Images", info.images.to_string());
    line("Kernels", info.kernels.len().to_string());
    for kernel in &info.kernels {
        let default = if kernel.default { " (default)" } else { "" };
        line(
            &format!("  {}", kernel.name),
            format!("{}{default}", kernel.release),
        );
    }
    text.push_str("Probe:\n");
    indented(&info.probe, 1, &mut text);
    text
}

/// JSON as indented lines, for what this command knows no names of.
fn indented(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    let mut entry = |name: &str, value: &Value| match value {
        Value::Object(_) | Value::Array(_) => {
            let _ = writeln!(text, "{indent}{name}:");
            indented(value, depth + 1, text);
        }
        Value::String(plain) => {
            let _ = writeln!(text, "{indent}{name}: {plain}");
        }
        Value::Null => {}
        other => {
            let _ = writeln!(text, "{indent}{name}: {other}");
        }
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| entry(name, value)),
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                entry(&(index + 1).to_string(), value);
            }
        }
        other => {
            let _ = writeln!(text, "{indent}{other}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_shapes_are_indented() {
        let mut text = String::new();
        indented(
            &json!({"kvm": {"usable": false, "reason": "no CMPXCHG16B", "x": null}, "list": ["a", 1]}),
            1,
            &mut text,
        );
        assert_eq!(
            text,
            "  kvm:\n    reason: no CMPXCHG16B\n    usable: false\n  list:\n    1: a\n    2: 1\n"
        );
    }
}
