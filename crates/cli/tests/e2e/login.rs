//! login and logout: against Debian's registry with a password, with files and with a helper, at a prompt.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use testkit::image::ImageBuilder;
use testkit::registry::{PASSWORD, Registry, USER};

use crate::harness::{Home, Out, eventually, finish, programs, tool};

fn gourd(home: &Home, args: &[&str], stdin: &str) -> Out {
    let child = command(home, args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    finish(child.expect("gourd starts"), stdin.as_bytes())
}

/// With a configuration and a PATH of the test's own.
fn command(home: &Home, args: &[&str]) -> Command {
    let mut command = home.command(args);
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .env("DOCKER_CONFIG", home.path("docker"))
        .env("PATH", format!("{}:{path}", home.path("bin").display()));
    command
}

fn config(home: &Home) -> String {
    fs::read_to_string(home.path("docker/config.json")).expect("config.json")
}

/// An image in the registry, put there with the password.
fn fill(home: &Home, registry: &Registry) -> String {
    let layout = home.path("layout");
    let image = ImageBuilder::new().cmd(["sh"]);
    image.write_layout(&layout, "1").expect("a layout");
    let target = format!("docker://{}", registry.reference("a:1"));
    let source = format!("oci:{}:1", layout.display());
    let credentials = format!("--dest-creds={USER}:{PASSWORD}");
    tool(
        "skopeo",
        &[
            &"--insecure-policy",
            &"copy",
            &"-q",
            &"--dest-tls-verify=false",
            &credentials,
            &source,
            &target,
        ],
    )
    .ok();
    registry.reference("a:1")
}

#[test]
fn who_logged_in_pulls_until_the_logout() {
    let home = Home::empty();
    let registry = Registry::start_closed().expect("docker-registry starts");
    let image = fill(&home, &registry);
    let server = registry.addr.to_string();
    gourd(&home, &["pull", &image], "")
        .exits(125)
        .says(&["refused access", "gourd login"]);
    let login = |password: &str| {
        gourd(
            &home,
            &["login", "-u", USER, "--password-stdin", &server],
            password,
        )
    };
    let refused = login("wrong\n")
        .exits(125)
        .says(&["refused the credentials"]);
    assert!(!refused.stderr.contains("wrong"), "{}", refused.stderr);
    assert!(
        !home.path("docker").exists(),
        "nothing is kept of a login that failed"
    );
    let out = login(&format!("{PASSWORD}\n")).ok();
    assert_eq!(out.text(), "Login Succeeded");
    assert!(
        out.stderr.contains("stored unencrypted") && !out.stderr.contains(PASSWORD),
        "{}",
        out.stderr
    );
    let mode = |name: &str| {
        fs::metadata(home.path(name))
            .expect(name)
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!((mode("docker"), mode("docker/config.json")), (0o700, 0o600));
    gourd(&home, &["pull", "-q", &image], "").ok();
    let again = gourd(&home, &["login", &server], "").ok();
    assert!(
        again.stderr.contains("existing credentials"),
        "{}",
        again.stderr
    );
    // Oracle: skopeo reads the same file.
    let target = format!("docker://{image}");
    let authfile = home.path("docker/config.json");
    tool(
        "skopeo",
        &[
            &"inspect",
            &"--tls-verify=false",
            &"--authfile",
            &authfile,
            &target,
        ],
    )
    .ok();
    let out = gourd(&home, &["logout", &server], "").ok();
    assert_eq!(
        out.text(),
        format!("Removing login credentials for {server}")
    );
    let out = gourd(&home, &["logout", &server], "").ok();
    assert_eq!(out.text(), format!("Not logged in to {server}"));
    gourd(&home, &["pull", &image], "").exits(125);
    assert!(!config(&home).contains("auth\":"), "{}", config(&home));
    // Not even a log of everything has it.
    let mut loud = command(&home, &["login", "-u", USER, "--password-stdin", &server]);
    let child = loud
        .env("GOURD_LOG", "trace")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let out = finish(child.expect("gourd starts"), PASSWORD.as_bytes()).ok();
    // Oracle: `printf 'alice:wonder:land 1' | base64`.
    for secret in [PASSWORD, "YWxpY2U6d29uZGVyOmxhbmQgMQ=="] {
        assert!(!out.stderr.contains(secret), "{}", out.stderr);
    }
    let insecure = gourd(&home, &["login", "-u", USER, "-p", PASSWORD, &server], "").ok();
    assert!(
        insecure
            .stderr
            .contains("--password via the CLI is insecure"),
        "{}",
        insecure.stderr
    );
    gourd(&home, &["login", "-u", USER, &server], "")
        .exits(125)
        .says(&["stdin is no terminal"]);
    gourd(&home, &["login", "--password-stdin", &server], "x").exits(125);
}

/// A helper that keeps what it is told in files beside it.
const HELPER: &str = r#"#!/bin/sh
set -e
cd "$(dirname "$0")"
line=$(cat)
echo "$1" >> calls
case $1 in
store) printf '%s' "$line" > kept ;;
get) [ -f kept ] || { echo 'credentials not found in native keychain'; exit 1; }
    cat kept ;;
erase) rm kept ;;
esac
"#;

#[test]
fn a_helper_keeps_and_forgets() {
    let home = Home::empty();
    let registry = Registry::start_closed().expect("docker-registry starts");
    let image = fill(&home, &registry);
    let server = registry.addr.to_string();
    for dir in ["bin", "docker"] {
        fs::create_dir(home.path(dir)).expect("a folder");
    }
    let helper = home.path("bin/docker-credential-test");
    fs::write(&helper, HELPER).expect("a helper");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("executable");
    fs::write(
        home.path("docker/config.json"),
        r#"{"credsStore": "test", "proxies": {"a": 1}}"#,
    )
    .expect("written");
    let out = gourd(
        &home,
        &["login", "-u", USER, "--password-stdin", &server],
        PASSWORD,
    )
    .ok();
    assert!(!out.stderr.contains("WARNING"), "{}", out.stderr);
    let kept: String = fs::read_to_string(home.path("bin/kept")).expect("kept");
    let kept: serde_json::Value = serde_json::from_str(&kept).expect("JSON");
    assert_eq!(
        kept,
        serde_json::json!({"ServerURL": server, "Username": USER, "Secret": PASSWORD})
    );
    assert!(
        !config(&home).contains("YWxp") && config(&home).contains("\"proxies\""),
        "{}",
        config(&home)
    );
    gourd(&home, &["pull", "-q", &image], "").ok();
    gourd(&home, &["logout", &server], "").ok();
    assert!(!home.path("bin/kept").exists());
    gourd(&home, &["pull", &image], "").exits(125);
    // A helper that fails is named, and nothing is kept in its place.
    fs::write(&helper, "#!/bin/sh\necho 'the keyring is locked'\nexit 1\n").expect("a helper");
    gourd(
        &home,
        &["login", "-u", USER, "--password-stdin", &server],
        PASSWORD,
    )
    .exits(125)
    .says(&["docker-credential-test failed: the keyring is locked"]);
    assert!(!config(&home).contains("YWxp"), "{}", config(&home));
}

/// The oracle is tmux: what it shows is what a person sees.
#[test]
fn a_password_is_asked_for_and_not_shown() {
    let home = Home::empty();
    let registry = Registry::start_closed().expect("docker-registry starts");
    let socket = home.path("tmux").display().to_string();
    let tmux = |args: &[&str]| {
        let mut line: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"-S", &socket];
        line.extend(args.iter().map(|arg| arg as &dyn AsRef<std::ffi::OsStr>));
        tool("tmux", &line).ok().text()
    };
    let set = |name: &str, path: &Path| format!("{name}={}", path.display());
    let (root, docker) = (
        set("GOURD_ROOT", &home.root()),
        set("DOCKER_CONFIG", &home.path("docker")),
    );
    tmux(&[
        "-f",
        "/dev/null",
        "new-session",
        "-d",
        "-s",
        "t",
        "-x",
        "160",
        "-y",
        "30",
        "-e",
        &root,
        "-e",
        &docker,
        "sh",
    ]);
    let keys = |text: &str| {
        tmux(&["send-keys", "-t", "t", "-l", text]);
        tmux(&["send-keys", "-t", "t", "Enter"]);
    };
    let screen = || tmux(&["capture-pane", "-p", "-t", "t"]);
    let shows = |text: &str| eventually(text, || screen().contains(text));
    let line = format!(
        "{} login {}",
        programs().join("gourd").display(),
        registry.addr
    );
    keys(&line);
    shows("Username:");
    keys(USER);
    shows("Password:");
    keys(PASSWORD);
    shows("Login Succeeded");
    assert!(!screen().contains(PASSWORD), "{}", screen());
    assert!(config(&home).contains("auth"));
    keys("clear");
    eventually("the screen is clear", || !screen().contains("Login"));
    // An interrupt at the prompt leaves a terminal that shows what is typed.
    keys(&format!("{line} -u other"));
    shows("Password:");
    tmux(&["send-keys", "-t", "t", "C-c"]);
    keys("echo code $?; stty -a | grep -o ' echo '");
    shows("code 130");
    shows("\n echo");
    // After the prompt, too: nobody accepts here, so that there is never an answer.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    let gourd = programs().join("gourd").display().to_string();
    keys("clear");
    eventually("the screen is clear", || !screen().contains("code"));
    keys(&format!("{gourd} login -u other {address}"));
    shows("Password:");
    keys(PASSWORD);
    let (_asks, _) = silent.accept().expect("a client");
    tmux(&["send-keys", "-t", "t", "C-c"]);
    keys("echo code $?");
    shows("code 130");
    tmux(&["kill-server"]);
}
