//! `gourd system prune`.

use crate::app::App;
use crate::args::{image, system::Prune};
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::render::{human, out};

use super::{container_prune, image_prune, network, volume};

/// Removes everything that nobody uses, after asking.
pub async fn prune(app: &App, args: &Prune) -> Result<u8, Failure> {
    if !args.force && !confirm(&warning(args.all, args.volumes, &args.filter))? {
        return Ok(0);
    }
    let filter = image::chosen(&args.filter);
    let pruned = app.engine()?.prune(args.all, args.volumes, &filter).await?;
    out::print(&container_prune::text(&pruned.containers))?;
    out::print(&network::text(&pruned.networks))?;
    out::print(&volume::text(&pruned.volumes))?;
    out::print(&image_prune::text(&pruned.images))?;
    image_prune::say_later(&pruned.images);
    out::line(&format!(
        "Total reclaimed space: {}",
        human::size(pruned.bytes())
    ))?;
    Ok(0)
}

/// Docker's words, for what there is of it here.
fn warning(all: bool, volumes: bool, filters: &[(String, String)]) -> String {
    let images = match all {
        true => "all images without at least one container associated to them",
        false => "all dangling images",
    };
    let volumes = match volumes {
        true => "  - all anonymous volumes not used by at least one container\n",
        false => "",
    };
    let mut text = format!(
        "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n{volumes}  - {images}\n  - what pulls that broke off have left\n"
    );
    if !filters.is_empty() {
        let words: Vec<String> = filters
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        text.push_str(&format!(
            "\n  Items to be pruned will be filtered with:\n  - {}\n",
            words.join("\n  - ")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: `docker system prune` of Docker 28.
    #[test]
    fn warnings() {
        let filters = [("label".to_owned(), "a=b".to_owned())];
        assert_eq!(
            warning(true, true, &filters),
            "WARNING! This will remove:\n  - all stopped containers\n  \
             - all networks not used by at least one container\n  - all anonymous volumes not used by at least one container\n  - all images without at least one container associated to them\n  \
             - what pulls that broke off have left\n\n  Items to be pruned will be filtered with:\n  - label=a=b\n"
        );
        assert!(warning(false, false, &[]).contains("\n  - all dangling images\n"));
    }
}
