//! A registry that has one image and serves it as it should, for tests that bend its answers.

use anyhow::Result;

use super::faulty::{Answer, Faulty, Reply, Request};
use crate::image::Image;

impl Faulty {
    /// Starts a registry that has `image` under any name and tag; `bend` makes of each right answer what is sent.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn with_image(
        image: &Image,
        bend: impl Fn(&Request, Reply) -> Answer + Send + Sync + 'static,
    ) -> Result<Self> {
        let image = image.clone();
        Self::start(move |request| bend(request, honest(&image, request)))
    }
}

/// What a registry that has the image answers (OCI distribution specification, "Pull").
pub fn honest(image: &Image, request: &Request) -> Reply {
    let path = request.path.split('?').next().unwrap_or_default();
    let what = path.rsplit('/').next().unwrap_or_default();
    let is_manifest = path.contains("/manifests/");
    let digest = match what.parse() {
        Ok(digest) => digest,
        Err(_) if is_manifest => image.manifest.digest,
        Err(_) => return status(if path == "/v2/" { 200 } else { 404 }),
    };
    let Some(bytes) = image.blobs.get(&digest) else {
        return status(404);
    };
    let mut reply = part(request, bytes);
    if is_manifest {
        let media_type = image.manifest.media_type.to_string();
        reply.headers.push(("Content-Type", media_type));
        reply
            .headers
            .push(("Docker-Content-Digest", digest.to_string()));
    }
    reply
}

fn status(status: u16) -> Reply {
    Reply {
        status,
        headers: Vec::new(),
        body: Vec::new(),
    }
}

/// The range that is asked for (RFC 9110, section 14), or all.
fn part(request: &Request, bytes: &[u8]) -> Reply {
    let Some((first, last)) = request.range() else {
        return Reply {
            body: bytes.to_vec(),
            ..status(200)
        };
    };
    let size = bytes.len();
    let first = usize::try_from(first).unwrap_or(usize::MAX);
    let last = last.and_then(|last| usize::try_from(last).ok());
    let end = last.map_or(size, |last| last.saturating_add(1).min(size));
    if first >= end {
        return Reply {
            headers: vec![("Content-Range", format!("bytes */{size}"))],
            ..status(416)
        };
    }
    Reply {
        headers: vec![("Content-Range", format!("bytes {first}-{}/{size}", end - 1))],
        body: bytes[first..end].to_vec(),
        ..status(206)
    }
}
