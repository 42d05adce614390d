//! `gourd update`.

use engine::UpdateRequest;

use crate::app::App;
use crate::args::container::Update;
use crate::failure::{Failure, Tally};
use crate::render::out;

/// Gives each other limits and prints the names of those that have them.
pub async fn update(app: &App, args: &Update) -> Result<u8, Failure> {
    let mut request = UpdateRequest {
        memory: args.memory,
        nano_cpus: args.nano_cpus,
        pids_limit: args.pids_limit,
        restart: args.restart,
    };
    if request == UpdateRequest::default() {
        return Err(Failure::NothingToUpdate);
    }
    // 0 leaves it as it is, as with Docker.
    request.memory = request.memory.filter(|bytes| *bytes != 0);
    request.nano_cpus = request.nano_cpus.filter(|nano| *nano != 0);
    let engine = app.engine()?;
    let mut tally = Tally::default();
    for name in &args.containers {
        match engine.update(name, request).await {
            Ok(()) => out::line(name)?,
            Err(error) => tally.failed(error),
        }
    }
    tally.end()
}
