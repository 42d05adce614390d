//! `gourd login`, `gourd logout`.

use std::io::{self, BufRead, Read};
use std::path::Path;

use crate::app::App;
use crate::args::login::{Login, Logout};
use crate::failure::{Failure, report};
use crate::render::out;
use crate::session::Signals;
use crate::terminal;

/// Checks a user and a password against a registry and keeps them.
pub async fn login(app: &App, args: &Login) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let server = args.server.as_deref().unwrap_or_default();
    if args.password.is_some() {
        out::stderr("WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n")?;
    }
    if args.user.is_none() && args.password.is_none() {
        match engine.login_again(server).await {
            Ok(Some(user)) => {
                out::stderr(&format!(
                    "Authenticating with existing credentials... [Username: {user}]\n"
                ))?;
                out::line("Login Succeeded")?;
                return Ok(0);
            }
            Ok(None) => {}
            // They are to be typed anew, if there is somebody to type.
            Err(error) if terminal::stdin_is_terminal() => report(&error.into()),
            Err(error) => return Err(error.into()),
        }
    }
    let password = match (&args.password, args.password_stdin) {
        (Some(password), _) => Some(password.clone()),
        (None, true) => Some(from_stdin()?),
        (None, false) => None,
    };
    if (args.user.is_none() || password.is_none()) && !terminal::stdin_is_terminal() {
        return Err(Failure::NoPassword);
    }
    // From here on, for all that follows: once they are caught they end nothing by themselves.
    let mut signals = Signals::catch()?;
    let user = match &args.user {
        Some(user) => user.clone(),
        None => ask("Username: ", true, &mut signals).await?,
    };
    let password = match password {
        Some(password) => password,
        None => ask("Password: ", false, &mut signals).await?,
    };
    if user.is_empty() || password.is_empty() {
        return Err(Failure::NoPassword);
    }
    let kept = tokio::select! {
        kept = engine.login(server, &user, &password) => kept?,
        number = signals.end() => return Err(Failure::Signal { number }),
    };
    if let Some(file) = &kept.file {
        out::stderr(&unencrypted(file))?;
    }
    out::line("Login Succeeded")?;
    Ok(0)
}

/// Docker's words.
fn unencrypted(file: &Path) -> String {
    format!(
        "\nWARNING! Your credentials are stored unencrypted in '{}'.\n\
         Configure a credential helper to remove this warning. See\n\
         https://docs.docker.com/go/credential-store/\n\n",
        file.display()
    )
}

/// All of stdin, without the line's end that `echo` puts there.
fn from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    let read = io::stdin().lock().read_to_string(&mut text);
    read.map_err(Failure::Stdin)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

/// A line that somebody types, with or without being shown. A signal leaves the terminal as it was.
async fn ask(prompt: &str, shown: bool, signals: &mut Signals) -> Result<String, Failure> {
    out::stderr(prompt)?;
    let _silence = match shown {
        true => None,
        false => Some(terminal::Silence::enter().map_err(Failure::Terminal)?),
    };
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        read.map(|_| line)
    });
    let line = tokio::select! {
        line = read => line,
        number = signals.end() => {
            out::stderr("\n")?;
            return Err(Failure::Signal { number });
        }
    };
    if !shown {
        // The one that was typed was not shown.
        out::stderr("\n")?;
    }
    let line = line.unwrap_or_else(|error| Err(error.into()));
    let line = line.map_err(Failure::Stdin)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Forgets a user and a password.
pub async fn logout(app: &App, args: &Logout) -> Result<u8, Failure> {
    let server = args.server.as_deref().unwrap_or_default();
    let done = app.engine()?.logout(server).await?;
    out::line(&match done.found {
        true => format!("Removing login credentials for {}", done.server),
        false => format!("Not logged in to {}", done.server),
    })?;
    Ok(0)
}
