//! Events of images, as Docker has them: the id (a pull's and a push's: the reference), with `name`, and the image's labels.

use oci::{Digest, Reference};
use store::events::{self, Event, Kind};
use store::{Root, images};

use super::find;

/// Notes what happened to an image; called with what it is, before it is removed.
pub(super) fn image(root: &Root, action: &str, image: &Digest, name: &str) {
    let mut event = Event::now(Kind::Image, action, image.to_string());
    event.attributes = labels(root, image);
    events::emit(root, &event.with("name", name));
}

/// Notes a pull or a push.
pub(super) fn moved(root: &Root, action: &str, reference: &Reference, image: &Digest) {
    let mut event = Event::now(Kind::Image, action, reference.familiar());
    event.attributes = labels(root, image);
    // Without tag and digest, as Docker.
    let familiar = reference.familiar();
    let name = familiar.split('@').next().unwrap_or_default();
    let path = name.rfind('/').map_or(0, |slash| slash + 1);
    let end = name[path..].find(':').map_or(name.len(), |at| path + at);
    events::emit(root, &event.with("name", &name[..end]));
}

/// Notes a prune.
pub(super) fn pruned(root: &Root, bytes: u64) {
    events::emit(
        root,
        &Event::now(Kind::Image, "prune", "").with("reclaimed", bytes),
    );
}

fn labels(root: &Root, image: &Digest) -> std::collections::BTreeMap<String, String> {
    let record = images::get(root, image).ok().flatten();
    let config = record.and_then(|record| find::config(root, &record).ok());
    config
        .map(|config| config.config.labels)
        .unwrap_or_default()
}
