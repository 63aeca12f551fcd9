//! What a job runs, from flags: the same for `wharf job run` and for `wharf schedule set`.

use std::path::PathBuf;

use clap::Args;
use wharf_types::job::{JobSpec, JobTemplate};
use wharf_types::quantity::{ByteSize, Span};
use wharf_types::spec::{ContainerSpec, OutboundSpec, PlacementSpec, StopSpec};
use wharf_types::{AppName, Digest, NamespaceName, SecretName};

use crate::args::parse_assignment;
use crate::artifact::{self, Content};
use crate::commands::deploy::push;
use crate::exit::Failure;
use crate::session::Session;

#[derive(Args, Debug)]
pub struct JobFlags {
    /// A .wasm file with a command [default: with --app, the artifact of the app's current release]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// An artifact that was pushed before, instead of a file
    #[arg(long, value_name = "DIGEST", conflicts_with = "file")]
    pub artifact: Option<Digest>,
    /// Run a container of this image, such as `alpine:3`; what the name means now is what is run, also later
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["file", "artifact", "image_archive"])]
    pub image: Option<String>,
    /// The same of an archive that `docker save` has written, where no registry has the image
    #[arg(long, value_name = "FILE", conflicts_with_all = ["file", "artifact"])]
    pub image_archive: Option<PathBuf>,
    /// A setting of the container, as in `[container]` of wharf.toml, such as `user = "1000"`; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
    pub container: Vec<String>,
    /// How long a container may take to end after its stop signal [default: that of the app, or 30s]
    #[arg(long, value_name = "TIME")]
    pub grace: Option<Span>,
    /// Set an environment variable; may be repeated
    #[arg(short = 'e', long, value_name = "K=V", value_parser = parse_assignment)]
    pub env: Vec<(String, String)>,
    /// Set a variable to a secret of the namespace; may be repeated
    #[arg(long, value_name = "K=SECRET", value_parser = parse_secret)]
    pub secret: Vec<(String, SecretName)>,
    /// Set a variable to a config of the namespace; may be repeated
    #[arg(long, value_name = "K=CONFIG", value_parser = parse_secret)]
    pub config: Vec<(String, SecretName)>,
    /// Let the command reach this, such as `https://api.example.com`; may be repeated
    #[arg(long, value_name = "GRANT")]
    pub allow: Vec<String>,
    /// Run only on nodes of which this holds, such as `node.labels.zone == eu-1`; may be repeated
    #[arg(long, value_name = "CONSTRAINT")]
    pub constraint: Vec<String>,
    /// Memory of one run [default: that of the app, or 128MiB]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Runs that have to succeed
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub completions: u32,
    /// Runs at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub parallelism: u32,
    /// Tell each run which completion it is for, by WHARF_JOB_INDEX, and go on when one fails for good
    #[arg(long)]
    pub indexed: bool,
    /// How often a completion is tried again after a failure
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub retries: u32,
    /// The wait before the first retry; it doubles from one to the next
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub backoff: Span,
    /// The longest wait before a retry
    #[arg(long, value_name = "TIME", default_value = "6m")]
    pub backoff_max: Span,
    /// How long one run may take
    #[arg(long, value_name = "TIME")]
    pub run_timeout: Option<Span>,
    /// How long the whole job may take, waiting included
    #[arg(long, value_name = "TIME")]
    pub deadline: Option<Span>,
    /// How long the job is kept after its end
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub ttl: Span,
    /// Arguments of the command
    #[arg(last = true, value_name = "ARGS")]
    pub args: Vec<String>,
}

fn parse_secret(text: &str) -> Result<(String, SecretName), String> {
    let (variable, secret) = parse_assignment(text)?;
    Ok((variable, secret.parse().map_err(|error: wharf_types::name::InvalidName| error.to_string())?))
}

/// One line of `[container]`, and no more than that.
fn parse_setting(text: &str) -> Result<String, String> {
    settings_of(text)?;
    Ok(text.to_owned())
}

fn settings_of(text: &str) -> Result<ContainerSpec, String> {
    toml::from_str(text)
        .map_err(|error| format!("{} (write it as in wharf.toml: `user = \"1000\"`)", error.message()))
}

impl JobFlags {
    /// What is to be run; a file is pushed, and an image pinned, unless the platform has it.
    pub async fn template(
        &self,
        session: &Session,
        namespace: &NamespaceName,
    ) -> anyhow::Result<JobTemplate> {
        let app = session.app_flag.clone();
        let spec = self.spec()?;
        let content: Option<Content> = match (&self.file, &self.image, &self.image_archive) {
            (Some(file), ..) => Some(artifact::read(file)?.into()),
            (None, Some(image), _) => {
                let login = spec.container.registry_login.as_ref();
                let login = login.and_then(|variable| spec.secrets.get(variable));
                let document = session.client.resolve_image(namespace, image, login).await?;
                Some(Content::Octets(document.to_octets().into()))
            }
            (None, None, Some(archive)) => Some(artifact::find_image(archive)?),
            (None, None, None) => None,
        };
        let artifact = match (content, self.artifact) {
            (Some(content), _) => {
                let digest = content.digest()?;
                push(session, namespace, digest, content).await?;
                Some(digest)
            }
            (None, Some(digest)) => Some(digest),
            (None, None) if app.is_some() => None,
            (None, None) => {
                return Err(Failure::usage("nothing to run was named")
                    .help("name a .wasm file, an image with --image, an artifact with --artifact, or an app with --app")
                    .into());
            }
        };
        Ok(JobTemplate { artifact, app, spec })
    }

    /// A name for the job that what it runs suggests.
    pub fn suggested_name(&self) -> Option<AppName> {
        let file = self.file.as_ref().or(self.image_archive.as_ref());
        match &self.image {
            Some(image) => artifact::app_name_of_image(image),
            None => file.and_then(|file| artifact::app_name_of(file)),
        }
    }

    fn spec(&self) -> anyhow::Result<JobSpec> {
        let container = settings_of(&self.container.join("\n"))
            .map_err(|problem| Failure::usage(format!("--container: {problem}")))?;
        Ok(JobSpec {
            env: self.env.iter().cloned().collect(),
            secrets: self.secret.iter().cloned().collect(),
            configs: self.config.iter().cloned().collect(),
            args: self.args.clone(),
            files: None,
            placement: PlacementSpec { constraints: self.constraint.clone(), ..PlacementSpec::default() },
            memory: self.memory,
            outbound: OutboundSpec { allow: self.allow.clone() },
            container,
            stop: self.grace.map_or_else(StopSpec::default, |drain| StopSpec { drain }),
            completions: self.completions,
            parallelism: self.parallelism,
            indexed: self.indexed,
            retries: self.retries,
            backoff: self.backoff,
            backoff_max: self.backoff_max,
            timeout: self.run_timeout,
            deadline: self.deadline,
            ttl: self.ttl,
            ..JobSpec::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::commands::job::JobCommand;

    #[test]
    fn flags_say_what_a_job_is_and_what_stands_behind_two_dashes_is_the_guests() {
        let cli = Cli::parse_from([
            "wharf",
            "job",
            "run",
            "x.wasm",
            "--retries",
            "0",
            "-e",
            "A=1",
            "--secret",
            "B=token",
            "--indexed",
            "--",
            "--json",
            "y",
        ]);
        let Command::Job(job) = cli.command else { panic!("not job") };
        let Some(JobCommand::Run(run)) = job.args.command else { panic!("not run") };
        let spec = run.args.flags.spec().unwrap();
        assert_eq!((spec.retries, spec.completions, spec.indexed), (0, 1, true));
        assert_eq!(spec.args, ["--json", "y"]);
        assert_eq!((spec.env["A"].as_str(), spec.secrets["B"].as_str()), ("1", "token"));
        assert_eq!(
            JobFlags { args: Vec::new(), ..run.args.flags }.spec().unwrap().backoff,
            JobSpec::default().backoff
        );
    }

    fn run(flags: &[&str]) -> Result<JobFlags, clap::Error> {
        let cli = Cli::try_parse_from([&["wharf", "job", "run"], flags].concat())?;
        let Command::Job(job) = cli.command else { panic!("not job") };
        let Some(JobCommand::Run(run)) = job.args.command else { panic!("not run") };
        Ok(run.args.flags)
    }

    #[test]
    fn settings_of_a_container_are_lines_of_its_manifest() {
        let flags = run(&[
            "--image",
            "registry.example.com/team/import_it:1",
            "--container",
            "user = \"1000\"",
            "--container",
            "entrypoint = [\"sh\", \"-c\"]",
            "--grace",
            "5s",
            "--",
            "echo hello",
        ])
        .unwrap();
        assert_eq!(flags.suggested_name().unwrap().as_str(), "import-it");
        let spec = flags.spec().unwrap();
        assert_eq!((spec.container.user.as_deref(), spec.stop.drain), (Some("1000"), Span::from_secs(5)));
        assert_eq!(spec.container.entrypoint.unwrap(), ["sh", "-c"]);
        let unknown = run(&["--image", "a", "--container", "usr = \"a\""]).unwrap_err().to_string();
        assert!(unknown.contains("unknown field `usr`"), "{unknown}");
        let twice =
            run(&["--image", "a", "--container", "init = true", "--container", "init = false"]).unwrap();
        assert!(twice.spec().unwrap_err().to_string().contains("duplicate key"));
        assert!(run(&["x.wasm", "--image", "a"]).is_err());
    }
}
