//! Images from registries: one that works, and many that do not.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use wharf_docker::{Credentials, ImageError, ImageId, PullProgress};
use wharf_types::image::{ImageDocument, ImagePin};
use wharf_types::secret::SecretValue;

use crate::archive::Image;
use crate::daemon::Daemon;
use crate::registry::Registry;
use crate::support::Test;

const OTHER: &str = if cfg!(target_arch = "aarch64") { "amd64" } else { "arm64" };
const STALLED: Duration = Duration::from_secs(2);
/// Where it says something, however busy the machine is.
const PATIENT: Duration = Duration::from_secs(60);

fn image(test: &Test) -> Image {
    Image { label: format!("{} pulled", test.platform()), weight: 1 << 20, ..Image::default() }
}

async fn ensure(test: &Test, document: &ImageDocument) -> Result<ImageId, ImageError> {
    test.engine.ensure(document, None, STALLED, &|_| ()).await
}

fn document(registry: &Registry, digest: wharf_types::Digest) -> ImageDocument {
    ImageDocument { image: registry.name("1"), pin: ImagePin::Digest(digest), platforms: Vec::new() }
}

#[tokio::test]
async fn what_a_tag_meant_when_it_was_deployed_is_what_is_pulled() {
    let Some(test) = Test::begin().await else { return };
    let registry = Registry::start().await;
    let digest = registry.push("1", &[image(&test)]);
    let document = test.engine.resolve(&registry.name("1"), None).await.unwrap();
    assert_eq!(document.pin, ImagePin::Digest(digest));
    assert_eq!(document.platforms[0].architecture, Image::default().architecture);
    // The tag moves on.
    registry.push("1", &[Image { label: format!("{} later", test.platform()), ..Image::default() }]);
    let progress = Mutex::new(Vec::<PullProgress>::new());
    let id =
        test.engine.ensure(&document, None, PATIENT, &|it| progress.lock().unwrap().push(it)).await.unwrap();
    let seen = progress.into_inner().unwrap();
    let last = seen.last().unwrap();
    assert_eq!((last.layers_done, last.layers), (1, 1), "{seen:?}");
    assert!(last.downloaded_bytes > 1 << 20 && last.downloaded_bytes == last.total_bytes, "{seen:?}");
    let found = test.raw.inspect_image(&id.to_string()).await.unwrap();
    assert_eq!(found.config.unwrap().labels.unwrap()["test"], format!("{} pulled", test.platform()));
    // From now on no registry is needed.
    registry.forget_everything();
    assert_eq!(ensure(&test, &document).await.unwrap(), id);
    assert!(test.engine.remove_image(id).await.unwrap());
}

#[tokio::test]
async fn of_an_image_for_several_platforms_the_one_of_this_engine_is_pulled() {
    let Some(test) = Test::begin().await else { return };
    let registry = Registry::start().await;
    let other =
        Image { label: format!("{} other", test.platform()), architecture: OTHER, ..Image::default() };
    registry.push("1", &[other, image(&test)]);
    let document = test.engine.resolve(&registry.name("1"), None).await.unwrap();
    assert_eq!(document.platforms.len(), 2);
    let id = ensure(&test, &document).await.unwrap();
    let found = test.raw.inspect_image(&id.to_string()).await.unwrap();
    assert_eq!(found.architecture.as_deref(), Some(Image::default().architecture));
    assert!(test.engine.remove_image(id).await.unwrap());
}

#[tokio::test]
async fn an_image_for_another_platform_is_refused_before_it_is_pulled_and_after() {
    let Some(test) = Test::begin().await else { return };
    let registry = Registry::start().await;
    let other =
        Image { label: format!("{} other", test.platform()), architecture: OTHER, ..Image::default() };
    let digest = registry.push("1", &[other]);
    let known = test.engine.resolve(&registry.name("1"), None).await.unwrap();
    let unknown = document(&registry, digest);
    for document in [&known, &unknown] {
        let error = ensure(&test, document).await.unwrap_err();
        assert!(matches!(error, ImageError::OtherPlatform { .. }), "{error}");
        let words = error.to_string();
        assert!(words.contains(&format!("linux/{OTHER}")), "{words}");
    }
    let reference = registry.name("1").parse::<wharf_types::image::ImageReference>().unwrap().at(digest);
    let pulled = test.raw.inspect_image(&reference.to_string()).await.unwrap();
    assert!(test.engine.remove_image(pulled.id.unwrap().parse().unwrap()).await.unwrap());
}

#[tokio::test]
async fn a_digest_that_has_vanished_is_said_to_have() {
    let Some(test) = Test::begin().await else { return };
    let registry = Registry::start().await;
    let digest = registry.push("1", &[image(&test)]);
    registry.forget_everything();
    let error = ensure(&test, &document(&registry, digest)).await.unwrap_err();
    assert!(matches!(error, ImageError::Vanished { .. }) && !error.is_retryable(), "{error:?}");
    let error = test.engine.resolve(&registry.name("1"), None).await.unwrap_err();
    assert!(matches!(error, ImageError::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn a_registry_gets_the_credentials_whatever_is_in_them() {
    let Some(test) = Test::begin().await else { return };
    let registry = Registry::start().await;
    let digest = registry.push("1", &[image(&test)]);
    // In Base64 these become `+` and `/`, which the engine takes only in its own alphabet.
    let password = "~~~???>>>ÿÿÿ";
    registry.ask_for("Basic dXNlcn5-fn4_Pz8-Pj7Dv8O_w78".replace('-', "+").replace('_', "/").as_str());
    let authorization = {
        use std::process::Command;
        let coded =
            Command::new("sh").arg("-c").arg(format!("printf '%s' 'user:{password}' | base64 -w0")).output();
        format!("Basic {}", String::from_utf8(coded.unwrap().stdout).unwrap())
    };
    registry.ask_for(&authorization);
    let credentials = Credentials {
        username: "user".into(),
        password: SecretValue::new(password.as_bytes().to_vec()).unwrap(),
    };
    let document = test.engine.resolve(&registry.name("1"), Some(&credentials)).await.unwrap();
    assert_eq!(document.pin, ImagePin::Digest(digest));
    let without = ensure(&test, &document).await.unwrap_err();
    assert!(matches!(without, ImageError::Denied { .. }), "{without:?}");
    let id = test.engine.ensure(&document, Some(&credentials), PATIENT, &|_| ()).await.unwrap();
    assert!(test.engine.remove_image(id).await.unwrap());
}

#[tokio::test]
async fn a_registry_that_gives_nothing_more_for_now_is_asked_again_later() {
    let Some(test) = Test::begin().await else { return };
    let registry = Registry::start().await;
    let digest = registry.push("1", &[image(&test)]);
    registry.fail(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS");
    let error = ensure(&test, &document(&registry, digest)).await.unwrap_err();
    assert!(matches!(error, ImageError::RateLimited { .. }) && error.is_retryable(), "{error:?}");
}

#[tokio::test]
async fn a_pull_that_comes_no_further_is_given_up() {
    let Some(test) = Test::begin().await else { return };
    let registry = Registry::start().await;
    let digest = registry.push("1", &[image(&test)]);
    registry.stall_after(512 << 10);
    let began = Instant::now();
    let error = ensure(&test, &document(&registry, digest)).await.unwrap_err();
    assert!(matches!(error, ImageError::Stalled { .. }) && error.is_retryable(), "{error:?}");
    assert!(began.elapsed() < 5 * STALLED, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_registry_that_never_answers_is_given_up() {
    let Some(test) = Test::begin().await else { return };
    // The kernel takes the connection, and nobody reads from it.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let document = ImageDocument {
        image: format!("{}/a:1", listener.local_addr().unwrap()),
        pin: ImagePin::Digest(wharf_types::Digest::of(b"a")),
        platforms: Vec::new(),
    };
    let began = Instant::now();
    let error = ensure(&test, &document).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(began.elapsed() < 5 * STALLED, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_away() {
    let Some(test) = Test::begin().await else { return };
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let image = format!("{address}/a:1");
    let error = test.engine.resolve(&image, None).await.unwrap_err();
    assert!(matches!(error, ImageError::RegistryAway { .. }) && error.is_retryable(), "{error:?}");
    let pin = ImagePin::Digest(wharf_types::Digest::of(b"a"));
    let error = ensure(&test, &ImageDocument { image, pin, platforms: Vec::new() }).await.unwrap_err();
    assert!(matches!(error, ImageError::RegistryAway { .. }), "{error:?}");
}

#[tokio::test]
async fn a_full_disk_is_said_to_be_full() {
    if crate::support::socket().is_none() {
        return;
    }
    let daemon = Daemon::start_on_disk_of("24m");
    let test = Test::on(daemon.socket()).await;
    let registry = Registry::start().await;
    let digest = registry.push("1", &[Image { weight: 40 << 20, ..image(&test) }]);
    let error = test
        .engine
        .ensure(&document(&registry, digest), None, Duration::from_secs(30), &|_| ())
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::DiskFull { .. }) && error.is_retryable(), "{error:?}");
    let heavy = Image { weight: 40 << 20, label: "heavy".into(), ..Image::default() };
    let error = heavy.load(&test.engine, test.folder.path()).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("full"), "{error}");
}
