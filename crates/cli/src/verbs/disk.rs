//! `gourd system disk …`.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::{Compression, DiskDescription, DiskFormat, DiskOptions};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::disk::{Convert, Disk, DiskInfo, From};
use crate::failure::Failure;
use crate::render::template::Template;
use crate::render::{human, out};
use crate::terminal;

/// The verb of the group.
pub async fn disk(verb: &Disk) -> Result<u8, Failure> {
    match verb {
        Disk::Convert(args) => convert(args).await,
        Disk::Info(args) => info(args),
    }
}

/// Prints the path of what was made. A signal ends it, and nothing is left behind.
async fn convert(args: &Convert) -> Result<u8, Failure> {
    let bar = bar(args.quiet);
    let stop = Arc::new(AtomicBool::new(false));
    let progress = {
        let (bar, stop) = (bar.clone(), Arc::clone(&stop));
        move |progress: engine::DiskProgress| {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
            match stop.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        }
    };
    let set_up = |source| Failure::SetUp {
        what: "signals",
        source,
    };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(set_up)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(set_up)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(set_up)?;
    let options = args.options();
    let mut work = std::pin::pin!(engine::convert_disk(
        &args.input,
        &args.output,
        &options,
        progress
    ));
    let number = tokio::select! {
        converted = &mut work => {
            bar.finish_and_clear();
            converted?;
            out::line(&args.output.display().to_string())?;
            return Ok(0);
        }
        _ = interrupt.recv() => 2,
        _ = terminate.recv() => 15,
        _ = hang_up.recv() => 1,
    };
    stop.store(true, Ordering::Relaxed);
    let finished = work.await;
    bar.finish_and_clear();
    match finished {
        // It was done before it heard of the signal.
        Ok(_) => out::line(&args.output.display().to_string()).map(|()| 0),
        Err(_) => Err(Failure::Signal { number }),
    }
}

/// Nothing is shown where nobody looks.
fn bar(quiet: bool) -> ProgressBar {
    if quiet || !terminal::stderr_is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) =
        ProgressStyle::with_template("{wide_bar} {decimal_bytes:>10}/{decimal_total_bytes:10}")
    {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

fn info(args: &DiskInfo) -> Result<u8, Failure> {
    let options = DiskOptions {
        format: args.from.map(From::format),
        ..DiskOptions::default()
    };
    let description = engine::describe_disk(&args.file, &options)?;
    match args.format.as_deref() {
        None | Some("") => out::print(&text(&description))?,
        Some("json") => out::line(&value(&description).to_string())?,
        Some(template) => {
            out::line(&Template::parse(template)?.apply(&value(&description))?)?;
        }
    }
    Ok(0)
}

fn format_name(format: DiskFormat) -> &'static str {
    match format {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
    }
}

fn compression_name(compression: Compression) -> &'static str {
    match compression {
        Compression::Zlib => "zlib",
        Compression::Zstd => "zstd",
    }
}

fn value(of: &DiskDescription) -> Value {
    let mut value = json!({
        "Format": format_name(of.format),
        "Wrapper": of.wrapper.map(|wrapper| wrapper.to_string()),
        "VirtualSize": of.size,
        "FileSize": of.file_size,
        "Allocated": of.allocated,
    });
    if let Some(qcow2) = &of.qcow2 {
        value["Version"] = qcow2.version.into();
        value["ClusterSize"] = qcow2.cluster_size.into();
        value["Compression"] = compression_name(qcow2.compression).into();
        value["ExtendedL2"] = qcow2.extended_l2.into();
        value["Snapshots"] = qcow2.snapshots.into();
        value["BackingFile"] = qcow2.backing.clone().into();
        value["BackingFormat"] = qcow2.backing_format.clone().into();
        value["Refused"] = qcow2.refusal.as_ref().map(|(what, _)| what.clone()).into();
    }
    value
}

fn text(of: &DiskDescription) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}: {value}");
    };
    let size = |bytes: u64| format!("{} ({bytes} bytes)", human::size(bytes));
    line("Format", format_name(of.format).to_owned());
    if let Some(wrapper) = of.wrapper {
        line("Compressed with", wrapper.to_string());
    }
    line(
        "Virtual size",
        of.size
            .map_or_else(|| "not known before it is decompressed".to_owned(), size),
    );
    line("File size", size(of.file_size));
    line("Allocated", size(of.allocated));
    let Some(qcow2) = &of.qcow2 else {
        return text;
    };
    line("Version", qcow2.version.to_string());
    line("Cluster size", qcow2.cluster_size.to_string());
    line(
        "Compression of clusters",
        compression_name(qcow2.compression).to_owned(),
    );
    if qcow2.extended_l2 {
        line("Extended L2 entries", "yes".to_owned());
    }
    if qcow2.snapshots > 0 {
        line(
            "Snapshots",
            format!("{}, which are not read", qcow2.snapshots),
        );
    }
    if let Some(backing) = &qcow2.backing {
        let format = qcow2.backing_format.as_deref().unwrap_or("not said");
        line(
            "Backing file",
            format!("{} (format: {format})", backing.escape_debug()),
        );
    }
    if let Some((what, remedy)) = &qcow2.refusal {
        line("Not readable", format!("it {what}; {remedy}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::Qcow2Description;

    #[test]
    fn text_and_json() {
        let mut of = DiskDescription {
            format: DiskFormat::Qcow2,
            wrapper: None,
            size: Some(1 << 20),
            file_size: 200_000,
            allocated: 4096,
            qcow2: Some(Qcow2Description {
                version: 3,
                cluster_size: 65_536,
                compression: Compression::Zstd,
                extended_l2: false,
                snapshots: 2,
                backing: Some("base".to_owned()),
                backing_format: None,
                refusal: Some(("is encrypted".to_owned(), "decrypt it")),
            }),
        };
        assert_eq!(
            text(&of),
            "Format: qcow2\nVirtual size: 1.05MB (1048576 bytes)\nFile size: 200kB (200000 bytes)\n\
             Allocated: 4.1kB (4096 bytes)\nVersion: 3\nCluster size: 65536\nCompression of clusters: zstd\n\
             Snapshots: 2, which are not read\nBacking file: base (format: not said)\n\
             Not readable: it is encrypted; decrypt it\n"
        );
        assert_eq!(value(&of)["VirtualSize"], 1 << 20);
        of.qcow2 = None;
        of.size = None;
        assert!(text(&of).contains("not known before"));
    }
}
