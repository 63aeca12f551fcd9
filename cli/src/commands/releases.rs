//! `wharf releases`, `rollback` and `restart`.

use clap::Args;
use tokio::time::Instant;
use wharf_types::AppName;
use wharf_types::Timestamp;
use wharf_types::api::Page;

use crate::args::{AppArg, WaitArgs};
use crate::exit::Failure;
use crate::output::{self, ago};
use crate::rollout;
use crate::session::Session;
use crate::table::Table;

#[derive(Args, Debug)]
pub struct RollbackArgs {
    /// The release's number; left out: the newest one before this that served
    #[arg(value_name = "[APP] [RELEASE]", num_args = 0..=2)]
    pub words: Vec<String>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

#[derive(Args, Debug)]
pub struct RestartArgs {
    /// Left out: --app, then the app of wharf.toml in this folder
    #[arg(value_name = "APP")]
    pub name: Option<AppName>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// `wharf releases`
pub async fn list(session: &Session, args: AppArg) -> anyhow::Result<()> {
    let app = session.app(args.name)?;
    let items = session.client.releases(&app).await?;
    if session.json {
        return output::json(&Page { items, next_cursor: None });
    }
    let now = Timestamp::now();
    let mut table = Table::new([">RELEASE", "", "CAUSE", "ARTIFACT", "MADE", "BY", "~ASKS FOR"]);
    for release in items {
        let asks_for: Vec<&str> =
            release.capabilities.iter().map(|capability| capability.kind.as_str()).collect();
        table.row([
            release.release.to_string(),
            if release.current { "current".to_owned() } else { String::new() },
            release.cause,
            release.digest.short(),
            ago(now, release.created_at),
            output::printable(&release.created_by).into_owned(),
            asks_for.join(", "),
        ]);
    }
    table.print()
}

/// `wharf rollback`
pub async fn rollback(session: &Session, args: RollbackArgs) -> anyhow::Result<()> {
    let (name, release) = app_and_release(&args.words)?;
    let app = session.app(name)?;
    let since = Instant::now();
    let deployed = session.client.rollback(&app, release).await?;
    if !session.json {
        output::line(format!("{} goes to release {}", app.app, deployed.release))?;
    }
    rollout::finish(session, &app, &deployed, args.wait, since).await
}

/// `wharf restart`: a rollout to the release that runs.
pub async fn restart(session: &Session, args: RestartArgs) -> anyhow::Result<()> {
    let app = session.app(args.name)?;
    let since = Instant::now();
    let deployed = session.client.restart(&app).await?;
    rollout::finish(session, &app, &deployed, args.wait, since).await
}

/// `rollback`, `rollback 3`, `rollback hello`, `rollback hello 3`; a release may be written `v3`.
fn app_and_release(words: &[String]) -> Result<(Option<AppName>, Option<u64>), Failure> {
    let number = |word: &str| word.strip_prefix('v').unwrap_or(word).parse::<u64>().ok();
    let name =
        |word: &str| word.parse::<AppName>().map(Some).map_err(|error| Failure::usage(error.to_string()));
    match words {
        [] => Ok((None, None)),
        [word] => match number(word) {
            Some(release) => Ok((None, Some(release))),
            None => Ok((name(word)?, None)),
        },
        [app, release, ..] => match number(release) {
            Some(release) => Ok((name(app)?, Some(release))),
            None => {
                let message = format!("`{release}` is not a release's number");
                Err(Failure::usage(message).help(format!("`wharf releases {app}` lists them")))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Option<(Option<String>, Option<u64>)> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        app_and_release(&words).ok().map(|(app, release)| (app.map(String::from), release))
    }

    #[test]
    fn an_app_and_a_release_may_each_be_left_out() {
        assert_eq!(parsed(&[]), Some((None, None)));
        assert_eq!(parsed(&["3"]), Some((None, Some(3))));
        assert_eq!(parsed(&["v3"]), Some((None, Some(3))));
        assert_eq!(parsed(&["hello"]), Some((Some("hello".into()), None)));
        assert_eq!(parsed(&["hello", "3"]), Some((Some("hello".into()), Some(3))));
        assert_eq!(parsed(&["3", "4"]), Some((Some("3".into()), Some(4))));
        assert_eq!(parsed(&["hello", "x"]), None);
        assert_eq!(parsed(&["a/b"]), None);
    }
}
