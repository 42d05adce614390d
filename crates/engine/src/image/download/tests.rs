//! Against a registry that has its bad days. After each of them the next download brings what is missing, and no more than that
//! where the registry lets it.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use registry::{ClientOptions, Proxies, RetryPolicy};
use testkit::image::{Image, ImageBuilder, Layer, Packing};
use testkit::registry::{Answer, Faulty, Reply, Request, reply};

use super::*;
use crate::ErrorKind;

/// An image whose layer has about so many bytes, and a place for it.
struct Setup {
    dir: tempfile::TempDir,
    root: Root,
    image: Image,
}

fn setup(size: u32) -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(&dir.path().join("root")).unwrap();
    let noise: Vec<u8> = (0..size)
        .map(|i| (i.wrapping_mul(7919) >> 5) as u8)
        .collect();
    let image = ImageBuilder::new()
        .packing(Packing::Plain)
        .layer(Layer::new().file("noise", noise))
        .build()
        .unwrap();
    Setup { dir, root, image }
}

/// Not patient at all, and nothing of the machine that the tests run on.
fn impatient() -> ClientOptions {
    let mut options = ClientOptions::default();
    options.docker_config = None;
    options.certificates = Vec::new();
    options.settings = None;
    options.proxies = Proxies::default();
    options.stall_timeout = Duration::from_millis(300);
    options.response_timeout = Duration::from_secs(10);
    options.retry = RetryPolicy {
        attempts: 2,
        base: Duration::from_millis(1),
        max: Duration::from_secs(1),
    };
    options
}

impl Setup {
    fn layer(&self) -> &Descriptor {
        &self.image.layers[0]
    }

    fn bytes(&self) -> &[u8] {
        &self.image.blobs[&self.layer().digest]
    }

    async fn download(
        &self,
        options: ClientOptions,
        server: &Faulty,
    ) -> Result<Vec<PullEvent>, Error> {
        let reference = format!("{}/a:1", server.addr).parse().unwrap();
        let events = RefCell::new(Vec::new());
        let note = |event| events.borrow_mut().push(event);
        let client = Client::new(options);
        layer(&self.root, &client, &reference, self.layer(), &note).await?;
        let path = content::path(&self.root, &self.layer().digest);
        assert!(std::fs::read(path).unwrap() == self.bytes());
        let ingest = self.root.content().join("ingest");
        assert_eq!(std::fs::read_dir(ingest).unwrap().count(), 0);
        Ok(events.into_inner())
    }

    /// A registry that does this to requests for the layer until it is well again.
    fn ill(&self, bend: fn(&Request, Reply) -> Answer) -> (Faulty, Arc<AtomicBool>) {
        let well = Arc::new(AtomicBool::new(false));
        let own = well.clone();
        let server = Faulty::with_image(&self.image, move |request, right| {
            match own.load(Ordering::SeqCst) {
                true => right.whole(),
                false => bend(request, right),
            }
        });
        (server.unwrap(), well)
    }
}

fn text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What a fault does: what is said, and where the next download begins.
async fn check(
    bend: fn(&Request, Reply) -> Answer,
    kind: ErrorKind,
    expect: &str,
    next: impl Fn(u64) -> Option<u64>,
) {
    let setup = setup(600_000);
    let (server, well) = setup.ill(bend);
    let error = setup.download(impatient(), &server).await.unwrap_err();
    assert!(text(&error).contains(expect), "{}", text(&error));
    assert_eq!(error.kind(), kind, "{}", text(&error));
    assert!(!content::has(&setup.root, setup.layer()));
    well.store(true, Ordering::SeqCst);
    let before = server.requests().len();
    let events = setup.download(impatient(), &server).await.unwrap();
    let requests = &server.requests()[before..];
    assert_eq!(requests.len(), 1, "{expect}");
    let began = requests[0].range().map(|(first, _)| first);
    assert_eq!(began, next(setup.layer().size), "{expect}");
    let resumed = events.iter().find_map(|event| match event {
        PullEvent::LayerResumes { done, .. } => Some(*done),
        _ => None,
    });
    assert_eq!(resumed, began, "{expect}");
}

/// From where the first answer, which has half of the bytes, ends.
fn half(size: u64) -> Option<u64> {
    Some(size / 2)
}

fn anew(_: u64) -> Option<u64> {
    None
}

#[tokio::test]
async fn faults_are_told_and_the_next_one_goes_on() {
    use ErrorKind::{Corrupt, NotFound, Unreachable};
    /// Half of the blob, then nothing: whoever asks for the rest gets the same again.
    fn first_half(request: &Request, right: &Reply) -> Answer {
        match request.range() {
            None => right.cut(right.body.len() / 2),
            Some(_) => right.cut(0),
        }
    }
    check(
        |r, right| first_half(r, &right),
        Corrupt,
        "is truncated: got",
        half,
    )
    .await;
    check(
        |r, right| first_half(r, &right).stall(),
        Unreachable,
        "next to nothing",
        half,
    )
    .await;
    check(
        |r, right| match r.range() {
            None => first_half(r, &right),
            Some(_) => reply(429, &[], b"").into(),
        },
        Unreachable,
        "answered 429",
        half,
    )
    .await;
    check(
        |r, right| match r.range() {
            None => first_half(r, &right),
            Some(_) => Answer::from(Vec::new()).reset(),
        },
        Unreachable,
        "broke",
        half,
    )
    .await;
    check(
        |r, right| match r.range() {
            None => first_half(r, &right),
            Some(_) => reply(302, &[("Location", "http://192.0.2.1/x")], b"").into(),
        },
        Unreachable,
        "only TLS and this machine are allowed",
        half,
    )
    .await;
    check(
        |_, mut right| {
            let middle = right.body.len() / 2;
            right.body[middle] ^= 1;
            right.whole()
        },
        Corrupt,
        "the content has the digest",
        anew,
    )
    .await;
    check(
        |_, mut right| {
            right.body.pop();
            right.whole()
        },
        Corrupt,
        "is truncated",
        anew,
    )
    .await;
    check(
        |_, mut right| {
            right.body.push(0);
            right.whole()
        },
        Corrupt,
        "is longer than",
        anew,
    )
    .await;
    check(
        |_, _| reply(404, &[], b"").into(),
        NotFound,
        "was not found",
        anew,
    )
    .await;
    check(
        |_, _| reply(503, &[], b"").into(),
        Unreachable,
        "answered 503",
        anew,
    )
    .await;
}

#[tokio::test]
async fn a_reset_at_each_sixteenth() {
    let setup = setup(600_000);
    let size = setup.bytes().len();
    // Once, and the same download goes on: in one go at each sixteenth.
    let (server, _) = setup.ill(|request, right| {
        let first = request.range().map_or(0, |(first, _)| first as usize);
        let whole = first + right.body.len();
        match right.cut(whole / 16 + 1) {
            last if first + whole / 16 + 1 >= whole => last,
            cut => cut.reset(),
        }
    });
    setup.download(impatient(), &server).await.unwrap();
    assert!(server.requests().len() >= 16, "{}", server.requests().len());
    // For good, and the next download goes on.
    for sixteenths in 0..16 {
        let (setup, cut) = (self::setup(600_000), size * sixteenths / 16);
        let well = Arc::new(AtomicBool::new(false));
        let own = well.clone();
        let server = Faulty::with_image(&setup.image, move |request, right| {
            let first = request.range().map_or(0, |(first, _)| first as usize);
            match own.load(Ordering::SeqCst) {
                true => right.whole(),
                false => right.cut(cut.saturating_sub(first)).reset(),
            }
        })
        .unwrap();
        let error = setup.download(impatient(), &server).await.unwrap_err();
        assert!(text(&error).contains("truncated"), "{}", text(&error));
        well.store(true, Ordering::SeqCst);
        let before = server.requests().len();
        setup.download(impatient(), &server).await.unwrap();
        let began = server.requests()[before].range();
        let began = began.map_or(0, |(first, _)| first as usize);
        // A reset may overtake some of what was sent before it.
        assert!(began <= cut && (began > 0 || cut == 0), "{began} of {cut}");
    }
}

#[tokio::test]
async fn ranges_that_are_refused_are_done_without() {
    let refusals: [fn(&Request, Reply) -> Answer; 4] = [
        |_, _| reply(416, &[], b"").into(),
        |_, _| reply(400, &[], b"").into(),
        |_, _| reply(501, &[], b"").into(),
        // By sending all.
        |_, mut right| {
            right.status = 200;
            right.whole()
        },
    ];
    for (which, refusal) in refusals.into_iter().enumerate() {
        let setup = setup(600_000);
        let all = setup.bytes().to_vec();
        let cuts = AtomicBool::new(true);
        let server = Faulty::with_image(&setup.image, move |request, right| {
            if request.range().is_none() {
                return match cuts.swap(false, Ordering::SeqCst) {
                    true => right.cut(right.body.len() / 2),
                    false => right.whole(),
                };
            }
            let body = all.clone();
            let headers = Vec::new();
            refusal(
                request,
                Reply {
                    body,
                    headers,
                    ..right
                },
            )
        })
        .unwrap();
        let downloaded = setup.download(impatient(), &server).await;
        downloaded.unwrap_or_else(|error| panic!("{which}: {}", text(&error)));
    }
}

#[tokio::test]
async fn a_large_layer_comes_in_parts_side_by_side() {
    let setup = setup(21 << 20);
    let in_parts = || {
        let mut options = impatient();
        options.part_size = 4 << 20;
        options
    };
    let server = Faulty::with_image(&setup.image, |_, right| right.whole()).unwrap();
    let events = setup.download(in_parts(), &server).await.unwrap();
    let mut starts: Vec<u64> = server
        .requests()
        .iter()
        .map(|request| request.range().unwrap().0)
        .collect();
    starts.sort();
    assert_eq!(starts, [0, 4 << 20, 8 << 20, 12 << 20, 16 << 20]);
    assert!(matches!(events.last(), Some(PullEvent::LayerDone { .. })));
    let done = events.iter().filter_map(|event| match event {
        PullEvent::LayerProgress { done, .. } => Some(*done),
        _ => None,
    });
    assert!(done.is_sorted());

    // One part breaks off, and only it is asked for again; then a registry that serves no parts.
    let setup = self::setup(21 << 20);
    let (server, _) = setup.ill(|request, right| match request.range() {
        Some((first, _)) if first == 8 << 20 => right.cut(1_000_000),
        Some((first, _)) if first > 8 << 20 => right.cut(0),
        _ => right.whole(),
    });
    setup.download(in_parts(), &server).await.unwrap_err();
    let all = setup.bytes().to_vec();
    let server = Faulty::start(move |_| reply(200, &[], &all)).unwrap();
    let events = setup.download(in_parts(), &server).await.unwrap();
    assert!(matches!(events[0], PullEvent::LayerResumes { done, .. } if done > 0));
    assert_eq!(server.requests().len(), 1);
    assert!(server.requests()[0].range().is_some());
}

/// What was there before is not believed, nor is a mirror.
#[tokio::test]
async fn wrong_bytes_that_are_not_the_registry_s_are_fetched_anew() {
    let setup = setup(600_000);
    let (server, well) = setup.ill(|request, mut right| {
        right.body[7] ^= 1;
        match request.range() {
            None => right.cut(right.body.len() / 2),
            Some(_) => right.cut(0),
        }
    });
    setup.download(impatient(), &server).await.unwrap_err();
    well.store(true, Ordering::SeqCst);
    let events = setup.download(impatient(), &server).await.unwrap();
    let resumes = |event: &&PullEvent| matches!(event, PullEvent::LayerResumes { .. });
    assert_eq!(events.iter().filter(resumes).count(), 1);

    let setup = self::setup(600_000);
    let mirror = Faulty::with_image(&setup.image, |_, mut right| {
        right.body[7] ^= 1;
        right.whole()
    })
    .unwrap();
    let server = Faulty::with_image(&setup.image, |_, right| right.whole()).unwrap();
    let settings = setup.dir.path().join("registries.json");
    let text = format!(
        r#"{{"mirrors": {{"{}": ["http://{}"]}}}}"#,
        server.addr, mirror.addr
    );
    std::fs::write(&settings, text).unwrap();
    let mut options = impatient();
    options.settings = Some(settings);
    setup.download(options, &server).await.unwrap();
    assert_eq!((mirror.requests().len(), server.requests().len()), (1, 1));
}

/// Nothing is asked for that has no place.
#[tokio::test]
async fn what_cannot_be_written_ends_the_download() {
    let setup = setup(600_000);
    let server = Faulty::with_image(&setup.image, |_, right| right.whole()).unwrap();
    // A directory in the file's place: the first system call fails.
    let name = format!("ingest/{}.part", setup.layer().digest.hex());
    let path = setup.root.content().join(name);
    std::fs::create_dir(&path).unwrap();
    let error = setup.download(impatient(), &server).await.unwrap_err();
    assert!(text(&error).contains("cannot open"), "{}", text(&error));
    assert_eq!(server.requests().len(), 0);
    std::fs::remove_dir(&path).unwrap();
    setup.download(impatient(), &server).await.unwrap();
}
