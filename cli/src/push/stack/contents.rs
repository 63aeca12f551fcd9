//! What the services of a stack run, built or found, and given to the platform.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;

use anyhow::Context as _;
use bytes::Bytes;
use wharf_builder::{Containers, Folder, Recipe};
use wharf_compose::Build;
use wharf_compose::translate::App;
use wharf_types::declare::document::ArtifactSource;
use wharf_types::declare::{AppResource, NamespaceResource, Resource};
use wharf_types::spec::FilesSpec;
use wharf_types::{AppName, Digest, NamespaceName, SecretName};

use super::Stack;
use super::reading::Reading;
use crate::app_ref::AppRef;
use crate::commands::deploy;
use crate::exit::{self, Exit, Failure};
use crate::output;
use crate::push::image::ImageSource;
use crate::push::{cancelled, pack, read};

/// What a Dockerfile is called where nobody says it.
const DOCKERFILE: &str = "Dockerfile";

/// What the services run and are, once all of it is with the platform.
pub(super) struct Contents {
    pub(super) apps: BTreeMap<AppName, AppResource>,
    pub(super) jobs: BTreeMap<AppName, Digest>,
}

/// The artifacts that were pushed and read, by where they are: several services may run the same one.
type Known = HashMap<PathBuf, Digest>;

/// What a service says that it runs.
struct Wanted<'a> {
    service: &'a str,
    image: Option<&'a str>,
    artifact: Option<&'a ArtifactSource>,
    /// The secret that opens the registry of the image.
    login: Option<&'a SecretName>,
}

impl Contents {
    /// The apps that are wanted, or, where there are none, what a plan needs to look at the set alone.
    pub(super) fn resources(
        &self,
        namespace: &NamespaceName,
        is_wanted: impl Fn(&AppName) -> bool,
    ) -> Vec<Resource> {
        let wanted = self.apps.values().filter(|app| is_wanted(&app.name));
        let mut resources: Vec<Resource> = wanted.map(|app| Resource::App(Box::new(app.clone()))).collect();
        if resources.is_empty() {
            resources.push(Resource::Namespace(NamespaceResource { name: namespace.clone() }));
        }
        resources
    }
}

impl Stack<'_> {
    /// The artifacts of the services that are built, one after the other.
    pub(super) async fn build(&self, reading: &Reading) -> anyhow::Result<BTreeMap<String, Digest>> {
        let mut built = BTreeMap::new();
        for build in &reading.builds {
            if self.cancel.is_cancelled() {
                return Err(cancelled());
            }
            self.teller.step(&format!("Service {}", build.service));
            let content = self.build_one(reading, build).await;
            let content =
                content.with_context(|| format!("{}: the service `{}`", build.place, build.service))?;
            let digest = self.push(&build.service, content).await?;
            built.insert(build.service.clone(), digest);
        }
        let images = reading.builds.iter().filter(|build| !build.is_component);
        let services: HashSet<&str> = images.map(|build| build.service.as_str()).collect();
        // A preview may have fewer of them than the stack.
        if !self.pushed.is_preview {
            self.deployer.keep_services(self.pushed, &services).await;
        }
        Ok(built)
    }

    async fn build_one(&self, reading: &Reading, build: &Build) -> anyhow::Result<Bytes> {
        let folder = reading.find(&build.context)?;
        let &Self { deployer, pushed, teller, cancel, .. } = self;
        if !build.is_component {
            let file = build.dockerfile.as_deref().unwrap_or(DOCKERFILE);
            let context = reading.in_tree(&build.context);
            let context = context.trim_end_matches('/');
            let shown = if context.is_empty() { file.to_owned() } else { format!("{context}/{file}") };
            let source = ImageSource {
                folder,
                file: file.to_owned(),
                shown,
                args: build.args.clone(),
                service: Some(build.service.clone()),
            };
            let images = deployer.images(&source.shown)?;
            let made = images.build(&source, pushed, deployer.place(cancel), teller, cancel).await?;
            return Ok(made.archive);
        }
        let tree = Folder::open(&folder)?;
        let detected = tokio::task::spawn_blocking(move || wharf_builder::detect(&tree, Containers::Allowed));
        let detection = detected.await?.map_err(|error| Failure::invalid(error.to_string()))?;
        teller.detail(&detection.to_string());
        if matches!(detection.recipe, Recipe::Containers { .. } | Recipe::Stack { .. }) {
            return Err(Failure::invalid("no component comes of it")
                .help("say how with `[build]` in a wharf.toml there, or leave `platform` out for an image")
                .into());
        }
        let whose = (folder.as_path(), Some(build.service.as_str()));
        read(deployer.build(&detection, whose, pushed, teller, cancel).await?).await
    }

    /// Gives content to the platform, unless it has it.
    async fn push(&self, service: &str, content: Bytes) -> anyhow::Result<Digest> {
        let bytes = content.len() as u64;
        let hashed = tokio::task::spawn_blocking(move || (Digest::of(&content), content));
        let (digest, content) = hashed.await?;
        deploy::push(self.session, self.namespace(), digest, content).await?;
        self.teller.detail(&format!(
            "{service}: artifact sha256:{} ({})",
            digest.short(),
            output::bytes(bytes)
        ));
        Ok(digest)
    }

    pub(super) async fn contents(
        &self,
        reading: &Reading,
        built: &BTreeMap<String, Digest>,
    ) -> anyhow::Result<Contents> {
        let mut contents = Contents { apps: BTreeMap::new(), jobs: BTreeMap::new() };
        let mut known = Known::new();
        for app in &reading.translation.apps {
            let resource = self.app((reading, built), &mut known, app).await;
            let resource =
                resource.with_context(|| format!("{}: the service `{}`", app.place, app.service))?;
            contents.apps.insert(app.document.name.clone(), resource);
        }
        for job in &reading.translation.jobs {
            let login = job.spec.container.registry_login.as_ref();
            let wanted = Wanted {
                service: &job.service,
                image: job.image.as_deref(),
                artifact: job.artifact.as_ref(),
                login: login.and_then(|variable| job.spec.secrets.get(variable)),
            };
            let digest = self.artifact((reading, built), &mut known, wanted).await;
            let digest = digest.with_context(|| format!("{}: the service `{}`", job.place, job.service))?;
            contents.jobs.insert(job.name.clone(), digest);
        }
        Ok(contents)
    }

    async fn app(
        &self,
        (reading, built): (&Reading, &BTreeMap<String, Digest>),
        known: &mut Known,
        app: &App,
    ) -> anyhow::Result<AppResource> {
        let document = &app.document;
        let mut spec = document.spec();
        let wanted = Wanted {
            service: &app.service,
            image: document.image.as_deref(),
            artifact: document.artifact.as_ref(),
            login: spec.registry_login(),
        };
        let artifact = self.artifact((reading, built), known, wanted).await?;
        if let Some(source) = &document.files {
            let path = source.path.as_deref().context("the files of a service are a folder")?;
            let archive = pack(reading.find(path)?).await?;
            let whose = AppRef { namespace: self.namespace().clone(), app: document.name.clone() };
            let digest = deploy::push_files(self.session, &whose, archive).await?;
            spec.files = Some(FilesSpec { digest, mount: source.mount.clone() });
        }
        Ok(AppResource {
            namespace: self.namespace().clone(),
            name: document.name.clone(),
            artifact,
            spec,
            keep_scale: document.scale.is_none(),
        })
    }

    async fn artifact(
        &self,
        (reading, built): (&Reading, &BTreeMap<String, Digest>),
        known: &mut Known,
        wanted: Wanted<'_>,
    ) -> anyhow::Result<Digest> {
        if self.cancel.is_cancelled() {
            return Err(cancelled());
        }
        if let Some(digest) = built.get(wanted.service) {
            return Ok(*digest);
        }
        match (wanted.image, wanted.artifact) {
            (Some(image), _) => {
                let client = &self.session.client;
                let document = client.resolve_image(self.namespace(), image, wanted.login).await;
                let is_of_file = |login: &&SecretName| reading.values.iter().any(|it| it.name == **login);
                let document =
                    document.map_err(|error| not_opened(error, wanted.login.filter(is_of_file)))?;
                self.push(wanted.service, document.to_octets().into()).await
            }
            (None, Some(ArtifactSource::Pushed(digest))) => Ok(*digest),
            (None, Some(ArtifactSource::File(path))) => {
                let found = reading.artifact(path);
                let file = found.map_err(|error| Failure::invalid(error.to_string()))?;
                if let Some(digest) = known.get(&file) {
                    self.teller.detail(&format!("{}: artifact sha256:{}", wanted.service, digest.short()));
                    return Ok(*digest);
                }
                let digest = self.push(wanted.service, read(file.clone()).await?).await?;
                known.insert(file, digest);
                Ok(digest)
            }
            (None, None) => Err(Failure::invalid("it has nothing to run").into()),
        }
    }
}

/// An image that was not found. The secret that opens its registry may have another value in the file, which is not set yet.
fn not_opened(error: anyhow::Error, of_file: Option<&SecretName>) -> anyhow::Error {
    let Some(login) = of_file else { return error };
    let (text, help) = exit::told(&error);
    let hint = format!(
        "a value that the namespace has is changed only after images were found: if `{login}` has another one in the file, \
         set that first with `wharf secret set {login}`"
    );
    let help = help.map_or(hint.clone(), |help| format!("{help}\n{hint}"));
    Failure::new(Exit::of(&error), text).help(help).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_whose_registry_may_have_another_login_in_the_file_says_how_to_set_it() {
        let refused = || Failure::new(Exit::Refused, "the registry refuses the login").help("mend it");
        let error = not_opened(refused().into(), None);
        assert_eq!(exit::told(&error).1.as_deref(), Some("mend it"));
        let error = not_opened(refused().into(), Some(&"hub".parse().unwrap()));
        assert_eq!(
            (Exit::of(&error), error.to_string().as_str()),
            (Exit::Refused, "the registry refuses the login")
        );
        let help = exit::told(&error).1.unwrap();
        assert!(help.starts_with("mend it\n") && help.contains("`wharf secret set hub`"), "{help}");
    }
}
