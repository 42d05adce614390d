//! Containers without a VM: what is asked for, and supervisors that die. The programs in the place of `gourd-vm` are
//! shell scripts that do nothing but die in some way; all that lives is tested end to end.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use engine::{AttachOptions, CreateRequest, Error, ErrorKind, LogsOptions, StartMode, Status};
use support::{Setup, image, quiet, request, setup, text};

async fn with_image() -> Setup {
    let setup = setup();
    let (path, _) = setup.archive(&image(), "app");
    setup.load(&path).await.unwrap();
    setup
}

fn program(setup: &Setup, script: &str) {
    for (name, text) in [("gourd-vm", script), ("gourd-vmm", ""), ("gourd-init", "")] {
        let path = setup.path("bin").join(name);
        std::fs::write(&path, format!("#!/bin/bash\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let setup = with_image().await;
    let check = async |change: fn(&mut CreateRequest), kind: ErrorKind, expect: &str| {
        let mut request = request("app", "box");
        change(&mut request);
        let error = setup.engine.create(request, &quiet).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{}", text(&error));
        assert!(text(&error).contains(expect), "{}", text(&error));
    };
    let invalid = ErrorKind::Invalid;
    check(
        |r| r.memory = Some(4 << 20),
        invalid,
        "at least 6291456 (6 MiB)",
    )
    .await;
    check(|r| r.nano_cpus = Some(0), invalid, "not between 0.01 and").await;
    check(
        |r| r.nano_cpus = Some(10_000_000_000_000),
        invalid,
        "not between 0.01 and",
    )
    .await;
    check(
        |r| r.driver = Some("xen".into()),
        invalid,
        "auto, kvm, qemu",
    )
    .await;
    check(
        |r| r.name = Some("a b".into()),
        invalid,
        "is not a container's name",
    )
    .await;
    check(|r| r.hostname = Some("a b".into()), invalid, "host name").await;
    check(
        |r| r.stop_signal = Some("X".into()),
        invalid,
        "no signal of Linux",
    )
    .await;
    check(
        |r| r.workdir = Some("x".into()),
        invalid,
        "not an absolute path",
    )
    .await;
    check(|r| r.env = vec!["=".into()], invalid, "no name before").await;
    check(
        |r| r.entrypoint = Some(vec![]),
        invalid,
        "no program to run",
    )
    .await;
    check(
        |r| r.kernel = Some("no".into()),
        ErrorKind::MissingKernel,
        "installed: gourd",
    )
    .await;
    check(
        |r| r.kernel = Some("/no".into()),
        ErrorKind::NotFound,
        "/no",
    )
    .await;
    check(
        |r| r.platform = Some("x".into()),
        invalid,
        "os/architecture",
    )
    .await;
    setup.engine.kernel_remove("gourd").unwrap();
    check(|_| (), ErrorKind::MissingKernel, "no kernel is installed").await;
    assert!(setup.engine.list(true).await.unwrap().is_empty());
}

#[tokio::test]
async fn created_listed_inspected_removed() {
    let setup = with_image().await;
    let made = setup.create("app", "box").await.unwrap();
    let error = setup.create("app", "box").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let unnamed = CreateRequest {
        name: None,
        ..request("app", "")
    };
    let other = setup.engine.create(unnamed, &quiet).await.unwrap();
    assert!(other.name.contains('_'));
    assert!(setup.engine.list(false).await.unwrap().is_empty());
    let listed = setup.engine.list(true).await.unwrap();
    assert_eq!(listed.len(), 2);
    assert!(
        listed
            .iter()
            .all(|c| c.status == Status::Created && c.image == "app:latest")
    );
    let inspected = setup.engine.inspect(&made.id[..12]).await.unwrap();
    assert_eq!(inspected["Name"], "/box");
    assert_eq!(inspected["Config"]["Env"][0], "PATH=/bin");
    assert_eq!(inspected["Config"]["Hostname"], made.id[..12]);
    assert_eq!(inspected["State"]["Status"], "created");
    assert_eq!(inspected["State"]["StartedAt"], "0001-01-01T00:00:00Z");
    for result in [
        setup.engine.kill("box", 9).await,
        setup.engine.attach("box", attach()).await.map(drop),
        setup.engine.exec("box", exec()).await.map(drop),
    ] {
        assert!(
            matches!(result, Err(Error::NotRunning { .. })),
            "{result:?}"
        );
    }
    setup.engine.stop("box", None, None).await.unwrap();
    assert_eq!(setup.engine.wait("box").await.unwrap(), 0);
    assert_eq!(
        setup
            .engine
            .logs("box", LogsOptions::default())
            .unwrap()
            .count(),
        0
    );
    for name in ["box", &other.name] {
        setup.engine.remove(name, false).await.unwrap();
    }
    let error = setup.engine.remove("box", true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

fn attach() -> AttachOptions {
    AttachOptions {
        stdin: false,
        stdout: true,
        stderr: true,
        size: None,
    }
}

fn exec() -> engine::ExecRequest {
    engine::ExecRequest {
        args: vec!["true".to_owned()],
        ..engine::ExecRequest::default()
    }
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let setup = with_image().await;
    setup.create("app", "box").await.unwrap();
    let error = setup
        .engine
        .start("box", StartMode::Detached)
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::MissingProgram(_)),
        "{error}"
    );
}

/// The supervisor ends before it has said anything: its last words are told, and nothing is left running or locked.
#[tokio::test]
async fn a_supervisor_that_fails_at_once_is_told_of() {
    let setup = with_image().await;
    program(&setup, "echo 'no room in the inn' >&2; exit 1");
    setup.create("app", "box").await.unwrap();
    for _ in 0..2 {
        let error = setup
            .engine
            .start("box", StartMode::Detached)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::VmLost);
        assert!(
            text(&error).contains("no room in the inn"),
            "{}",
            text(&error)
        );
        let mode = StartMode::Foreground(attach());
        let ended = match setup.engine.start("box", mode).await {
            Err(error) => error,
            Ok(running) => {
                let (_input, mut output) = running.attachment.unwrap().split();
                let error = output.next().await.unwrap_err();
                output.finish().await.unwrap();
                error
            }
        };
        assert!(
            text(&ended).contains("no room in the inn"),
            "{}",
            text(&ended)
        );
    }
    let temporary = CreateRequest {
        remove: true,
        ..request("app", "temporary")
    };
    setup.engine.create(temporary, &quiet).await.unwrap();
    setup
        .engine
        .start("temporary", StartMode::Detached)
        .await
        .unwrap_err();
    let names: Vec<_> = setup
        .engine
        .list(true)
        .await
        .unwrap()
        .into_iter()
        .map(|c| c.name)
        .collect();
    assert_eq!(
        names,
        ["box"],
        "a container that was to be removed at its end is"
    );
    setup.engine.remove("box", false).await.unwrap();
}

/// One that says that it runs and is killed: `ps` knows at once, and `start` works again. `monitor` outlives the
/// supervisor for a moment and holds the lock, as a dying QEMU does.
async fn killed(monitor: &str, remove: bool) {
    let setup = with_image().await;
    let state = r#"{"schema":1,"status":"running","pid":'$$',"started_ns":5,"finished_ns":null,"exit_code":null,"oom_killed":false,"error":null,"driver":null}"#;
    program(
        &setup,
        &format!("{monitor}\necho '{state}' > $2/s && mv $2/s $2/state.json\nexec sleep 1000"),
    );
    let request = CreateRequest {
        remove,
        ..request("app", "box")
    };
    let made = setup.engine.create(request, &quiet).await.unwrap();
    // The reply never comes; the start is given up once the script has said that it runs.
    let engine = setup.engine.clone();
    let state_file = engine
        .root()
        .join("containers")
        .join(&made.id)
        .join("state.json");
    let running = async {
        // There is none before the first start.
        while !std::fs::read_to_string(&state_file)
            .unwrap_or_default()
            .contains("running")
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        result = engine.start("box", StartMode::Detached) => panic!("{result:?}"),
        () = running => {}
    }
    let listed = engine.list(false).await.unwrap();
    assert_eq!((listed.len(), listed[0].status), (1, Status::Running));
    assert!(matches!(
        engine.remove("box", false).await,
        Err(Error::Running { .. })
    ));
    assert!(matches!(
        engine.start("box", StartMode::Detached).await,
        Err(Error::Running { .. })
    ));
    let pid = engine.inspect("box").await.unwrap()["State"]["Pid"]
        .as_i64()
        .unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // Its socket refuses as soon as it is dead, which is a moment after the signal.
    while rustix::process::test_kill_process(pid).is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let begun = std::time::Instant::now();
    let listed = engine.list(true).await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    if remove {
        assert!(listed.is_empty());
        return;
    }
    assert_eq!(
        (listed[0].status, listed[0].exit_code),
        (Status::Exited, Some(255))
    );
    assert!(
        listed[0].error.as_ref().unwrap().contains("died"),
        "{listed:?}"
    );
    assert_eq!(engine.wait("box").await.unwrap(), 255);
    assert!(
        std::fs::read_dir(engine.root().join("run"))
            .unwrap()
            .next()
            .is_none()
    );
    engine.remove("box", false).await.unwrap();
}

#[tokio::test]
async fn a_killed_supervisor_is_noticed_at_once() {
    killed("", false).await;
}

#[tokio::test]
async fn a_monitor_that_lingers_is_waited_for() {
    // It has the lock, but not the listening socket.
    killed("(eval \"exec $4<&-\"; exec sleep 1) &", false).await;
}

#[tokio::test]
async fn a_killed_supervisor_of_a_temporary_container_takes_it_along() {
    killed("", true).await;
}

/// Attached when it dies: the stream ends with what happened.
#[tokio::test]
async fn an_attached_client_hears_of_the_death() {
    let setup = with_image().await;
    program(
        &setup,
        "sleep 0.2; echo 'the inn burned down' >&2; kill -9 $$",
    );
    setup.create("app", "box").await.unwrap();
    let mode = StartMode::Foreground(attach());
    let running = setup.engine.start("box", mode).await.unwrap();
    let (input, mut output) = running.attachment.unwrap().split();
    let error = match output.next().await {
        Err(error) => error,
        Ok(event) => panic!("{event:?}"),
    };
    assert_eq!(error.kind(), ErrorKind::VmLost);
    assert!(
        text(&error).contains("the inn burned down"),
        "{}",
        text(&error)
    );
    assert!(matches!(output.next().await, Err(Error::NotRunning { .. })));
    assert!(input.signal(15).await.is_err());
    output.finish().await.unwrap();
}

#[tokio::test]
async fn logs_by_records_and_by_lines() {
    let setup = with_image().await;
    let made = setup.create("app", "box").await.unwrap();
    let log = setup
        .engine
        .root()
        .join("containers")
        .join(&made.id)
        .join("logs/output.log");
    std::fs::write(
        log,
        "1 stdout 3\na\nb\n2 stderr 2\ne\n\n3 stdout 4\nb\nc\n\n",
    )
    .unwrap();
    let read = |options| -> Vec<String> {
        let logs = setup.engine.logs("box", options).unwrap();
        logs.map(|record| String::from_utf8(record.unwrap().bytes).unwrap())
            .collect()
    };
    assert_eq!(read(LogsOptions::default()), ["a\nb", "e\n", "b\nc\n"]);
    let lines = LogsOptions {
        lines: true,
        ..LogsOptions::default()
    };
    assert_eq!(read(lines), ["a\n", "e\n", "bb\n", "c\n"]);
    let tail = |count| LogsOptions {
        tail: Some(count),
        ..LogsOptions::default()
    };
    assert_eq!(read(tail(2)), ["bb\n", "c\n"]);
    assert!(read(tail(0)).is_empty());
    // Of one that does not run, following is the same.
    for options in [LogsOptions::default(), lines, tail(2), tail(0)] {
        let mut follow = setup.engine.follow("box", options).await.unwrap();
        let mut followed = Vec::new();
        while let Some(record) = follow.next().await.unwrap() {
            followed.push(String::from_utf8(record.bytes).unwrap());
        }
        assert_eq!(followed, read(options), "{options:?}");
    }
}

#[tokio::test]
async fn a_damaged_container_is_dead_and_removable() {
    let setup = with_image().await;
    let made = setup.create("app", "box").await.unwrap();
    let dir = setup.engine.root().join("containers").join(&made.id);
    let spec = std::fs::read_to_string(dir.join("spec.json")).unwrap();
    for (damaged, kind) in [
        (
            spec.replace("\"schema\": 1", "\"schema\": 9"),
            ErrorKind::NewerSchema,
        ),
        (spec[..spec.len() / 2].to_owned(), ErrorKind::Corrupt),
    ] {
        std::fs::write(dir.join("spec.json"), damaged).unwrap();
        let listed = setup.engine.list(true).await.unwrap();
        assert_eq!(listed[0].status, Status::Dead);
        assert!(listed[0].error.as_ref().unwrap().contains("spec.json"));
        let error = setup.engine.inspect(&made.id).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_eq!(
            setup
                .engine
                .remove(&made.id, false)
                .await
                .unwrap_err()
                .kind(),
            kind
        );
    }
    setup.engine.remove(&made.id, true).await.unwrap();
    assert!(setup.engine.list(true).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_container_with_a_damaged_state_is_listed_beside_others_and_removable_by_name() {
    let setup = with_image().await;
    setup.create("app", "other").await.unwrap();
    for (damage, kind) in [
        ("{\"schema\": 9}", ErrorKind::NewerSchema),
        ("{\"sch", ErrorKind::Corrupt),
    ] {
        let made = setup.create("app", "box").await.unwrap();
        let dir = setup.engine.root().join("containers").join(&made.id);
        std::fs::write(dir.join("state.json"), damage).unwrap();
        let listed = setup.engine.list(true).await.unwrap();
        let find = |name: &str| listed.iter().find(|one| one.name == name).unwrap();
        assert_eq!(find("other").status, Status::Created);
        assert_eq!(find("box").status, Status::Dead);
        let error = find("box").error.as_ref().unwrap();
        assert!(error.contains("state.json"), "{error}");
        let error = setup.engine.remove("box", false).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        setup.engine.remove("box", true).await.unwrap();
        assert!(!dir.exists());
    }
    // A newer spec: its name still leads to it.
    let made = setup.create("app", "box").await.unwrap();
    let dir = setup.engine.root().join("containers").join(&made.id);
    std::fs::write(dir.join("spec.json"), r#"{"schema": 9, "name": "box"}"#).unwrap();
    let error = setup.create("app", "box").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    setup.engine.remove("box", true).await.unwrap();
    assert!(!dir.exists());
}

/// However far it has come.
#[tokio::test]
async fn a_creation_that_is_given_up_leaves_nothing() {
    let setup = with_image().await;
    let mut made = 0;
    for patience in 0..40_u64 {
        let created = tokio::time::timeout(
            Duration::from_millis(patience * 8),
            setup.create("app", "box"),
        )
        .await;
        let listed = setup.engine.list(true).await.unwrap();
        match created {
            Ok(created) => {
                made += 1;
                assert_eq!(listed[0].id, created.unwrap().id);
                setup.engine.remove("box", false).await.unwrap();
            }
            Err(_) => assert!(listed.is_empty(), "{listed:?}"),
        }
    }
    println!("{made} of 40 were made");
}

#[tokio::test]
async fn a_bad_reference_is_quoted_whole_with_its_bad_part() {
    let setup = with_image().await;
    for (reference, part) in [
        ("Not/Valid::x", "Valid:"),
        ("a/b:-x", "tag \"-x\""),
        ("a//b", "component"),
    ] {
        let error = setup.create(reference, "box").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let text = text(&error);
        assert!(text.contains(reference) && text.contains(part), "{text}");
    }
}
