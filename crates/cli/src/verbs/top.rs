//! `gourd top`: the processes of a container, in the columns of ps(1).
//!
//! No ps runs, and the image needs none: the options choose among what the guest's kernel tells.

mod columns;

use crate::app::App;
use crate::args::container::Top;
use crate::clock;
use crate::failure::Failure;
use crate::render::{out, table};

/// Docker's narrowest column.
const MIN_WIDTH: usize = 20;

/// Prints a table of processes.
pub async fn top(app: &App, args: &Top) -> Result<u8, Failure> {
    let columns = columns::parse(&args.options).map_err(|reason| Failure::PsOptions { reason })?;
    let engine = app.engine()?;
    let processes = engine.top(&args.container).await?;
    let memory = match columns.iter().any(columns::Column::wants_memory) {
        true => engine.stats(&args.container).await?.memory_limit,
        false => None,
    };
    let when = columns::When {
        now_ns: clock::wall_ns(),
        memory: memory.unwrap_or(0),
    };
    let mut rows = vec![
        columns
            .iter()
            .map(|column| column.heading.clone())
            .collect(),
    ];
    for process in &processes {
        rows.push(
            columns
                .iter()
                .map(|column| column.cell(process, when))
                .collect(),
        );
    }
    out::print(&table::render_with(&rows, MIN_WIDTH))?;
    Ok(0)
}
