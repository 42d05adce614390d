//! `gourd system df`.

use engine::{ContainerUsage, DiskUsage, ImageUsage, Status};
use serde_json::{Value, json};

use super::{images, ps, volume};
use crate::app::App;
use crate::args::system::Df;
use crate::clock;
use crate::failure::Failure;
use crate::render::listing::Columns;
use crate::render::template::Template;
use crate::render::{human, out};

/// Docker's.
const COLUMNS: Columns = Columns {
    default: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
    headings: &[("TotalCount", "TOTAL")],
};

const IMAGES: Columns = Columns {
    default: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}",
    headings: &[
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
    ],
};

const CONTAINERS: Columns = Columns {
    default: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}",
    headings: &[("ID", "CONTAINER ID"), ("RunningFor", "CREATED")],
};

const VOLUMES: Columns = Columns {
    default: "{{.Name}}\t{{.Links}}\t{{.Size}}",
    headings: &[("Name", "VOLUME NAME")],
};

const KERNELS: Columns = Columns {
    default: "{{.Name}}\t{{.Release}}\t{{.Size}}\t{{.Used}}",
    headings: &[("Name", "KERNEL")],
};

/// Shows what occupies the disk.
pub async fn df(app: &App, args: &Df) -> Result<u8, Failure> {
    let usage = app.engine()?.disk_usage().await?;
    let now_ns = clock::wall_ns();
    if !args.verbose {
        out::print(&COLUMNS.render_fitting(&rows(&usage), args.format.as_deref(), false)?)?;
        return Ok(0);
    }
    let all = Verbose::new(&usage, now_ns);
    match args.format.as_deref() {
        None | Some("" | "table") => out::print(&all.text()?)?,
        Some("json") => out::line(&all.value().to_string())?,
        Some(template) => out::line(&Template::parse(template)?.apply(&all.value())?)?,
    }
    Ok(0)
}

fn row(kind: &str, total: usize, active: usize, size: u64, reclaimable: u64) -> Value {
    let part = match size {
        0 => human::size_long(reclaimable),
        size => {
            let percent = u128::from(reclaimable) * 100 / u128::from(size);
            format!("{} ({percent}%)", human::size_long(reclaimable))
        }
    };
    json!({
        "Type": kind,
        "TotalCount": total.to_string(),
        "Active": active.to_string(),
        "Size": human::size_long(size),
        "Reclaimable": part,
    })
}

fn rows(usage: &DiskUsage) -> Vec<Value> {
    let is_alive = |one: &&ContainerUsage| {
        matches!(
            one.container.status,
            Status::Running | Status::Paused | Status::Restarting
        )
    };
    let alive: Vec<_> = usage.containers.iter().filter(is_alive).collect();
    let size: u64 = usage.containers.iter().map(|one| one.occupied).sum();
    let kept: u64 = alive.iter().map(|one| one.occupied).sum();
    let volumes: u64 = usage.volumes.iter().map(|one| one.occupied).sum();
    let in_use = usage.volumes.iter().filter(|one| !one.users.is_empty());
    let in_use: Vec<u64> = in_use.map(|one| one.occupied).collect();
    let kernels: u64 = usage.kernels.iter().map(|one| one.occupied).sum();
    let used: Vec<_> = usage.kernels.iter().filter(|one| one.used).collect();
    let needed: u64 = used.iter().map(|one| one.occupied).sum();
    let active = usage.images.iter().filter(|one| one.containers > 0);
    let remains = usage.remains;
    vec![
        row(
            "Images",
            usage.images.len(),
            active.count(),
            usage.images_size,
            usage.images_reclaimable,
        ),
        row(
            "Containers",
            usage.containers.len(),
            alive.len(),
            size,
            size - kept,
        ),
        row(
            "Local Volumes",
            usage.volumes.len(),
            in_use.len(),
            volumes,
            volumes - in_use.iter().sum::<u64>(),
        ),
        row(
            "Kernels",
            usage.kernels.len(),
            used.len(),
            kernels,
            kernels - needed,
        ),
        row(
            "Remains",
            remains.files,
            0,
            remains.occupied,
            remains.occupied,
        ),
    ]
}

/// Everything by the piece.
struct Verbose {
    images: Vec<Value>,
    containers: Vec<Value>,
    volumes: Vec<Value>,
    kernels: Vec<Value>,
    remains: Value,
}

impl Verbose {
    fn new(usage: &DiskUsage, now_ns: u64) -> Self {
        let kernel = |one: &engine::KernelUsage| {
            json!({
                "Name": one.name,
                "Release": one.release,
                "Size": human::size_long(one.occupied),
                "Used": one.used.to_string(),
            })
        };
        Self {
            images: usage.images.iter().map(|one| image(one, now_ns)).collect(),
            containers: usage
                .containers
                .iter()
                .map(|one| container(one, now_ns))
                .collect(),
            volumes: usage.volumes.iter().map(volume::row).collect(),
            kernels: usage.kernels.iter().map(kernel).collect(),
            remains: json!({
                "Files": usage.remains.files.to_string(),
                "Size": human::size_long(usage.remains.occupied),
            }),
        }
    }

    fn text(&self) -> Result<String, Failure> {
        Ok(format!(
            "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space usage:\n\n{}\nKernels space usage:\n\n{}\nRemains: {} files, {}\n",
            IMAGES.render(&self.images, None)?,
            CONTAINERS.render(&self.containers, None)?,
            VOLUMES.render(&self.volumes, None)?,
            KERNELS.render(&self.kernels, None)?,
            self.remains["Files"].as_str().unwrap_or_default(),
            self.remains["Size"].as_str().unwrap_or_default(),
        ))
    }

    fn value(&self) -> Value {
        json!({
            "Images": self.images,
            "Containers": self.containers,
            "Volumes": self.volumes,
            "Kernels": self.kernels,
            "Remains": self.remains,
        })
    }
}

/// An image has one row, as Docker's: by its first name.
fn image(usage: &ImageUsage, now_ns: u64) -> Value {
    let mut row = images::first_row(&usage.image, now_ns);
    row["Size"] = human::size_long(usage.occupied).into();
    row["SharedSize"] = human::size_long(usage.shared).into();
    row["UniqueSize"] = human::size_long(usage.unique).into();
    row["Containers"] = usage.containers.to_string().into();
    row
}

fn container(usage: &ContainerUsage, now_ns: u64) -> Value {
    let mut row = ps::row(&usage.container, now_ns, false);
    row["Size"] = human::size_long(usage.occupied).into();
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: `docker system df` of Docker 28 for the shape and the words.
    #[test]
    fn table() {
        let usage = DiskUsage {
            images_size: 16_430_000,
            images_reclaimable: 11_630_000,
            ..DiskUsage::default()
        };
        assert_eq!(
            COLUMNS.render(&rows(&usage), None).as_deref(),
            Ok("\
TYPE            TOTAL     ACTIVE    SIZE      RECLAIMABLE
Images          0         0         16.43MB   11.63MB (70%)
Containers      0         0         0B        0B
Local Volumes   0         0         0B        0B
Kernels         0         0         0B        0B
Remains         0         0         0B        0B
")
        );
        let text = Verbose::new(&usage, 0).text().ok();
        assert!(
            text.is_some_and(|text| text.starts_with("Images space usage:\n\nREPOSITORY   TAG"))
        );
    }
}
