//! `wharf apps`, `open` and `delete`.

use std::process::{Command, Stdio};

use clap::Args;
use wharf_types::api::{AppInfo, Page};
use wharf_types::{AppName, Timestamp};

use super::confirm;
use crate::args::AppArg;
use crate::exit::{Exit, Failure};
use crate::output::{self, ago, coloured};
use crate::session::Session;
use crate::table::Table;

#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// Left out: --app, then the app of wharf.toml in this folder
    #[arg(value_name = "APP")]
    pub name: Option<AppName>,
    /// Also delete its volumes, with all that is in them
    #[arg(long)]
    pub volumes: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// `wharf apps`
pub async fn list(session: &Session) -> anyhow::Result<()> {
    let namespace = session.namespace()?;
    let items = session.client.apps(&namespace).await?;
    if session.json {
        return output::json(&Page { items, next_cursor: None });
    }
    if items.is_empty() {
        return output::line(format!("no apps in {namespace}; deploy one with `wharf deploy`"));
    }
    table(items).print()
}

/// What there is to see of apps at once.
pub fn table(apps: Vec<AppInfo>) -> Table {
    let now = Timestamp::now();
    let mut table = Table::new(["APP", "CONDITION", ">RELEASE", ">READY", "UPDATED", "~URL"]);
    for app in apps {
        table.row([
            app.app.to_string(),
            coloured(app.condition.as_str()),
            app.release.map_or_else(|| "-".to_owned(), |release| release.to_string()),
            format!("{}/{}{}", app.ready, app.replicas, if app.global { " global" } else { "" }),
            ago(now, app.updated_at),
            if app.urls.is_empty() { "-".to_owned() } else { app.url },
        ]);
    }
    table
}

/// `wharf open`
pub async fn open(session: &Session, args: AppArg) -> anyhow::Result<()> {
    let app = session.app(args.name)?;
    let info = session.client.app(&app).await?;
    if info.urls.is_empty() {
        let message = format!("{} has no address: it is a command, not an HTTP app", app.app);
        return Err(Failure::new(Exit::Invalid, message).help("`wharf logs` shows what it prints").into());
    }
    if session.json {
        return output::json(&serde_json::json!({ "url": info.url, "urls": info.urls }));
    }
    output::line(&info.url)?;
    if output::is_interactive() && output::stdout_is_terminal() {
        let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
        // A machine without a browser has the address on its screen; that is all there is to do.
        let _ = Command::new(opener)
            .arg(&info.url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
    }
    Ok(())
}

/// `wharf delete`
pub async fn delete(session: &Session, args: DeleteArgs) -> anyhow::Result<()> {
    let app = session.app(args.name)?;
    let volumes = session.client.app(&app).await?.volumes;
    let what = if args.volumes && !volumes.is_empty() { "with its volumes, the app" } else { "app" };
    confirm(what, app.app.as_str(), args.yes)?;
    let is_gone = session.client.delete_app(&app, args.volumes).await?;
    let kept: Vec<_> = volumes.iter().filter(|_| !args.volumes).map(|volume| volume.id).collect();
    if session.json {
        return output::json(
            &serde_json::json!({ "namespace": app.namespace, "app": app.app, "deleted": is_gone, "volumes_kept": kept }),
        );
    }
    let what = if is_gone { "is deleted" } else { "is being deleted: open requests may finish first" };
    output::line(format!("{} in {} {what}", app.app, app.namespace))?;
    if !kept.is_empty() {
        output::note("its volumes are kept: `wharf volume ls` lists them, `wharf volume rm` removes one");
    }
    Ok(())
}
