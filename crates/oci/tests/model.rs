//! Random stacks of layers: the merged tree equals a plain model of the OCI image specification
//! ("Image Layer Filesystem Changeset").
//!
//! The model knows paths only and works in two passes, as the specification reads: a layer's
//! whiteouts hide what lower layers have, then its entries are put on top of the rest, in order. Where the
//! model finds that an entry makes no sense (a hard link to nothing, a file inside a file of the same
//! layer), the stack is made without it.

mod support;

use std::collections::{BTreeMap, HashMap};

use oci::{Kind, LayerIndex, MergedTree, Merger};
use proptest::prelude::*;
use support::{Memory, chain};
use testkit::image::{Entry, Layer};

type Path = Vec<String>;

#[derive(Clone, Debug)]
enum Op {
    Dir,
    File,
    Symlink,
    Fifo,
    HardLink(Path),
    Whiteout,
    Opaque,
}

#[derive(Clone, Debug)]
struct Step {
    path: Path,
    op: Op,
    /// Mode and time, so that each entry can be told from others.
    mark: u16,
}

fn path(longest: usize) -> impl Strategy<Value = Path> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c")].prop_map(str::to_owned);
    proptest::collection::vec(name, 1..=longest)
}

fn step() -> impl Strategy<Value = Step> {
    let op = prop_oneof![
        4 => Just(Op::Dir),
        4 => Just(Op::File),
        1 => Just(Op::Symlink),
        1 => Just(Op::Fifo),
        2 => path(3).prop_map(Op::HardLink),
        2 => Just(Op::Whiteout),
        1 => Just(Op::Opaque),
    ];
    // `s` and `t` are symbolic links to directories, in the lowest layer.
    let through = prop_oneof![
        8 => Just(None),
        1 => Just(Some("s")),
        1 => Just(Some("t")),
    ];
    (through, path(3), op, 0..0o7777u16).prop_map(|(through, mut path, op, mark)| {
        if let Some(link) = through {
            path.insert(0, link.to_owned());
        }
        Step { path, op, mark }
    })
}

fn stack() -> impl Strategy<Value = Vec<Vec<Step>>> {
    proptest::collection::vec(proptest::collection::vec(step(), 0..9), 1..6)
}

/// What the lowest layer begins with. `t` leads out of the root, which is the root.
const LINKS: [(&str, &str, &[&str]); 2] = [("s", "/a/b", &["a", "b"]), ("t", "../../c", &["c"])];

#[derive(Clone, Debug)]
struct Inode {
    kind: &'static str,
    content: String,
    mark: (u16, i64),
}

/// A name, and the layer that put it there. Its inode may have other names.
#[derive(Clone, Copy, Debug)]
struct Name {
    inode: usize,
    layer: usize,
}

#[derive(Clone, Debug, Default)]
struct Model {
    names: BTreeMap<Path, Name>,
    inodes: Vec<Inode>,
}

/// A path with its leading link replaced by what that points to.
fn resolve(path: &[String]) -> Path {
    for (name, _, target) in LINKS {
        if path.len() > 1 && path[0] == name {
            let target = target.iter().map(|name| (*name).to_owned());
            return target.chain(path[1..].iter().cloned()).collect();
        }
    }
    path.to_vec()
}

impl Model {
    fn kind(&self, path: &[String]) -> Option<&'static str> {
        let name = self.names.get(path)?;
        Some(self.inodes[name.inode].kind)
    }

    fn remove_below(&mut self, path: &[String]) {
        self.names
            .retain(|name, _| name.len() <= path.len() || !name.starts_with(path));
    }

    fn remove(&mut self, path: &[String]) {
        self.remove_below(path);
        self.names.remove(path);
    }

    fn put(&mut self, path: &[String], inode: Inode, layer: usize) {
        // A directory over a directory keeps what is in it.
        if inode.kind != "dir" || self.kind(path) != Some("dir") {
            self.remove(path);
        }
        self.inodes.push(inode);
        let inode = self.inodes.len() - 1;
        self.names.insert(path.to_vec(), Name { inode, layer });
    }

    /// Makes the directories that are missing. A lower layer's file gives way; `None` if one of this layer's is in
    /// the way, or a link, which lead nowhere here.
    fn make_parents(&mut self, path: &[String], layer: usize) -> Option<()> {
        for len in 1..path.len() {
            let parent = &path[..len];
            match self.kind(parent) {
                Some("dir") => continue,
                Some("link") => return None,
                Some(_) if self.names[parent].layer == layer => return None,
                _ => {}
            }
            let implied = Inode {
                kind: "dir",
                content: String::new(),
                mark: (0o755, 0),
            };
            self.put(parent, implied, layer);
        }
        Some(())
    }

    /// Whether the step is a whiteout of a link, of what has one in it, or below one. What a layer puts below a link that it hides depends on which
    /// comes first, of which the specification says nothing.
    fn hides_link(&self, step: &Step) -> bool {
        let path = resolve(&step.path);
        let touches = |other: &Path| other.starts_with(&path) || path.starts_with(other);
        let links = self
            .names
            .iter()
            .filter(|(_, name)| self.inodes[name.inode].kind == "link");
        matches!(step.op, Op::Whiteout | Op::Opaque) && { links }.any(|(link, _)| touches(link))
    }

    fn hide(&mut self, step: &Step) {
        let path = resolve(&step.path);
        match step.op {
            Op::Whiteout => self.remove(&path),
            Op::Opaque => self.remove_below(&path),
            _ => {}
        }
    }

    /// `None` if the entry makes no sense; the model is then good for nothing.
    fn add(&mut self, step: &Step, layer: usize, content: &str) -> Option<()> {
        let kind = match step.op {
            Op::Whiteout | Op::Opaque => return Some(()),
            Op::Dir => "dir",
            Op::File | Op::HardLink(_) => "file",
            Op::Symlink => "link",
            Op::Fifo => "fifo",
        };
        let path = resolve(&step.path);
        self.make_parents(&path, layer)?;
        if let Op::HardLink(target) = &step.op {
            let name = *self.names.get(target)?;
            if self.inodes[name.inode].kind == "dir" {
                return None;
            }
            self.remove(&path);
            let inode = name.inode;
            self.names.insert(path, Name { inode, layer });
            return Some(());
        }
        let content = if kind == "file" { content } else { "" };
        let inode = Inode {
            kind,
            content: content.to_owned(),
            mark: (step.mark, step.mark.into()),
        };
        self.put(&path, inode, layer);
        Some(())
    }

    fn lines(&self) -> Vec<String> {
        let mut first = HashMap::new();
        let line = |(path, name): (&Path, &Name)| {
            let path = path.join("/");
            let first = first.entry(name.inode).or_insert_with(|| path.clone());
            if *first != path {
                return format!("{path} = {first}");
            }
            let Inode {
                kind,
                content,
                mark,
            } = &self.inodes[name.inode];
            format!("{path} {kind} {content} {mark:?}")
        };
        self.names.iter().map(line).collect()
    }
}

fn entry(step: &Step, content: &str) -> Entry {
    let path = step.path.join("/");
    let entry = match &step.op {
        Op::Dir => Entry::dir(&path),
        Op::File => Entry::file(&path, content),
        Op::Symlink => Entry::symlink(&path, "nowhere"),
        Op::Fifo => Entry::fifo(&path),
        Op::HardLink(target) => Entry::hard_link(&path, target.join("/")),
        Op::Whiteout => match path.rsplit_once('/') {
            Some((dir, name)) => Entry::file(format!("{dir}/.wh.{name}"), ""),
            None => Entry::file(format!(".wh.{path}"), ""),
        },
        Op::Opaque => Entry::file(format!("{path}/.wh..wh..opq"), ""),
    };
    entry.mode(step.mark.into()).mtime(step.mark.into())
}

/// The layers, and what they make.
fn build(stack: &[Vec<Step>]) -> (Vec<Vec<u8>>, Model) {
    let mut model = Model::default();
    let mut layers = Vec::new();
    for (number, steps) in stack.iter().enumerate() {
        let mut layer = Layer::new();
        if number == 0 {
            for (name, target, _) in LINKS {
                layer = layer.entry(Entry::symlink(name, target).mode(0));
                let inode = Inode {
                    kind: "link",
                    content: String::new(),
                    mark: (0, 0),
                };
                model.put(&[name.to_owned()], inode, 0);
            }
        }
        let mut steps = steps.clone();
        steps.retain(|step| !model.hides_link(step));
        steps.iter().for_each(|step| model.hide(step));
        for (at, step) in steps.iter().enumerate() {
            let content = format!("{number}.{at}");
            let mut next = model.clone();
            if next.add(step, number, &content).is_some() {
                model = next;
                layer = layer.entry(entry(step, &content));
            }
        }
        layers.push(layer.finish());
    }
    (layers, model)
}

fn lines(tree: &MergedTree<Vec<u8>>) -> Vec<String> {
    let mut first = HashMap::new();
    tree.walk()
        .map(|(path, id)| {
            let path = String::from_utf8(path).unwrap();
            let first = first.entry(id).or_insert_with(|| path.clone());
            if *first != path {
                return format!("{path} = {first}");
            }
            let node = tree.node(id);
            let (kind, content) = match &node.kind {
                Kind::Directory(_) => ("dir", ""),
                Kind::File { data, .. } => ("file", str::from_utf8(data).unwrap()),
                Kind::Symlink(_) => ("link", ""),
                Kind::Fifo => ("fifo", ""),
                other => panic!("{other:?}"),
            };
            format!("{path} {kind} {content} {:?}", (node.mode, node.mtime.secs))
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_stacks_merge_as_the_specification_says(stack in stack()) {
        let (layers, model) = build(&stack);
        let mut streamed = Merger::new();
        let mut indexed = Merger::new();
        for (number, layer) in (1..).zip(&layers) {
            let applied = streamed.apply_layer(&mut layer.as_slice(), &mut Memory);
            prop_assert!(applied.is_ok(), "{}", chain(&applied.unwrap_err()));
            let index = LayerIndex::read(number, &mut layer.as_slice(), &mut Memory, 1 << 20);
            indexed.apply_index(index.unwrap()).unwrap();
        }
        let tree = streamed.finish();
        prop_assert_eq!(lines(&tree), model.lines());
        prop_assert_eq!(tree, indexed.finish());
    }
}
