//! `gourd diff`.

use crate::app::App;
use crate::args::container::Diff;
use crate::failure::Failure;
use crate::render::out;
use crate::terminal;

/// Prints a line for each path that is not as in the image: `A` added, `C` changed, `D` deleted.
pub async fn diff(app: &App, args: &Diff) -> Result<u8, Failure> {
    let changes = app.engine()?.diff(&args.container).await?;
    let shown = terminal::stdout_is_terminal();
    let mut text = Vec::new();
    for change in changes {
        text.extend([change.kind.letter() as u8, b' ']);
        if shown {
            // A guest's names must not steer the terminal.
            let path = String::from_utf8_lossy(&change.path);
            let path: String = path
                .chars()
                .map(|c| if c.is_control() { '?' } else { c })
                .collect();
            text.extend(path.into_bytes());
        } else {
            text.extend(change.path);
        }
        text.push(b'\n');
    }
    out::write(&text)?;
    Ok(0)
}
