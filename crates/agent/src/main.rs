//! `gourd-init`: the one program of a container's VM. The kernel starts it as PID 1; it starts itself again for its
//! other roles.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent::main()
}
