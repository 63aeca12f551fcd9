//! Archives, and what an image says of itself.

use serde_json::json;
use wharf_docker::{ArchiveError, Engine, ImageError};
use wharf_types::Digest;
use wharf_types::image::{ImageDocument, ImagePin};

use crate::archive::{Image, written};
use crate::support::Test;

const OTHER: &str = if cfg!(target_arch = "aarch64") { "amd64" } else { "arm64" };

fn why<T>(outcome: Result<T, ImageError>) -> String {
    let Err(error) = outcome else { panic!("it is refused") };
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

async fn ensure(engine: &Engine, document: &ImageDocument) -> Result<wharf_docker::ImageId, ImageError> {
    engine.ensure(document, None, std::time::Duration::from_secs(10), &|_| ()).await
}

#[tokio::test]
async fn an_image_says_how_it_is_to_be_run() {
    let Some(test) = Test::begin().await else { return };
    let image = Image {
        label: format!("{} config", test.platform()),
        config: json!({
            "Entrypoint": ["/bin/sh"], "Cmd": ["-c", "true"], "User": "app", "WorkingDir": "/tmp",
            "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}}, "StopSignal": "SIGINT",
            "Healthcheck": {"Test": ["CMD-SHELL", "check"], "Interval": 2_000_000_000_u64, "Retries": 4},
        }),
        ..Image::default()
    };
    let id = image.load(&test.engine, test.folder.path()).await.unwrap();
    let config = test.engine.image_config(id).await.unwrap();
    assert_eq!(
        (config.entrypoint, config.command),
        (vec!["/bin/sh".into()], vec!["-c".into(), "true".into()])
    );
    assert_eq!((config.user.as_str(), config.workdir.as_str()), ("app", "/tmp"));
    assert_eq!((config.exposed_ports, config.volumes), (vec!["80/tcp".into()], vec!["/data".into()]));
    assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
    let health = config.health.unwrap();
    assert_eq!(health.command, ["/bin/sh", "-c", "check"]);
    assert_eq!((health.interval, health.retries), (Some(std::time::Duration::from_secs(2)), Some(4)));
    assert_eq!(health.timeout, None);
    assert!(test.engine.remove_image(id).await.unwrap());
}

#[tokio::test]
async fn an_archive_never_takes_the_name_of_anothers_image() {
    let Some(test) = Test::begin().await else { return };
    let name = format!("victim-{}:1", test.platform());
    let image =
        Image { label: format!("{} named", test.platform()), tags: vec![name.clone()], ..Image::default() };
    let id = image.load(&test.engine, test.folder.path()).await.unwrap();
    assert!(test.raw.inspect_image(&name).await.is_err(), "the name is not there");
    assert!(test.raw.inspect_image(&id.to_string()).await.is_ok());
    assert!(test.engine.remove_image(id).await.unwrap());
}

#[tokio::test]
async fn an_archive_is_loaded_once() {
    let Some(test) = Test::begin().await else { return };
    let image = Image { label: test.platform().to_owned(), ..Image::default() };
    let (path, digest) = written(test.folder.path(), &image.archive());
    // It is not even opened.
    std::fs::remove_file(&path).unwrap();
    assert_eq!(test.engine.load(&path, digest).await.unwrap(), test.image);
}

#[tokio::test]
async fn what_is_no_archive_of_one_image_is_refused_with_what_is_wrong() {
    let Some(test) = Test::begin().await else { return };
    let mut two = tar::Builder::new(Vec::new());
    let manifest = br#"[{"Config":"a","Layers":[]},{"Config":"b","Layers":[]}]"#;
    let mut header = tar::Header::new_gnu();
    header.set_size(manifest.len() as u64);
    two.append_data(&mut header, "manifest.json", &manifest[..]).unwrap();
    let whole = Image { label: format!("{} cut", test.platform()), ..Image::default() }.archive();
    let mut lying = tar::Builder::new(Vec::new());
    let manifest = br#"[{"Config":"../../etc/passwd","Layers":["/etc/shadow"]}]"#;
    let mut header = tar::Header::new_gnu();
    header.set_size(manifest.len() as u64);
    lying.append_data(&mut header, "manifest.json", &manifest[..]).unwrap();
    for (octets, problem) in [
        (Vec::new(), "no manifest.json"),
        (b"hello".to_vec(), "no tar archive"),
        (vec![0x1f, 0x8b, 8, 0, 0, 0], "compressed"),
        (vec![0xff; 4096], "no tar archive"),
        (two.into_inner().unwrap(), "2 images"),
        (whole[..whole.len() / 2].to_vec(), "no manifest.json"),
        (lying.into_inner().unwrap(), "does not take it"),
    ] {
        let (path, digest) = written(test.folder.path(), &octets);
        let error = why(test.engine.load(&path, digest).await);
        assert!(error.contains(problem), "{error}");
    }
    let missing = test.engine.load(&test.folder.path().join("missing"), Digest::of(b"missing")).await;
    assert!(matches!(missing, Err(ImageError::Archive(ArchiveError::Read(_)))));
}

#[tokio::test]
async fn an_image_for_another_platform_is_refused_and_both_are_named() {
    let Some(test) = Test::begin().await else { return };
    let image =
        Image { label: format!("{} other", test.platform()), architecture: OTHER, ..Image::default() };
    let (path, digest) = written(test.folder.path(), &image.archive());
    let engine = test.engine.info().await.unwrap().platform.to_string();
    for _ in 0..2 {
        let error = why(test.engine.load(&path, digest).await);
        assert!(error.contains(&format!("linux/{OTHER}")) && error.contains(&engine), "{error}");
    }
}

#[tokio::test]
async fn an_image_that_no_registry_has_is_pinned_by_its_id() {
    let Some(test) = Test::begin().await else { return };
    let name = format!("local-{}", test.platform());
    let tag = bollard::query_parameters::TagImageOptionsBuilder::new().repo(&name).tag("1").build();
    test.raw.tag_image(&test.image.to_string(), Some(tag)).await.unwrap();
    let document = test.engine.resolve(&format!("{name}:1"), None).await.unwrap();
    assert_eq!(document.pin, ImagePin::Id(test.image.to_string().parse().unwrap()));
    assert_eq!(document.platforms, [test.engine.info().await.unwrap().platform]);
    assert_eq!(ensure(&test.engine, &document).await.unwrap(), test.image);
    assert!(!test.engine.remove_image(test.image).await.unwrap(), "somebody has named it");
    test.raw
        .remove_image(&format!("{name}:1"), None::<bollard::query_parameters::RemoveImageOptions>, None)
        .await
        .unwrap();
    let by_id = test.engine.resolve(&test.image.to_string(), None).await.unwrap();
    assert_eq!(by_id.pin, document.pin);
}

#[tokio::test]
async fn an_image_of_another_engine_is_asked_for_in_vain() {
    let Some(test) = Test::begin().await else { return };
    let document = ImageDocument {
        image: "mine:1".into(),
        pin: ImagePin::Id(Digest::of(test.platform().as_bytes())),
        platforms: Vec::new(),
    };
    let error = ensure(&test.engine, &document).await.unwrap_err();
    assert!(matches!(error, ImageError::OnlyElsewhere { .. }) && !error.is_retryable(), "{error}");
    assert!(matches!(test.engine.resolve("No Image", None).await, Err(ImageError::Reference(_))));
}
