//! Which app a command is about.

use std::path::Path;

use wharf_types::{AppName, NamespaceName};

use crate::commands::git::{self, REMOTE};
use crate::context::Target;
use crate::exit::{Exit, Failure};
use crate::project;

/// An app and its namespace.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct AppRef {
    pub namespace: NamespaceName,
    pub app: AppName,
}

impl AppRef {
    /// The app that the command is about: the argument, then `--app`, then `wharf.toml` in this folder.
    pub fn resolve(
        positional: Option<AppName>,
        flag: Option<AppName>,
        target: &Target,
    ) -> anyhow::Result<Self> {
        Self::find(positional, flag, target)?.ok_or_else(|| {
            Failure::new(Exit::Usage, "no app was named")
                .help("give its name, or run this in a folder with a wharf.toml; `wharf apps` lists them")
                .into()
        })
    }

    pub fn find(
        positional: Option<AppName>,
        flag: Option<AppName>,
        target: &Target,
    ) -> anyhow::Result<Option<Self>> {
        if let Some(app) = positional.or(flag) {
            return Ok(Some(Self { namespace: target.namespace.with_manifest(None), app }));
        }
        let here = Path::new(".");
        if let Some(app) = project::read_app(here)? {
            let named = project::read_namespace(here)?;
            return Ok(Some(Self { namespace: target.namespace.with_named(named.as_ref()), app }));
        }
        Ok(Self::of_remote(target))
    }

    /// The app that the remote `wharf` of a repository leads to, if that is on the platform that is talked to.
    fn of_remote(target: &Target) -> Option<Self> {
        let key = format!("remote.{REMOTE}.url");
        let asked = std::process::Command::new("git").args(["config", "--get", &key]).output().ok()?;
        let url = String::from_utf8(asked.stdout).ok()?;
        let url = url.trim();
        git::app_at(url).filter(|app| git::url(&target.api, app) == url)
    }
}
