//! Volumes without a VM: made with containers and without, listed, cloned, removed. What is in them is tested end to end.

mod support;

use engine::{CreateRequest, ErrorKind, MountRequest, VolumeFilter, VolumeRequest};
use support::{Setup, image, quiet, request, setup, text};

async fn with_image() -> Setup {
    let setup = setup();
    let (path, _) = setup.archive(&image(), "app");
    setup.load(&path).await.unwrap();
    setup
}

fn mount(source: Option<&str>, target: &str) -> MountRequest {
    MountRequest {
        source: source.map(str::to_owned),
        target: target.to_owned(),
        ..MountRequest::default()
    }
}

fn names(setup: &Setup) -> Vec<String> {
    let volumes = setup.engine.volumes(&VolumeFilter::default()).unwrap();
    volumes.into_iter().map(|volume| volume.name).collect()
}

#[tokio::test]
async fn made_with_their_container_and_removed_after_it() {
    let setup = with_image().await;
    let engine = &setup.engine;
    let wanted = CreateRequest {
        mounts: vec![mount(Some("data"), "/data"), mount(None, "/cache")],
        ..request("app", "box")
    };
    engine.create(wanted, &quiet).await.unwrap();
    let all = names(&setup);
    assert_eq!(all.len(), 2, "{all:?}");
    let inspected = engine.inspect("box").await.unwrap();
    assert_eq!(inspected["Mounts"][0]["Name"], "data");
    assert_eq!(inspected["Mounts"][1]["Destination"], "/cache");
    assert_eq!(
        inspected["Config"]["Volumes"]["/cache"],
        serde_json::json!({})
    );
    let listed = engine.list(true).await.unwrap();
    assert_eq!(listed[0].volumes.len(), 2);

    let error = engine.volume_remove("data").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert_eq!(text(&error), "volume data is used by container box");
    let pruned = engine.prune_volumes(true, &VolumeFilter::default()).await;
    assert!(pruned.unwrap().names.is_empty());
    engine.remove_with_volumes("box", false).await.unwrap();
    assert_eq!(names(&setup), ["data"]);
    engine.volume_remove("data").await.unwrap();
    let error = engine.volume_remove("data").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_container_that_is_not_made_leaves_no_volume_without_a_name() {
    let setup = with_image().await;
    setup.create("app", "box").await.unwrap();
    let wanted = CreateRequest {
        mounts: vec![mount(None, "/cache")],
        ..request("app", "box")
    };
    let error = setup.engine.create(wanted, &quiet).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(names(&setup).is_empty());
}

#[tokio::test]
async fn made_cloned_grown_pruned() {
    let setup = with_image().await;
    let engine = &setup.engine;
    let wanted = VolumeRequest {
        name: Some("data".to_owned()),
        size: Some(1 << 30),
        labels: [("tier".to_owned(), "db".to_owned())].into(),
        owner: Some((1000, 100)),
    };
    for _ in 0..2 {
        assert_eq!(engine.volume_create(wanted.clone()).await.unwrap(), "data");
    }
    let bare = VolumeRequest {
        name: wanted.name.clone(),
        ..VolumeRequest::default()
    };
    assert_eq!(engine.volume_create(bare.clone()).await.unwrap(), "data");
    let label = |key: &str| [(key.to_owned(), "web".to_owned())].into();
    for (other, there) in [
        (
            (Some(2 << 30), label("tier"), None),
            "with 1073741824 bytes",
        ),
        ((None, label("tier"), Some((1, 1))), "with label tier=db"),
        ((None, label("zone"), None), "without label zone"),
        (
            (None, Default::default(), Some((0, 0))),
            "with owner 1000:100",
        ),
    ] {
        let (size, labels, owner) = other;
        let other = VolumeRequest {
            size,
            labels,
            owner,
            ..bare.clone()
        };
        let error = engine.volume_create(other).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let expect = format!("volume data exists already, {there}");
        assert_eq!(text(&error), expect);
    }
    engine
        .volume_clone("data", "copy", Default::default())
        .await
        .unwrap();
    engine.volume_resize("copy", 3 << 30).await.unwrap();
    let copy = engine.volume_inspect("copy").unwrap();
    assert_eq!(
        (&copy["Size"], &copy["Owner"]),
        (&(3_u64 << 30).into(), &"1000:100".into())
    );
    let error = engine.volume_resize("copy", 1 << 30).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);

    let unnamed = engine
        .volume_create(VolumeRequest::default())
        .await
        .unwrap();
    assert_eq!(unnamed.len(), 64);
    let usage = engine.disk_usage().await.unwrap();
    assert_eq!(usage.volumes.len(), 3);
    let pruned = engine
        .prune(false, true, &Default::default())
        .await
        .unwrap();
    assert_eq!(pruned.volumes.names, [unnamed]);
    let filter = VolumeFilter {
        labels: vec![("tier".to_owned(), None)],
        ..VolumeFilter::default()
    };
    let pruned = engine.prune_volumes(true, &filter).await.unwrap();
    assert_eq!(pruned.names, ["data"]);
    assert!(pruned.bytes > 0);
    assert_eq!(names(&setup), ["copy"]);
}
