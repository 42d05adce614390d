//! `login` and `logout`, and their flags.

use clap::Args;

/// `gourd login`.
#[derive(Debug, Args)]
pub struct Login {
    /// User name
    #[arg(short, long = "username", value_name = "NAME")]
    pub user: Option<String>,
    /// Password or token; everybody on this machine can see it here
    #[arg(
        short,
        long,
        value_name = "PASSWORD",
        conflicts_with = "password_stdin",
        requires = "user"
    )]
    pub password: Option<String>,
    /// Take the password from stdin
    #[arg(long, requires = "user")]
    pub password_stdin: bool,
    /// The registry [default: docker.io]
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
}

/// `gourd logout`.
#[derive(Debug, Args)]
pub struct Logout {
    /// The registry [default: docker.io]
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
}
