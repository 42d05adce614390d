//! End to end: real images in real VMs through the built programs, as an unprivileged user.
//!
//! `./dev test` runs them. Each test has a `GOURD_ROOT` of its own, made from a template that the first one builds, and
//! checks at its end that nothing of it lives on. Design section 7's table is in `life.rs`, a test for each row.

mod archives;
mod attach;
mod bad_input;
mod boots;
mod commit;
mod completion;
mod copy;
mod deaths;
mod faults;
mod flags;
mod full_disk;
mod harness;
mod health;
mod host;
mod hostile;
mod images;
mod library;
mod life;
mod load;
mod login;
mod logs;
mod names;
mod neighbours;
mod network;
mod networks;
mod offload;
mod overhead;
mod ports;
mod processes;
mod races;
mod resolvers;
mod restart;
mod rights;
mod run;
mod screen;
mod shares;
mod sockets;
mod stats;
mod streams;
mod supervisor;
mod terminal;
mod volumes;
