//! Artifacts and files that declared apps name by path: pushed, unless the platform has them, and named by digest from then on; and values of
//! configs that are in files.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::Bytes;
use wharf_types::declare::document::{AppDocument, ArtifactSource, ConfigDocument, Document};
use wharf_types::declare::{AppResource, ConfigResource, NamespaceResource, Resource};
use wharf_types::secret::{SecretValue, VALUE_MAX_BYTES};
use wharf_types::spec::FilesSpec;
use wharf_types::{Digest, NamespaceName};

use super::load::{Declared, Faults, Files};
use super::node::Fault;
use crate::artifact;
use crate::exit::{Exit, Failure};
use crate::files;
use crate::output;
use crate::session::Session;

/// The resources as the platform takes them. Everything that can be wrong with a path is told before anything is pushed.
pub async fn resolve(session: &Session, files: &Files) -> anyhow::Result<Vec<Resource>> {
    let found = Found::read(files)?;
    let mut push = Push { session, found: &found, there: None, homes: HashMap::new(), done: HashSet::new() };
    let mut resources = Vec::with_capacity(files.resources.len());
    for declared in &files.resources {
        resources.push(match &declared.document {
            Document::Namespace(document) => {
                Resource::Namespace(NamespaceResource { name: document.name.clone() })
            }
            Document::Config(config) => {
                let folder = &files.sources[declared.source].folder;
                Resource::Config(found.config(declared, config, folder)?)
            }
            Document::App(app) => {
                let folder = &files.sources[declared.source].folder;
                Resource::App(Box::new(push.app(declared, app, folder, files).await?))
            }
        });
    }
    Ok(resources)
}

/// What was read of the paths, by path.
#[derive(Default)]
struct Found {
    artifacts: HashMap<PathBuf, Digest>,
    folders: HashMap<PathBuf, Digest>,
    /// Of configs.
    values: HashMap<PathBuf, String>,
}

impl Found {
    fn read(files: &Files) -> anyhow::Result<Self> {
        let mut found = Self::default();
        let mut faults = Faults::default();
        for declared in &files.resources {
            let folder = &files.sources[declared.source].folder;
            let app = match &declared.document {
                Document::Namespace(_) => continue,
                Document::Config(config) => {
                    if let Err(error) = found.read_value(config, folder) {
                        let message = format!("config `{}`: file: {error:#}", config.name);
                        let place = declared.node.place_of("file");
                        faults.push(declared.source, Fault::new(place, message));
                    }
                    continue;
                }
                Document::App(app) => app,
            };
            let mut fault = |field: &str, error: anyhow::Error| {
                let message = format!("app `{}`: {field}: {error:#}", app.name);
                faults.push(declared.source, Fault::new(declared.node.place_of(field), message));
            };
            if let Some(ArtifactSource::File(path)) = &app.artifact
                && let Entry::Vacant(place) = found.artifacts.entry(folder.join(path))
            {
                match artifact::read(place.key()) {
                    Ok(content) => {
                        place.insert(Digest::of(&content));
                    }
                    Err(error) => fault("artifact", error),
                }
            }
            if let Some(path) = app.files.as_ref().and_then(|files| files.path.as_ref())
                && let Entry::Vacant(place) = found.folders.entry(folder.join(path))
            {
                match files::pack(place.key()) {
                    Ok(archive) => {
                        place.insert(Digest::of(&archive));
                    }
                    Err(error) => fault("files.path", error),
                }
            }
        }
        match faults.into_failure(&files.sources) {
            Some(failure) => Err(failure.into()),
            None => Ok(found),
        }
    }

    fn read_value(&mut self, config: &ConfigDocument, folder: &Path) -> anyhow::Result<()> {
        let Some(path) = config.file.as_ref().map(|path| folder.join(path)) else { return Ok(()) };
        if let Entry::Vacant(place) = self.values.entry(path) {
            let path = place.key();
            let reading = || format!("could not read {}", path.display());
            let mut octets = Vec::new();
            // One more than there may be tells that there are too many.
            let file = std::fs::File::open(path).with_context(reading)?;
            file.take(VALUE_MAX_BYTES as u64 + 1).read_to_end(&mut octets).with_context(reading)?;
            let value = SecretValue::new(octets)?.reveal().to_owned();
            place.insert(value);
        }
        Ok(())
    }

    fn config(
        &self,
        declared: &Declared,
        config: &ConfigDocument,
        folder: &Path,
    ) -> anyhow::Result<ConfigResource> {
        let read = config.file.as_ref().and_then(|path| self.values.get(&folder.join(path)));
        let value = config.value.as_ref().or(read).cloned().context("the value was read before")?;
        Ok(ConfigResource { namespace: declared.namespace.clone(), name: config.name.clone(), value })
    }
}

struct Push<'a> {
    session: &'a Session,
    found: &'a Found,
    /// Namespaces that there are. None: not asked yet.
    there: Option<Vec<NamespaceName>>,
    /// Where the content of each namespace goes.
    homes: HashMap<NamespaceName, Option<NamespaceName>>,
    /// What is there for sure.
    done: HashSet<(NamespaceName, Digest)>,
}

impl Push<'_> {
    async fn app(
        &mut self,
        declared: &Declared,
        app: &AppDocument,
        folder: &Path,
        files: &Files,
    ) -> anyhow::Result<AppResource> {
        let mut spec = app.spec();
        let artifact = match &app.artifact {
            None => self.image(declared, app, files).await?,
            Some(ArtifactSource::Pushed(digest)) => *digest,
            Some(ArtifactSource::File(path)) => {
                let path = folder.join(path);
                let digest = self.found.artifacts.get(&path).copied();
                let digest = digest.context("the artifact was read before")?;
                if let Some(home) = self.home(declared, files).await? {
                    self.artifact(home, &path, digest).await?;
                }
                digest
            }
        };
        if let Some(source) = &app.files {
            let digest = match (&source.path, source.digest) {
                (Some(path), _) => {
                    let path = folder.join(path);
                    let digest = self.found.folders.get(&path).copied();
                    let digest = digest.context("the folder was read before")?;
                    if let Some(home) = self.home(declared, files).await? {
                        self.folder(home, &path, digest).await?;
                    }
                    digest
                }
                (None, digest) => digest.context("files have a path or a digest")?,
            };
            spec.files = Some(FilesSpec { digest, mount: source.mount.clone() });
        }
        let keep_scale = app.scale.is_none();
        Ok(AppResource {
            namespace: declared.namespace.clone(),
            name: app.name.clone(),
            artifact,
            spec,
            keep_scale,
        })
    }

    /// Where the content of an app goes. A namespace that is yet to be made takes it from any other. None: the namespace is neither
    /// there nor declared, which the platform will say.
    async fn home(&mut self, declared: &Declared, files: &Files) -> anyhow::Result<Option<NamespaceName>> {
        if self.there.is_none() {
            let known = self.session.client.namespaces().await?;
            self.there = Some(known.into_iter().map(|info| info.name).collect());
        }
        let there = self.there.iter().flatten();
        let name = &declared.namespace;
        let home = self.homes.entry(name.clone()).or_insert_with(|| {
            if there.clone().any(|known| known == name) {
                return Some(name.clone());
            }
            let makes =
                |other: &Declared| matches!(&other.document, Document::Namespace(made) if made.name == *name);
            there.clone().next().filter(|_| files.resources.iter().any(makes)).cloned()
        });
        Ok(home.clone())
    }

    /// Settles which image it is now. That is an artifact like any other.
    async fn image(
        &mut self,
        declared: &Declared,
        app: &AppDocument,
        files: &Files,
    ) -> anyhow::Result<Digest> {
        let image = app.image.as_deref().context("an app has an artifact or an image")?;
        let Some(home) = self.home(declared, files).await? else {
            let message = format!("there is no namespace `{}`", declared.namespace);
            return Err(Failure::new(Exit::NotFound, message).into());
        };
        let client = &self.session.client;
        let spec = app.spec();
        let document = client.resolve_image(&home, image, spec.registry_login()).await;
        let document = document.with_context(|| format!("app `{}`: image `{image}`", app.name))?;
        let octets: Bytes = document.to_octets().into();
        let digest = Digest::of(&octets);
        if self.done.insert((home.clone(), digest)) && client.find_artifact(&home, digest).await?.is_none() {
            client.put_artifact(&home, digest, octets, |_| {}).await?;
        }
        Ok(digest)
    }

    async fn artifact(&mut self, home: NamespaceName, path: &Path, digest: Digest) -> anyhow::Result<()> {
        if !self.done.insert((home.clone(), digest)) {
            return Ok(());
        }
        let client = &self.session.client;
        if client.find_artifact(&home, digest).await?.is_none() {
            let content = artifact::read(path)?;
            let bytes = content.len() as u64;
            self.tell(path, bytes);
            let pushed = client.put_artifact(&home, digest, content, |_| {}).await;
            pushed.with_context(|| format!("could not push {}", path.display()))?;
        }
        Ok(())
    }

    async fn folder(&mut self, home: NamespaceName, path: &Path, digest: Digest) -> anyhow::Result<()> {
        if !self.done.insert((home.clone(), digest)) {
            return Ok(());
        }
        let archive: Bytes = files::pack(path)?;
        let pushed = self.session.client.ensure_files(&home, digest, archive, |_| {}).await;
        pushed.with_context(|| format!("could not push the files of {}", path.display()))?;
        Ok(())
    }

    fn tell(&self, path: &Path, bytes: u64) {
        if !self.session.json {
            output::note(format!("pushing {} ({})", path.display(), output::bytes(bytes)));
        }
    }
}
