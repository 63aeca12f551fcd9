//! What every client command starts from: where to talk to, the client, and how to print.

use std::path::Path;

use wharf_types::{AppName, NamespaceName};

use crate::app_ref::AppRef;
use crate::args::Global;
use crate::client::Client;
use crate::context::{self, NamespaceChoice, Target};
use crate::project;

#[derive(Debug)]
pub struct Session {
    pub target: Target,
    pub client: Client,
    pub json: bool,
    pub app_flag: Option<AppName>,
}

impl Session {
    pub fn open(global: Global) -> anyhow::Result<Self> {
        let target = context::target(&global)?;
        let client = Client::new(&target)?;
        Ok(Self { target, client, json: global.json, app_flag: global.app })
    }

    /// The app that the command is about.
    pub fn app(&self, positional: Option<AppName>) -> anyhow::Result<AppRef> {
        AppRef::resolve(positional, self.app_flag.clone(), &self.target)
    }

    /// The app, where a command also works without one.
    pub fn find_app(&self, positional: Option<AppName>) -> anyhow::Result<Option<AppRef>> {
        AppRef::find(positional, self.app_flag.clone(), &self.target)
    }

    /// The namespace of commands that are not about an app.
    pub fn namespace(&self) -> anyhow::Result<NamespaceName> {
        // Where it was said for this command, no file matters.
        if let NamespaceChoice::Said(name) = &self.target.namespace {
            return Ok(name.clone());
        }
        let named = project::read_namespace(Path::new("."))?;
        Ok(self.target.namespace.with_named(named.as_ref()))
    }
}
