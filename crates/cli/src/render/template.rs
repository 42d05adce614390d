//! The common part of Go's templates: text, `{{.Field}}`, `{{.A.B}}`, `{{json .Field}}`, `{{.}}`.
//!
//! Applied to JSON values. A field that does not exist is an error that lists those that do; actions beyond these
//! (`range`, `if`, pipes) are refused by name, never printed as they are.

use serde_json::Value;

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    /// An action without its end.
    #[error("template {template:?}: \"{{{{\" without \"}}}}\"")]
    Unclosed {
        /// All of it.
        template: String,
    },
    /// An action that is not of the part that gourd knows.
    #[error(
        "template action {action:?} is not known (there are {{{{.Field}}}}, {{{{.A.B}}}} and {{{{json .Field}}}})"
    )]
    Action {
        /// What stands between the braces.
        action: String,
    },
    /// No such field.
    #[error("there is no field {field:?}; there are {known}")]
    Field {
        /// The path as written.
        field: String,
        /// The fields at the place where the path fails.
        known: String,
    },
}

/// A template, ready to be applied.
#[derive(Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field { path: Vec<String>, json: bool },
}

impl Template {
    /// Reads a template. `\t` and `\n` mean tab and newline, as in `docker ps --format`.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find("{{") {
            if start > 0 {
                pieces.push(Piece::Text(unescape(&rest[..start])));
            }
            let body = &rest[start + 2..];
            let end = body.find("}}").ok_or_else(|| TemplateError::Unclosed {
                template: text.to_owned(),
            })?;
            pieces.push(action(body[..end].trim())?);
            rest = &body[end + 2..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(unescape(rest)));
        }
        Ok(Template { pieces })
    }

    /// The text that it makes of a value, without a newline at its end.
    pub fn apply(&self, value: &Value) -> Result<String, TemplateError> {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(plain) => text.push_str(plain),
                Piece::Field { path, json } => {
                    let found = look_up(value, path)?;
                    if *json {
                        text.push_str(&found.to_string());
                    } else {
                        print(found, &mut text);
                    }
                }
            }
        }
        Ok(text)
    }

    /// The header of a table: each field's heading in place of its value.
    pub fn header(&self, heading: impl Fn(&str) -> Option<&'static str>) -> String {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(plain) => text.push_str(plain),
                Piece::Field { path, .. } => {
                    let name = path.last().map(String::as_str).unwrap_or_default();
                    text.push_str(
                        heading(name)
                            .map_or_else(|| name.to_uppercase(), str::to_owned)
                            .as_str(),
                    );
                }
            }
        }
        text
    }
}

fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

fn action(text: &str) -> Result<Piece, TemplateError> {
    let unknown = || TemplateError::Action {
        action: text.to_owned(),
    };
    let (json, field) = match text.strip_prefix("json") {
        Some(rest) if rest.starts_with([' ', '\t']) => (true, rest.trim()),
        _ => (false, text),
    };
    let path = field.strip_prefix('.').ok_or_else(unknown)?;
    if path.is_empty() {
        return Ok(Piece::Field {
            path: Vec::new(),
            json,
        });
    }
    let path: Vec<String> = path.split('.').map(str::to_owned).collect();
    let is_name =
        |name: &String| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    if path.iter().all(is_name) {
        Ok(Piece::Field { path, json })
    } else {
        Err(unknown())
    }
}

fn look_up<'v>(value: &'v Value, path: &[String]) -> Result<&'v Value, TemplateError> {
    path.iter().try_fold(value, |value, name| {
        value.get(name).ok_or_else(|| TemplateError::Field {
            field: format!(".{}", path.join(".")),
            known: match value {
                Value::Object(fields) if !fields.is_empty() => fields
                    .keys()
                    .map(|key| format!(".{key}"))
                    .collect::<Vec<_>>()
                    .join(" "),
                _ => "none here".to_owned(),
            },
        })
    })
}

/// As Go's `fmt.Print`: lists as `[a b]`, maps as `map[k:v]`.
fn print(value: &Value, text: &mut String) {
    match value {
        Value::Null => text.push_str("<no value>"),
        Value::String(plain) => text.push_str(plain),
        Value::Bool(_) | Value::Number(_) => text.push_str(&value.to_string()),
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(' ');
                }
                print(item, text);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            text.push_str("map[");
            for (index, (key, item)) in fields.iter().enumerate() {
                if index > 0 {
                    text.push(' ');
                }
                text.push_str(key);
                text.push(':');
                print(item, text);
            }
            text.push(']');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Oracle: Go's text/template on the same values.
    #[test]
    fn templates() {
        let value = json!({"ID": "abc", "State": {"ExitCode": 7, "Running": false}, "Args": ["a", "b c"],
            "Labels": {"k": "v"}, "None": null});
        let check = |text: &str, expect: &str| {
            let made = Template::parse(text)
                .unwrap_or_else(|e| panic!("{text}: {e}"))
                .apply(&value);
            assert_eq!(
                made.unwrap_or_else(|e| panic!("{text}: {e}")),
                expect,
                "{text}"
            );
        };
        check("", "");
        check("plain", "plain");
        check("{{.ID}}", "abc");
        check("{{ .ID }}-{{.State.ExitCode}}!", "abc-7!");
        check("{{.State.Running}}", "false");
        check("{{.Args}}", "[a b c]");
        check("{{json .Args}}", r#"["a","b c"]"#);
        check("{{json .ID}}", r#""abc""#);
        check("{{.State}}", "map[ExitCode:7 Running:false]");
        check("{{json .State}}", r#"{"ExitCode":7,"Running":false}"#);
        check("{{.None}}", "<no value>");
        check(r"{{.ID}}\t{{.ID}}\n", "abc\tabc\n");
        check("}}{", "}}{");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, expect: &str| {
            let made = Template::parse(text).and_then(|t| t.apply(&json!({"A": {"B": 1, "C": 2}})));
            assert_eq!(made.expect_err(text).to_string(), expect);
        };
        check("{{.ID", r#"template "{{.ID": "{{" without "}}""#);
        check("{{.Nope}}", r#"there is no field ".Nope"; there are .A"#);
        check("{{.A.X}}", r#"there is no field ".A.X"; there are .B .C"#);
        check(
            "{{.A.B.C}}",
            r#"there is no field ".A.B.C"; there are none here"#,
        );
        let range = "template action \"range .A\" is not known (there are {{.Field}}, {{.A.B}} and {{json .Field}})";
        check("{{range .A}}x{{end}}", range);
        assert!(Template::parse("{{.A..B}}").is_err());
        assert!(Template::parse("{{.A | upper}}").is_err());
        assert!(Template::parse("{{json}}").is_err());
        assert!(Template::parse("{{}}").is_err());
    }
}
