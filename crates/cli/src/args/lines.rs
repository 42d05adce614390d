//! Files of `KEY=VALUE` lines, as Docker's `--env-file` and `--label-file` take them. Pure.
//!
//! White space before a line is dropped, a line that is empty or begins with `#` too. The value is what follows the first
//! `=`, as it is: quotes and white space at its end belong to it.

/// Why a file cannot be used: the line's number, from 1, and what is wrong.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct Wrong {
    line: usize,
    reason: String,
}

/// The lines as `KEY=VALUE`. Those with a key alone become what `look_up` says, or nothing.
pub fn parse(bytes: &[u8], look_up: impl Fn(&str) -> Option<String>) -> Result<Vec<String>, Wrong> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut found = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let wrong = |reason: String| Wrong {
            line: index + 1,
            reason,
        };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = std::str::from_utf8(line).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
        let text = text.trim_start();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let (key, value) = text
            .split_once('=')
            .map_or((text, None), |(key, value)| (key, Some(value)));
        if key.is_empty() {
            return Err(wrong(format!("{text:?} has no name before the =")));
        }
        if key.contains(char::is_whitespace) {
            return Err(wrong(format!("the name {key:?} contains white space")));
        }
        match value {
            Some(_) => found.push(text.to_owned()),
            None => found.extend(look_up(key).map(|value| format!("{key}={value}"))),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: what Docker 28's CLI sends for such a file.
    #[test]
    fn lines() {
        let look_up = |key: &str| (key == "HOME").then(|| "/root".to_owned());
        let check = |bytes: &[u8], expect: Result<&[&str], &str>| {
            let result = parse(bytes, look_up).map_err(|wrong| wrong.to_string());
            match expect {
                Ok(lines) => assert_eq!(
                    result.as_deref(),
                    Ok(&lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>()[..])
                ),
                Err(said) => assert_eq!(result, Err(said.to_owned())),
            }
        };
        check(
            b"A=1\n# c\n  B=two words  \nHOME\nNOPE\nQ=\"x\"\n\nE=\n",
            Ok(&["A=1", "B=two words  ", "HOME=/root", "Q=\"x\"", "E="]),
        );
        check(b"\xef\xbb\xbfA=1\r\nB=2", Ok(&["A=1", "B=2"]));
        check(b"A==x=\n", Ok(&["A==x="]));
        check(b"", Ok(&[]));
        check(
            b"A=1\nA B=1\n",
            Err("line 2: the name \"A B\" contains white space"),
        );
        check(
            b"A =1\n",
            Err("line 1: the name \"A \" contains white space"),
        );
        check(b"=1\n", Err("line 1: \"=1\" has no name before the ="));
        check(b"A=1\n\xff=1\n", Err("line 2: it is not UTF-8"));
    }
}
