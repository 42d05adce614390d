//! Completion at the TAB key of real shells. The oracle is tmux: what stands on the screen is what a person sees.

use std::time::Instant;

use crate::harness::{Home, eventually, programs, tool};

struct Shell<'h> {
    home: &'h Home,
    socket: String,
}

impl<'h> Shell<'h> {
    /// `program` without the caller's settings, with `gourd` in PATH and `load` typed.
    fn start(home: &'h Home, program: &str, load: &str) -> Self {
        let name = program.split(' ').next().unwrap_or_default();
        let socket = home.path(&format!("tmux-{name}")).display().to_string();
        let shell = Self { home, socket };
        let path = std::env::var("PATH").unwrap_or_default();
        let set = [
            format!("GOURD_ROOT={}", shell.home.root().display()),
            format!("HOME={}", shell.home.path("").display()),
            "LC_ALL=C.UTF-8".to_owned(),
        ];
        let mut line = vec![
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-s",
            "t",
            "-x",
            "200",
            "-y",
            "50",
        ];
        for variable in &set {
            line.extend(["-e", variable]);
        }
        // tmux takes PATH from its own caller, whatever it is told.
        let program = format!("env PATH={}:{path} {program}", programs().display());
        line.push(&program);
        shell.tell(&line);
        shell.line(&format!("{load}; echo load''ed"));
        eventually(
            &format!(
                "{name} is ready (./dev test installs it): {}",
                shell.screen()
            ),
            || shell.screen().contains("loaded"),
        );
        shell
    }

    fn tell(&self, args: &[&str]) -> String {
        let mut line: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"-S", &self.socket];
        line.extend(args.iter().map(|arg| arg as &dyn AsRef<std::ffi::OsStr>));
        tool("tmux", &line).ok().text()
    }

    fn line(&self, text: &str) {
        self.tell(&["send-keys", "-t", "t", "-l", text]);
        self.tell(&["send-keys", "-t", "t", "Enter"]);
    }

    fn screen(&self) -> String {
        self.tell(&["capture-pane", "-p", "-t", "t"])
    }

    /// What TAB makes of a line. `|` is typed after it, so that it is seen whether a space came.
    fn tab(&self, typed: &str, expect: &str) {
        self.tell(&["send-keys", "-t", "t", "-l", typed]);
        self.tell(&["send-keys", "-t", "t", "Tab"]);
        self.tell(&["send-keys", "-t", "t", "-l", "|"]);
        let wanted = format!("{expect}|");
        let begin = Instant::now();
        eventually(
            &format!(
                "{typed:?} becomes {wanted:?} in {:?}:\n{}",
                begin.elapsed(),
                self.screen()
            ),
            || self.screen().contains(&wanted),
        );
        // Not an interrupt: that would throw away what is typed after it, too.
        self.tell(&["send-keys", "-t", "t", "C-u"]);
        self.line("clear");
        eventually(&format!("the screen is clear:\n{}", self.screen()), || {
            !self.screen().contains('|')
        });
    }
}

impl Drop for Shell<'_> {
    fn drop(&mut self) {
        self.tell(&["kill-server"]);
    }
}

/// Names of every kind, in every place.
fn check(program: &str, load: &str, space: &str) {
    let home = Home::new();
    home.gourd(&["tag", "busybox", "localhost:5000/team/box:1.2"])
        .ok();
    home.gourd(&["rmi", "debian"]).ok();
    home.gourd(&["create", "--name", "mybox", "busybox", "true"])
        .ok();
    std::fs::write(home.path("archive.tar"), "").expect("a file");
    let shell = Shell::start(&home, program, load);
    shell.line(&format!("cd {}", home.path("").display()));
    shell.tab("gourd image pru", &format!("gourd image prune{space}"));
    shell.tab("gourd rm myb", &format!("gourd rm mybox{space}"));
    shell.tab("gourd start m", &format!("gourd start mybox{space}"));
    shell.tab(
        "gourd run -it busyb",
        &format!("gourd run -it busybox:latest{space}"),
    );
    shell.tab(
        "gourd rmi busybox:l",
        &format!("gourd rmi busybox:latest{space}"),
    );
    shell.tab(
        "gourd rmi localhost:5",
        &format!("gourd rmi localhost:5000/team/box:1.2{space}"),
    );
    shell.tab(
        "gourd kill --signal=KI",
        &format!("gourd kill --signal=KILL{space}"),
    );
    shell.tab(
        "gourd load -i arch",
        &format!("gourd load -i archive.tar{space}"),
    );
    shell.tab("gourd cp myb", "gourd cp mybox:");
    drop(shell);
    home.gourd(&["rm", "mybox"]).ok();
}

#[test]
fn bash_completes() {
    check("bash --norc", "source <(gourd completion bash)", " ");
}

#[test]
fn zsh_completes() {
    // zsh takes its space away again before a |.
    let load = "autoload -U compinit; compinit -u -d /dev/null; source <(gourd completion zsh)";
    check("zsh -f", load, "");
}

#[test]
fn fish_completes() {
    check("fish --no-config", "gourd completion fish | source", " ");
}

/// Without a terminal, as `compgen` has it: what bash's function leaves in COMPREPLY.
#[test]
fn bash_functions_answer_without_a_terminal() {
    let home = Home::new();
    let script = "source <(gourd completion bash); COMP_LINE='gourd image p'; COMP_POINT=${#COMP_LINE}; \
                  COMP_WORDS=(gourd image p); COMP_CWORD=2; _gourd gourd p image; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let path = format!(
        "{}:{}",
        programs().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let out = std::process::Command::new("bash")
        .args(["--norc", "-ic", script])
        .env("PATH", path)
        .env("GOURD_ROOT", home.root())
        .output()
        .expect("bash starts");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "prune\npull\npush\n");
}

/// Oracle: man, where there is one; else the format's first letters.
#[test]
fn every_verb_has_a_man_page() {
    let home = Home::empty();
    let dir = home.path("man/man1");
    home.gourd(&["man", &dir.display().to_string()]).ok();
    let pages = crate::harness::names(&dir);
    for page in [
        "gourd.1",
        "gourd-run.1",
        "gourd-image-prune.1",
        "gourd-system-df.1",
    ] {
        assert!(
            pages.contains(&page.to_owned()),
            "{page} is not in {pages:?}"
        );
        let text = std::fs::read_to_string(dir.join(page)).expect(page);
        assert!(
            text.contains(".SH NAME") && text.contains("gourd"),
            "{text}"
        );
    }
    assert!(!pages.iter().any(|page| page.contains("__")), "{pages:?}");
}
