//! Columns as Docker prints them: padded with three spaces, ten wide at least, the last one as it is
//! (Go's `tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)`). Widths are those of the terminal: wide characters count twice.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Narrowest column, padding included.
const MIN_WIDTH: usize = 10;
/// Spaces between columns.
const PADDING: usize = 3;
/// No cell is cut to less than this, whatever the terminal's width.
const READABLE: usize = 8;

/// Lines of columns, each line ended by a newline. Control characters become `?`: a table goes to terminals.
pub fn render(rows: &[Vec<String>]) -> String {
    render_with(rows, MIN_WIDTH)
}

/// The same with another width for the narrowest column.
pub fn render_with(rows: &[Vec<String>], min_width: usize) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| plain(cell)).collect())
        .collect();
    let widths = widths(&rows);
    let mut text = String::new();
    for row in &rows {
        for (index, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if index + 1 < row.len() {
                let width = (widths[index] + PADDING).max(min_width);
                text.extend(std::iter::repeat_n(' ', width - cell.width()));
            }
        }
        text.push('\n');
    }
    text
}

/// Cuts cells so that no line is wider than `columns`: the widest first, with an ellipsis. Headings are never cut, and what
/// people type again, ids and names in the first and the last column, only when there is no other way.
pub fn fit(rows: &mut [Vec<String>], columns: usize) {
    let mut wide = widths(rows);
    let natural = wide.clone();
    let least: Vec<usize> = wide
        .iter()
        .enumerate()
        .map(|(index, width)| {
            let heading = rows.first().and_then(|row| row.get(index));
            let heading = heading.map_or(0, |cell| cell.width());
            (*width).min(heading.max(READABLE))
        })
        .collect();
    let total = |widths: &[usize]| -> usize {
        let last = widths.len().saturating_sub(1);
        let padded = |(index, width): (usize, &usize)| match index == last {
            true => *width,
            false => (width + PADDING).max(MIN_WIDTH),
        };
        widths.iter().enumerate().map(padded).sum()
    };
    while total(&wide) > columns {
        let can = |index: &usize| wide[*index] > least[*index];
        let inner = (1..wide.len().saturating_sub(1))
            .filter(can)
            .max_by_key(|&index| wide[index]);
        let any = || (0..wide.len()).filter(can).max_by_key(|&index| wide[index]);
        match inner.or_else(any) {
            Some(index) => wide[index] -= 1,
            None => break,
        }
    }
    for row in rows {
        for (index, cell) in row.iter_mut().enumerate() {
            if wide[index] < natural[index] && cell.width() > wide[index] {
                *cell = cut(cell, wide[index]);
            }
        }
    }
}

/// As many characters as fit, and an ellipsis.
fn cut(cell: &str, columns: usize) -> String {
    let mut text = String::new();
    let mut width = 1;
    for c in cell.chars() {
        width += c.width().unwrap_or(1);
        if width > columns {
            break;
        }
        text.push(c);
    }
    text.push('…');
    text
}

/// Whether a terminal would obey it: a control character (C0, DEL or C1), or what turns the direction of writing around.
pub fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text from elsewhere, with a `?` for each character that a terminal would obey.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if is_obeyed(c) { '?' } else { c })
        .collect()
}

fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut widths = vec![0; columns];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(plain(cell).width());
        }
    }
    widths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter()
            .map(|row| row.iter().map(|&cell| cell.to_owned()).collect())
            .collect()
    }

    fn check(table: &[&[&str]], expect: &str) {
        assert_eq!(render(&rows(table)), expect);
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

    #[test]
    fn wide_characters_count_twice() {
        check(
            &[&["NAME", "X"], &["日本語日本語", "x"], &["e\u{301}", "y"]],
            "NAME           X\n日本語日本語   x\ne\u{301}              y\n",
        );
    }

    #[test]
    fn cells_are_cut_to_fit() {
        let table = [
            &["ID", "COMMAND", "NAMES"][..],
            &["0123456789ab", "a very long command line", "short"],
            &["ba9876543210", "sh", "日本語日本語日本語"],
        ];
        for columns in 36..70 {
            let mut table = rows(&table);
            fit(&mut table, columns);
            let text = render(&table);
            let widest = text.lines().map(UnicodeWidthStr::width).max();
            assert!(widest <= Some(columns), "{columns}: {text}");
            assert_eq!(text.contains('…'), columns < 60, "{columns}: {text}");
            let whole = text.contains("日本語日本語日本語");
            assert_eq!(whole, columns >= 44, "{columns}: {text}");
        }
    }

    #[test]
    fn a_terminal_too_narrow_for_anything() {
        let mut table = rows(&[
            &["CONTAINER ID", "NAMES"],
            &["0123456789ab", "a-long-name-it-is"],
        ]);
        fit(&mut table, 5);
        assert_eq!(
            render(&table),
            "CONTAINER ID   NAMES\n0123456789ab   a-long-…\n"
        );
    }
}
