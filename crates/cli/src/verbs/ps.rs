//! `gourd ps`.

mod filter;

use std::collections::BTreeSet;

use engine::{ContainerSize, ContainerSummary, Engine, HealthStatus, Status};
use serde_json::{Value, json};

use self::filter::Filters;
use crate::app::App;
use crate::args::container::List;
use crate::clock;
use crate::failure::Failure;
use crate::render::listing::Columns;
use crate::render::{human, out};

/// Docker's.
const COLUMNS: Columns = Columns {
    default: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
    headings: &[
        ("ID", "CONTAINER ID"),
        ("RunningFor", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("LocalVolumes", "LOCAL VOLUMES"),
    ],
};

/// With `-s`.
const WITH_SIZE: Columns = Columns {
    default: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Size}}",
    ..COLUMNS
};

/// Characters of a command that a table shows, as Docker.
const COMMAND: usize = 20;
/// Characters of a volume's name that a table shows, as Docker.
const MOUNT: usize = 14;
/// Characters of a reason that a table shows.
const REASON: usize = 60;

/// Lists containers: a table, or as asked for.
pub async fn ps(app: &App, args: &List) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let last = match args.latest {
        true => Some(1),
        // Docker's -1: all of them.
        false => args.last.and_then(|last| usize::try_from(last).ok()),
    };
    // A filter by status or exit code means those that don't run as well, and so do the last ones, as with Docker.
    let asked = |keys: &[&str]| {
        let mut given = args.filter.iter();
        given.any(|(key, _)| keys.contains(&key.as_str()))
    };
    let all = args.all || last.is_some() || asked(&["status", "exited"]);
    // `before` and `since` may name one that does not run.
    let containers = engine.list(all || asked(&["before", "since"])).await?;
    let filters = Filters::new(&engine, &args.filter, &containers)?;
    for dead in containers
        .iter()
        .filter(|container| container.status == Status::Dead)
    {
        out::stderr(&unreadable(dead))?;
    }
    let chosen: Vec<&ContainerSummary> = containers
        .iter()
        .filter(|container| all || container.status.is_alive())
        .filter(|container| filters.let_through(container))
        .take(last.unwrap_or(usize::MAX))
        .collect();
    if args.quiet {
        let id = |container: &&ContainerSummary| {
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
        out::print(&chosen.iter().map(id).collect::<String>())?;
        return Ok(0);
    }
    let now_ns = clock::wall_ns();
    // Looked up only for those who want to see it.
    let format = args.format.as_deref();
    let sized = args.size || format.is_some_and(|format| format.contains(".Size"));
    let rows: Vec<Value> = chosen
        .into_iter()
        .map(|container| {
            let mut row = row(container, now_ns, args.no_trunc);
            if let Some(size) = sized.then(|| size(&engine, container)).flatten() {
                row["Size"] = shown(size).into();
            }
            row
        })
        .collect();
    let columns = if args.size { &WITH_SIZE } else { &COLUMNS };
    out::print(&columns.render_fitting(&rows, format, args.no_trunc)?)?;
    Ok(0)
}

/// `None` for one that is gone meanwhile, or cannot be read.
fn size(engine: &Engine, container: &ContainerSummary) -> Option<ContainerSize> {
    engine.container_size(&container.id).ok()
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
    let names: BTreeSet<&String> = container.mounts.iter().map(|(name, _)| name).collect();
    let mounts: Vec<String> = names
        .into_iter()
        .map(|name| match name.char_indices().nth(MOUNT) {
            Some((end, _)) if !whole => format!("{}…", &name[..end]),
            _ => name.clone(),
        })
        .collect();
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
        "Size": "",
        "Ports": engine::port_words(&container.ports, &container.exposed).join(", "),
        "Mounts": mounts.join(","),
        "LocalVolumes": container.volumes.len().to_string(),
        "Networks": container.networks.join(","),
    })
}

/// Docker's `1.5kB (virtual 4MB)`: its own, and with what it stands on.
fn shown(size: ContainerSize) -> String {
    let (own, whole) = (human::size(size.writable), human::size(size.whole));
    format!("{own} (virtual {whole})")
}

/// `Up 5 seconds (healthy)`, `Exited (0) 3 seconds ago`; with the reason when it did not end by itself.
fn status(container: &ContainerSummary, now_ns: u64, whole: bool) -> String {
    let since = |then: Option<u64>| {
        human::duration(now_ns.saturating_sub(then.unwrap_or(now_ns)) / 1_000_000_000)
    };
    let words = match container.status {
        Status::Created => "Created".to_owned(),
        Status::Running => {
            let up = format!("Up {}", since(container.started_ns));
            match container.health {
                None => up,
                Some(HealthStatus::Starting) => format!("{up} (health: starting)"),
                Some(known) => format!("{up} ({})", filter::health(known)),
            }
        }
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

    pub(super) fn container(name: &str, status: Status) -> ContainerSummary {
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
            health: None,
            labels: BTreeMap::from([("tier".to_owned(), "web".to_owned())]),
            ports: Vec::new(),
            exposed: match status.is_alive() {
                true => vec!["80/tcp".to_owned()],
                false => Vec::new(),
            },
            networks: vec!["default".to_owned()],
            volumes: Vec::new(),
            mounts: Vec::new(),
        }
    }

    /// Oracle: `docker ps -a` of Docker 28.
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
CONTAINER ID   IMAGE            COMMAND          CREATED              STATUS                                             PORTS     NAMES
aaaaaaaaaaaa   busybox:latest   \"sh -c exit 7\"   About a minute ago   Up About a minute                                  80/tcp    name-a
bbbbbbbbbbbb   busybox:latest   \"sh -c exit 7\"   About a minute ago   Exited (7) 3 seconds ago                                     name-b
cccccccccccc   busybox:latest   \"sh -c exit 7\"   About a minute ago   Exited (255) 3 seconds ago (the supervisor died)             name-c
")
        );
        let mut healthy = container("a", Status::Running);
        let size = ContainerSize {
            writable: 1000,
            whole: 4_300_000,
        };
        let mut said = |health| {
            healthy.health = Some(health);
            let row = row(&healthy, 1063 * SECOND, false);
            format!("{} {}", row["Status"], shown(size))
        };
        let expect = "\"Up About a minute (healthy)\" 1kB (virtual 4.3MB)";
        assert_eq!(said(HealthStatus::Healthy), expect);
        let starting = said(HealthStatus::Starting);
        assert!(starting.contains("(health: starting)"), "{starting}");
        let format = Some("{{.Names}} {{.State}} {{.Labels}} {{json .Status}}");
        assert_eq!(
            COLUMNS.render(&rows[..1], format).as_deref(),
            Ok("name-a running tier=web \"Up About a minute\"\n")
        );
    }
}
