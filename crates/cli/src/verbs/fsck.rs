//! `gourd system fsck`.

use std::fmt::Write as _;

use engine::CheckReport;
use serde_json::{Value, json};

use crate::app::App;
use crate::args::disk::Fsck;
use crate::failure::Failure;
use crate::render::out;

/// e2fsck's: errors were left uncorrected.
const ERRORS: u8 = 4;

/// Prints what is wrong; the exit code says whether something is.
pub async fn fsck(app: &App, args: &Fsck) -> Result<u8, Failure> {
    let is_path = args.what.components().count() > 1 || args.what.exists();
    let (path, report) = match args.what.to_str().filter(|_| !is_path) {
        Some(name) => app.engine()?.check_file_system_of(name).await?,
        None => (
            args.what.clone(),
            engine::check_file_system(&args.what).await?,
        ),
    };
    let name = path.display().to_string();
    if args.format.is_some() {
        out::line(&value(&report).to_string())?;
    } else {
        out::print(&text(&name, &report))?;
    }
    if !report.is_clean() {
        let hint = format!(
            "gourd: {name} has errors\n  hint: stop what uses it and copy it; then `e2fsck -fy {name}` mends it. The file \
             system of an image is made again by removing and pulling the image\n"
        );
        out::stderr(&hint)?;
    }
    Ok(if report.is_clean() { 0 } else { ERRORS })
}

fn text(name: &str, report: &CheckReport) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for note in &report.notes {
        let _ = writeln!(text, "note: {note}");
    }
    for finding in &report.findings {
        let _ = writeln!(text, "{finding}");
    }
    let more = report.errors - report.findings.len() as u64;
    if more > 0 {
        let _ = writeln!(text, "and {more} more");
    }
    let verdict = match report.errors {
        0 => "clean".to_owned(),
        1 => "1 error".to_owned(),
        count => format!("{count} errors"),
    };
    let _ = writeln!(
        text,
        "{name}: {verdict}, {}/{} inodes, {} directories, {}/{} blocks of {} bytes",
        report.used_inodes,
        report.inodes,
        report.directories,
        report.used_blocks,
        report.blocks,
        report.block_size
    );
    text
}

fn value(report: &CheckReport) -> Value {
    let finding = |finding: &engine::Finding| json!({ "Place": finding.place.to_string(), "Problem": finding.problem });
    json!({
        "Clean": report.is_clean(),
        "Errors": report.errors,
        "Findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
        "Notes": report.notes,
        "NeedsRecovery": report.needs_recovery,
        "Label": String::from_utf8_lossy(&report.label),
        "BlockSize": report.block_size,
        "Blocks": report.blocks,
        "UsedBlocks": report.used_blocks,
        "Inodes": report.inodes,
        "UsedInodes": report.used_inodes,
        "Directories": report.directories,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::{Finding, Place};

    #[test]
    fn findings_then_the_verdict() {
        let mut report = CheckReport {
            inodes: 16,
            used_inodes: 11,
            blocks: 100,
            used_blocks: 20,
            block_size: 4096,
            directories: 2,
            ..CheckReport::default()
        };
        let counts = "11/16 inodes, 2 directories, 20/100 blocks of 4096 bytes\n";
        assert_eq!(text("f", &report), format!("f: clean, {counts}"));
        report.errors = 3;
        report.findings = vec![Finding {
            place: Place::Inode(12),
            problem: "its link count is 2, should be 1".to_owned(),
        }];
        report.notes = vec!["it was not unmounted".to_owned()];
        assert_eq!(
            text("f", &report),
            format!(
                "note: it was not unmounted\ninode 12: its link count is 2, should be 1\nand 2 more\nf: 3 errors, {counts}"
            )
        );
        assert_eq!(value(&report)["Findings"][0]["Place"], "inode 12");
    }
}
