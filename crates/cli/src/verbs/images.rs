//! `gourd images`.

use engine::ImageSummary;
use serde_json::{Value, json};

use crate::app::App;
use crate::args::image::{self, List};
use crate::clock;
use crate::failure::Failure;
use crate::render::listing::Columns;
use crate::render::{human, out};

/// Docker's.
const COLUMNS: Columns = Columns {
    default: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    headings: &[
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
    ],
};

/// `--digests`
const WITH_DIGESTS: &str =
    "table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";

/// What stands for a part that is not there, as in Docker's table.
const NONE: &str = "<none>";

/// A familiar reference in its parts.
#[derive(Debug, PartialEq, Eq)]
struct Parts<'r> {
    repository: &'r str,
    tag: &'r str,
    digest: &'r str,
}

/// Cuts `name:tag@digest`; a colon before the last slash is a port's.
fn parts(reference: &str) -> Parts<'_> {
    let (name, digest) = reference.split_once('@').unwrap_or((reference, NONE));
    let path = name.rfind('/').map_or(0, |slash| slash + 1);
    let (repository, tag) = match name[path..].rfind(':') {
        Some(colon) => (&name[..path + colon], &name[path + colon + 1..]),
        None => (name, NONE),
    };
    Parts {
        repository,
        tag,
        digest,
    }
}

/// Lists images, a row for each reference. Untagged ones are listed too, as by Docker; what it hides without `-a`, the
/// images of a build's steps, there is none of here.
pub fn images(app: &App, args: &List) -> Result<u8, Failure> {
    let mut filter = image::chosen(&args.filter);
    filter.references.extend(args.name.clone());
    let named = !filter.references.is_empty();
    let images = app.engine()?.images_filtered(&filter)?;
    let now_ns = clock::wall_ns();
    let mut rows = Vec::new();
    let mut ids = Vec::new();
    for image in &images {
        let chosen = &image.references;
        for reference in chosen {
            let mut parts = parts(reference);
            if let Some(digest) = image.digests.get(reference) {
                parts.digest = digest;
            }
            rows.push(row(image, parts, now_ns, args.no_trunc));
        }
        let untagged = chosen.is_empty() && !named;
        if untagged {
            rows.push(row(
                image,
                Parts {
                    repository: NONE,
                    tag: NONE,
                    digest: NONE,
                },
                now_ns,
                args.no_trunc,
            ));
        }
        if untagged || !chosen.is_empty() {
            ids.push(format!(
                "{}\n",
                if args.no_trunc {
                    &image.id
                } else {
                    human::short_id(&image.id)
                }
            ));
        }
    }
    if args.quiet {
        out::print(&ids.concat())?;
    } else {
        let format = match args.format.as_deref() {
            None | Some("" | "table") if args.digests => Some(WITH_DIGESTS),
            format => format,
        };
        out::print(&COLUMNS.render_fitting(&rows, format, args.no_trunc)?)?;
    }
    Ok(0)
}

/// One row for an image, by its first name.
pub fn first_row(image: &ImageSummary, now_ns: u64) -> Value {
    let parts = image.references.first().map_or(
        Parts {
            repository: NONE,
            tag: NONE,
            digest: NONE,
        },
        |reference| parts(reference),
    );
    row(image, parts, now_ns, false)
}

fn row(image: &ImageSummary, parts: Parts<'_>, now_ns: u64, whole: bool) -> Value {
    let id = if whole {
        &image.id
    } else {
        human::short_id(&image.id)
    };
    json!({
        "Repository": parts.repository,
        "Tag": parts.tag,
        "Digest": parts.digest,
        "ID": id,
        "CreatedAt": image.created_ns.map_or_else(|| "N/A".to_owned(), human::created_at),
        "CreatedSince": image.created_ns.map_or_else(|| "N/A".to_owned(), |then| human::ago(then, now_ns)),
        "Size": human::size(image.size),
        // As Docker has them: `system df -v` knows.
        "Containers": "N/A",
        "SharedSize": "N/A",
        "UniqueSize": "N/A",
        "VirtualSize": human::size(image.size),
        "Platform": image.platform,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_cut() {
        let check = |text: &str, repository: &str, tag: &str, digest: &str| {
            assert_eq!(
                parts(text),
                Parts {
                    repository,
                    tag,
                    digest
                },
                "{text}"
            );
        };
        check("busybox:latest", "busybox", "latest", NONE);
        check("localhost:5000/a/b:1.0", "localhost:5000/a/b", "1.0", NONE);
        check("localhost:5000/a", "localhost:5000/a", NONE, NONE);
        check("debian@sha256:00", "debian", NONE, "sha256:00");
        check("debian:12@sha256:00", "debian", "12", "sha256:00");
        check("", "", NONE, NONE);
    }

    /// Oracle: `docker images` of Docker 28.
    #[test]
    fn table() {
        let image = ImageSummary {
            id: format!("sha256:{}", "ab".repeat(32)),
            references: Vec::new(),
            digests: Default::default(),
            created_ns: Some(0),
            size: 4_261_574,
            platform: "linux/amd64".to_owned(),
            labels: Default::default(),
        };
        let rows = [row(
            &image,
            parts("busybox:latest"),
            15 * 86_400_000_000_000,
            false,
        )];
        assert_eq!(
            COLUMNS.render(&rows, None).as_deref(),
            Ok("REPOSITORY   TAG       IMAGE ID       CREATED       SIZE\n\
                busybox      latest    abababababab   2 weeks ago   4.26MB\n")
        );
    }
}
