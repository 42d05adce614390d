//! `gourd system kernel …`.

mod release;

use engine::KernelInfo;
use serde_json::{Value, json};

use crate::app::App;
use crate::args::system::{Kernel, KernelAdd, KernelList, KernelRemove};
use crate::failure::{Failure, Tally};
use crate::render::listing::Columns;
use crate::render::out;

const COLUMNS: Columns = Columns {
    default: "{{.Name}}\t{{.Release}}\t{{.Modules}}\t{{.Default}}\t{{.Path}}",
    headings: &[],
};

/// The verb of the group.
pub fn kernel(app: &App, verb: &Kernel) -> Result<u8, Failure> {
    match verb {
        Kernel::Ls(args) => list(app, args),
        Kernel::Add(args) => add(app, args),
        Kernel::Rm(args) => remove(app, args),
    }
}

fn list(app: &App, args: &KernelList) -> Result<u8, Failure> {
    let kernels = app.engine()?.kernels()?;
    if args.quiet {
        out::print(
            &kernels
                .iter()
                .map(|kernel| format!("{}\n", kernel.name))
                .collect::<String>(),
        )?;
    } else {
        let rows: Vec<Value> = kernels.iter().map(row).collect();
        out::print(&COLUMNS.render_fitting(&rows, args.format.as_deref(), false)?)?;
    }
    Ok(0)
}

fn row(kernel: &KernelInfo) -> Value {
    json!({
        "Name": kernel.name,
        "Release": kernel.release,
        "Modules": kernel.modules.to_string(),
        "Default": if kernel.default { "yes" } else { "" },
        "Path": kernel.path.to_string_lossy(),
    })
}

fn add(app: &App, args: &KernelAdd) -> Result<u8, Failure> {
    let release = match &args.release {
        Some(release) => release.clone(),
        None => release::load_release(&args.file)?,
    };
    let modules = args.modules.as_deref();
    let kernel =
        app.engine()?
            .kernel_add(&args.name, &args.file, modules, &release, args.replace)?;
    out::line(&kernel.name)?;
    Ok(0)
}

fn remove(app: &App, args: &KernelRemove) -> Result<u8, Failure> {
    let engine = app.engine()?;
    let mut tally = Tally::default();
    for name in &args.names {
        match engine.kernel_remove(name) {
            Ok(()) => out::line(name)?,
            Err(error) => tally.failed(error),
        }
    }
    tally.end()
}
