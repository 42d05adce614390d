//! `gourd volume ls`.

use engine::VolumeSummary;
use serde_json::{Value, json};

use crate::app::App;
use crate::args::volume::{List, chosen};
use crate::failure::Failure;
use crate::render::listing::Columns;
use crate::render::{human, out};

/// Docker's.
const COLUMNS: Columns = Columns {
    default: "{{.Driver}}\t{{.Name}}",
    headings: &[("Name", "VOLUME NAME")],
};

/// Lists volumes.
pub fn list(app: &App, args: &List) -> Result<u8, Failure> {
    let (filter, _) = chosen(&args.filter);
    let volumes = app.engine()?.volumes(&filter)?;
    for volume in &volumes {
        if let Some(error) = &volume.error {
            out::stderr(&format!("gourd: volume {}: {error}\n", volume.name))?;
        }
    }
    if args.quiet {
        let names: String = volumes
            .iter()
            .map(|one| format!("{}\n", one.name))
            .collect();
        out::print(&names)?;
        return Ok(0);
    }
    let rows: Vec<Value> = volumes.iter().map(row).collect();
    out::print(&COLUMNS.render(&rows, args.format.as_deref())?)?;
    Ok(0)
}

/// Docker's field names.
pub fn row(volume: &VolumeSummary) -> Value {
    let labels: Vec<String> = volume
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    json!({
        "Driver": "local",
        "Name": volume.name,
        "Scope": "local",
        "Labels": labels.join(","),
        "Links": volume.users.len().to_string(),
        "Size": human::size_long(volume.occupied),
        "Capacity": human::size_long(volume.size),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: `docker volume ls` of Docker 28.
    #[test]
    fn table() {
        let volume = VolumeSummary {
            name: "data".to_owned(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            created_ns: 0,
            size: 1 << 30,
            occupied: 1_200_000,
            anonymous: false,
            users: vec!["box".to_owned()],
            error: None,
        };
        let rows = [row(&volume)];
        let table = COLUMNS.render(&rows, None);
        assert_eq!(
            table.as_deref(),
            Ok("DRIVER    VOLUME NAME\nlocal     data\n")
        );
        let template = Some("{{.Labels}} {{.Links}} {{.Size}}");
        assert_eq!(
            COLUMNS.render(&rows, template).as_deref(),
            Ok("a=b 1 1.2MB\n")
        );
    }
}
