//! How a Dockerfile's line becomes words: quotes, backslashes, `$variables`, JSON lists.

/// What follows an instruction's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Words {
    /// `["a", "b"]`
    Json(Vec<String>),
    /// Anything else.
    Line(String),
}

impl Words {
    /// A list that is no valid JSON is a line, as for Docker; one of things that are no texts is an error.
    pub(super) fn parse(rest: &str) -> Result<Self, String> {
        if rest.starts_with('[')
            && let Ok(list) = serde_json::from_str::<Vec<serde_json::Value>>(rest)
        {
            let texts = list.into_iter().map(|one| match one {
                serde_json::Value::String(text) => Ok(text),
                other => Err(format!("{other} is no text")),
            });
            return Ok(Self::Json(texts.collect::<Result<_, _>>()?));
        }
        Ok(Self::Line(rest.to_owned()))
    }

    /// The line cut at white space.
    pub(super) fn into_list(self) -> Vec<String> {
        match self {
            Self::Json(words) => words,
            Self::Line(line) => line.split_whitespace().map(str::to_owned).collect(),
        }
    }
}

/// Cuts at white space outside of quotes; quotes and backslashes stay, for [`process`].
pub(super) fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                word.push(c);
                word.extend(chars.next());
            }
            ('"' | '\'', None) => {
                quote = Some(c);
                word.push(c);
            }
            (c, Some(open)) if c == open => {
                quote = None;
                word.push(c);
            }
            (c, None) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            (c, _) => word.push(c),
        }
    }
    if quote.is_some() {
        return Err(format!("{text:?} has a quote without its end"));
    }
    if !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

/// `a=b "c d"=e`, or the old `a the rest`.
pub(super) fn key_values(rest: &str, env: &[String]) -> Result<Vec<(String, String)>, String> {
    let words = split(rest)?;
    let first = words.first().map_or("", String::as_str);
    if !first.contains('=') {
        let (key, value) = rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| format!("{rest:?} has no value: write KEY=VALUE"))?;
        return Ok(vec![(key.to_owned(), process(value.trim(), env)?)]);
    }
    let pair = |word: &String| {
        let (key, value) = word
            .split_once('=')
            .ok_or_else(|| format!("{word:?} has no value: write KEY=VALUE"))?;
        let key = process(key, env)?;
        if key.is_empty() {
            return Err(format!("{word:?} has no name before the ="));
        }
        Ok((key, process(value, env)?))
    };
    words.iter().map(pair).collect()
}

/// Takes quotes and backslashes away and puts variables in.
pub(super) fn process(text: &str, env: &[String]) -> Result<String, String> {
    let mut out = String::new();
    let mut quote = None;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match (c, quote) {
            ('\'', None) => quote = Some('\''),
            ('"', None) => quote = Some('"'),
            ('\'', Some('\'')) | ('"', Some('"')) => quote = None,
            ('\\', None) => {
                if let Some(next) = rest.chars().next() {
                    out.push(next);
                    rest = &rest[next.len_utf8()..];
                }
            }
            ('\\', Some('"')) => match rest.chars().next() {
                Some(next @ ('"' | '$' | '\\')) => {
                    out.push(next);
                    rest = &rest[1..];
                }
                _ => out.push(c),
            },
            ('$', None | Some('"')) => {
                let (value, tail) = variable(rest, env)?;
                out.push_str(&value);
                rest = tail;
            }
            (c, _) => out.push(c),
        }
    }
    if quote.is_some() {
        return Err(format!("{text:?} has a quote without its end"));
    }
    Ok(out)
}

/// What stands for `$name`, `${name}`, `${name:-word}`, `${name:+word}`, and what follows.
fn variable<'t>(rest: &'t str, env: &[String]) -> Result<(String, &'t str), String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let value = |name: &str| {
        env.iter()
            .filter_map(|entry| entry.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.to_owned())
    };
    let Some(inner) = rest.strip_prefix('{') else {
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        if end == 0 {
            return Ok(("$".to_owned(), rest));
        }
        return Ok((value(&rest[..end]).unwrap_or_default(), &rest[end..]));
    };
    let end = closing(inner).ok_or_else(|| format!("\"${rest}\" has no closing brace"))?;
    let (body, tail) = (&inner[..end], &inner[end + 1..]);
    let name_end = body.find(|c| !is_name(c)).unwrap_or(body.len());
    let (name, modifier) = body.split_at(name_end);
    let known = value(name).filter(|value| !value.is_empty());
    let text = match modifier {
        _ if name.is_empty() => return Err(format!("\"${{{body}}}\" names no variable")),
        "" => known.unwrap_or_default(),
        other => match (other.strip_prefix(":-"), other.strip_prefix(":+")) {
            (Some(word), _) => known.map_or_else(|| process(word, env), Ok)?,
            (_, Some(word)) => known.map_or_else(|| Ok(String::new()), |_| process(word, env))?,
            _ => {
                return Err(format!(
                    "\"${{{body}}}\" is not known: there are ${{name}}, ${{name:-word}} and ${{name:+word}}"
                ));
            }
        },
    };
    Ok((text, tail))
}

fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Go's durations: `1m30s`, `1.5h`, `500ms`, `0`.
pub(super) fn nanoseconds(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let mut sum = 0_f64;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (count, tail) = rest.split_at(end);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit = match unit {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            _ => return None,
        };
        sum += count.parse::<f64>().ok()? * unit;
        rest = tail;
    }
    (sum < 9e18).then_some(sum as i64)
}
