//! `gourd ps`.

use engine::{ContainerSummary, Status};
use serde_json::{Value, json};

use crate::app::App;
use crate::args::container::List;
use crate::clock;
use crate::failure::Failure;
use crate::render::listing::Columns;
use crate::render::{human, out};

/// Docker's, but for the ports.
const COLUMNS: Columns = Columns {
    default: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}",
    headings: &[
        ("ID", "CONTAINER ID"),
        ("RunningFor", "CREATED"),
        ("CreatedAt", "CREATED AT"),
    ],
};

/// Characters of a command that a table shows, as Docker.
const COMMAND: usize = 20;
/// Characters of a reason that a table shows.
const REASON: usize = 60;

/// Lists containers: a table, or as asked for.
pub async fn ps(app: &App, args: &List) -> Result<u8, Failure> {
    // A filter by status or exit code means those that don't run as well, as with Docker.
    let all = args.all
        || args
            .filter
            .iter()
            .any(|(key, _)| key == "status" || key == "exited");
    let containers = app.engine()?.list(all).await?;
    for dead in containers
        .iter()
        .filter(|container| container.status == Status::Dead)
    {
        out::stderr(&unreadable(dead))?;
    }
    let chosen = containers
        .iter()
        .filter(|container| matches(container, &args.filter));
    if args.quiet {
        let id = |container: &ContainerSummary| {
            let id = &container.id;
            format!(
                "{}\n",
                if args.no_trunc {
                    id
                } else {
                    human::short_id(id)
                }
            )
        };
        out::print(&chosen.map(id).collect::<String>())?;
        return Ok(0);
    }
    let now_ns = clock::wall_ns();
    let rows: Vec<Value> = chosen
        .map(|container| row(container, now_ns, args.no_trunc))
        .collect();
    out::print(&COLUMNS.render(&rows, args.format.as_deref())?)?;
    Ok(0)
}

/// A container whose files cannot be read: its row has no room for what is wrong.
fn unreadable(container: &ContainerSummary) -> String {
    let id = human::short_id(&container.id);
    let name = match container.name.as_str() {
        "" => String::new(),
        name => format!(" ({name})"),
    };
    let reason = container.error.as_deref().unwrap_or("it cannot be read");
    format!(
        "gourd: container {id}{name}: {reason}\n  hint: `gourd rm -f {id}` removes it with all its files\n"
    )
}

/// Of filters with one key, one must match; of each key.
fn matches(container: &ContainerSummary, filters: &[(String, String)]) -> bool {
    let one = |key: &str, value: &str| match key {
        "status" => state(container.status) == value,
        "name" => container.name.contains(value.trim_start_matches('/')),
        "id" => container.id.starts_with(value),
        "exited" => container.exit_code.map(|code| code.to_string()).as_deref() == Some(value),
        "label" => match value.split_once('=') {
            Some((label, value)) => container.labels.get(label).map(String::as_str) == Some(value),
            None => container.labels.contains_key(value),
        },
        _ => false,
    };
    filters.iter().all(|(key, _)| {
        filters
            .iter()
            .filter(|(other, _)| other == key)
            .any(|(_, value)| one(key, value))
    })
}

const fn state(status: Status) -> &'static str {
    match status {
        Status::Created => "created",
        Status::Running => "running",
        Status::Paused => "paused",
        Status::Restarting => "restarting",
        Status::Exited => "exited",
        Status::Dead => "dead",
    }
}

/// Docker's field names.
pub fn row(container: &ContainerSummary, now_ns: u64, whole: bool) -> Value {
    let command = container.command.join(" ");
    let when = |show: &dyn Fn(u64) -> String| match container.created_ns {
        0 => "N/A".to_owned(),
        then => show(then),
    };
    let labels: Vec<String> = container
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let id = if whole {
        &container.id
    } else {
        human::short_id(&container.id)
    };
    json!({
        "ID": id,
        "Image": container.image,
        "Command": human::quote(&command, (!whole).then_some(COMMAND)),
        "CreatedAt": when(&human::created_at),
        "RunningFor": when(&|then| human::ago(then, now_ns)),
        "State": state(container.status),
        "Status": status(container, now_ns, whole),
        "Error": container.error.clone().unwrap_or_default(),
        "Names": container.name,
        "Labels": labels.join(","),
    })
}

/// `Up 5 seconds`, `Exited (0) 3 seconds ago`; with the reason when it did not end by itself.
fn status(container: &ContainerSummary, now_ns: u64, whole: bool) -> String {
    let since = |then: Option<u64>| {
        human::duration(now_ns.saturating_sub(then.unwrap_or(now_ns)) / 1_000_000_000)
    };
    let words = match container.status {
        Status::Created => "Created".to_owned(),
        Status::Running => format!("Up {}", since(container.started_ns)),
        Status::Paused => format!("Up {} (Paused)", since(container.started_ns)),
        Status::Restarting => format!(
            "Restarting ({}) {} ago",
            container.exit_code.unwrap_or(0),
            since(container.finished_ns)
        ),
        Status::Exited => {
            format!(
                "Exited ({}) {} ago",
                container.exit_code.unwrap_or(0),
                since(container.finished_ns)
            )
        }
        Status::Dead => "Dead".to_owned(),
    };
    match &container.error {
        Some(reason) if !reason.is_empty() && container.status != Status::Dead => {
            let short: String = reason.chars().take(REASON).collect();
            let cut = !whole && short.len() < reason.len();
            let shown = if cut {
                format!("{}…", short.trim_end())
            } else {
                reason.clone()
            };
            format!("{words} ({shown})")
        }
        _ => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const SECOND: u64 = 1_000_000_000;

    fn container(name: &str, status: Status) -> ContainerSummary {
        ContainerSummary {
            id: name.repeat(64).chars().take(64).collect(),
            name: format!("name-{name}"),
            image: "busybox:latest".to_owned(),
            image_id: "sha256:00".to_owned(),
            command: ["sh", "-c", "exit 7"].map(str::to_owned).to_vec(),
            created_ns: 1000 * SECOND,
            status,
            started_ns: Some(1001 * SECOND),
            finished_ns: Some(1060 * SECOND),
            exit_code: (status == Status::Exited).then_some(7),
            error: None,
            labels: BTreeMap::from([("tier".to_owned(), "web".to_owned())]),
        }
    }

    /// Oracle: `docker ps -a` of Docker 28, without its PORTS.
    #[test]
    fn table() {
        let mut lost = container("c", Status::Exited);
        lost.exit_code = Some(255);
        lost.error = Some("the supervisor died".to_owned());
        let all = [
            container("a", Status::Running),
            container("b", Status::Exited),
            lost,
        ];
        let rows: Vec<Value> = all
            .iter()
            .map(|one| row(one, 1063 * SECOND, false))
            .collect();
        assert_eq!(
            COLUMNS.render(&rows, None).as_deref(),
            Ok("\
CONTAINER ID   IMAGE            COMMAND          CREATED              STATUS                                             NAMES
aaaaaaaaaaaa   busybox:latest   \"sh -c exit 7\"   About a minute ago   Up About a minute                                  name-a
bbbbbbbbbbbb   busybox:latest   \"sh -c exit 7\"   About a minute ago   Exited (7) 3 seconds ago                           name-b
cccccccccccc   busybox:latest   \"sh -c exit 7\"   About a minute ago   Exited (255) 3 seconds ago (the supervisor died)   name-c
")
        );
        let format = Some("{{.Names}} {{.State}} {{.Labels}} {{json .Status}}");
        assert_eq!(
            COLUMNS.render(&rows[..1], format).as_deref(),
            Ok("name-a running tier=web \"Up About a minute\"\n")
        );
    }

    #[test]
    fn filters() {
        let running = container("a", Status::Running);
        let exited = container("b", Status::Exited);
        let check = |filters: &[(&str, &str)], expect: (bool, bool)| {
            let filters: Vec<_> = filters
                .iter()
                .map(|&(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            assert_eq!(
                (matches(&running, &filters), matches(&exited, &filters)),
                expect,
                "{filters:?}"
            );
        };
        check(&[], (true, true));
        check(&[("status", "running")], (true, false));
        check(&[("status", "running"), ("status", "exited")], (true, true));
        check(&[("name", "name-b")], (false, true));
        check(&[("name", "name"), ("status", "exited")], (false, true));
        check(&[("id", "aaa")], (true, false));
        check(&[("exited", "7")], (false, true));
        check(&[("label", "tier")], (true, true));
        check(&[("label", "tier=db")], (false, false));
    }
}
