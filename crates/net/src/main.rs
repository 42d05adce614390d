//! `gourd-net`, the process of one network: [`netstack`] with real sockets, and no rights.
//!
//! A supervisor starts it when the network has none, with the listening socket and the network's lock in its hands, confined: Landlock
//! lets it read the folders that `/etc/resolv.conf` may lead to, and before it hears anybody it gives up all system calls but those of a list
//! ([`confine`]). It ends with
//! the connection of its last guest's supervisor. What it knows is gone then, and needed by nobody: a network that starts anew gives its
//! guests the addresses that they had, because their supervisors ask for them.
//!
//! One thread, one `epoll`: [`server`] is its loop, [`members`] are the guests, [`streams`], [`datagrams`] and [`echoes`] the host's
//! sockets behind their flows, [`queries`] questions to resolvers over TCP, [`published`] the ports that lead to them, [`descriptors`]
//! how many of all these each may have, [`resolvers`] who is asked for names, [`journal`] what people are told.

mod args;
mod capture;
mod confine;
mod datagrams;
mod deadlines;
mod descriptors;
mod echoes;
mod journal;
mod link;
mod members;
mod poll;
mod proxy;
mod published;
mod queries;
mod resolvers;
mod server;
mod streams;
mod sys;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = match args::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("gourd-net: {error}\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    raise_descriptor_limit();
    let server = server::Server::new(arguments);
    // Everything that it holds is open by now, and nobody has been heard yet.
    if let Err(error) = confine::this_process() {
        eprintln!("gourd-net: {error}");
        return ExitCode::FAILURE;
    }
    match server.and_then(server::Server::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gourd-net: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A flow takes one descriptor.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(u64::MAX).min(1 << 17);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum: limit.maximum,
        };
        // With fewer, fewer flows: further ones are refused.
        let _ = setrlimit(Resource::Nofile, raised);
    }
}
