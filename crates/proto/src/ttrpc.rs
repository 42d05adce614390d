//! ttrpc: gRPC's unary calls without HTTP/2, for the agent.
//!
//! The format is containerd's (`PROTOCOL.md` of `containerd/ttrpc`), its unary part: frames on a stream socket, a request and
//! a response for each odd stream id. `docs/design/0011` says why the agent does not speak HTTP/2.
//!
//! ```text
//! length u32 | stream u32 | type u8 (1 request, 2 response) | flags u8 | length bytes: a protobuf message
//! ```
//!
//! Numbers are big-endian. A call that is given up runs to its end; its answer is thrown away.

mod client;
mod frame;
mod server;
#[cfg(test)]
mod tests;

use prost::Message;
use prost::bytes::Bytes;

pub use client::Client;
pub use server::{Rest, Service, serve};

/// Why a call has no answer: `google.rpc.Status`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Status {
    /// One of [`Code`]'s numbers.
    #[prost(enumeration = "Code", tag = "1")]
    pub code: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// Those of gRPC's codes that gourd uses; others read as [`Code::Ok`], which no failed call has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Code {
    /// No failure.
    Ok = 0,
    /// The request can't be read.
    InvalidArgument = 3,
    /// What was asked for is not there.
    NotFound = 5,
    /// An answer that is too long.
    ResourceExhausted = 8,
    /// No such service or method.
    Unimplemented = 12,
    /// A broken invariant.
    Internal = 13,
    /// The connection is gone.
    Unavailable = 14,
}

impl Status {
    /// A status of this code.
    pub fn new(code: Code, message: impl ToString) -> Status {
        Status {
            code: code.into(),
            message: message.to_string(),
        }
    }

    /// The method is not among the service's.
    pub fn no_method(service: &str, method: &str) -> Status {
        Status::new(
            Code::Unimplemented,
            format!("no method {method} in {service}"),
        )
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

impl From<prost::DecodeError> for Status {
    fn from(error: prost::DecodeError) -> Status {
        Status::new(Code::InvalidArgument, error)
    }
}

/// What a request frame carries.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
    #[prost(string, tag = "2")]
    method: String,
    #[prost(bytes = "bytes", tag = "3")]
    payload: Bytes,
}

/// What a response frame carries.
#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(bytes = "bytes", tag = "2")]
    payload: Bytes,
}
