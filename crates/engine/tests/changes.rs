//! Containers that are renamed, updated, pruned, and started when the host is; all without a VM.

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use engine::{
    ContainerFilter, CreateRequest, ErrorKind, HealthRequest, Restart, RestartPolicy, RootfsMode,
    Tmpfs, Ulimit, UpdateRequest,
};
use support::{Setup, image, quiet, request, setup, text};

async fn with_image() -> Setup {
    let setup = setup();
    let (path, _) = setup.archive(&image(), "app");
    setup.load(&path).await.unwrap();
    setup
}

fn always() -> Restart {
    Restart {
        policy: RestartPolicy::Always,
        maximum: 0,
    }
}

#[tokio::test]
async fn every_flag_is_in_the_spec_and_in_inspect() {
    let setup = with_image().await;
    let request = CreateRequest {
        cap_add: vec!["net_admin".to_owned()],
        cap_drop: vec!["CAP_CHOWN".to_owned()],
        ulimits: vec![Ulimit {
            name: "nofile".to_owned(),
            soft: 10,
            hard: 20,
        }],
        tmpfs: vec![Tmpfs {
            target: "/run/".to_owned(),
            options: "size=1m".to_owned(),
        }],
        sysctls: BTreeMap::from([("net.core.somaxconn".to_owned(), "9".to_owned())]),
        groups: vec!["7".to_owned()],
        health: HealthRequest {
            command: Some("true".to_owned()),
            ..HealthRequest::default()
        },
        restart: always(),
        rootfs: RootfsMode::Clone,
        read_only: true,
        init: true,
        pids_limit: Some(100),
        log_size: Some(5000),
        log_files: Some(2),
        storage_size: Some(1 << 30),
        kernel_args: vec!["x=1".to_owned()],
        entrypoint: Some(vec!["/bin/sh".to_owned()]),
        args: vec!["-c".to_owned()],
        ..request("app", "box")
    };
    setup.engine.create(request, &quiet).await.unwrap();
    let shown = setup.engine.inspect("box").await.unwrap();
    let check = |path: &str, expect: &str| {
        let found = shown.pointer(path).map(ToString::to_string);
        assert_eq!(found.as_deref(), Some(expect), "{path}");
    };
    check("/HostConfig/CapAdd", r#"["CAP_NET_ADMIN"]"#);
    check("/HostConfig/CapDrop", r#"["CAP_CHOWN"]"#);
    check(
        "/HostConfig/Ulimits/0",
        r#"{"Hard":20,"Name":"nofile","Soft":10}"#,
    );
    check(
        "/HostConfig/Tmpfs",
        r#"{"/run":"noexec,nosuid,nodev,size=1m"}"#,
    );
    check("/HostConfig/Sysctls", r#"{"net.core.somaxconn":"9"}"#);
    check("/HostConfig/GroupAdd", r#"["7"]"#);
    check(
        "/HostConfig/RestartPolicy",
        r#"{"MaximumRetryCount":0,"Name":"always"}"#,
    );
    check("/HostConfig/PidsLimit", "100");
    check("/HostConfig/ReadonlyRootfs", "true");
    check("/HostConfig/Init", "true");
    check("/HostConfig/StorageOpt", r#"{"size":"1073741824"}"#);
    check(
        "/HostConfig/LogConfig/Config",
        r#"{"max-file":"2","max-size":"5000"}"#,
    );
    check("/HostConfig/ShmSize", "67108864");
    check("/Config/Healthcheck/Test", r#"["CMD-SHELL","true"]"#);
    check("/Config/Entrypoint", r#"["/bin/sh"]"#);
    check("/Config/Cmd", r#"["-c"]"#);
    check("/Config/StopSignal", r#""SIGTERM""#);
    check("/Path", r#""/bin/sh""#);
    check("/Args", r#"["-c"]"#);
    check("/Driver", r#""clone""#);
    check("/Vm/KernelArgs", r#"["x=1"]"#);
    check("/State/Status", r#""created""#);
    check("/Mounts", "[]");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let setup = with_image().await;
    let check = async |change: fn(&mut CreateRequest), expect: &str| {
        let mut request = request("app", "box");
        change(&mut request);
        let error = setup.engine.create(request, &quiet).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{}", text(&error));
        assert!(text(&error).contains(expect), "{}", text(&error));
    };
    check(|r| r.cap_add = vec!["NOPE".to_owned()], "\"NOPE\"").await;
    check(|r| r.oom_score_adj = 2000, "between -1000 and 1000").await;
    check(|r| r.shm_size = Some(0), "64 MiB").await;
    check(|r| r.groups = vec![String::new()], "no name and no number").await;
    check(|r| r.storage_size = Some(1), "32 MiB").await;
    check(|r| r.log_files = Some(0), "one file").await;
    check(
        |r| {
            r.remove = true;
            r.restart = always();
        },
        "not started again",
    )
    .await;
    check(
        |r| {
            r.restart = Restart {
                maximum: 1,
                ..always()
            };
        },
        "only on-failure",
    )
    .await;
    check(
        |r| {
            r.sysctls = BTreeMap::from([("../x".to_owned(), "1".to_owned())]);
        },
        "no kernel parameter",
    )
    .await;
    let mount = |target: &str, options: &str| {
        vec![Tmpfs {
            target: target.to_owned(),
            options: options.to_owned(),
        }]
    };
    let mut wrong = request("app", "box");
    wrong.tmpfs = mount("/", "");
    assert!(setup.engine.create(wrong.clone(), &quiet).await.is_err());
    wrong.tmpfs = mount("/x", "colour=red");
    assert!(setup.engine.create(wrong, &quiet).await.is_err());
    assert!(setup.engine.list(true).await.unwrap().is_empty());
}

#[tokio::test]
async fn renamed() {
    let setup = with_image().await;
    let made = setup.create("app", "one").await.unwrap();
    setup.create("app", "two").await.unwrap();
    setup.engine.rename("one", "uno").unwrap();
    let shown = setup.engine.inspect("uno").await.unwrap();
    assert_eq!(
        (&shown["Name"], &shown["Id"]),
        (&"/uno".into(), &made.id.clone().into())
    );
    for (from, to, kind) in [
        ("uno", "two", ErrorKind::Conflict),
        ("uno", "uno", ErrorKind::Invalid),
        ("uno", "a b", ErrorKind::Invalid),
        ("one", "new", ErrorKind::NotFound),
    ] {
        let error = setup.engine.rename(from, to).unwrap_err();
        assert_eq!(error.kind(), kind, "{from} {to}: {}", text(&error));
    }
    setup.create("app", "one").await.unwrap();
}

#[tokio::test]
async fn updated_while_it_does_not_run() {
    let setup = with_image().await;
    setup.create("app", "box").await.unwrap();
    let update = UpdateRequest {
        memory: Some(256 << 20),
        nano_cpus: Some(500_000_000),
        pids_limit: Some(7),
        restart: Some(always()),
    };
    setup.engine.update("box", update).await.unwrap();
    let host = &setup.engine.inspect("box").await.unwrap()["HostConfig"];
    assert_eq!(host["Memory"], 256 << 20);
    assert_eq!(host["NanoCpus"], 500_000_000);
    assert_eq!(host["PidsLimit"], 7);
    assert_eq!(host["RestartPolicy"]["Name"], "always");
    for wrong in [
        UpdateRequest {
            memory: Some(1),
            ..UpdateRequest::default()
        },
        UpdateRequest {
            nano_cpus: Some(u64::MAX),
            ..UpdateRequest::default()
        },
    ] {
        let error = setup.engine.update("box", wrong).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{}", text(&error));
    }
    let temporary = CreateRequest {
        remove: true,
        ..request("app", "temporary")
    };
    setup.engine.create(temporary, &quiet).await.unwrap();
    let error = setup.engine.update("temporary", update).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn pruned_by_label_and_time() {
    let setup = with_image().await;
    for (name, label) in [("a", "web"), ("b", "db"), ("c", "db")] {
        let request = CreateRequest {
            labels: BTreeMap::from([("tier".to_owned(), label.to_owned())]),
            ..request("app", &format!("box-{name}"))
        };
        setup.engine.create(request, &quiet).await.unwrap();
    }
    let label = |value: &str| vec![("tier".to_owned(), Some(value.to_owned()))];
    let old = ContainerFilter {
        until_ns: Some(1),
        ..ContainerFilter::default()
    };
    assert!(
        setup
            .engine
            .prune_containers(&old)
            .await
            .unwrap()
            .ids
            .is_empty()
    );
    let web = ContainerFilter {
        labels: label("web"),
        ..ContainerFilter::default()
    };
    let pruned = setup.engine.prune_containers(&web).await.unwrap();
    assert_eq!(pruned.ids.len(), 1);
    assert!(pruned.bytes > 0);
    let rest = ContainerFilter {
        without_labels: label("web"),
        ..ContainerFilter::default()
    };
    let pruned = setup.engine.prune_containers(&rest).await.unwrap();
    assert_eq!(pruned.ids.len(), 2);
    assert!(setup.engine.list(true).await.unwrap().is_empty());
}

/// Those that ran, whose policy asks for it, and that nobody stopped: tried, and here in vain.
#[tokio::test]
async fn what_is_to_run_is_started_on_boot() {
    let setup = with_image().await;
    for name in ["gourd-vm", "gourd-vmm", "gourd-init"] {
        let path = setup.path("bin").join(name);
        std::fs::write(&path, "#!/bin/sh\nexit 1\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let ran = r#""started_ns":5,"finished_ns":6,"exit_code":0"#;
    for (name, policy, state) in [
        ("new", RestartPolicy::Always, None),
        ("no", RestartPolicy::No, Some("\"stopped\":false")),
        (
            "failed",
            RestartPolicy::OnFailure,
            Some("\"stopped\":false"),
        ),
        ("always", RestartPolicy::Always, Some("\"stopped\":true")),
        (
            "unless",
            RestartPolicy::UnlessStopped,
            Some("\"stopped\":false"),
        ),
        (
            "stopped",
            RestartPolicy::UnlessStopped,
            Some("\"stopped\":true"),
        ),
    ] {
        let request = CreateRequest {
            restart: Restart { policy, maximum: 0 },
            ..request("app", name)
        };
        let made = setup.engine.create(request, &quiet).await.unwrap();
        if let Some(stopped) = state {
            let state = format!(
                r#"{{"schema":1,"status":"exited","pid":null,{ran},"oom_killed":false,"error":null,"driver":null,{stopped}}}"#
            );
            let dir = setup.engine.root().join("containers").join(&made.id);
            std::fs::write(dir.join("state.json"), state).unwrap();
        }
    }
    let started = setup.engine.start_on_boot().await.unwrap();
    let mut names: Vec<_> = started.iter().map(|one| one.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["always", "unless"]);
    assert!(started.iter().all(|one| one.result.is_err()));
}

/// Prints how long 500 take in one process.
#[tokio::test]
async fn five_hundred_containers_are_no_trouble() {
    let setup = with_image().await;
    let begun = std::time::Instant::now();
    for number in 0..500 {
        setup.create("app", &format!("box-{number}")).await.unwrap();
    }
    let created = begun.elapsed();
    assert_eq!(setup.engine.list(true).await.unwrap().len(), 500);
    let listed = begun.elapsed() - created;
    println!("500 created in {created:?}, listed in {listed:?}");
    // Far beyond what it takes, so that only something quadratic in files or worse fails.
    assert!(created.as_secs() < 60 && listed.as_secs() < 5);
}
