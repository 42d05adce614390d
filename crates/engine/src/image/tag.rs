//! `tag`: one more reference for an image.

use store::lock::Mode;
use store::{fault, images};

use super::{find, keep, note};
use crate::{Engine, Error};

impl Engine {
    /// Lets `target` name the image that `source` names; what it named before keeps its other names.
    ///
    /// # Errors
    /// No such image; `target` is no reference, or has a digest, which says itself what it names.
    pub fn tag(&self, source: &str, target: &str) -> Result<(), Error> {
        let names = images::hold(&self.root, Mode::Shared)?;
        let (record, _) = find::find(&self.root, source)?;
        let reference = find::parse_new(target)?;
        fault::point("tag.found");
        keep::tag(&self.root, &reference, record.id, None, &names)?;
        fault::point("tag.written");
        note::image(&self.root, "tag", &record.id, &reference.familiar());
        Ok(())
    }
}
