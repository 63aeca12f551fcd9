//! What the services of a stack run: found on this machine before anything is changed, and then given to the platform.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use anyhow::Context as _;
use bytes::Bytes;
use wharf_compose::translate::{App, Job};
use wharf_compose::{Place, Project, Translation};
use wharf_types::declare::AppResource;
use wharf_types::declare::document::ArtifactSource;
use wharf_types::spec::FilesSpec;
use wharf_types::{AppName, Digest, NamespaceName, SecretName};

use crate::app_ref::AppRef;
use crate::artifact;
use crate::commands::deploy;
use crate::exit::Failure;
use crate::files;
use crate::output;
use crate::session::Session;

/// The files that a stack names, as they are now.
#[derive(Debug)]
pub(super) struct Found {
    /// Of the project, without anything that depends on where this runs.
    folder: PathBuf,
    artifacts: HashMap<PathBuf, Digest>,
}

/// What the services run and are, once all of it is with the platform.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) apps: Vec<AppResource>,
    pub(super) jobs: BTreeMap<AppName, Digest>,
}

/// What a service says that it runs.
struct Wanted<'a> {
    service: &'a str,
    place: &'a Place,
    image: Option<&'a str>,
    artifact: Option<&'a ArtifactSource>,
    /// The secret that opens the registry of the image.
    login: Option<&'a SecretName>,
}

impl<'a> Wanted<'a> {
    fn of_app(app: &'a App, login: Option<&'a SecretName>) -> Self {
        let document = &app.document;
        let (image, artifact) = (document.image.as_deref(), document.artifact.as_ref());
        Self { service: &app.service, place: &app.place, image, artifact, login }
    }

    fn of_job(job: &'a Job) -> Self {
        let login = job.spec.container.registry_login.as_ref();
        let login = login.and_then(|variable| job.spec.secrets.get(variable));
        let (image, artifact) = (job.image.as_deref(), job.artifact.as_ref());
        Self { service: &job.service, place: &job.place, image, artifact, login }
    }

    fn what(&self) -> String {
        format!("{}: the service `{}`", self.place, self.service)
    }
}

/// The images that were looked for, with the secrets that opened their registries.
type Images = HashMap<(String, Option<SecretName>), Digest>;

impl Found {
    /// Reads all files. What is wrong with them is added to the faults.
    pub(super) fn read(
        project: &Project,
        translation: &Translation,
        folder: PathBuf,
        faults: &mut Vec<String>,
    ) -> Self {
        let mut artifacts = HashMap::new();
        let apps = translation.apps.iter().map(|app| Wanted::of_app(app, None));
        for wanted in apps.chain(translation.jobs.iter().map(Wanted::of_job)) {
            let Some(ArtifactSource::File(path)) = wanted.artifact else { continue };
            let Entry::Vacant(entry) = artifacts.entry(folder.join(path)) else { continue };
            match artifact::read(entry.key()) {
                Ok(content) => {
                    entry.insert(Digest::of(&content));
                }
                Err(error) => {
                    let place = project.place_in_service(wanted.service, "image");
                    faults.push(format!("{place}: the service `{}`: {error:#}", wanted.service));
                }
            }
        }
        for app in &translation.apps {
            let path = app.document.files.as_ref().and_then(|files| files.path.as_ref());
            if let Some(Err(error)) = path.map(|path| files::pack(&folder.join(path))) {
                let place = project.place_in_service(&app.service, "volumes");
                faults.push(format!("{place}: the service `{}`: {error:#}", app.service));
            }
        }
        Self { folder, artifacts }
    }

    /// Gives everything to the platform that it does not have, and settles which image each name means now.
    pub(super) async fn push(
        &self,
        session: &Session,
        namespace: &NamespaceName,
        translation: &Translation,
    ) -> anyhow::Result<Contents> {
        let mut contents = Contents { apps: Vec::new(), jobs: BTreeMap::new() };
        let mut images = Images::new();
        for app in &translation.apps {
            let resource = self.app((session, namespace), &mut images, app).await;
            contents.apps.push(resource.with_context(|| Wanted::of_app(app, None).what())?);
        }
        for job in &translation.jobs {
            let wanted = Wanted::of_job(job);
            let digest = self.artifact((session, namespace), &mut images, &wanted).await;
            contents.jobs.insert(job.name.clone(), digest.with_context(|| wanted.what())?);
        }
        Ok(contents)
    }

    async fn app(
        &self,
        (session, namespace): (&Session, &NamespaceName),
        images: &mut Images,
        app: &App,
    ) -> anyhow::Result<AppResource> {
        let document = &app.document;
        let mut spec = document.spec();
        let wanted = Wanted::of_app(app, spec.registry_login());
        let artifact = self.artifact((session, namespace), images, &wanted).await?;
        if let Some(source) = &document.files {
            let path = source.path.as_deref().context("the files of a service are a folder")?;
            let whose = AppRef { namespace: namespace.clone(), app: document.name.clone() };
            let digest = deploy::push_files(session, &whose, files::pack(&self.folder.join(path))?).await?;
            spec.files = Some(FilesSpec { digest, mount: source.mount.clone() });
        }
        Ok(AppResource {
            namespace: namespace.clone(),
            name: document.name.clone(),
            artifact,
            spec,
            keep_scale: document.scale.is_none(),
        })
    }

    async fn artifact(
        &self,
        (session, namespace): (&Session, &NamespaceName),
        images: &mut Images,
        wanted: &Wanted<'_>,
    ) -> anyhow::Result<Digest> {
        match (wanted.image, wanted.artifact) {
            (Some(image), _) => {
                let key = (image.to_owned(), wanted.login.cloned());
                if let Some(known) = images.get(&key) {
                    return Ok(*known);
                }
                let document = session.client.resolve_image(namespace, image, wanted.login).await;
                let content: Bytes = document.with_context(|| format!("image `{image}`"))?.to_octets().into();
                let digest = Digest::of(&content);
                deploy::push(session, namespace, digest, content).await?;
                images.insert(key, digest);
                Ok(digest)
            }
            (None, Some(ArtifactSource::Pushed(digest))) => Ok(*digest),
            (None, Some(ArtifactSource::File(path))) => {
                let path = self.folder.join(path);
                let digest = self.artifacts.get(&path).copied().context("the artifact was read before")?;
                if session.client.find_artifact(namespace, digest).await?.is_none() {
                    let content = artifact::read(&path)?;
                    if !session.json {
                        let bytes = output::bytes(content.len() as u64);
                        output::note(format!("pushing {} ({bytes})", path.display()));
                    }
                    deploy::push(session, namespace, digest, content).await?;
                }
                Ok(digest)
            }
            (None, None) => Err(Failure::invalid("it has nothing to run").into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::stack::fixture::{project, translation};

    #[test]
    fn every_file_that_is_not_there_is_told_with_its_line_before_anything_is_sent() {
        let text = "services:\n  here:\n    image: here.wasm\n  gone:\n    image: gone.wasm\n    volumes: ['./site:/site:ro']\n  db:\n    image: redis:7\n  \
                    once:\n    image: once.wasm\n    deploy: {mode: replicated-job}\n";
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("here.wasm"), b"\0asm\x01\0\0\0").unwrap();
        let mut faults = Vec::new();
        let (project, translation) = (project(text), translation(text));
        let found = Found::read(&project, &translation, folder.path().to_owned(), &mut faults);
        assert_eq!(found.artifacts.len(), 1);
        faults.sort();
        for (fault, start) in faults.iter().zip([
            "compose.yaml:10:5: the service `once`: there is no file",
            "compose.yaml:5:5: the service `gone`: there is no file",
            "compose.yaml:6:5: the service `gone`: there is no folder",
        ]) {
            assert!(fault.starts_with(start), "{fault}");
        }
        assert_eq!(faults.len(), 3, "{faults:?}");
    }
}
