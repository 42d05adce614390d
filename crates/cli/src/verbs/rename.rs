//! `gourd rename`.

use crate::app::App;
use crate::args::container::Rename;
use crate::failure::Failure;

/// Gives a container another name; says nothing, as Docker.
pub fn rename(app: &App, args: &Rename) -> Result<u8, Failure> {
    app.engine()?.rename(&args.container, &args.name)?;
    Ok(0)
}
