//! A resource as a person writes it: the words of `wharf.toml`, with a kind and a name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{AppResource, ConfigResource, NamespaceResource, Resource, compact_spec};
use crate::digest::Digest;
use crate::name::{AppName, NamespaceName, SecretName};
use crate::secret::SecretValue;
use crate::spec::{
    AppSpec, ContainerSpec, EngineSpec, HttpSpec, InvalidSpec, LimitsSpec, OutboundSpec, PlacementSpec,
    ReserveSpec, RestartSpec, ReuseSpec, ScaleSpec, StopSpec, TcpSpec, UpdateSpec, VolumeSpec, root,
    validate_files, validate_mount,
};

/// One resource of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Document {
    Namespace(NamespaceDocument),
    Config(ConfigDocument),
    App(Box<AppDocument>),
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamespaceDocument {
    #[schema(inline)]
    pub kind: NamespaceKind,
    pub name: NamespaceName,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceKind {
    #[default]
    Namespace,
}

/// A config: a named value that apps of its namespace share, and that people may read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigDocument {
    #[schema(inline)]
    pub kind: ConfigKind,
    pub name: SecretName,
    /// Left out: the one that the command is about.
    #[serde(default)]
    pub namespace: Option<NamespaceName>,
    /// Text, at most 64 KiB. Either this or `file`.
    #[serde(default)]
    pub value: Option<String>,
    /// Instead of `value`: the path of a file that has it, relative to this file. It is taken as it is, with its last line break.
    #[serde(default)]
    pub file: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConfigKind {
    #[default]
    Config,
}

impl ConfigDocument {
    /// Checks what the field types alone do not.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        let problem = match (&self.value, &self.file) {
            (Some(_), Some(_)) => "`value` and `file` say two things; write one of them".to_owned(),
            (None, None) => "write the value, or the path of a `file` that has it".to_owned(),
            (None, Some(_)) => return Ok(()),
            (Some(value), None) => match SecretValue::new(value.clone().into_bytes()) {
                Ok(_) => return Ok(()),
                Err(error) => error.to_string(),
            },
        };
        Err(InvalidSpec::new("value", problem))
    }
}

/// An app, with the settings of a `wharf.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppDocument {
    #[schema(inline)]
    pub kind: AppKind,
    pub name: AppName,
    /// Left out: the one that the command is about.
    #[serde(default)]
    pub namespace: Option<NamespaceName>,
    /// `sha256:` and the digest of what the namespace has, or the path of a `.wasm` file, relative to this file, which is then pushed.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "target/wasm32-wasip2/release/hello.wasm")]
    pub artifact: Option<ArtifactSource>,
    /// Instead of `artifact`: the image of a container, such as `redis:7`. It is settled which one that is when this is applied.
    #[serde(default)]
    pub image: Option<String>,
    /// Environment variables of the guest. Values are plain text; at most 32 KiB in all.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Variables whose values are secrets of the namespace, by name. At most 100.
    #[serde(default)]
    pub secrets: BTreeMap<String, SecretName>,
    /// Variables whose values are configs of the namespace, by name. At most 100.
    #[serde(default)]
    pub configs: BTreeMap<String, SecretName>,
    /// Arguments of the guest, after its own name; at most 256, and 32 KiB in all.
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub http: HttpSpec,
    #[serde(default)]
    pub tcp: TcpSpec,
    /// Files that the guest can read.
    #[serde(default)]
    pub files: Option<FilesSource>,
    /// Folders that outlive instances and releases; at most 16.
    #[serde(default)]
    pub volumes: Vec<VolumeSpec>,
    /// Left out: an app that is there keeps the number of instances that it has; a new one has one.
    #[serde(default)]
    pub scale: Option<ScaleSpec>,
    #[serde(default)]
    pub placement: PlacementSpec,
    #[serde(default)]
    pub reserve: ReserveSpec,
    #[serde(default)]
    pub limits: LimitsSpec,
    #[serde(default)]
    pub restart: RestartSpec,
    #[serde(default)]
    pub update: UpdateSpec,
    #[serde(default)]
    pub stop: StopSpec,
    #[serde(default)]
    pub outbound: OutboundSpec,
    /// What the app calls others of its namespace by beside their own names. At most 256.
    #[serde(default)]
    pub names: BTreeMap<String, AppName>,
    #[serde(default)]
    pub reuse: ReuseSpec,
    #[serde(default)]
    pub engine: EngineSpec,
    /// Of an app whose artifact is an image.
    #[serde(default)]
    pub container: ContainerSpec,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AppKind {
    #[default]
    App,
}

/// Where an artifact is: with the platform, or in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ArtifactSource {
    Pushed(Digest),
    /// Relative to the file that names it.
    File(String),
}

impl TryFrom<String> for ArtifactSource {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if text.starts_with("sha256:") {
            return text.parse().map(Self::Pushed).map_err(|error| format!("{error}"));
        }
        if text.is_empty() || text.contains('\0') {
            return Err("write `sha256:` and a digest, or the path of a .wasm file".to_owned());
        }
        Ok(Self::File(text))
    }
}

impl From<ArtifactSource> for String {
    fn from(source: ArtifactSource) -> Self {
        match source {
            ArtifactSource::Pushed(digest) => digest.to_string(),
            ArtifactSource::File(path) => path,
        }
    }
}

/// Files that the app is shipped with: a folder, or what was pushed before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesSource {
    /// A folder, relative to this file. Either this or `digest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Of an archive that the namespace has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Where the guest sees them.
    #[serde(default = "root")]
    pub mount: String,
}

impl AppDocument {
    /// The app's settings, without the files, which get their digest when they are pushed.
    pub fn spec(&self) -> AppSpec {
        let Self {
            kind: _,
            name: _,
            namespace: _,
            artifact: _,
            image: _,
            env,
            secrets,
            configs,
            args,
            http,
            tcp,
            files: _,
            volumes,
            scale,
            placement,
            reserve,
            limits,
            restart,
            update,
            stop,
            outbound,
            names,
            reuse,
            engine,
            container,
        } = self.clone();
        AppSpec {
            env,
            secrets,
            configs,
            args,
            http,
            tcp,
            files: None,
            volumes,
            scale: scale.unwrap_or_default(),
            placement,
            reserve,
            limits,
            restart,
            update,
            stop,
            outbound,
            names,
            reuse,
            engine,
            container,
        }
    }

    /// Checks what the field types alone do not.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        self.spec().validate()?;
        let problem = match (&self.artifact, &self.image) {
            (Some(_), Some(_)) => Some("`artifact` and `image` say two things; write one of them"),
            (None, None) => Some("write the path or the digest of a component, or `image` for a container"),
            _ => None,
        };
        if let Some(problem) = problem {
            return Err(InvalidSpec::new("artifact", problem));
        }
        let Some(files) = &self.files else { return Ok(()) };
        validate_mount("files.mount", &files.mount)?;
        validate_files(&files.mount, &self.volumes)?;
        let problem = match (&files.path, &files.digest) {
            (Some(_), Some(_)) => "`path` and `digest` say two things; write one of them",
            (None, None) => "write the `path` of a folder, or the `digest` of what was pushed",
            _ => return Ok(()),
        };
        Err(InvalidSpec::new("files", problem))
    }
}

/// The document that applies without a change while the resource is as it is here.
pub fn document_of(resource: &Resource) -> Map<String, Value> {
    let mut document = Map::new();
    let id = resource.id();
    document.insert("kind".into(), id.kind.as_str().into());
    document.insert("name".into(), id.name.into());
    match resource {
        Resource::Namespace(NamespaceResource { name: _ }) => {}
        Resource::Config(ConfigResource { namespace, name: _, value }) => {
            document.insert("namespace".into(), namespace.as_str().into());
            document.insert("value".into(), value.as_str().into());
        }
        Resource::App(app) => {
            let AppResource { namespace, name: _, artifact, spec, keep_scale } = &**app;
            document.insert("namespace".into(), namespace.as_str().into());
            document.insert("artifact".into(), artifact.to_string().into());
            let mut settings = compact_spec(spec);
            if *keep_scale {
                settings.remove("scale");
            }
            document.extend(settings);
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document(text: Value) -> AppDocument {
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn an_app_has_the_settings_of_a_manifest() {
        let document = document(json!({
            "kind": "app", "name": "hello", "artifact": "hello.wasm",
            "http": {"routes": ["hello.example.com"]}, "limits": {"memory": "64MiB"}, "env": {"A": "1"},
        }));
        let manifest = crate::manifest::Manifest::parse(
            "app = \"hello\"\n[http]\nroutes = [\"hello.example.com\"]\n[limits]\nmemory = \"64MiB\"\n[env]\nA = \"1\"\n",
        );
        assert_eq!(document.spec(), manifest.unwrap().spec());
        assert_eq!(document.artifact, Some(ArtifactSource::File("hello.wasm".into())));
    }

    #[test]
    fn an_artifact_is_a_digest_or_a_path() {
        let digest = Digest::of(b"x");
        let source = |text: &str| ArtifactSource::try_from(text.to_owned());
        assert_eq!(source(&digest.to_string()), Ok(ArtifactSource::Pushed(digest)));
        assert!(source("sha256:12").is_err() && source("").is_err());
        assert_eq!(source("a b.wasm"), Ok(ArtifactSource::File("a b.wasm".into())));
    }

    #[test]
    fn files_are_a_folder_or_a_digest_and_not_both() {
        let with = |files: Value| {
            document(json!({"kind": "app", "name": "a", "artifact": "a.wasm", "files": files})).validate()
        };
        assert!(with(json!({"path": "public"})).is_ok());
        assert!(with(json!({"digest": Digest::of(b"")})).is_ok());
        assert!(with(json!({})).is_err());
        assert!(with(json!({"path": "public", "digest": Digest::of(b"")})).is_err());
    }

    #[test]
    fn a_config_has_a_value_or_a_file_and_not_both() {
        let with = |more: Value| {
            let mut document = json!({"kind": "config", "name": "greeting"});
            document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value::<ConfigDocument>(document).unwrap().validate()
        };
        assert!(with(json!({"value": "hi"})).is_ok() && with(json!({"file": "settings.json"})).is_ok());
        let both = with(json!({"value": "hi", "file": "settings.json"})).unwrap_err();
        assert_eq!(both.field, "value");
        assert!(with(json!({})).is_err());
        assert!(with(json!({"value": ""})).unwrap_err().to_string().contains("the value is empty"));
    }

    #[test]
    fn what_is_printed_of_a_config_is_read_as_the_same() {
        let resource = Resource::Config(ConfigResource {
            namespace: "team".parse().unwrap(),
            name: "greeting".parse().unwrap(),
            value: "good\nmorning".to_owned(),
        });
        let read: ConfigDocument = serde_json::from_value(Value::Object(document_of(&resource))).unwrap();
        assert_eq!((read.value.as_deref(), read.file), (Some("good\nmorning"), None));
        assert_eq!((read.name.as_str(), read.namespace.unwrap().as_str()), ("greeting", "team"));
    }

    #[test]
    fn what_is_printed_of_an_app_is_read_as_the_same() {
        let mut spec = AppSpec::default();
        spec.args.push("x".into());
        spec.scale.replicas = 4.into();
        let resource = Resource::App(Box::new(AppResource {
            namespace: "team".parse().unwrap(),
            name: "hello".parse().unwrap(),
            artifact: Digest::of(b""),
            spec: spec.clone(),
            keep_scale: false,
        }));
        let read = document(Value::Object(document_of(&resource)));
        assert_eq!(read.spec(), spec);
        assert_eq!((read.name.as_str(), read.namespace.unwrap().as_str()), ("hello", "team"));
    }
}
