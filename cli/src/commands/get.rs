//! `wharf get`: a resource as a file that applies without a change. `wharf schema`: what such files may hold.

use clap::{Args, ValueEnum};
use wharf_types::SecretName;
use wharf_types::declare::document::document_of;
use wharf_types::declare::{ConfigResource, NamespaceResource, Resource};

use crate::declared::print::{self, Output};
use crate::declared::schema;
use crate::exit::{Exit, Failure};
use crate::output;
use crate::session::Session;

#[derive(Args, Debug)]
pub struct GetArgs {
    #[arg(value_name = "KIND")]
    pub kind: GetKind,
    /// Left out for an app: --app, then the app of wharf.toml in this folder
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    #[arg(short, long, value_name = "FORMAT", default_value = "yaml")]
    pub output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GetKind {
    App,
    Config,
    Namespace,
}

pub async fn get(session: &Session, args: GetArgs) -> anyhow::Result<()> {
    let resource = match args.kind {
        GetKind::App => {
            let name = args.name.map(|name| name.parse()).transpose();
            let app = session.app(name.map_err(|error| Failure::usage(format!("{error}")))?)?;
            session.client.declaration(&app).await?
        }
        GetKind::Config => {
            let name = args.name.ok_or_else(|| Failure::usage("which config? name it"))?;
            let name: SecretName = name.parse().map_err(|error| Failure::usage(format!("{error}")))?;
            let namespace = session.namespace()?;
            let config = session.client.config(&namespace, &name, None).await?;
            Resource::Config(ConfigResource { namespace, name, value: config.value })
        }
        GetKind::Namespace => {
            let name = match args.name {
                Some(name) => name.parse().map_err(|error| Failure::usage(format!("{error}")))?,
                None => session.namespace()?,
            };
            if !session.client.namespaces().await?.iter().any(|info| info.name == name) {
                return Err(Failure::new(Exit::NotFound, format!("there is no namespace `{name}`")).into());
            }
            Resource::Namespace(NamespaceResource { name })
        }
    };
    let format = if session.json { Output::Json } else { args.output };
    let text = print::document(&document_of(&resource), format)?;
    output::line(text.trim_end_matches('\n'))
}

pub fn schema() -> anyhow::Result<()> {
    output::line(serde_json::to_string_pretty(&schema::schema())?)
}
