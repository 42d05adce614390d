//! `gourd system doctor`.

use std::fmt::Write as _;

use engine::{Check, Outcome};

use crate::app::App;
use crate::args::system::Doctor;
use crate::failure::{FAILED, Failure};
use crate::render::out;

/// Prints each check with its remedy; fails when containers cannot start.
pub async fn doctor(app: &App, args: &Doctor) -> Result<u8, Failure> {
    let checks = app.engine()?.doctor().await;
    if args.format.is_some() {
        // The engine's own types always become JSON.
        out::line(&serde_json::to_string(&checks).unwrap_or_default())?;
    } else {
        out::print(&text(&checks))?;
    }
    let failed = checks.iter().any(|check| check.outcome == Outcome::Fail);
    Ok(if failed { FAILED } else { 0 })
}

fn text(checks: &[Check]) -> String {
    let width = checks
        .iter()
        .map(|check| check.name.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let word = match check.outcome {
            Outcome::Ok => "ok",
            Outcome::Warn => "warn",
            Outcome::Fail => "FAIL",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{word:4}  {:width$}  {}", check.name, check.detail);
        if let Some(remedy) = &check.remedy {
            let _ = writeln!(text, "      {:width$}  remedy: {remedy}", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_with_its_remedy() {
        let check = |name: &str, outcome: Outcome, remedy: Option<&str>| Check {
            name: name.to_owned(),
            outcome,
            detail: "found".to_owned(),
            remedy: remedy.map(str::to_owned),
        };
        let checks = [
            check("state", Outcome::Ok, None),
            check("driver kvm", Outcome::Warn, Some("use qemu")),
            check("kernel", Outcome::Fail, Some("install one")),
        ];
        assert_eq!(
            text(&checks),
            "ok    state       found\n\
             warn  driver kvm  found\n                  remedy: use qemu\n\
             FAIL  kernel      found\n                  remedy: install one\n"
        );
    }
}
