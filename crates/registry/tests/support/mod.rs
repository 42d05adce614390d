//! What the tests of the client share.

#![allow(dead_code)]

use std::path::Path;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use oci::{Descriptor, Platform, Reference};
use registry::{BlobStream, Client, ClientOptions, Error, RetryPolicy};

/// A client that knows no credentials and is quick to give up.
pub fn client() -> Client {
    Client::new(options(None))
}

pub fn options(docker_config: Option<&Path>) -> ClientOptions {
    let mut options = ClientOptions::default();
    options.docker_config = docker_config.map(Path::to_owned);
    // Nothing of the machine that the tests run on.
    options.certificates = Vec::new();
    options.settings = None;
    options.proxies = registry::Proxies::default();
    options.stall_timeout = Duration::from_secs(5);
    options.response_timeout = Duration::from_secs(5);
    options.retry = RetryPolicy {
        attempts: 3,
        base: Duration::from_millis(1),
        max: Duration::from_millis(1500),
    };
    options
}

pub fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

pub fn amd64() -> Platform {
    Platform::new("linux", "amd64")
}

pub async fn collect(stream: BlobStream) -> Result<Vec<u8>, Error> {
    let chunks: Vec<_> = stream.try_collect().await?;
    Ok(chunks.concat())
}

/// A blob as one piece.
pub async fn read(client: &Client, r: &Reference, d: &Descriptor) -> Result<Vec<u8>, Error> {
    collect(client.blob(r, d, 0).await?).await
}

/// An error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        None => error.to_string(),
        Some(source) => format!("{error}: {}", chain(source)),
    }
}
