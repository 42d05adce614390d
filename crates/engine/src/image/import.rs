//! `import`: an archive of files becomes an image of one layer.

use std::io::Read;

use oci::{ContainerConfig, Digest, History, ImageConfig, Platform, Reference, RootFs};
use store::lock::Mode;
use store::{Root, content, fault, gc};
use tokio::sync::mpsc;

use super::archive::Error as ArchiveError;
use super::layer::{CopyError, LayerWriter};
use super::{PullEvent, find, keep, lease, make, note, unpack};
use crate::container::platform;
use crate::{Engine, Error, blocking};

/// What an import is to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportRequest {
    /// The image's name.
    pub reference: Option<String>,
    /// Instructions of a Dockerfile, for the defaults of the image's containers.
    pub changes: Vec<String>,
    /// A note for its history.
    pub message: String,
    /// `linux/amd64`; by default the host's.
    pub platform: Option<String>,
}

impl Engine {
    /// Makes an image of a tar of a root file system, plain or packed (gzip, zstd; xz and bzip2 by the programs of these
    /// names); its id.
    ///
    /// # Errors
    /// A request that makes no sense; what comes is no tar.
    pub async fn import(
        &self,
        source: impl Read + Send + 'static,
        request: &ImportRequest,
        progress: &dyn Fn(PullEvent),
    ) -> Result<String, Error> {
        let reference = request.reference.as_deref().map(find::parse_new);
        let reference = reference.transpose()?;
        let config = config(request)?;
        let lease = self.content_lease().await?;
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let root = self.root.clone();
        let work = blocking(move || {
            let mut fresh = Vec::new();
            let show = |event| drop(sender.send(event));
            let made = import(&root, source, config, reference.as_ref(), &mut fresh, &show);
            drop(lease);
            if made.is_err() {
                clear(&root, &fresh);
            }
            made
        });
        let report = async {
            while let Some(event) = receiver.recv().await {
                progress(event);
            }
        };
        let (made, ()) = tokio::join!(work, report);
        Ok(made?.to_string())
    }
}

/// The configuration but for its layer.
fn config(request: &ImportRequest) -> Result<ImageConfig, Error> {
    let platform: Platform = platform(request.platform.as_deref())?;
    let mut defaults = ContainerConfig::default();
    change(&mut defaults, &request.changes)?;
    let created = Some(make::now());
    Ok(ImageConfig {
        created: created.clone(),
        author: None,
        platform,
        config: defaults,
        rootfs: RootFs {
            kind: "layers".to_owned(),
            diff_ids: Vec::new(),
        },
        history: vec![History {
            created,
            comment: Some(request.message.clone()),
            ..History::default()
        }],
    })
}

/// Follows instructions of a Dockerfile.
pub(super) fn change(defaults: &mut ContainerConfig, changes: &[String]) -> Result<(), Error> {
    oci::change(defaults, changes).map_err(|error| Error::invalid("change", error.to_string()))
}

fn import(
    root: &Root,
    source: impl Read + Send + 'static,
    mut config: ImageConfig,
    reference: Option<&Reference>,
    fresh: &mut Vec<Digest>,
    progress: &dyn Fn(PullEvent),
) -> Result<Digest, Error> {
    let mut tar = unpack::unpack_within(source, root.max_unpacked()).map_err(ArchiveError::Read)?;
    let show = |done| progress(PullEvent::Importing { done });
    let layer = LayerWriter::begin(root)?.copy(&mut tar, &show);
    let layer = layer.map_err(|error| match error {
        CopyError::Read(error) => Error::from(ArchiveError::Read(error)),
        CopyError::Content(error) => error.into(),
    })?;
    fresh.push(layer.blob.digest);
    config.rootfs.diff_ids.push(layer.diff_id);
    progress(PullEvent::Merging { layers: 1 });
    let (record, names) = make::image(root, &config, vec![layer.blob], fresh)?;
    fault::point("import.kept");
    if let Some(reference) = reference {
        keep::tag(root, reference, record.id, None, &names)?;
    }
    let name = reference.map_or_else(|| record.id.to_string(), Reference::familiar);
    note::image(root, "import", &record.id, &name);
    Ok(record.id)
}

/// Removes what came and belongs to no image. While others are at work it stays for the next collection.
pub(super) fn clear(root: &Root, fresh: &[Digest]) {
    let cleared = match content::try_lease(root, Mode::Exclusive) {
        Ok(Some(exclusive)) => lease::under(root, exclusive, |exclusive| {
            Ok(gc::drop_unused(root, exclusive, fresh)?)
        }),
        Ok(None) => Ok(()),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = cleared {
        tracing::warn!(%error, "cannot remove what came for nothing");
    }
}
