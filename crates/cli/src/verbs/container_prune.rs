//! `gourd container prune`.

use engine::{ContainerFilter, Pruned};

use crate::app::App;
use crate::args::container::Prune;
use crate::args::moment::moment;
use crate::confirm::confirm;
use crate::failure::Failure;
use crate::render::{human, out};

/// Removes containers that don't run, after asking.
pub async fn prune(app: &App, args: &Prune) -> Result<u8, Failure> {
    let filter = chosen(&args.filter);
    if !args.force && !confirm("WARNING! This will remove all stopped containers.")? {
        return Ok(0);
    }
    let pruned = app.engine()?.prune_containers(&filter).await?;
    out::print(&text(&pruned))?;
    out::line(&format!(
        "Total reclaimed space: {}",
        human::size(pruned.bytes)
    ))?;
    Ok(0)
}

/// Checked filters, as the engine takes them.
pub(super) fn chosen(filters: &[(String, String)]) -> ContainerFilter {
    let mut chosen = ContainerFilter::default();
    for (key, value) in filters {
        let label = || match value.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (value.clone(), None),
        };
        match key.as_str() {
            "label" => chosen.labels.push(label()),
            "label!" => chosen.without_labels.push(label()),
            _ => chosen.until_ns = moment(value).ok(),
        }
    }
    chosen
}

/// What went, as Docker lists it; nothing when nothing did.
pub fn text(pruned: &Pruned) -> String {
    if pruned.ids.is_empty() {
        return String::new();
    }
    let ids: String = pruned.ids.iter().map(|id| format!("{id}\n")).collect();
    format!("Deleted Containers:\n{ids}\n")
}
