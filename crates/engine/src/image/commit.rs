//! `commit`: a container's changes become a layer, its configuration an image's defaults.
//!
//! The layer comes from the guest as a tar, in pieces; a thread hashes and packs it into the store. Nothing of it can be
//! seen before the image is whole: a crash leaves a blob that the next collection takes.

use bytes::Bytes;
use oci::{
    ContainerConfig, Descriptor, Digest, Healthcheck, History, ImageConfig, MediaType, Reference,
};
use store::container::Spec;
use store::events::{self, Event};
use store::images::{self, Record};
use store::lock::Lock;
use store::{Root, fault};
use tokio::sync::mpsc;

use super::import::{change, clear};
use super::layer::{LayerWriter, NewLayer};
use super::{PullEvent, find, keep, make, note};
use crate::{Engine, Error, blocking};

/// Pieces that wait for the packing.
const WAITING: usize = 8;

/// A tar without entries: two blocks of zeros (POSIX.1-2001, pax, "ustar Interchange Format").
const EMPTY_TAR: [u8; 1024] = [0; 1024];

/// Signal 15, which is what there is when nobody says another.
const SIGTERM: u32 = 15;

/// What a commit is to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommitRequest {
    /// The image's name.
    pub reference: Option<String>,
    /// Who made it.
    pub author: String,
    /// A note for its history.
    pub message: String,
    /// Instructions of a Dockerfile, over the container's configuration.
    pub changes: Vec<String>,
    /// Freeze the container's processes while their files are read.
    pub pause: bool,
}

impl Engine {
    /// Makes an image of a container, running or not; its id.
    ///
    /// # Errors
    /// No such container; a request that makes no sense; the guest cannot read a file.
    pub async fn commit(
        &self,
        id: &str,
        request: &CommitRequest,
        progress: &dyn Fn(PullEvent),
    ) -> Result<String, Error> {
        let reference = request.reference.as_deref().map(find::parse_new);
        let reference = reference.transpose()?;
        let container = self.container(id)?;
        let spec = container.spec().clone();
        let mut defaults = ContainerConfig::default();
        change(&mut defaults, &request.changes)?;
        let lease = self.content_lease().await?;
        let (base, mut config) = base(&self.root, &spec)?;
        take_over(&mut config.config, &spec);
        change(&mut config.config, &request.changes)?;
        describe(&mut config, &spec, request);
        let files = self.own_files(container.id()).await?;
        fault::point("commit.reached");
        let mut layer = files.layer(request.pause).await?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let root = self.root.clone();
        let packing = tokio::task::spawn_blocking(move || pack(&root, receiver));
        let mut came = Ok(0_u64);
        loop {
            match layer.next().await {
                Ok(Some(bytes)) => {
                    came = came.map(|count| count + bytes.len() as u64);
                    let done = came.as_ref().copied().unwrap_or(0);
                    progress(PullEvent::Importing { done });
                    if sender.send(Some(bytes)).await.is_err() {
                        // It says itself why it left.
                        break;
                    }
                }
                Ok(None) => {
                    // The layer is whole: only then it gets a name.
                    let _ = sender.send(None).await;
                    break;
                }
                Err(error) => {
                    came = Err(error);
                    break;
                }
            }
        }
        drop((sender, layer, files));
        let packed = packing.await.map_err(|_| Error::Interrupted)?;
        came?;
        let layer = packed?.ok_or(Error::Interrupted)?;
        fault::point("commit.layer-came");
        let layers = base.layers.len() + 1;
        progress(PullEvent::Merging { layers });
        let (root, request) = (self.root.clone(), request.clone());
        let made = blocking(move || {
            let mut fresh = vec![layer.blob.digest];
            let made = make(&root, &base, config, layer, &mut fresh).and_then(|(image, names)| {
                name(&root, &spec, &request, image, reference.as_ref(), &names)?;
                Ok(image)
            });
            drop(lease);
            if made.is_err() {
                clear(&root, &fresh);
            }
            made
        })
        .await?;
        Ok(made.to_string())
    }
}

/// The container's image, which is here for as long as the container is.
fn base(root: &Root, spec: &Spec) -> Result<(Record, ImageConfig), Error> {
    let missing = || Error::NoSuchImage(spec.image.id.clone());
    let id: Digest = spec.image.id.parse().map_err(|_| missing())?;
    let record = images::get(root, &id)?.ok_or_else(missing)?;
    let config = find::config(root, &record)?;
    Ok((record, config))
}

/// Takes what comes until the end; `None` when it was broken off.
fn pack(root: &Root, mut pieces: mpsc::Receiver<Option<Bytes>>) -> Result<Option<NewLayer>, Error> {
    let mut writer = LayerWriter::begin(root)?;
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Some(bytes) => writer.write(&bytes)?,
            None => return Ok(Some(writer.finish()?)),
        }
    }
    Ok(None)
}

/// The container's own configuration over its image's, as Docker's `container.Config`.
fn take_over(defaults: &mut ContainerConfig, spec: &Spec) {
    let process = &spec.process;
    defaults.user.clone_from(&process.user);
    defaults.env.clone_from(&process.env);
    defaults.working_dir.clone_from(&process.cwd);
    defaults.labels.clone_from(&spec.labels);
    defaults.entrypoint.clone_from(&process.entrypoint);
    defaults.cmd.clone_from(&process.cmd);
    if process.entrypoint.is_empty() && process.cmd.is_empty() {
        // Of a gourd that kept only the two together.
        defaults.cmd.clone_from(&process.args);
    }
    if spec.stop_signal != SIGTERM || defaults.stop_signal.is_some() {
        defaults.stop_signal = Some(spec.stop_signal.to_string());
    }
    let time = |ns: u64| i64::try_from(ns).unwrap_or(i64::MAX);
    defaults.healthcheck = match &spec.health {
        Some(check) => Some(Healthcheck {
            test: check.test.clone(),
            interval: time(check.interval_ns),
            timeout: time(check.timeout_ns),
            start_period: time(check.start_period_ns),
            start_interval: time(check.start_interval_ns),
            retries: i64::from(check.retries),
        }),
        // Switched off for the container, and so for what becomes of it.
        None => defaults.healthcheck.take().map(|_| Healthcheck {
            test: vec!["NONE".to_owned()],
            ..Healthcheck::default()
        }),
    };
}

/// When, by whom and how; the step's layer is still to come. A history that says nothing of some layers is filled up,
/// or the new step would be taken for one of theirs.
fn describe(config: &mut ImageConfig, spec: &Spec, request: &CommitRequest) {
    let told = config.history.iter().filter(|step| !step.empty_layer);
    let untold = config.rootfs.diff_ids.len().saturating_sub(told.count());
    config
        .history
        .extend(std::iter::repeat_n(History::default(), untold));
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    config.created = Some(make::now());
    config.author = text(&request.author);
    config.history.push(History {
        created: config.created.clone(),
        created_by: text(&spec.process.cmd.join(" ")),
        author: text(&request.author),
        comment: text(&request.message),
        empty_layer: false,
    });
}

fn make(
    root: &Root,
    base: &Record,
    mut config: ImageConfig,
    layer: NewLayer,
    fresh: &mut Vec<Digest>,
) -> Result<(Digest, Lock), Error> {
    let mut layers: Vec<Descriptor> = base.layers.iter().map(as_oci).collect();
    if layer.diff_id != Digest::of(&EMPTY_TAR) {
        config.rootfs.diff_ids.push(layer.diff_id);
        layers.push(layer.blob);
    } else if let Some(step) = config.history.last_mut() {
        step.empty_layer = true;
    }
    let (record, names) = make::image(root, &config, layers, fresh)?;
    fault::point("commit.kept");
    Ok((record.id, names))
}

/// Names the image, and notes what was done.
fn name(
    root: &Root,
    spec: &Spec,
    request: &CommitRequest,
    image: Digest,
    reference: Option<&Reference>,
    names: &Lock,
) -> Result<(), Error> {
    if let Some(reference) = reference {
        keep::tag(root, reference, image, None, names)?;
        fault::point("commit.tagged");
        note::image(root, "tag", &image, &reference.familiar());
    }
    let reference = reference.map_or_else(String::new, Reference::familiar);
    let event = Event::container(spec, "commit")
        .with("comment", &request.message)
        .with("imageID", image)
        .with("imageRef", reference);
    events::emit(root, &event);
    Ok(())
}

/// One manifest does not mix OCI's and Docker's media types.
fn as_oci(layer: &Descriptor) -> Descriptor {
    let media_type = match layer.media_type.layer_compression() {
        Some(oci::Compression::None) => MediaType::OciLayer,
        Some(oci::Compression::Zstd) => MediaType::OciLayerZstd,
        Some(oci::Compression::Gzip) | None => MediaType::OciLayerGzip,
    };
    Descriptor::new(media_type, layer.digest, layer.size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::container::{HealthCheck, Process};

    fn spec() -> Spec {
        Spec {
            stop_signal: SIGTERM,
            process: Process {
                args: vec!["sh".to_owned(), "-c".to_owned(), "true".to_owned()],
                entrypoint: vec!["sh".to_owned()],
                cmd: vec!["-c".to_owned(), "true".to_owned()],
                env: vec!["A=1".to_owned()],
                user: "www".to_owned(),
                cwd: "/srv".to_owned(),
                ..Process::default()
            },
            ..Spec::default()
        }
    }

    /// Oracle: `docker commit` of Docker 28.
    #[test]
    fn the_containers_configuration_is_the_images() {
        let mut image = ContainerConfig {
            cmd: vec!["old".to_owned()],
            exposed_ports: vec!["80/tcp".to_owned()],
            volumes: vec!["/data".to_owned()],
            ..ContainerConfig::default()
        };
        take_over(&mut image, &spec());
        assert_eq!(image.entrypoint, ["sh"]);
        assert_eq!(image.cmd, ["-c", "true"]);
        assert_eq!(
            (image.user.as_str(), image.working_dir.as_str()),
            ("www", "/srv")
        );
        assert_eq!((image.exposed_ports.len(), image.volumes.len()), (1, 1));
        assert_eq!((image.stop_signal, image.healthcheck), (None, None));
    }

    #[test]
    fn what_was_switched_off_stays_off() {
        let check = Healthcheck {
            test: vec!["CMD".to_owned(), "true".to_owned()],
            ..Healthcheck::default()
        };
        let image = ContainerConfig {
            healthcheck: Some(check.clone()),
            stop_signal: Some("SIGQUIT".to_owned()),
            ..ContainerConfig::default()
        };
        let mut off = image.clone();
        take_over(&mut off, &spec());
        assert_eq!(off.healthcheck.unwrap().test, ["NONE"]);
        assert_eq!(off.stop_signal.as_deref(), Some("15"));
        let mut on = image;
        let spec = Spec {
            stop_signal: 3,
            health: Some(HealthCheck {
                test: check.test.clone(),
                retries: 3,
                ..HealthCheck::default()
            }),
            ..spec()
        };
        take_over(&mut on, &spec);
        let on_check = on.healthcheck.unwrap();
        assert_eq!((on_check.test, on_check.retries), (check.test, 3));
        assert_eq!(on.stop_signal.as_deref(), Some("3"));
    }

    #[test]
    fn the_new_step_goes_with_the_new_layer() {
        let check = |told: usize, layers: usize, expect: usize| {
            let mut config: ImageConfig = serde_json::from_value(serde_json::json!({
                "os": "linux", "architecture": "amd64",
                "rootfs": {"type": "layers", "diff_ids": vec![Digest::of(b""); layers]},
            }))
            .unwrap();
            config.history = vec![History::default(); told];
            let request = CommitRequest {
                message: "new".to_owned(),
                ..CommitRequest::default()
            };
            describe(&mut config, &spec(), &request);
            assert_eq!(config.history.len(), expect);
            let last = config.history.last().unwrap();
            assert_eq!(last.comment.as_deref(), Some("new"));
            assert_eq!(last.created_by.as_deref(), Some("-c true"));
        };
        check(0, 0, 1);
        check(0, 2, 3);
        check(2, 2, 3);
        check(3, 2, 4);
    }

    /// Oracle: `head -c 1024 /dev/zero | sha256sum`.
    #[test]
    fn the_empty_tar_is_the_known_one() {
        assert_eq!(
            Digest::of(&EMPTY_TAR).to_string(),
            "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
        );
    }
}
