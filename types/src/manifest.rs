//! `wharf.toml`: the file in an app's folder.
//!
//! The manifest is the app's spec in TOML, with a name and a build. Unknown keys are refused by name and line.

use serde::{Deserialize, Serialize};

use crate::name::{AppName, NamespaceName, SecretName};
use crate::quantity::Span;
use crate::spec::{
    AppSpec, ContainerSpec, EngineSpec, HttpSpec, InvalidSpec, LimitsSpec, OutboundSpec, PlacementSpec,
    ReserveSpec, RestartSpec, ReuseSpec, ScaleSpec, StopSpec, TcpSpec, UpdateSpec, VolumeSpec, root,
    validate_files, validate_mount,
};

pub const FILE_NAME: &str = "wharf.toml";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub app: AppName,
    pub namespace: Option<NamespaceName>,
    /// The image of a container, such as `redis:7`, in place of a component.
    pub image: Option<String>,
    pub build: Option<BuildSpec>,
    pub release: Option<ReleaseCommand>,
    #[serde(default)]
    pub env: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    pub secrets: std::collections::BTreeMap<String, SecretName>,
    #[serde(default)]
    pub configs: std::collections::BTreeMap<String, SecretName>,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub http: HttpSpec,
    #[serde(default)]
    pub tcp: TcpSpec,
    pub files: Option<FilesFolder>,
    #[serde(default)]
    pub volumes: Vec<VolumeSpec>,
    #[serde(default)]
    pub scale: ScaleSpec,
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
    #[serde(default)]
    pub names: std::collections::BTreeMap<String, AppName>,
    #[serde(default)]
    pub reuse: ReuseSpec,
    #[serde(default)]
    pub engine: EngineSpec,
    #[serde(default)]
    pub container: ContainerSpec,
}

/// How the artifact comes about, run in the manifest's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildSpec {
    /// A shell command. Left out: nothing is built, the artifact is there.
    pub command: Option<String>,
    /// Path of the `.wasm` file, relative to the manifest.
    pub artifact: Option<String>,
    /// Path of a Dockerfile, relative to the manifest: what a container engine builds of this folder.
    pub dockerfile: Option<String>,
    /// Path of a Compose file, relative to the manifest: a push deploys its services.
    pub compose: Option<String>,
}

impl BuildSpec {
    fn validate(&self) -> Result<(), InvalidSpec> {
        let files =
            [("dockerfile", &self.dockerfile, "Dockerfile"), ("compose", &self.compose, "compose.yaml")];
        let named = files.iter().filter(|(_, path, _)| path.is_some()).count();
        for (key, path, example) in files {
            let Some(path) = path else { continue };
            let invalid = |problem: String| InvalidSpec::new(format!("build.{key}"), problem);
            if self.command.is_some() || self.artifact.is_some() || named > 1 {
                let problem = "says all that there is to build, so it stands alone in `build`";
                return Err(invalid(problem.to_owned()));
            }
            let is_within = |part: &str| !matches!(part, "" | "." | "..");
            if !path.split('/').all(is_within) {
                let problem = format!("is a path in this folder, such as `{example}` or `deploy/{example}`");
                return Err(invalid(problem));
            }
        }
        Ok(())
    }
}

/// What runs once, as a job, before a release takes over. If it fails, there is no release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseCommand {
    /// Arguments of the guest.
    #[serde(default)]
    pub command: Vec<String>,
    /// Path of a `.wasm` file with the command, relative to the manifest. Left out: the app's own artifact, which then has to be a command.
    pub artifact: Option<String>,
    /// How long it may take.
    #[serde(default = "release_timeout")]
    pub timeout: Span,
}

fn release_timeout() -> Span {
    Span::from_secs(600)
}

/// A folder that is shipped with the app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesFolder {
    /// Relative to the manifest.
    pub path: String,
    /// Where the guest sees it.
    #[serde(default = "root")]
    pub mount: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The source names the key and draws the line.
    #[error("the manifest is not valid")]
    Syntax(#[from] toml::de::Error),
    #[error(transparent)]
    Spec(#[from] InvalidSpec),
}

impl Manifest {
    /// Stops at the first error. Whoever shows errors to people reads it with `wharf`'s reader of declared files, which finds all of them.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let manifest: Self = toml::from_str(text)?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// Checks what the field types alone do not.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        self.spec().validate()?;
        if self.image.is_some() && (self.build.is_some() || self.files.is_some()) {
            let problem =
                "is a container, which has neither `build` nor `files`; write one of them".to_owned();
            return Err(InvalidSpec::new("image", problem));
        }
        self.build.as_ref().map_or(Ok(()), BuildSpec::validate)?;
        if let Some(files) = &self.files {
            validate_mount("files.mount", &files.mount)?;
            validate_files(&files.mount, &self.volumes)?;
        }
        Ok(())
    }

    /// The app's settings, without name and build, and without the files, which get their digest when they are pushed.
    pub fn spec(&self) -> AppSpec {
        let Self {
            app: _,
            namespace: _,
            image: _,
            build: _,
            release: _,
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_becomes_a_spec() {
        let manifest = Manifest::parse(
            r#"
            app = "hello"
            [build]
            command = "cargo build --release --target wasm32-wasip2"
            artifact = "target/wasm32-wasip2/release/hello.wasm"
            [http]
            routes = ["hello.example.com/"]
            health = { path = "/healthz" }
            [scale]
            replicas = 2
            [limits]
            memory = "128MiB"
            timeout = "30s"
            [outbound]
            allow = ["https://api.example.com"]
            [env]
            GREETING = "hi"
            [secrets]
            DATABASE_PASSWORD = "db-password"
            "#,
        )
        .unwrap();
        let spec = manifest.spec();
        assert_eq!(spec.scale.replicas, 2.into());
        assert_eq!(spec.env["GREETING"], "hi");
        assert_eq!(spec.secrets["DATABASE_PASSWORD"].as_str(), "db-password");
        assert_eq!(spec.http.health.path.as_deref(), Some("/healthz"));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_name_and_line() {
        let error = Manifest::parse("app = \"hello\"\n[scale]\nreplica = 2\n").unwrap_err();
        let ManifestError::Syntax(error) = error else { panic!("{error}") };
        let text = error.to_string();
        assert!(text.contains("replica") && text.contains("line 3"), "{text}");
    }

    #[test]
    fn a_bad_unit_is_refused() {
        assert!(Manifest::parse("app = \"hello\"\n[limits]\nmemory = \"128\"\n").is_err());
    }

    #[test]
    fn a_file_that_says_what_is_built_is_in_the_folder_and_stands_alone() {
        let parse = |build: &str| Manifest::parse(&format!("app = \"hello\"\n[build]\n{build}\n"));
        let manifest = parse("dockerfile = \"deploy/Dockerfile\"").unwrap();
        assert_eq!(manifest.build.unwrap().dockerfile.as_deref(), Some("deploy/Dockerfile"));
        for path in ["", "/etc/passwd", "../Dockerfile", "./Dockerfile", "a/../../b"] {
            let error = parse(&format!("dockerfile = \"{path}\"")).unwrap_err().to_string();
            assert!(error.contains("build.dockerfile"), "{path}: {error}");
        }
        let manifest = parse("compose = \"compose.yaml\"").unwrap();
        assert_eq!(manifest.build.unwrap().compose.as_deref(), Some("compose.yaml"));
        let error = parse("compose = \"../compose.yaml\"").unwrap_err().to_string();
        assert!(error.contains("build.compose"), "{error}");
        for others in
            ["dockerfile = \"Dockerfile\"\ncommand = \"make\"", "compose = \"a\"\ndockerfile = \"b\""]
        {
            let error = parse(others).unwrap_err().to_string();
            assert!(error.contains("it stands alone"), "{error}");
        }
    }
}
