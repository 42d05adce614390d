//! `gourd stats`.
//!
//! Processor use is a difference: each line needs two readings, a second apart.

use std::collections::HashMap;
use std::time::Duration;

use engine::{ContainerSummary, Engine, Stats as Reading};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::app::App;
use crate::args::container::Stats;
use crate::failure::Failure;
use crate::render::{human, listing::Columns, out};
use crate::terminal;

/// Between two readings.
const INTERVAL: Duration = Duration::from_secs(1);

/// Home; each line ends with erasing what is right of it, the last one with what is below.
const HOME: &str = "\x1b[H";
const ERASE_LINE: &str = "\x1b[K";
const ERASE_BELOW: &str = "\x1b[J";
const CLEAR: &str = "\x1b[2J\x1b[H";

const COLUMNS: Columns = Columns {
    default: "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}",
    headings: &[
        ("Container", "CONTAINER"),
        ("ID", "CONTAINER ID"),
        ("Name", "NAME"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
    ],
};

/// Shows what containers use, once or until a signal.
pub async fn stats(app: &App, args: &Stats) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let mut last = read(&engine, args).await?;
    let live = !args.no_stream && terminal::stdout_is_terminal() && args.format.is_none();
    if live {
        out::print(&format!(
            "{CLEAR}{}",
            draw(&table(&last, &HashMap::new(), args)?)
        ))?;
    }
    loop {
        tokio::time::sleep(INTERVAL).await;
        let now = read(&engine, args).await?;
        let before: HashMap<_, _> = last
            .iter()
            .filter_map(|one| Some((one.id.clone(), one.reading.clone()?)))
            .collect();
        let text = table(&now, &before, args)?;
        if live {
            out::print(&draw(&text))?;
        } else {
            out::print(&text)?;
        }
        if args.no_stream {
            return Ok(0);
        }
        last = now;
    }
}

/// Over what is on the screen, without clearing it first: nothing flickers.
fn draw(text: &str) -> String {
    let lines: String = text
        .lines()
        .map(|line| format!("{line}{ERASE_LINE}\r\n"))
        .collect();
    format!("{HOME}{lines}{ERASE_BELOW}")
}

/// A container, and what it uses if it runs.
struct Used {
    /// As it was asked for.
    asked: String,
    id: String,
    name: String,
    reading: Option<Reading>,
}

async fn read(engine: &Engine, args: &Stats) -> Result<Vec<Used>, Failure> {
    let all = engine.list(true).await?;
    let mut wanted = Vec::new();
    if args.containers.is_empty() {
        let shown = |one: &ContainerSummary| args.all || one.status.is_alive();
        wanted.extend(
            all.into_iter()
                .filter(shown)
                .map(|one| (one.id.clone(), one)),
        );
    } else {
        for name in &args.containers {
            let spec = engine.inspect(name).await?;
            let id = spec.get("Id").and_then(Value::as_str).unwrap_or_default();
            let found = all.iter().find(|one| one.id == id).cloned();
            wanted.extend(found.map(|one| (name.clone(), one)));
        }
    }
    let mut readings = JoinSet::new();
    for (place, (_, container)) in wanted.iter().enumerate() {
        if container.status.is_alive() {
            let (engine, id) = (engine.clone(), container.id.clone());
            readings.spawn(async move { (place, engine.stats(&id).await) });
        }
    }
    let mut used: Vec<Used> = wanted
        .into_iter()
        .map(|(asked, container)| Used {
            asked,
            id: container.id,
            name: container.name,
            reading: None,
        })
        .collect();
    while let Some(done) = readings.join_next().await {
        match done {
            Ok((place, Ok(reading))) => used[place].reading = Some(reading),
            // It ended since it was listed, or restarts.
            Ok((place, Err(error))) => {
                let name = &used[place].name;
                tracing::debug!(%error, name, "no statistics");
            }
            Err(_) => {}
        }
    }
    Ok(used)
}

fn table(
    used: &[Used],
    before: &HashMap<String, Reading>,
    args: &Stats,
) -> Result<String, Failure> {
    let rows: Vec<Value> = used
        .iter()
        .map(|one| row(one, before.get(&one.id), args.no_trunc))
        .collect();
    Ok(COLUMNS.render_fitting(&rows, args.format.as_deref(), args.no_trunc)?)
}

/// Docker's field names.
fn row(used: &Used, before: Option<&Reading>, whole: bool) -> Value {
    let zero = Reading::default();
    let now = used.reading.as_ref().unwrap_or(&zero);
    let memory = now.memory_usage.saturating_sub(now.memory_cache);
    let limit = now.memory_limit.unwrap_or(0);
    let of_limit = match limit {
        0 => 0.0,
        limit => memory as f64 / limit as f64 * 100.0,
    };
    let id = if whole {
        &used.id
    } else {
        human::short_id(&used.id)
    };
    json!({
        "Container": if used.asked == used.id { id } else { &used.asked },
        "ID": id,
        "Name": used.name,
        "CPUPerc": format!("{:.2}%", cpu(now, before)),
        "MemUsage": format!("{} / {}", human::binary_size(memory), human::binary_size(limit)),
        "MemPerc": format!("{of_limit:.2}%"),
        "NetIO": format!("{} / {}", human::size(now.network_received_bytes), human::size(now.network_sent_bytes)),
        "BlockIO": format!("{} / {}", human::size(now.block_read_bytes), human::size(now.block_write_bytes)),
        "PIDs": now.pids.to_string(),
    })
}

/// Per cent of one processor, as Docker: two that are busy make 200.
fn cpu(now: &Reading, before: Option<&Reading>) -> f64 {
    let Some(before) = before else { return 0.0 };
    let used = now.cpu_total_ns.saturating_sub(before.cpu_total_ns);
    match now.read_ns.saturating_sub(before.read_ns) {
        0 => 0.0,
        time => used as f64 / time as f64 * 100.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used() -> Used {
        Used {
            asked: "box".to_owned(),
            id: "ab".repeat(32),
            name: "box".to_owned(),
            reading: Some(Reading {
                read_ns: 3_000_000_000,
                cpu_total_ns: 2_500_000_000,
                memory_usage: 3 << 20,
                memory_cache: 1 << 20,
                memory_limit: Some(1 << 30),
                pids: 3,
                block_read_bytes: 4_260_000,
                network_sent_bytes: 1000,
                ..Reading::default()
            }),
        }
    }

    /// Oracle: `docker stats --no-stream` of Docker 28.
    #[test]
    fn a_line() {
        let before = Reading {
            read_ns: 2_000_000_000,
            cpu_total_ns: 1_000_000_000,
            ..Reading::default()
        };
        let rows = [row(&used(), Some(&before), false)];
        assert_eq!(
            COLUMNS.render(&rows, None).as_deref(),
            Ok("\
CONTAINER ID   NAME      CPU %     MEM USAGE / LIMIT   MEM %     NET I/O    BLOCK I/O     PIDS
abababababab   box       150.00%   2MiB / 1GiB         0.20%     0B / 1kB   4.26MB / 0B   3
")
        );
        let format = Some("{{.Container}} {{.CPUPerc}}");
        let rows = [row(&used(), None, false)];
        assert_eq!(COLUMNS.render(&rows, format).as_deref(), Ok("box 0.00%\n"));
    }

    #[test]
    fn one_that_does_not_run_uses_nothing() {
        let idle = Used {
            reading: None,
            ..used()
        };
        let row = row(&idle, None, false);
        assert_eq!(row["MemUsage"], "0B / 0B");
        assert_eq!(row["PIDs"], "0");
    }

    #[test]
    fn drawing_leaves_nothing_of_what_was() {
        assert_eq!(draw("a\nb\n"), "\x1b[Ha\x1b[K\r\nb\x1b[K\r\n\x1b[J");
    }
}
