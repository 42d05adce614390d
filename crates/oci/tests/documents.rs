//! Manifests and image configurations: what is taken, what is refused and how it is said.

mod support;

use oci::{
    Compression, Descriptor, Digest, Document, ImageConfig, MediaType, Platform, chain_id,
    chain_ids, parse_document,
};
use support::chain;

const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn manifest(extra: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,{extra}"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{D}","size":2}},
        "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+zstd","digest":"{D}","size":3}}]}}"#
    )
}

#[test]
fn a_manifest_and_what_it_is_served_as_must_agree() {
    let check = |served_as: Option<&str>, inside: &str, expect: Result<(), &str>| {
        let served_as = served_as.map(MediaType::from);
        let extra = match inside {
            "" => String::new(),
            inside => format!(r#""mediaType":"{inside}","#),
        };
        let got = parse_document(served_as.as_ref(), manifest(&extra).as_bytes());
        match (got, expect) {
            (Ok(Document::Manifest(m)), Ok(())) => {
                assert_eq!(
                    m.layers[0].media_type.layer_compression(),
                    Some(Compression::Zstd)
                );
            }
            (Err(e), Err(expect)) => assert_eq!(chain(&e), expect),
            (got, expect) => panic!("{got:?}, expected {expect:?}"),
        }
    };
    let oci = MediaType::OciManifest.to_string();
    let docker = MediaType::DockerManifest.to_string();
    let index = MediaType::OciIndex.to_string();
    check(None, "", Ok(()));
    check(Some(&oci), "", Ok(()));
    check(Some("application/json"), &oci, Ok(()));
    check(
        Some(&oci),
        &docker,
        Err(
            "served as application/vnd.oci.image.manifest.v1+json, but the document says application/vnd.docker.distribution.manifest.v2+json",
        ),
    );
    check(
        Some(&index),
        "",
        Err("the document has both \"manifests\" and \"layers\""),
    );
    check(
        Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
        "",
        Err("Docker manifest schema 1 is not supported: the image must be pushed again"),
    );
    let large = vec![b' '; (4 << 20) + 1];
    let error = parse_document(None, &large).unwrap_err();
    assert_eq!(
        chain(&error),
        "the document has 4194305 bytes, more than the 4194304 allowed"
    );
}

#[test]
fn a_configuration_as_docker_writes_it() {
    let text = format!(
        r#"{{"architecture":"amd64","variant":"v2","os":"linux","created":"2024-01-01T00:00:00Z",
        "config":{{"User":"app:app","Env":["A=b"],"Cmd":["sh"],"Entrypoint":null,"Volumes":{{"/data":{{}}}},
        "ExposedPorts":{{"80/tcp":{{}}}},"WorkingDir":"/w","Labels":null,"OnBuild":null,"StopSignal":"SIGQUIT","Image":"x"}},
        "container_config":{{}},"rootfs":{{"type":"layers","diff_ids":["{D}"]}},
        "history":[{{"created_by":"COPY"}},{{"empty_layer":true}}]}}"#
    );
    let config = ImageConfig::parse(text.as_bytes()).unwrap();
    let c = &config.config;
    assert_eq!((c.user.as_str(), c.working_dir.as_str()), ("app:app", "/w"));
    assert_eq!(
        (&c.env[..], &c.cmd[..], c.entrypoint.len()),
        (&["A=b".to_owned()][..], &["sh".to_owned()][..], 0)
    );
    assert_eq!(
        (&c.volumes[..], &c.exposed_ports[..]),
        (&["/data".to_owned()][..], &["80/tcp".to_owned()][..])
    );
    assert_eq!(c.stop_signal.as_deref(), Some("SIGQUIT"));
    assert_eq!(config.platform.to_string(), "linux/amd64/v2");
    assert!(config.history[1].empty_layer);
    let again = serde_json::to_vec(&config).unwrap();
    assert_eq!(ImageConfig::parse(&again).unwrap(), config);

    let layer = Descriptor::of(MediaType::OciLayer, b"");
    let m = oci::Manifest::new(Descriptor::of(MediaType::OciConfig, b""), vec![layer]);
    let check = |m: &oci::Manifest, platform: &str| {
        let wanted: Platform = platform.parse().unwrap();
        config.check(m, &wanted).map_err(|e| chain(&e))
    };
    assert_eq!(check(&m, "linux/amd64/v3"), Ok(()));
    let wrong = "the image is for linux/amd64/v2, not for linux/arm64";
    assert_eq!(check(&m, "linux/arm64"), Err(wrong.to_owned()));
    let none = oci::Manifest::new(m.config.clone(), Vec::new());
    let wrong = "the manifest has 0 layers, but the image configuration 1 diff IDs";
    assert_eq!(check(&none, "linux/amd64/v2"), Err(wrong.to_owned()));
}

#[test]
fn bad_configurations_say_why() {
    let check = |text: &str, expect: &str| {
        let error = ImageConfig::parse(text.as_bytes()).unwrap_err();
        assert_eq!(chain(&error), expect);
    };
    check(
        "[",
        "the image configuration is not valid: invalid type: sequence, expected struct ImageConfig at line 1 column 0",
    );
    check(
        "{}",
        "the image configuration is not valid: missing field `rootfs` at line 1 column 2",
    );
    check(
        r#"{"os":"linux","architecture":"amd64","rootfs":{"type":"tarfs","diff_ids":[]}}"#,
        "rootfs.type is \"tarfs\", expected \"layers\"",
    );
}

/// The chain as the specification writes it out.
#[test]
fn chain_ids_follow_the_specification() {
    let [a, b, c] = [b"a", b"b", b"c"].map(|x| Digest::of(x));
    let ab = Digest::of(format!("{a} {b}").as_bytes());
    let abc = Digest::of(format!("{ab} {c}").as_bytes());
    assert_eq!(chain_id(&[]), None);
    assert_eq!(chain_id(&[a]), Some(a));
    assert_eq!(chain_ids(&[a, b, c]).collect::<Vec<_>>(), [a, ab, abc]);
}
