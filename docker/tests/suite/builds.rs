//! Images that are built of folders.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use bollard::query_parameters::{ListContainersOptionsBuilder, ListImagesOptionsBuilder};
use tempfile::TempDir;
use wharf_docker::{
    BuildNetwork, BuildOwner, ImageBuild, ImageBuildError, ImageBuildLimits, ImageError, ImageId, SaveError,
};
use wharf_types::AppId;

use crate::support::{LIMIT, Test, eventually};

/// A repository whose images begin with the one of a test.
struct Repository {
    test: Test,
    base: String,
    folder: TempDir,
    build: ImageBuild,
}

impl Repository {
    async fn begin() -> Option<Self> {
        let test = Test::begin().await?;
        let found = test.raw.inspect_image(&test.image.to_string()).await.unwrap();
        let base = found.repo_tags.unwrap().remove(0);
        let folder = TempDir::new().unwrap();
        let build = ImageBuild {
            folder: folder.path().to_owned(),
            files: vec![PathBuf::from("said")],
            dockerfile: String::new(),
            args: BTreeMap::from([("GIT_REV".to_owned(), "abc".to_owned())]),
            owner: BuildOwner {
                builder: test.platform().to_owned(),
                repository: AppId::new(),
                service: None,
            },
            cache: None,
            network: BuildNetwork::None,
            limits: ImageBuildLimits {
                memory_max_bytes: 256 << 20,
                cpus: 1,
                written_max_bytes: 8 << 20,
                disk_free_min_bytes: 1,
            },
        };
        Some(Self { test, base, folder, build })
    }

    /// What a build of these steps comes to, and what it says.
    async fn build(&self, steps: &str) -> (Result<ImageId, ImageBuildError>, String) {
        self.build_until(steps, std::future::pending()).await
    }

    async fn build_until(
        &self,
        steps: &str,
        until: impl Future<Output = ()> + Send,
    ) -> (Result<ImageId, ImageBuildError>, String) {
        let dockerfile = format!("FROM {}\n{steps}\n", self.base);
        let build = ImageBuild { dockerfile, ..self.build.clone() };
        std::fs::write(self.folder.path().join("said"), "hello\n").unwrap();
        let mut said = String::new();
        let say = &mut |text: &str| {
            said.push_str(text);
            ControlFlow::Continue(())
        };
        let built = tokio::time::timeout(LIMIT, self.test.engine.build(&build, say, until)).await;
        (built.expect("it ends"), said)
    }

    /// Images without a name, and containers, that are of this test's image.
    async fn left(&self) -> usize {
        let all = ListImagesOptionsBuilder::new().all(true).build();
        let images = self.test.raw.list_images(Some(all)).await.unwrap();
        let mut ours = vec![self.test.image.to_string()];
        loop {
            let is_new = |id: &String, parent: &String| ours.contains(parent) && !ours.contains(id);
            let made = images.iter().filter(|image| is_new(&image.id, &image.parent_id));
            let made: Vec<String> = made.map(|image| image.id.clone()).collect();
            if made.is_empty() {
                break;
            }
            ours.extend(made);
        }
        let all = ListContainersOptionsBuilder::new().all(true).build();
        let containers = self.test.raw.list_containers(Some(all)).await.unwrap();
        let containers =
            containers.iter().filter(|it| it.image_id.as_ref().is_some_and(|id| ours.contains(id)));
        ours.len() - 1 + containers.count()
    }

    async fn clean(&self) {
        for built in self.test.engine.built(self.test.platform()).await.unwrap() {
            self.test.engine.remove_built(built.id).await.unwrap();
        }
        assert_eq!(self.left().await, 0, "nothing is left");
    }
}

#[tokio::test]
async fn a_folder_becomes_an_image_that_is_saved_and_removed() {
    let Some(repository) = Repository::begin().await else { return };
    let (built, said) = repository
        .build(&format!(
            "RUN echo stage >/stage\nFROM {}\nARG GIT_REV\nCOPY said /said\nCOPY --from=0 /stage /stage\nRUN cat /said /stage && echo rev $GIT_REV\nEXPOSE 8000",
            repository.base
        ))
        .await;
    let image = built.unwrap();
    assert!(said.contains("hello\nstage\n") && said.contains("rev abc\n"), "{said}");
    let engine = &repository.test.engine;
    assert_eq!(engine.image_config(image).await.unwrap().exposed_ports, ["8000/tcp"]);
    let [found] = &engine.built(repository.test.platform()).await.unwrap()[..] else { panic!("one") };
    assert_eq!((found.id, found.repository), (image, repository.build.owner.repository));
    assert!(engine.built("another").await.unwrap().is_empty());
    let archive = engine.save(image, 64 << 20).await.unwrap();
    assert_eq!(&archive[257..262], b"ustar");
    assert!(
        matches!(engine.save(image, 1 << 10).await, Err(SaveError::TooLarge { bytes }) if bytes > 1 << 10)
    );
    repository.clean().await;
}

#[tokio::test]
async fn only_the_image_before_saves_a_build_its_steps() {
    let Some(mut repository) = Repository::begin().await else { return };
    let steps = "RUN echo slow >/slow";
    let first = repository.build(steps).await.0.unwrap();
    let (again, said) = repository.build(steps).await;
    let again = again.unwrap();
    assert!(again != first && !said.contains("Using cache"), "{said}");
    repository.build.cache = Some(again);
    let (cached, said) = repository.build(&format!("{steps}\nRUN echo more")).await;
    assert!(cached.is_ok(), "{cached:?}: {said}");
    assert_eq!(said.matches("Using cache").count(), 1, "{said}");
    // The image to begin with says nothing of how it was made, so that the builder may not know its way to an older one.
    repository.build.cache = Some(first);
    let (cached, said) = repository.build(&format!("{steps}\nRUN echo other")).await;
    assert!(cached.is_ok(), "{cached:?}: {said}");
    repository.clean().await;
}

#[tokio::test]
async fn a_step_that_fails_leaves_nothing() {
    let Some(repository) = Repository::begin().await else { return };
    let (built, said) = repository.build("RUN echo first >/first\nRUN echo what is wrong && exit 7").await;
    let Err(ImageBuildError::Step { message, code }) = built else { panic!("{built:?}") };
    assert!(code == Some(7) && message.contains("exit 7") && said.contains("what is wrong"), "{message}");
    let (built, _) = repository.build("NONSENSE").await;
    assert!(matches!(built, Err(ImageBuildError::Step { code: None, .. })), "{built:?}");
    assert_eq!(repository.left().await, 0);
    repository.clean().await;
}

#[tokio::test]
async fn a_step_reaches_no_network_and_takes_no_more_than_it_may() {
    let Some(repository) = Repository::begin().await else { return };
    let (built, said) = repository.build("RUN cat /proc/net/dev; wget -T 2 -O- http://192.0.2.1/").await;
    assert!(matches!(built, Err(ImageBuildError::Step { .. })), "{built:?}");
    assert!(said.contains("lo:") && !said.contains("eth0"), "{said}");
    let endless = "RUN while dd if=/dev/zero bs=1M count=4 >>/much; do sleep 1; done";
    let (built, _) = repository.build(endless).await;
    assert!(matches!(built, Err(ImageBuildError::Written { .. })), "{built:?}");
    eventually("its container has gone", async || (repository.left().await == 0).then_some(())).await;
    repository.clean().await;
}

#[tokio::test]
async fn a_build_that_nobody_wants_any_more_ends_in_the_engine() {
    let Some(repository) = Repository::begin().await else { return };
    let (built, said) = repository
        .build_until("RUN echo kept >/kept\nRUN sleep 1234", tokio::time::sleep(Duration::from_secs(3)))
        .await;
    assert!(matches!(built, Err(ImageBuildError::Ended)), "{built:?}");
    assert!(said.contains("sleep 1234"), "{said}");
    eventually("its container has gone", async || (repository.left().await == 0).then_some(())).await;
    repository.clean().await;
}

#[tokio::test]
async fn an_image_to_begin_with_is_there_or_its_registry_is_named() {
    let Some(repository) = Repository::begin().await else { return };
    let engine = &repository.test.engine;
    let ensure = async |name: &str| engine.ensure_base(name, LIMIT, &mut || {}).await;
    assert!(ensure(&repository.base).await.unwrap().is_empty());
    let away = ensure("127.0.0.1:1/nobody/has:this").await;
    assert!(matches!(away, Err(ImageError::RegistryAway { .. })), "{away:?}");
    // The beginning of an ID is a name like any other, and no image of another one.
    let id = repository.test.image.to_string();
    let part = ensure(&format!("127.0.0.1:1/{}", &id[7..19])).await;
    assert!(matches!(part, Err(ImageError::RegistryAway { .. })), "{part:?}");
    repository.clean().await;
}
