//! A client for the OCI distribution protocol: resolves references and reads blobs.
//!
//! Registries on loopback addresses (`localhost`, 127.0.0.0/8, `::1`) are spoken to over plain
//! HTTP, all others over TLS with the system's trusted certificates (`SSL_CERT_FILE` and
//! `SSL_CERT_DIR` are honoured). Credentials are those of Docker's `config.json` and its
//! credential helpers; they are sent to the registry they are for and to the token server that it
//! names, over TLS or loopback only, and never logged.
//!
//! Nothing that a registry sends is trusted: manifests are limited in size and checked against
//! their digest, blobs are checked against size and digest while they arrive. What fails for a
//! moment (429, 5xx, broken connections) is tried again a limited number of times; a blob goes on
//! where it stopped.
//!
//! Everything runs on the caller's tokio runtime, which needs I/O and time; there are no tasks
//! besides hyper's, one per connection.

mod auth;
mod blob;
mod challenge;
mod client;
mod credentials;
mod endpoint;
mod error;
mod login;
mod resolve;
mod retry;
mod transport;

pub use blob::BlobStream;
pub use client::{Client, ClientOptions};
pub use credentials::{CredentialsError, Kept, Login, erase_login, keep_login, load_login};
pub use error::Error;
pub use login::Server;
pub use resolve::Resolved;
pub use retry::RetryPolicy;
