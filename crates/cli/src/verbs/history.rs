//! `gourd history`.

use engine::HistoryStep;
use serde_json::{Value, json};

use crate::app::App;
use crate::args::image::History;
use crate::clock;
use crate::failure::Failure;
use crate::render::listing::Columns;
use crate::render::{human, out};

/// Docker's.
const COLUMNS: Columns = Columns {
    default: "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
    headings: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
    ],
};

/// Docker's, with `--human=false`.
const EXACT: &str = "table {{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";

/// What stands for an image that is not here, as each step's but the last one's.
const MISSING: &str = "<missing>";

/// Characters of a command that a table shows, as Docker.
const COMMAND: usize = 45;

/// Shows how an image came about, the last step first.
pub fn history(app: &App, args: &History) -> Result<u8, Failure> {
    let steps = app.engine()?.image_history(&args.image)?;
    if args.quiet {
        let ids: String = steps
            .iter()
            .map(|step| id(step, args.no_trunc) + "\n")
            .collect();
        out::print(&ids)?;
        return Ok(0);
    }
    let now_ns = clock::wall_ns();
    let rows: Vec<Value> = steps.iter().map(|step| row(step, now_ns, args)).collect();
    let format = match args.format.as_deref() {
        None | Some("" | "table") if !args.human => Some(EXACT),
        format => format,
    };
    out::print(&COLUMNS.render_fitting(&rows, format, args.no_trunc)?)?;
    Ok(0)
}

fn id(step: &HistoryStep, whole: bool) -> String {
    match &step.id {
        Some(id) if whole => id.clone(),
        Some(id) => human::short_id(id).to_owned(),
        None => MISSING.to_owned(),
    }
}

/// Docker's field names.
fn row(step: &HistoryStep, now_ns: u64, args: &History) -> Value {
    // Tabs would be columns.
    let command = step.created_by.replace('\t', " ");
    let command = match args.no_trunc {
        true => command,
        false => cut(&command),
    };
    let when =
        |show: &dyn Fn(u64) -> String| step.created_ns.map_or_else(|| "N/A".to_owned(), show);
    json!({
        "ID": id(step, args.no_trunc),
        "CreatedSince": when(&|then| human::ago(then, now_ns)),
        "CreatedAt": when(&human::local),
        "CreatedBy": command,
        "Size": match args.human {
            true => human::size(step.size),
            false => step.size.to_string(),
        },
        "Comment": step.comment,
        "Tags": step.tags,
    })
}

fn cut(text: &str) -> String {
    if text.chars().count() <= COMMAND {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(COMMAND - 1).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: `docker history` of Docker 28.
    #[test]
    fn table() {
        const DAY: u64 = 86_400_000_000_000;
        let step = |id: Option<&str>, by: &str, size| HistoryStep {
            id: id.map(str::to_owned),
            created_ns: Some(0),
            created_by: by.to_owned(),
            comment: "buildkit.dockerfile.v0".to_owned(),
            size,
            tags: Vec::new(),
        };
        let last = format!("sha256:{}", "ab".repeat(32));
        let steps = [
            step(Some(&last), "CMD [\"sh\"]", 0),
            step(
                None,
                "RUN /bin/sh -c apt-get update && apt-get install curl\t# buildkit",
                4_261_574,
            ),
        ];
        let args = |human, no_trunc| History {
            human,
            no_trunc,
            quiet: false,
            format: None,
            image: String::new(),
        };
        let rows = |args: &History| -> Vec<Value> {
            steps.iter().map(|step| row(step, 15 * DAY, args)).collect()
        };
        assert_eq!(
            COLUMNS.render(&rows(&args(true, false)), None).as_deref(),
            Ok("\
IMAGE          CREATED       CREATED BY                                      SIZE      COMMENT
abababababab   2 weeks ago   CMD [\"sh\"]                                      0B        buildkit.dockerfile.v0
<missing>      2 weeks ago   RUN /bin/sh -c apt-get update && apt-get ins…   4.26MB    buildkit.dockerfile.v0
")
        );
        let exact = rows(&args(false, true));
        assert_eq!(exact[0]["ID"], last.as_str());
        assert_eq!(exact[1]["CreatedAt"], "1970-01-01T00:00:00Z");
        assert_eq!(exact[1]["Size"], "4261574");
    }
}
