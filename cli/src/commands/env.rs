//! `wharf env`: variables that stay over deploys. A change is a new release.

use std::collections::BTreeMap;

use tokio::time::Instant;
use wharf_types::api::{Env, EnvPatch};

use crate::args::{AppArg, EnvSetArgs, EnvUnsetArgs, WaitArgs};
use crate::output;
use crate::rollout;
use crate::session::Session;

pub async fn set(session: &Session, args: EnvSetArgs) -> anyhow::Result<()> {
    let patch = args.variables.into_iter().map(|(key, value)| (key, Some(value))).collect();
    change(session, patch, args.wait).await
}

pub async fn unset(session: &Session, args: EnvUnsetArgs) -> anyhow::Result<()> {
    let patch = args.variables.into_iter().map(|key| (key, None)).collect();
    change(session, patch, args.wait).await
}

async fn change(
    session: &Session,
    patch: BTreeMap<String, Option<String>>,
    wait: WaitArgs,
) -> anyhow::Result<()> {
    let app = session.app(None)?;
    let since = Instant::now();
    let deployed = session.client.patch_env(&app, &EnvPatch { set: patch, reset: Vec::new() }).await?;
    rollout::finish(session, &app, &deployed, wait, since).await
}

/// The variables of the current release, those of its manifest included.
pub async fn list(session: &Session, args: AppArg) -> anyhow::Result<()> {
    let app = session.app(args.name)?;
    let Env(env) = session.client.env(&app).await?;
    if session.json {
        return output::json(&env);
    }
    env.iter().try_for_each(|(key, value)| output::line(format!("{key}={}", output::printable(value))))
}
