//! Columns as Docker prints them: padded with three spaces, ten wide at least, the last one as it is
//! (Go's `tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)`).

/// Narrowest column, padding included.
const MIN_WIDTH: usize = 10;
/// Spaces between columns.
const PADDING: usize = 3;

/// Lines of columns, each line ended by a newline. Control characters become `?`: a table goes to terminals.
pub fn render(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths = vec![0; columns];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        for (index, cell) in row.iter().enumerate() {
            text.extend(cell.chars().map(|c| if c.is_control() { '?' } else { c }));
            if index + 1 < row.len() {
                let width = (widths[index] + PADDING).max(MIN_WIDTH);
                text.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rows: &[&[&str]], expect: &str) {
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|row| row.iter().map(|&cell| cell.to_owned()).collect())
            .collect();
        assert_eq!(render(&rows), expect);
    }

    /// Oracle: `docker images` of Docker 28.
    #[test]
    fn columns() {
        check(
            &[
                &["REPOSITORY", "TAG", "IMAGE ID", "SIZE"],
                &["busybox", "latest", "65ad0d468eb1", "4.26MB"],
            ],
            "REPOSITORY   TAG       IMAGE ID       SIZE\n\
             busybox      latest    65ad0d468eb1   4.26MB\n",
        );
        check(&[], "");
        check(
            &[&["a\x1b[31m", "…"], &["", "x"]],
            "a?[31m    …\n          x\n",
        );
    }
}
