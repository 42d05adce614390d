//! `gourd version`.

use serde_json::{Value, json};

use crate::args::system::Version;
use crate::failure::Failure;
use crate::render::{out, template::Template};

/// Prints the versions of this command and of what it speaks.
pub fn version(args: &Version) -> Result<u8, Failure> {
    let versions = versions();
    match args.format.as_deref() {
        None | Some("") => out::print(&text(&versions))?,
        Some("json") => out::line(&versions.to_string())?,
        Some(template) => out::line(&Template::parse(template)?.apply(&versions)?)?,
    }
    Ok(0)
}

fn versions() -> Value {
    json!({
        "Client": {
            "Version": env!("CARGO_PKG_VERSION"),
            "Os": std::env::consts::OS,
            "Arch": std::env::consts::ARCH,
            "SupervisorProtocol": engine::SUPERVISOR_PROTOCOL,
        },
    })
}

fn text(versions: &Value) -> String {
    let field = |path: &str| match versions.pointer(path) {
        Some(Value::String(plain)) => plain.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    format!(
        "Client:\n Version:               {}\n OS/Arch:               {}/{}\n Supervisor protocol:   {}\n",
        field("/Client/Version"),
        field("/Client/Os"),
        field("/Client/Arch"),
        field("/Client/SupervisorProtocol"),
    )
}
