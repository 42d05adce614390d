//! Places for what the guest mounts in every container. What the image lacks of them is in the rootfs image already: made at a
//! start, each would be a copy up of its directory (15 ms under translation) and a change that `diff` shows. Docker's
//! "init layer" is the same.

use ext4::{Data, Kind, Node, NodeId, Timestamp, Tree};

const DIRECTORIES: [&[u8]; 3] = [b"dev", b"proc", b"sys"];

/// In `/etc`.
const FILES: [&[u8]; 3] = [b"hosts", b"hostname", b"resolv.conf"];

/// Adds what is missing. Whatever has one of the names stays, be it of another kind: the guest says then what is wrong with it.
pub(super) fn add(tree: &mut Tree) {
    let root = tree.root();
    for name in DIRECTORIES {
        entry(tree, root, name, directory());
    }
    let etc = entry(tree, root, b"etc", directory());
    for name in FILES {
        entry(tree, etc, name, node(0o644, Kind::File(Data::empty())));
    }
}

/// The entry of that name; `new` where there is none. In what is no directory nothing is added.
fn entry(tree: &mut Tree, parent: NodeId, name: &[u8], new: Node) -> NodeId {
    if let Some(there) = tree.lookup(parent, name) {
        return there;
    }
    if !matches!(tree[parent].kind, Kind::Directory(_)) {
        return parent;
    }
    let made = tree.add(new);
    // It is a directory, so that this succeeds.
    let _ = tree.link(parent, name, made);
    made
}

fn directory() -> Node {
    node(0o755, Kind::Directory(Default::default()))
}

/// Owned by root, dated 1970, as directories that no entry of a layer names.
fn node(mode: u16, kind: Kind) -> Node {
    Node {
        mode,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Vec::new(),
        kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tree: &Tree, parent: NodeId, names: &[&str]) {
        let Kind::Directory(entries) = &tree[parent].kind else {
            panic!("no directory");
        };
        let there: Vec<_> = entries
            .keys()
            .map(|name| str::from_utf8(name).unwrap())
            .collect();
        assert_eq!(there, names);
    }

    #[test]
    fn an_empty_image_gets_all() {
        let mut tree = Tree::new(directory());
        add(&mut tree);
        check(&tree, tree.root(), &["dev", "etc", "proc", "sys"]);
        let etc = tree.lookup(tree.root(), b"etc").unwrap();
        check(&tree, etc, &["hostname", "hosts", "resolv.conf"]);
    }

    #[test]
    fn what_is_there_stays() {
        let mut tree = Tree::new(directory());
        let (root, link) = (tree.root(), Kind::Symlink(b"usr/etc".to_vec()));
        let etc = tree.add(node(0o777, link.clone()));
        tree.link(root, "etc", etc).unwrap();
        add(&mut tree);
        check(&tree, root, &["dev", "etc", "proc", "sys"]);
        assert_eq!(tree[etc].kind, link);
        let before = tree.clone();
        add(&mut tree);
        assert_eq!(tree, before);
    }
}
