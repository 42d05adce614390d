//! Image references as Docker writes them: `[registry/]repository[:tag][@digest]`.
//!
//! The grammar and the defaults are those of the distribution project's `reference` package:
//! without a registry it is `docker.io`, where a name without a namespace is in `library/`; without
//! a tag or digest the tag is `latest`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Digest, DigestError};

const DEFAULT_REGISTRY: &str = "docker.io";
const OFFICIAL_NAMESPACE: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// The longest registry and repository together.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A normalised image reference. It has a tag or a digest, or both; then the digest decides.
///
/// `Display` gives the full form, `docker.io/library/debian:latest`; it parses back to the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a string is not an image reference. Each names the part that is wrong and what is right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing there, or nothing before the tag or digest.
    #[error("image reference {0:?} has no repository: expected a name such as debian:bookworm")]
    NoRepository(String),
    /// It is a URL.
    #[error(
        "image reference {0:?} has a scheme: write the registry alone, such as localhost:5000/name"
    )]
    Scheme(String),
    /// Registry and repository are too long.
    #[error("image name {name:?} has {len} bytes: at most 255 are allowed")]
    TooLong {
        /// Registry and repository.
        name: String,
        /// Their length in bytes.
        len: usize,
    },
    /// The part before the first slash looks like a registry and is none.
    #[error(
        "registry {0:?} is not valid: expected a host name or address, and a port after a colon if need be"
    )]
    Registry(String),
    /// The repository has capitals.
    #[error("repository {0:?} has capital letters: repositories are lower-case")]
    Capitals(String),
    /// A component of the repository breaks the rules.
    #[error(
        "repository component {component:?} of {repository:?} is not valid: expected lower-case letters and digits, \
         with single dots, one or two underscores, or dashes between them"
    )]
    Component {
        /// Which component.
        component: String,
        /// Of which repository.
        repository: String,
    },
    /// The tag breaks the rules.
    #[error(
        "tag {0:?} is not valid: expected up to 128 letters, digits, underscores, dots and dashes, not starting with a dot or dash"
    )]
    Tag(String),
    /// The part after `@` is no digest.
    #[error("the digest of image reference {reference:?} is not valid")]
    Digest {
        /// The whole reference.
        reference: String,
        /// What is wrong with it.
        #[source]
        source: DigestError,
    },
    /// 64 hexadecimal digits are an image ID.
    #[error("{0:?} is an image ID, not a name: write sha256:… or name@sha256:…")]
    ImageId(String),
}

impl Reference {
    /// The registry: a host name or address, with a port after a colon if one was given.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository in that registry: `library/debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. There is none only if there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What to ask a registry for: the digest if there is one, the tag otherwise.
    pub fn tag_or_digest(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// Registry and repository without tag and digest: `docker.io/library/debian`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same repository with another digest and no tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The short form that people write: `debian:bookworm`. It parses back to the same.
    pub fn familiar(&self) -> String {
        // A namespace that looks like a registry would become one.
        let misread = self
            .repository
            .split_once('/')
            .is_some_and(|(first, _)| is_registry(first));
        let name = if self.registry == DEFAULT_REGISTRY && !misread {
            let short = self.repository.strip_prefix(OFFICIAL_NAMESPACE);
            // A namespace inside of library/ must keep it, or it would become a user's name.
            short
                .filter(|rest| !rest.contains('/'))
                .unwrap_or(&self.repository)
                .to_owned()
        } else {
            self.name()
        };
        self.with_suffixes(name)
    }

    fn with_suffixes(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffixes(self.name()))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.contains("://") {
            return Err(ReferenceError::Scheme(text.to_owned()));
        }
        if text.len() == 64 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::ImageId(text.to_owned()));
        }
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                let parsed = digest.parse().map_err(|source| ReferenceError::Digest {
                    reference: text.to_owned(),
                    source,
                })?;
                (rest, Some(parsed))
            }
        };
        // A colon after the last slash starts a tag; before it, a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if name.is_empty() {
            return Err(ReferenceError::NoRepository(text.to_owned()));
        }
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(ReferenceError::Tag(tag.to_owned()));
        }
        let (registry, repository) = split_registry(name);
        if repository.is_empty() {
            return Err(ReferenceError::NoRepository(text.to_owned()));
        }
        check_registry(&registry)?;
        check_repository(&repository)?;
        let len = registry.len() + 1 + repository.len();
        if len > MAX_NAME {
            let name = format!("{registry}/{repository}");
            return Err(ReferenceError::TooLong { name, len });
        }
        let tag = match (tag, digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (None, Some(_)) => None,
        };
        Ok(Self {
            registry,
            repository,
            tag,
            digest,
        })
    }
}

/// Registry and repository, with what is left out filled in.
fn split_registry(name: &str) -> (String, String) {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = match registry {
        "index.docker.io" => DEFAULT_REGISTRY,
        other => other,
    };
    if registry == DEFAULT_REGISTRY && !repository.is_empty() && !repository.contains('/') {
        return (
            registry.to_owned(),
            format!("{OFFICIAL_NAMESPACE}{repository}"),
        );
    }
    (registry.to_owned(), repository.to_owned())
}

/// Whether the first of several components is a registry.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':'])
        || first == "localhost"
        || first.bytes().any(|c| c.is_ascii_uppercase())
}

fn check_registry(registry: &str) -> Result<(), ReferenceError> {
    let (host, port) = match registry.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((address, ""))) => (address, None),
        Some(Some((address, port))) => (address, Some(port.strip_prefix(':').unwrap_or("?"))),
        Some(None) => ("", None),
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        },
    };
    let host_is_valid = if registry.starts_with('[') {
        host.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        host.split('.').all(is_label)
    };
    let digits = |port: &str| port.bytes().all(|c| c.is_ascii_digit());
    let port_is_valid = port.is_none_or(|p| digits(p) && p.parse::<u16>().is_ok());
    if host_is_valid && port_is_valid {
        return Ok(());
    }
    Err(ReferenceError::Registry(registry.to_owned()))
}

fn is_label(label: &str) -> bool {
    let inner = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
    !label.is_empty()
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn check_repository(repository: &str) -> Result<(), ReferenceError> {
    if repository.bytes().any(|c| c.is_ascii_uppercase()) {
        return Err(ReferenceError::Capitals(repository.to_owned()));
    }
    match repository.split('/').find(|c| !is_component(c)) {
        None => Ok(()),
        Some(component) => Err(ReferenceError::Component {
            component: component.to_owned(),
            repository: repository.to_owned(),
        }),
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(component: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let Some(rest) = component.strip_prefix(word) else {
        return false;
    };
    if !component.ends_with(word) {
        return false;
    }
    rest.split(word).all(|between| {
        matches!(between, "" | "." | "_" | "__") || between.bytes().all(|c| c == b'-')
    })
}

fn is_tag(tag: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|c| word(c) || c == b'.' || c == b'-')
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
