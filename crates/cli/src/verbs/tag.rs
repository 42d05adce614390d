//! `gourd tag`.

use crate::app::App;
use crate::args::image::Tag;
use crate::failure::Failure;

/// Gives an image one more name.
pub fn tag(app: &App, args: &Tag) -> Result<u8, Failure> {
    app.engine()?.tag(&args.source, &args.target)?;
    Ok(0)
}
