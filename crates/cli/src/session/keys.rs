//! The keys that leave a session, `ctrl-p,ctrl-q` when nobody says otherwise.
//!
//! What may be their beginning is held back until the next key decides, as by Docker: the program gets it late, or never.

use std::collections::VecDeque;

/// Docker's names of control characters, in the order of their codes.
const CONTROL: [&str; 32] = [
    "ctrl-@", "ctrl-a", "ctrl-b", "ctrl-c", "ctrl-d", "ctrl-e", "ctrl-f", "ctrl-g", "ctrl-h",
    "ctrl-i", "ctrl-j", "ctrl-k", "ctrl-l", "ctrl-m", "ctrl-n", "ctrl-o", "ctrl-p", "ctrl-q",
    "ctrl-r", "ctrl-s", "ctrl-t", "ctrl-u", "ctrl-v", "ctrl-w", "ctrl-x", "ctrl-y", "ctrl-z",
    "ctrl-[", "ctrl-\\", "ctrl-]", "ctrl-^", "ctrl-_",
];

/// Keys to be typed one after another. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys(Vec<u8>);

impl Default for Keys {
    fn default() -> Self {
        Keys(vec![0x10, 0x11])
    }
}

/// Docker's `--detach-keys`: characters or `ctrl-` and one of `a` to `z @ [ \ ] ^ _`, with commas between; `DEL`.
/// Nothing stands for the default.
pub fn parse(text: &str) -> Result<Keys, String> {
    if text.is_empty() {
        return Ok(Keys::default());
    }
    let keys = text.split(',').map(|key| {
        let control = CONTROL.iter().position(|name| *name == key);
        match (control, key.as_bytes()) {
            (Some(code), _) => u8::try_from(code).map_err(|_| String::new()),
            (None, [one]) => Ok(*one),
            (None, b"DEL") => Ok(127),
            (None, _) => Err(format!(
                "{key:?} is no key: write a character, or ctrl- and one of a to z @ [ \\ ] ^ _, with commas between keys"
            )),
        }
    });
    Ok(Keys(keys.collect::<Result<_, _>>()?))
}

/// Looks for keys in what is typed.
#[derive(Debug)]
pub struct Watch {
    keys: Keys,
    /// A beginning of the keys.
    held: VecDeque<u8>,
}

impl Watch {
    /// Looks for these.
    pub fn new(keys: Keys) -> Watch {
        Watch {
            keys,
            held: VecDeque::new(),
        }
    }

    /// What may be passed on of these bytes and those that were held back; true when the keys were typed. What comes after
    /// them is dropped.
    pub fn pass(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(bytes.len());
        for byte in bytes {
            self.held.push_back(*byte);
            while !self
                .keys
                .0
                .iter()
                .zip(&self.held)
                .all(|(key, held)| key == held)
            {
                passed.extend(self.held.pop_front());
            }
            if self.held.len() == self.keys.0.len() {
                return (passed, true);
            }
        }
        (passed, false)
    }

    /// What was held back and will not be decided any more.
    pub fn rest(&mut self) -> Vec<u8> {
        self.held.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Oracle: ToBytes of Docker's moby/term.
    #[test]
    fn keys() {
        let check = |text: &str, expect: Option<&[u8]>| {
            let keys = parse(text).ok().map(|keys| keys.0);
            assert_eq!(keys.as_deref(), expect, "{text:?}");
        };
        check("", Some(&[16, 17]));
        check("ctrl-p,ctrl-q", Some(&[16, 17]));
        check("a", Some(b"a"));
        check("a,b,c", Some(b"abc"));
        check(
            "ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_",
            Some(&[0, 27, 28, 29, 30, 31]),
        );
        check("ctrl-a,x,ctrl-z", Some(&[1, b'x', 26]));
        check("DEL,+", Some(&[127, b'+']));
        check("ctrl-A", None);
        check("ctrl-", None);
        check("ctrl-p,", None);
        check("ctrl-1", None);
        check("ab", None);
        check("ä", None);
    }

    #[test]
    fn watching() {
        let check = |keys: &str, typed: &[&[u8]], expect: &[u8], found: bool| {
            let mut watch = Watch::new(parse(keys).unwrap());
            let mut passed = Vec::new();
            let mut seen = false;
            for piece in typed {
                let (more, end) = watch.pass(piece);
                passed.extend(more);
                seen = end;
                if end {
                    break;
                }
            }
            if !seen {
                passed.extend(watch.rest());
            }
            assert_eq!((&passed[..], seen), (expect, found), "{keys} {typed:?}");
        };
        check("", &[b"ls\r"], b"ls\r", false);
        check("", &[b"ls\x10", b"\x11"], b"ls", true);
        check("", &[b"ls\x10\x11more"], b"ls", true);
        check("", &[b"\x10", b"x\x10", b"\x11"], b"\x10x", true);
        check("", &[b"\x10\x10\x11"], b"\x10", true);
        check("", &[b"\x11\x10"], b"\x11\x10", false);
        check("a,a,b", &[b"aaab"], b"a", true);
        check("a,b,a,c", &[b"ababac"], b"ab", true);
        check("q", &[b"xq"], b"x", true);
        check("", &["ä€😀\x10".as_bytes()], "ä€😀\x10".as_bytes(), false);
    }

    #[test]
    fn what_may_begin_the_keys_waits() {
        let mut watch = Watch::new(Keys::default());
        assert_eq!(watch.pass(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(watch.pass(b""), (Vec::new(), false));
        assert_eq!(watch.pass(b"b"), (b"\x10b".to_vec(), false));
    }
}
