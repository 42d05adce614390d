//! `gourd image prune`.

use engine::{PrunedImages, Removed};

use crate::app::App;
use crate::args::image::{self, Prune};
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::render::{human, out};

/// Removes images that nobody uses, after asking.
pub fn prune(app: &App, args: &Prune) -> Result<u8, Failure> {
    let mut filter = image::chosen(&args.filter);
    // Docker's older word for --all.
    let all = args.all || filter.dangling.take() == Some(false);
    let warning = match all {
        true => {
            "WARNING! This will remove all images without at least one container associated to them."
        }
        false => "WARNING! This will remove all dangling images.",
    };
    if !args.force && !confirm(warning)? {
        return Ok(0);
    }
    let pruned = app.engine()?.prune_images(all, &filter)?;
    out::print(&text(&pruned))?;
    say_later(&pruned);
    out::line(&format!(
        "Total reclaimed space: {}",
        human::size(pruned.bytes)
    ))?;
    Ok(0)
}

/// Why nothing is reclaimed.
pub fn say_later(pruned: &PrunedImages) {
    if pruned.later {
        // stderr may be closed.
        let _ = out::stderr(
            "other commands bring in or read images: what belongs to none goes when they have ended\n",
        );
    }
}

/// What went, as Docker lists it; nothing when nothing did.
pub fn text(pruned: &PrunedImages) -> String {
    if pruned.removed.is_empty() {
        return String::new();
    }
    let mut text = "Deleted Images:\n".to_owned();
    for one in &pruned.removed {
        match one {
            Removed::Untagged(reference) => text.push_str(&format!("untagged: {reference}\n")),
            Removed::Deleted(digest) => text.push_str(&format!("deleted: {digest}\n")),
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: `docker image prune` of Docker 28.
    #[test]
    fn texts() {
        let pruned = PrunedImages {
            removed: vec![
                Removed::Untagged("a:1".to_owned()),
                Removed::Deleted("sha256:00".to_owned()),
            ],
            bytes: 1,
            later: false,
        };
        let expect = "Deleted Images:\nuntagged: a:1\ndeleted: sha256:00\n\n";
        assert_eq!(text(&pruned), expect);
        assert_eq!(text(&PrunedImages::default()), "");
    }
}
