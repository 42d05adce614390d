//! What can go wrong between gourd and a registry.

use oci::{DocumentError, NoMatchingPlatform, VerifyError};

use crate::credentials::CredentialsError;
use crate::settings::SettingsError;

/// The cause of a failed connection or transfer.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why an image or blob could not be had from a registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection: the name is unknown, nobody listens, or the TLS hand-shake failed.
    #[error("registry {host} cannot be reached")]
    Unreachable {
        /// Host, and port if one was given.
        host: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The connection broke, and trying again did not help.
    #[error("the connection to {host} broke")]
    Broken {
        /// Host, and port if one was given.
        host: String,
        /// Why.
        #[source]
        source: Cause,
    },
    /// No answer in time.
    #[error("{host} did not answer within {secs} seconds")]
    Timeout {
        /// Host, and port if one was given.
        host: String,
        /// How long it was given.
        secs: u64,
    },
    /// A transfer stood still, or nearly.
    #[error("{host} sent next to nothing for {secs} seconds")]
    Stalled {
        /// Host, and port if one was given.
        host: String,
        /// For how long.
        secs: u64,
    },
    /// The registry has no such repository, tag, manifest or blob.
    #[error("{what} was not found in {repository} on registry {host}")]
    NotFound {
        /// `tag bookworm`, or `blob` or `manifest` and a digest.
        what: String,
        /// The repository.
        repository: String,
        /// Host, and port if one was given.
        host: String,
    },
    /// The registry wants credentials, or others, or does not allow this with these. Some registries
    /// say so of repositories that do not exist.
    #[error("registry {host} refused access to {repository}{}", detail_suffix(.detail))]
    Unauthorized {
        /// Host, and port if one was given.
        host: String,
        /// The repository.
        repository: String,
        /// Whether there were credentials to show.
        had_credentials: bool,
        /// What the registry said, or nothing.
        detail: String,
    },
    /// The registry does not know user and password, or not this way.
    #[error("registry {host} refused the credentials{}", detail_suffix(.detail))]
    Login {
        /// Host, and port if one was given.
        host: String,
        /// What the registry said, or nothing.
        detail: String,
    },
    /// An answer that means failure, still after trying again where that makes sense.
    #[error("{host} answered {status}{}", detail_suffix(.detail))]
    Status {
        /// Host, and port if one was given.
        host: String,
        /// The HTTP status.
        status: u16,
        /// What it said, or nothing.
        detail: String,
    },
    /// It asks for more patience than there is.
    #[error("{host} answered {status} and asks to come back in {secs} seconds{}", detail_suffix(.detail))]
    Busy {
        /// Host, and port if one was given.
        host: String,
        /// The HTTP status.
        status: u16,
        /// How long it asks to wait.
        secs: u64,
        /// What it said, or nothing.
        detail: String,
    },
    /// There are no such bytes, or it serves no parts.
    #[error("{host} refused to send a part of a blob{}", .size.map_or_else(String::new, |size| format!(": it has {size} bytes of it")))]
    Range {
        /// Host, and port if one was given.
        host: String,
        /// How large it says that the blob is.
        size: Option<u64>,
    },
    /// An answer that breaks the protocol.
    #[error("{host} broke the protocol: {what}")]
    Protocol {
        /// Host, and port if one was given.
        host: String,
        /// How.
        what: String,
    },
    /// Following it would send the request, and maybe credentials, in the clear or to nowhere.
    #[error("{host} points to {target:?}: {why}")]
    Redirect {
        /// Who pointed.
        host: String,
        /// Where to.
        target: String,
        /// Why that is refused.
        why: &'static str,
    },
    /// Size or digest of what came are not those that were promised.
    #[error("{host} sent something else than {repository} should have")]
    Verify {
        /// Host, and port if one was given.
        host: String,
        /// The repository.
        repository: String,
        /// Truncated, too long, or another digest, with both values.
        #[source]
        source: VerifyError,
    },
    /// The image is not made for the platform.
    #[error(transparent)]
    NoMatchingPlatform(#[from] NoMatchingPlatform),
    /// The manifest or index makes no sense.
    #[error("the manifest of {reference} is not usable")]
    BadManifest {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: DocumentError,
    },
    /// Docker's configuration or a credential helper failed.
    #[error("no credentials for {host}")]
    Credentials {
        /// Host, and port if one was given.
        host: String,
        /// Why.
        #[source]
        source: CredentialsError,
    },
    /// `registries.json` is of no use.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// What is to be pushed cannot be read.
    #[error("{digest} cannot be read")]
    Source {
        /// The blob.
        digest: oci::Digest,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The system has no trusted certificates, or the given ones are unreadable.
    #[error("no trusted certificates: {0}")]
    Roots(String),
}

fn detail_suffix(detail: &str) -> String {
    match detail {
        "" => String::new(),
        detail => format!(": {detail}"),
    }
}

impl Error {
    /// Whether the same request may succeed in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Broken { .. } | Self::Timeout { .. } | Self::Stalled { .. } => true,
            Self::Status { status, .. } => crate::retry::is_transient(*status),
            _ => false,
        }
    }

    /// What a person can do about it, where that is known here.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Settings(_) => Some(
                "the keys are registry-mirrors and insecure-registries, as in Docker's daemon.json, and mirrors, \
                 which has lists by registry",
            ),
            Self::Roots(_) => Some(
                "certificates are PEM files: authorities for one registry are certs.d/HOST:PORT/*.crt, below \
                 /etc/docker or ~/.docker",
            ),
            Self::Unreachable { source, .. } if source.to_string().contains("certificate") => Some(
                "the certificate of a private authority belongs into ~/.docker/certs.d/HOST:PORT/ca.crt",
            ),
            Self::Unreachable { source, .. } if source.to_string().contains("proxy") => {
                Some("HTTP_PROXY, HTTPS_PROXY and ALL_PROXY name proxies, NO_PROXY the exceptions")
            }
            Self::Busy { .. } => Some(
                "wait for as long as it says; registries often let those do more who log in: `gourd login`",
            ),
            _ => None,
        }
    }
}
