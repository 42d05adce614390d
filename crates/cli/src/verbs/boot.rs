//! `gourd system boot` and `shutdown`.

use engine::Whose;

use crate::app::App;
use crate::args::system::Shutdown;
use crate::failure::{Failure, Tally};
use crate::render::out;

/// Starts what is to run whenever the host does, and prints the names of those that were started.
pub async fn boot(app: &App) -> Result<u8, Failure> {
    let mut tally = Tally::default();
    for started in app.engine()?.start_on_boot().await? {
        match started.result {
            Ok(()) => out::line(&started.name)?,
            Err(error) => tally.failed(error),
        }
    }
    tally.end()
}

/// Stops what runs, as when the host goes down, and prints the names of those that were stopped.
pub async fn shutdown(app: &App, args: &Shutdown) -> Result<u8, Failure> {
    let whose = match args.cgroup {
        true => Whose::OurControlGroup,
        false => Whose::All,
    };
    let mut tally = Tally::default();
    for ended in app.engine()?.shut_down(whose).await? {
        match ended.result {
            Ok(()) => out::line(&ended.name)?,
            Err(error) => tally.failed(error),
        }
    }
    tally.end()
}
