//! The files of a container, running or not: its supervisor, or one that starts a VM without the container's process.
//!
//! The same dance as at a start: whoever has the container's lock starts the supervisor; who comes second finds it
//! listening and joins it. It ends when the last connection to it ends, so whoever joins one that is about to end is sent
//! away, and tries again.

use proto::supervisor::StartedRequest;
use store::container::{self, Container};
use store::{kernels, locate, rootfs};

use super::spawn::last_words;
use super::{Client, Found, How, failure, find, maintenance_ended, spawn};
use crate::{Engine, Error, volume};

/// How often one may come when the other is about to leave.
const TRIES: u32 = 5;

/// Whether a container's volumes are among the files that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Volumes {
    Needed,
    Unneeded,
}

/// A supervisor through which a container's files can be reached, for as long as the connection is kept.
pub(crate) async fn reach(
    engine: &Engine,
    container: &Container,
    volumes: Volumes,
) -> Result<Client, Error> {
    let name = &container.spec().name;
    for _ in 0..TRIES {
        let (client, ours) = match find(container).await? {
            Found::Alive(client) => return Ok(client),
            Found::Maintained(client) if client.lacks_volumes && volumes == Volumes::Needed => {
                maintenance_ended(&client).await;
                continue;
            }
            Found::Maintained(client) => (client, false),
            Found::Removed => {
                return Err(container::Error::NotFound(container.id().to_owned()).into());
            }
            Found::Idle(lock, _) => {
                kernels::resolve(&engine.root, &container.spec().vm.kernel)?;
                for program in [locate::VMM, locate::INIT] {
                    engine.programs.find(program)?;
                }
                let lease = rootfs::lease(&engine.root, &container.spec().image.rootfs)?;
                let volumes = match volumes {
                    Volumes::Needed => volume::attach(engine, container, &lock).await?,
                    Volumes::Unneeded => Vec::new(),
                };
                let how = How {
                    attached: false,
                    maintenance: true,
                    started: engine.started,
                };
                let rootfs = Some(&lease);
                spawn(container, &engine.programs, &lock, rootfs, &volumes, how)?;
                // The supervisor's copies are what holds them now.
                drop((lock, lease, volumes));
                match Client::connect(container).await? {
                    Some(client) => (client, true),
                    None => return Err(died(container)),
                }
            }
        };
        let mut rpc = client.rpc.clone();
        match client.call("started", rpc.started(StartedRequest {})).await {
            Ok(reply) => match reply.failure {
                None => return Ok(client),
                Some(told) => return Err(failure(name, told)),
            },
            Err(error @ Error::Version { .. }) => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "the supervisor is gone");
                if ours {
                    return Err(died(container));
                }
                // Somebody else's, which was about to leave.
            }
        }
    }
    Err(Error::Stuck { name: name.clone() })
}

fn died(container: &Container) -> Error {
    let reason = "the supervisor of its files died".to_owned();
    Error::Lost {
        name: container.spec().name.clone(),
        reason: match last_words(container) {
            Some(words) => format!("{reason}; its last words: {words}"),
            None => reason,
        },
        remedy: None,
    }
}
