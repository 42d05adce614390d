//! Credential helpers: `docker-credential-NAME get|store|erase`, as docker-credential-helpers defines them.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;

use super::{Credential, CredentialsError};

/// How long a credential helper may take; some ask the user to unlock something.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);

/// What a helper answers to `get`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// What a helper has for a server; its key is as in Docker's configuration.
pub(super) async fn ask(name: &str, key: &str) -> Result<Option<Credential>, CredentialsError> {
    let Some(output) = call(name, "get", key).await? else {
        return Ok(None);
    };
    let answer: HelperAnswer =
        serde_json::from_slice(&output).map_err(|_| CredentialsError::Helper {
            helper: program(name),
            message: "its answer is not valid".to_owned(),
        })?;
    Ok(Some(Credential::new(answer.username, answer.secret)))
}

/// Lets a helper do something that has no answer.
pub(super) async fn run(name: &str, verb: &str, input: &str) -> Result<(), CredentialsError> {
    call(name, verb, input).await.map(drop)
}

fn program(name: &str) -> String {
    format!("docker-credential-{name}")
}

/// What it wrote to its standard output; `None` when it knows nothing.
async fn call(name: &str, verb: &str, input: &str) -> Result<Option<Vec<u8>>, CredentialsError> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(is_word) {
        return Err(CredentialsError::HelperName(name.to_owned()));
    }
    let helper = program(name);
    let start = |source| CredentialsError::HelperStart {
        helper: helper.clone(),
        source,
    };
    let failed = |message: String| CredentialsError::Helper {
        helper: helper.clone(),
        message,
    };
    let mut child = tokio::process::Command::new(&helper)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(start)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input says why by its exit status.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = tokio::time::timeout(HELPER_TIMEOUT, child.wait_with_output())
        .await
        .map_err(|_| {
            failed(format!(
                "no answer within {} seconds",
                HELPER_TIMEOUT.as_secs()
            ))
        })?
        .map_err(start)?;
    if !output.status.success() {
        // Helpers report errors on standard output; it holds no secret then.
        let said = String::from_utf8_lossy(&output.stdout);
        if said.contains("credentials not found") {
            return Ok(None);
        }
        let said = said.lines().next().unwrap_or_default().trim();
        return Err(failed(match said {
            "" => output.status.to_string(),
            said => said.chars().filter(|c| !c.is_control()).take(200).collect(),
        }));
    }
    Ok(Some(output.stdout))
}
