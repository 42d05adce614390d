//! Which crate may use which: the table of crates in the design, held against `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// Our crates that a crate may use in its product code; `None`: any.
fn allowed(name: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        "ext4" | "oci" | "disk" | "netstack" | "vmm" | "proto" => &[],
        "registry" => &["oci"],
        "store" => &["oci", "ext4", "disk"],
        "hypervisor" => &["vmm"],
        "agent" => &["proto"],
        "vm" => &["hypervisor", "proto", "store"],
        "net" => &["netstack", "proto"],
        "engine" => &["store", "registry", "oci", "proto"],
        "cli" => &["engine"],
        _ => return None,
    })
}

/// Crates for tests alone: no product code uses them.
const FOR_TESTS: &[&str] = &["testkit", "xtask"];

/// Crates that stay synchronous, so nothing that they are made of may bring an async runtime.
const SYNCHRONOUS: &[&str] = &["vmm", "ext4", "oci", "netstack", "disk"];

const NAMELESS: &[&str] = &["utils", "util", "common", "helpers", "misc"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// `null` for what is linked into the product.
    kind: Option<String>,
}

/// The crates that are linked into each crate, by package identifier.
type Graph = BTreeMap<String, Vec<String>>;

/// One line for each edge that the design bans.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let out = Command::new("cargo")
        .current_dir(root)
        .args(["metadata", "--format-version", "1", "--locked"])
        .output()
        .context("start cargo metadata")?;
    ensure!(
        out.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let metadata = serde_json::from_slice(&out.stdout).context("what cargo metadata printed")?;
    Ok(findings(metadata))
}

fn findings(metadata: Metadata) -> Vec<String> {
    let name: BTreeMap<String, String> = metadata
        .packages
        .into_iter()
        .map(|package| (package.id, package.name))
        .collect();
    let graph: Graph = metadata
        .resolve
        .nodes
        .into_iter()
        .map(|node| {
            let linked = node.deps.into_iter().filter(is_linked);
            (node.id, linked.map(|dep| dep.pkg).collect())
        })
        .collect();
    let ours: BTreeMap<&String, &String> = metadata
        .workspace_members
        .iter()
        .map(|id| (id, &name[id]))
        .collect();

    let mut findings = Vec::new();
    for (id, user) in &ours {
        if NAMELESS.contains(&user.as_str()) {
            findings.push(format!(
                "a crate named {user} says nothing: name what it does"
            ));
        }
        for used in graph[*id].iter().filter_map(|id| ours.get(id)) {
            let banned = match allowed(user) {
                Some(allowed) => !allowed.contains(&used.as_str()),
                None => FOR_TESTS.contains(&used.as_str()) && !FOR_TESTS.contains(&user.as_str()),
            };
            if banned {
                findings.push(format!("the crate {user} must not use {used}"));
            }
        }
        if SYNCHRONOUS.contains(&user.as_str())
            && let Some(path) = path_to(id, "tokio", &graph, &name)
        {
            findings.push(format!("{user} must not need tokio: {}", path.join(" -> ")));
        }
    }
    findings
}

fn is_linked(dependency: &Dependency) -> bool {
    dependency.dep_kinds.iter().any(|kind| kind.kind.is_none())
}

/// The names along one way from the crate `from` to a crate called `wanted`.
fn path_to(
    from: &str,
    wanted: &str,
    graph: &Graph,
    name: &BTreeMap<String, String>,
) -> Option<Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut open = vec![vec![from.to_owned()]];
    while let Some(path) = open.pop() {
        let last = path.last()?;
        if name[last] == wanted {
            return Some(path.iter().map(|id| name[id].clone()).collect());
        }
        if !seen.insert(last.clone()) {
            continue;
        }
        for next in &graph[last] {
            let mut longer = path.clone();
            longer.push(next.clone());
            open.push(longer);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `crates`: (name, what it links, what its tests link); those with a capital are not ours.
    fn check(crates: &[(&str, &[&str], &[&str])], expect: &[&str]) {
        let dep = |name: &&str, kind: Option<&str>| Dependency {
            pkg: name.to_lowercase(),
            dep_kinds: vec![Kind {
                kind: kind.map(str::to_owned),
            }],
        };
        let is_ours = |name: &str| name.chars().all(|c| !c.is_uppercase());
        let metadata = Metadata {
            packages: crates
                .iter()
                .map(|(name, ..)| Package {
                    id: name.to_lowercase(),
                    name: name.to_lowercase(),
                })
                .collect(),
            workspace_members: crates
                .iter()
                .filter(|(name, ..)| is_ours(name))
                .map(|(name, ..)| (*name).to_owned())
                .collect(),
            resolve: Resolve {
                nodes: crates
                    .iter()
                    .map(|(name, linked, tested)| Node {
                        id: name.to_lowercase(),
                        deps: linked
                            .iter()
                            .map(|name| dep(name, None))
                            .chain(tested.iter().map(|name| dep(name, Some("dev"))))
                            .collect(),
                    })
                    .collect(),
            },
        };
        assert_eq!(findings(metadata), expect);
    }

    #[test]
    fn banned_edges_are_found_and_others_are_not() {
        check(
            &[
                ("cli", &["engine"], &["store"]),
                ("engine", &["store"], &[]),
                ("store", &[], &[]),
            ],
            &[],
        );
        check(
            &[("cli", &["store"], &[]), ("store", &[], &[])],
            &["the crate cli must not use store"],
        );
        check(
            &[("agent", &["vmm"], &[]), ("vmm", &[], &[])],
            &["the crate agent must not use vmm"],
        );
        check(
            &[("tui", &["testkit"], &[]), ("testkit", &["tui"], &[])],
            &["the crate tui must not use testkit"],
        );
    }

    #[test]
    fn tokio_is_found_behind_another_crate() {
        check(
            &[
                ("oci", &["Client"], &[]),
                ("Client", &["Tokio"], &[]),
                ("Tokio", &["Client"], &[]),
            ],
            &["oci must not need tokio: oci -> client -> tokio"],
        );
        check(&[("oci", &[], &["Tokio"]), ("Tokio", &[], &[])], &[]);
    }

    #[test]
    fn names_that_say_nothing_are_refused() {
        check(
            &[("utils", &[], &[])],
            &["a crate named utils says nothing: name what it does"],
        );
    }
}
