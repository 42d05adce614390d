//! Networks without anybody on them: listed, inspected and pruned by the built program, in a root of the test's own.

use std::path::Path;
use std::process::Command;

/// What `gourd` prints, without the last line break. It must go well.
fn gourd(root: &Path, args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_gourd"))
        .args(args)
        .env("GOURD_ROOT", root)
        .output()
        .expect("gourd runs");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}: {stderr}");
    String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
}

fn names(root: &Path) -> Vec<String> {
    let list = gourd(root, &["network", "ls", "--format", "{{.Name}}"]);
    list.lines().map(str::to_owned).collect()
}

#[test]
fn they_are_inspected_by_any_of_the_verbs_and_listed_by_id() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path();
    gourd(root, &["network", "create", "apart"]);
    let id = gourd(root, &["network", "inspect", "-f", "{{.Id}}", "apart"]);
    assert_eq!(id.len(), 64);
    assert_eq!(gourd(root, &["inspect", "-f", "{{.Id}}", "apart"]), id);
    let typed = ["inspect", "--type", "network", "-f", "{{.Name}}", "apart"];
    assert_eq!(gourd(root, &typed), "apart");
    let short = gourd(root, &["network", "ls", "-q"]);
    assert!(short.lines().any(|line| line == &id[..12]), "{short}");
    let long = gourd(root, &["network", "ls", "-q", "--no-trunc"]);
    assert!(long.lines().any(|line| line == id), "{long}");
}

#[test]
fn what_nobody_is_on_is_pruned_as_far_as_it_is_meant() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path();
    for (name, label) in [("one", "tier=web"), ("two", "tier=db"), ("three", "keep")] {
        gourd(root, &["network", "create", "--label", label, name]);
    }
    let prune = ["network", "prune", "-f", "--filter"];
    let said = gourd(root, &[&prune[..], &["until=24h"]].concat());
    assert_eq!(said, "", "all are younger");
    let said = gourd(root, &[&prune[..], &["label=tier=web"]].concat());
    assert_eq!(said, "Deleted Networks:\none");
    let said = gourd(root, &["system", "prune", "-f", "--filter", "label!=keep"]);
    assert!(said.contains("Deleted Networks:\ntwo\n"), "{said}");
    assert_eq!(names(root), ["default", "three"]);
    let said = gourd(root, &["system", "prune", "-f"]);
    assert!(said.contains("Deleted Networks:\nthree\n"), "{said}");
    assert_eq!(names(root), ["default"]);
    // What means nothing to all of it is refused.
    let dangling = ["system", "prune", "-f", "--filter", "dangling=true"];
    let out = Command::new(env!("CARGO_BIN_EXE_gourd"))
        .args(dangling)
        .env("GOURD_ROOT", root)
        .output();
    let out = out.expect("gourd runs");
    assert_eq!(out.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&out.stderr).contains("dangling"));
}
