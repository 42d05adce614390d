//! Who a process runs as: Docker's `--user` looked up in the container's passwd and group.
//!
//! Both files are the image's and so are hostile bytes: a line that is not what passwd(5) or group(5) say is passed over.
//! Names win over numbers, as in Docker; a number needs no entry.

use std::collections::HashMap;

use thiserror::Error;

/// The biggest user or group id: ids are signed in too many programs.
const MAX_ID: u32 = i32::MAX as u32;

/// Ids and home of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// User id.
    pub(crate) uid: u32,
    /// Group id.
    pub(crate) gid: u32,
    /// Supplementary groups; the primary group is the first.
    pub(crate) groups: Vec<u32>,
    /// The passwd entry's home, "/" without an entry.
    pub(crate) home: Vec<u8>,
}

/// Why there is no such identity.
#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum UserError {
    /// Neither a name in passwd nor a number.
    #[error("unable to find user {0}")]
    NoUser(String),
    /// Neither a name in group nor a number.
    #[error("unable to find group {0}")]
    NoGroup(String),
    /// A number that is no id.
    #[error("id {0} is out of range (0 to 2147483647)")]
    OutOfRange(String),
}

struct User<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

struct Group<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

/// Looks `spec` up: "", "user", "user:group", each a name or a number.
pub(crate) fn look_up(spec: &str, passwd: &[u8], group: &[u8]) -> Result<Identity, UserError> {
    let (user, group_spec) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (spec, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = parse_id(user)?;
    let entry = users(passwd)
        .find(|entry| entry.name == user.as_bytes())
        .or_else(|| users(passwd).find(|entry| Some(entry.uid) == number));
    let (uid, entry_gid) = match (&entry, number) {
        (Some(entry), _) => (entry.uid, entry.gid),
        (None, Some(uid)) => (uid, 0),
        (None, None) => return Err(UserError::NoUser(user.to_owned())),
    };
    let gid = match group_spec {
        Some(name) => find_group(name, group)?,
        None => entry_gid,
    };
    let mut ids = vec![gid];
    if let (Some(entry), None) = (&entry, group_spec) {
        for listed in groups(group) {
            let member = listed
                .members
                .split(|&byte| byte == b',')
                .any(|m| m == entry.name);
            if member && !ids.contains(&listed.gid) {
                ids.push(listed.gid);
            }
        }
    }
    let home = entry
        .map(|entry| entry.home)
        .filter(|home| !home.is_empty());
    Ok(Identity {
        uid,
        gid,
        groups: ids,
        home: home.unwrap_or(b"/").to_vec(),
    })
}

/// The users' names by id; the first entry of an id wins. For people: bytes that are not UTF-8 are replaced.
pub(crate) fn names(passwd: &[u8]) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for user in users(passwd) {
        let name = || String::from_utf8_lossy(user.name).into_owned();
        names.entry(user.uid).or_insert_with(name);
    }
    names
}

/// The id of a group by name or number.
pub(crate) fn find_group(name: &str, group: &[u8]) -> Result<u32, UserError> {
    let number = parse_id(name)?;
    groups(group)
        .find(|entry| entry.name == name.as_bytes())
        .map(|entry| entry.gid)
        .or(number)
        .ok_or_else(|| UserError::NoGroup(name.to_owned()))
}

/// `None`: not a number, so it can only be a name.
fn parse_id(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err(UserError::OutOfRange(text.to_owned())),
    }
}

/// The entry of a line: name:password:uid:gid:gecos:home:shell.
fn users(passwd: &[u8]) -> impl Iterator<Item = User<'_>> {
    lines(passwd).filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next()?;
        let uid = id(fields.nth(1)?)?;
        let gid = id(fields.next()?)?;
        let home = fields.nth(1).unwrap_or_default();
        Some(User {
            name,
            uid,
            gid,
            home,
        })
    })
}

/// The entry of a line: name:password:gid:members.
fn groups(group: &[u8]) -> impl Iterator<Item = Group<'_>> {
    lines(group).filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next()?;
        let gid = id(fields.nth(1)?)?;
        let members = fields.next().unwrap_or_default();
        Some(Group { name, gid, members })
    })
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty() && line[0] != b'#' && line[0] != b':')
}

fn id(field: &[u8]) -> Option<u32> {
    let field = std::str::from_utf8(field).ok()?;
    parse_id(field).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
        # comment:x:9:9::/:\n\
        broken line\n\
        :x:5:5::/:\n\
        negative:x:-1:1::/:\n\
        nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n\
        www:x:33:33::/var/www:\r\n\
        4711:x:1:2::/name:\n\
        nohome:x:12:13::\n\
        \xff\xfe:x:50:51::/bin:\n";
    const GROUP: &[u8] = b"root:x:0:\nadm:x:4:www,syslog\nwww:x:33:\nwheel:x:10:root,www\n\
        dup:x:33:www\nbad:x:x:www\nprefix:x:77:ww,wwww\n";

    /// Oracle: what `docker run --user` does with such files.
    fn check(spec: &str, uid: u32, gid: u32, groups: &[u32], home: &str) {
        let found = look_up(spec, PASSWD, GROUP).unwrap();
        let home = home.as_bytes().to_vec();
        let groups = groups.to_vec();
        assert_eq!(
            found,
            Identity {
                uid,
                gid,
                groups,
                home
            },
            "{spec:?}"
        );
    }

    #[test]
    fn users_by_name_and_number() {
        check("", 0, 0, &[0, 10], "/root");
        check(":", 0, 0, &[0, 10], "/root");
        check("root", 0, 0, &[0, 10], "/root");
        check("www", 33, 33, &[33, 4, 10], "/var/www");
        check("33", 33, 33, &[33, 4, 10], "/var/www");
        check("4711", 1, 2, &[2], "/name");
        check("1234", 1234, 0, &[0], "/");
        check("nohome", 12, 13, &[13], "/");
    }

    #[test]
    fn a_group_of_ones_own_leaves_no_others() {
        check("www:adm", 33, 4, &[4], "/var/www");
        check("www:99", 33, 99, &[99], "/var/www");
        check("1234:adm", 1234, 4, &[4], "/");
        check(":adm", 0, 4, &[4], "/root");
    }

    #[test]
    fn what_is_not_there() {
        let fails = |spec| look_up(spec, PASSWD, GROUP).unwrap_err().to_string();
        assert_eq!(fails("nosuch"), "unable to find user nosuch");
        assert_eq!(fails("negative"), "unable to find user negative");
        assert_eq!(fails("-1"), "unable to find user -1");
        assert_eq!(fails("www:nosuch"), "unable to find group nosuch");
        assert_eq!(fails("www:bad"), "unable to find group bad");
        assert_eq!(
            fails("4294967296"),
            "id 4294967296 is out of range (0 to 2147483647)"
        );
    }

    #[test]
    fn no_files_at_all() {
        let found = look_up("", b"", b"").unwrap();
        assert_eq!(
            (found.uid, found.gid, found.home.as_slice()),
            (0, 0, &b"/"[..])
        );
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(spec in ".*", passwd: Vec<u8>, group: Vec<u8>) {
            let _ = look_up(&spec, &passwd, &group);
        }

        #[test]
        fn any_near_miss_is_answered(
            spec in "[a0:]{0,4}",
            passwd in "([a0:#\n]{0,6}\n?){0,8}",
            group in "([a0:,\n]{0,6}\n?){0,8}",
        ) {
            if let Ok(found) = look_up(&spec, passwd.as_bytes(), group.as_bytes()) {
                proptest::prop_assert!(found.uid <= MAX_ID && found.groups[0] == found.gid);
            }
        }
    }
}
