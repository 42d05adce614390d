//! `gourd push`.

use engine::{PushRequest, PushedImage};

use crate::app::App;
use crate::args::image::Push;
use crate::failure::Failure;
use crate::render::out;
use crate::render::progress::Progress;

/// Pushes an image; prints each tag with its digest, as Docker does, or its full reference.
pub async fn push(app: &App, args: &Push) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let progress = Progress::new(args.quiet);
    let request = PushRequest {
        name: args.image.clone(),
        all_tags: args.all_tags,
        platform: args.platform.clone(),
    };
    let pushed = engine
        .push(&request, &|event| progress.show_push(event))
        .await;
    progress.end();
    for image in pushed? {
        out::line(&text(&image, args.quiet))?;
    }
    Ok(0)
}

fn text(image: &PushedImage, quiet: bool) -> String {
    let PushedImage {
        reference,
        tag,
        digest,
        size,
    } = image;
    match quiet {
        true => reference.clone(),
        false => format!("{tag}: digest: {digest} size: {size}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: the last line of `docker push`, and all of `docker push -q`.
    #[test]
    fn texts() {
        let image = PushedImage {
            reference: "docker.io/me/app:1".to_owned(),
            tag: "1".to_owned(),
            digest: "sha256:00".to_owned(),
            size: 525,
        };
        assert_eq!(text(&image, false), "1: digest: sha256:00 size: 525");
        assert_eq!(text(&image, true), "docker.io/me/app:1");
    }
}
