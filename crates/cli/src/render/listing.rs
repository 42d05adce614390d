//! One way for every list: a table, ids, JSON lines, or a template over Docker's field names.

use serde_json::Value;

use crate::terminal;

use super::{
    table,
    template::{Template, TemplateError},
};

/// What a list shows when nobody says how.
pub struct Columns {
    /// The template of the table, columns separated by tabs.
    pub default: &'static str,
    /// Headings by field; a field that is not here is its own heading in capitals.
    pub headings: &'static [(&'static str, &'static str)],
}

impl Columns {
    fn heading(&self, field: &str) -> Option<&'static str> {
        self.headings
            .iter()
            .find(|(name, _)| *name == field)
            .map(|(_, heading)| *heading)
    }

    /// The text of a list. `format` as in `--format`.
    pub fn render(&self, rows: &[Value], format: Option<&str>) -> Result<String, TemplateError> {
        self.render_within(rows, format, None)
    }

    /// The same for stdout: on a terminal a table is no wider than that, unless all of it is wanted (`--no-trunc`).
    pub fn render_fitting(
        &self,
        rows: &[Value],
        format: Option<&str>,
        whole: bool,
    ) -> Result<String, TemplateError> {
        let columns = terminal::stdout_columns().filter(|_| !whole);
        self.render_within(rows, format, columns)
    }

    fn render_within(
        &self,
        rows: &[Value],
        format: Option<&str>,
        columns: Option<usize>,
    ) -> Result<String, TemplateError> {
        match format {
            None | Some("" | "table") => self.table(rows, self.default, columns),
            Some("json") => Ok(rows.iter().map(|row| format!("{row}\n")).collect()),
            Some(other) => match other.strip_prefix("table ") {
                Some(template) => self.table(rows, template.trim_start(), columns),
                None => {
                    let template = Template::parse(other)?;
                    rows.iter()
                        .map(|row| template.apply(row).map(|line| line + "\n"))
                        .collect()
                }
            },
        }
    }

    fn table(
        &self,
        rows: &[Value],
        template: &str,
        columns: Option<usize>,
    ) -> Result<String, TemplateError> {
        let template = Template::parse(template)?;
        let cells = |line: String| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
        let mut lines = vec![cells(template.header(|field| self.heading(field)))];
        for row in rows {
            lines.push(cells(template.apply(row)?));
        }
        if let Some(columns) = columns {
            table::fit(&mut lines, columns);
        }
        Ok(table::render(&lines))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const COLUMNS: Columns = Columns {
        default: "{{.ID}}\t{{.Names}}",
        headings: &[("ID", "CONTAINER ID"), ("Names", "NAMES")],
    };

    #[test]
    fn formats() {
        let rows = [
            json!({"ID": "0123456789ab", "Names": "one"}),
            json!({"ID": "x", "Names": "two"}),
        ];
        let check = |format: Option<&str>, expect: &str| {
            assert_eq!(
                COLUMNS.render(&rows, format).as_deref(),
                Ok(expect),
                "{format:?}"
            );
        };
        check(
            None,
            "CONTAINER ID   NAMES\n0123456789ab   one\nx              two\n",
        );
        check(Some("table {{.Names}}"), "NAMES\none\ntwo\n");
        check(Some("{{.Names}}"), "one\ntwo\n");
        check(
            Some("json"),
            "{\"ID\":\"0123456789ab\",\"Names\":\"one\"}\n{\"ID\":\"x\",\"Names\":\"two\"}\n",
        );
        assert_eq!(
            COLUMNS.render(&[], None).as_deref(),
            Ok("CONTAINER ID   NAMES\n")
        );
        assert!(COLUMNS.render(&rows, Some("{{.Nope}}")).is_err());
    }
}
