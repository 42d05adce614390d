//! A client for the OCI distribution protocol: resolves references, reads and pushes blobs and manifests.
//!
//! Registries on loopback addresses (`localhost`, 127.0.0.0/8, `::1`) are spoken to over plain
//! HTTP, all others over TLS with the system's trusted certificates (`SSL_CERT_FILE` and
//! `SSL_CERT_DIR` are honoured) and those of Docker's `certs.d`. `registries.json` (see `settings`) names mirrors, and others
//! that may be spoken to in the clear. Proxies are those of the environment. Credentials are those of Docker's `config.json` and its
//! credential helpers; they are sent to the registry they are for and to the token server that it
//! names, over TLS or to those that may be spoken to in the clear only, and never logged.
//!
//! Nothing that a registry sends is trusted: manifests are limited in size and checked against
//! their digest, blobs are checked against size and digest while they arrive. What fails for a
//! moment (429, 5xx, broken connections) is tried again a limited number of times; a blob goes on
//! where it stopped.
//!
//! Everything runs on the caller's tokio runtime, which needs I/O and time; there are no tasks
//! besides hyper's, one per connection, and short ones that read what is pushed.

mod auth;
mod blob;
mod body;
mod challenge;
mod client;
mod connect;
mod credentials;
mod endpoint;
mod error;
mod fetch;
mod login;
mod network;
mod proxy;
mod push;
mod resolve;
mod retry;
mod settings;
mod tls;
mod transfer;
mod transport;

pub use blob::BlobStream;
pub use body::Source;
pub use client::{Client, ClientOptions};
pub use credentials::{CredentialsError, Kept, Login, erase_login, keep_login, load_login};
pub use error::Error;
pub use fetch::Piece;
pub use login::Server;
pub use proxy::Proxies;
pub use push::{Pushed, Upload};
pub use resolve::Resolved;
pub use retry::RetryPolicy;
pub use settings::SettingsError;

#[cfg(test)]
mod totality;
