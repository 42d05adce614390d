//! `history`: how an image's layers came about, from its configuration.

use serde::Serialize;
use store::images::Record;

use super::{find, list};
use crate::{Engine, Error, time};

/// A step of an image's making.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryStep {
    /// `sha256:…` of the image, for the last step; the images of the others are not here.
    pub id: Option<String>,
    /// Nanoseconds since 1970, if the image says so.
    pub created_ns: Option<u64>,
    /// The command.
    pub created_by: String,
    /// A note.
    pub comment: String,
    /// Bytes of its layer, as it is stored; 0 when it made none.
    pub size: u64,
    /// The image's references, for the last step.
    pub tags: Vec<String>,
}

impl Engine {
    /// The steps of an image's making, the last one first.
    ///
    /// # Errors
    /// No such image.
    pub fn image_history(&self, name: &str) -> Result<Vec<HistoryStep>, Error> {
        let (record, _) = find::find(&self.root, name)?;
        let config = find::config(&self.root, &record)?;
        let mut steps = steps(&config.history, &record);
        if let Some(last) = steps.first_mut() {
            last.id = Some(record.id.to_string());
            last.tags = list::familiar(&list::references(&self.root, &record.id)?);
        }
        Ok(steps)
    }
}

/// A history that says too little about layers is filled up, one that says too much of them has steps without any.
fn steps(history: &[oci::History], record: &Record) -> Vec<HistoryStep> {
    let mut sizes = record.layers.iter().map(|layer| layer.size);
    let mut steps: Vec<HistoryStep> = history
        .iter()
        .map(|step| HistoryStep {
            id: None,
            created_ns: step.created.as_deref().and_then(time::parse),
            created_by: step.created_by.clone().unwrap_or_default(),
            comment: step.comment.clone().unwrap_or_default(),
            size: match step.empty_layer {
                true => 0,
                false => sizes.next().unwrap_or(0),
            },
            tags: Vec::new(),
        })
        .collect();
    steps.extend(sizes.map(|size| HistoryStep {
        id: None,
        created_ns: None,
        created_by: String::new(),
        comment: String::new(),
        size,
        tags: Vec::new(),
    }));
    steps.reverse();
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::{Descriptor, MediaType};

    #[test]
    fn steps_go_with_layers() {
        let blob = |size: usize| Descriptor::of(MediaType::OciLayer, &vec![0; size]);
        let record = |sizes: &[usize]| Record {
            schema: 1,
            id: blob(0).digest,
            config: blob(0),
            manifest: blob(0),
            index: None,
            platform: oci::Platform::host(),
            layers: sizes.iter().map(|size| blob(*size)).collect(),
            rootfs: String::new(),
            added_ns: 0,
        };
        let step = |by: &str, empty_layer: bool| oci::History {
            created_by: Some(by.to_owned()),
            empty_layer,
            ..oci::History::default()
        };
        let check = |history: &[oci::History], sizes: &[usize], expect: &[(&str, u64)]| {
            let steps = steps(history, &record(sizes));
            let got: Vec<_> = steps
                .iter()
                .map(|step| (step.created_by.as_str(), step.size))
                .collect();
            assert_eq!(got, expect);
        };
        let three = [step("ADD", false), step("ENV", true), step("RUN", false)];
        check(&three, &[10, 20], &[("RUN", 20), ("ENV", 0), ("ADD", 10)]);
        check(&three, &[10], &[("RUN", 0), ("ENV", 0), ("ADD", 10)]);
        check(&three[..1], &[10, 20], &[("", 20), ("ADD", 10)]);
        check(&[], &[], &[]);
    }
}
