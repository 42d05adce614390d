//! What an allow-list holds: `example.org`, `*.example.org`, `192.0.2.0/24`, `2001:db8::9`, each with `:PORT` for one port only.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Error;

/// A line of an allow-list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Allow {
    /// What can be reached.
    pub what: What,
    /// At this port only.
    pub port: Option<u16>,
}

/// What a line is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The addresses of this name, in lower case.
    Name(String),
    /// Those of all names below this one.
    Below(String),
    /// Addresses that have so many bits in common with this one.
    Prefix(IpAddr, u8),
}

impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Name(name) => f.write_str(name)?,
            What::Below(name) => write!(f, "*.{name}")?,
            What::Prefix(address @ IpAddr::V6(_), bits) if self.port.is_some() => {
                write!(f, "[{address}/{bits}]")?;
            }
            What::Prefix(address, bits) => write!(f, "{address}/{bits}")?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl From<Allow> for String {
    fn from(allow: Allow) -> String {
        allow.to_string()
    }
}

impl TryFrom<String> for Allow {
    type Error = Error;

    fn try_from(text: String) -> Result<Allow, Error> {
        text.parse()
    }
}

impl std::str::FromStr for Allow {
    type Err = Error;

    fn from_str(text: &str) -> Result<Allow, Error> {
        let wrong = |reason: &str| Error::InvalidAllow {
            text: text.to_owned(),
            reason: reason.to_owned(),
        };
        let (what, port) =
            split(text).ok_or_else(|| wrong("the port is a number from 1 to 65535"))?;
        if let Some(prefix) = prefix(what) {
            let (address, bits) = prefix.map_err(|reason| wrong(&reason))?;
            return Ok(Allow {
                what: What::Prefix(address, bits),
                port,
            });
        }
        let (below, name) = match what.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, what),
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        check_name(&name).map_err(wrong)?;
        if !below && !name.contains('.') {
            return Err(wrong(
                "names without a dot are containers', which are reached in any case",
            ));
        }
        let what = if below {
            What::Below(name)
        } else {
            What::Name(name)
        };
        Ok(Allow { what, port })
    }
}

/// The port behind the last colon, if it is not one of an address of IPv6 without brackets.
fn split(text: &str) -> Option<(&str, Option<u16>)> {
    let (what, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']')? {
            (what, "") => return Some((what, None)),
            (what, port) => (what, port.strip_prefix(':')?),
        },
        None if text.matches(':').count() == 1 => text.split_once(':')?,
        None => return Some((text, None)),
    };
    let port = port.parse().ok().filter(|port| *port > 0)?;
    Some((what, Some(port)))
}

/// `None`: it is meant as a name.
fn prefix(text: &str) -> Option<Result<(IpAddr, u8), String>> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let parsed: IpAddr = match (address.parse(), bits) {
        (Ok(address), _) => address,
        (Err(_), None) => return None,
        (Err(_), Some(_)) => return Some(Err(format!("{address:?} is no address"))),
    };
    let most = if parsed.is_ipv4() { 32 } else { 128 };
    let bits = match bits.map(str::parse::<u8>) {
        None => most,
        Some(Ok(bits)) if bits <= most => bits,
        Some(_) => return Some(Err(format!("a prefix has 0 to {most} bits"))),
    };
    let first: IpAddr = match parsed {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    };
    Some(match first == parsed {
        true => Ok((parsed, bits)),
        false => Err(format!("the prefix begins at {first}")),
    })
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if name.contains('*') {
        return Err("a * stands only before the first dot, as in *.example.org");
    }
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(fine);
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(
            "write a name (example.org), all names below one (*.example.org), an address or a prefix (192.0.2.0/24), with \
             :PORT for one port only; IPv6 with a port stands in [ ]",
        );
    }
    // The resolver answers such names with addresses, or not at all; a number there is a mistake (RFC 3696, 2).
    match name.rsplit('.').next() {
        Some(last) if last.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err("it is neither an address nor a name")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let check = |text: &str, expect: &str| {
            let parsed: Result<Allow, Error> = text.parse();
            let shown = parsed.map_or_else(|error| error.to_string(), |allow| allow.to_string());
            assert!(shown.ends_with(expect), "{text}: {shown}");
            if shown == expect {
                let again: Allow = shown.parse().unwrap();
                assert_eq!(again.to_string(), shown);
            }
        };
        check("Example.ORG.", "example.org");
        check("example.org:443", "example.org:443");
        check("*.example.org", "*.example.org");
        check("192.0.2.7", "192.0.2.7/32");
        check("192.0.2.0/24:80", "192.0.2.0/24:80");
        check("0.0.0.0/0", "0.0.0.0/0");
        check("2001:db8::9", "2001:db8::9/128");
        check("[2001:db8::]:80", "[2001:db8::/128]:80");
        check("[2001:db8::/32]:80", "[2001:db8::/32]:80");
        check("[::/0]", "::/0");
        check("192.0.2.7/24", "the prefix begins at 192.0.2.0");
        check("192.0.2.0/33", "a prefix has 0 to 32 bits");
        check("example.org/24", "\"example.org\" is no address");
        check("example.org:0", "the port is a number from 1 to 65535");
        check("[::1", "the port is a number from 1 to 65535");
        check(
            "a.*.org",
            "a * stands only before the first dot, as in *.example.org",
        );
        check(
            "*",
            "a * stands only before the first dot, as in *.example.org",
        );
        check(
            "web",
            "names without a dot are containers', which are reached in any case",
        );
        check("*.org", "*.org");
        check("1.2.3", "it is neither an address nor a name");
        check("", "IPv6 with a port stands in [ ]");
        check("a..b", "IPv6 with a port stands in [ ]");
        check("a b.c", "IPv6 with a port stands in [ ]");
    }
}
