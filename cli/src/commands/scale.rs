//! `wharf scale`.

use clap::Args;
use wharf_types::AppName;
use wharf_types::name::InvalidName;
use wharf_types::spec::REPLICAS_MAX;

use crate::exit::Failure;
use crate::output::{self, count};
use crate::session::Session;

#[derive(Args, Debug)]
pub struct ScaleArgs {
    /// The number of instances, such as `3`, `hello 3` or `hello=3`
    #[arg(value_name = "[APP] REPLICAS", num_args = 0..=2, required_unless_present = "reset")]
    pub words: Vec<String>,
    /// Undo it: as many as wharf.toml says, from now on
    #[arg(long)]
    pub reset: bool,
}

pub async fn run(session: &Session, args: ScaleArgs) -> anyhow::Result<()> {
    let (name, replicas) = if args.reset {
        (only_app(&args.words)?, None)
    } else {
        let (name, replicas) = app_and_replicas(&args.words)?;
        (name, Some(replicas))
    };
    let app = session.app(name)?;
    session.client.scale(&app, replicas).await?;
    if session.json {
        let reply = serde_json::json!({ "namespace": app.namespace, "app": app.app, "replicas": replicas });
        return output::json(&reply);
    }
    output::line(match replicas {
        Some(replicas) => format!("{} is scaled to {}", app.app, count(replicas.into(), "replica")),
        None => format!("{} has as many replicas as its release asks for", app.app),
    })
}

/// `scale --reset` or `scale hello --reset`.
fn only_app(words: &[String]) -> Result<Option<AppName>, Failure> {
    match words {
        [] => Ok(None),
        [app] => app.parse().map(Some).map_err(|error: InvalidName| Failure::usage(error.to_string())),
        _ => Err(Failure::usage("--reset takes no number of replicas").help("`wharf scale hello --reset`")),
    }
}

/// `scale 3`, `scale hello 3` or `scale hello=3`.
fn app_and_replicas(words: &[String]) -> Result<(Option<AppName>, u32), Failure> {
    let (app, replicas) = match words {
        [word] => match word.split_once('=') {
            Some((app, replicas)) => (Some(app), replicas),
            None => (None, word.as_str()),
        },
        [app, replicas] => (Some(app.as_str()), replicas.as_str()),
        _ => (None, ""),
    };
    let replicas =
        replicas.parse::<u32>().ok().filter(|number| *number <= REPLICAS_MAX).ok_or_else(|| {
            Failure::usage(format!("`{replicas}` is not a number of replicas: write 0 to {REPLICAS_MAX}"))
                .help("`wharf scale 3`, `wharf scale hello 3`")
        })?;
    let app =
        app.map(str::parse::<AppName>).transpose().map_err(|error| Failure::usage(error.to_string()))?;
    Ok((app, replicas))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Option<(Option<String>, u32)> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        app_and_replicas(&words).ok().map(|(app, replicas)| (app.map(String::from), replicas))
    }

    #[test]
    fn the_app_may_be_left_out_or_joined() {
        assert_eq!(parsed(&["3"]), Some((None, 3)));
        assert_eq!(parsed(&["hello", "0"]), Some((Some("hello".into()), 0)));
        assert_eq!(parsed(&["hello=12"]), Some((Some("hello".into()), 12)));
        for bad in [vec![], vec!["hello"], vec!["-1"], vec!["1001"], vec!["A=1"], vec!["hello", "many"]] {
            assert_eq!(parsed(&bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_reset_takes_an_app_and_no_number() {
        let app = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            only_app(&words).ok().map(|app| app.map(String::from))
        };
        assert_eq!(app(&[]), Some(None));
        assert_eq!(app(&["hello"]), Some(Some("hello".into())));
        assert_eq!(app(&["hello", "3"]), None);
        assert_eq!(app(&["hello=3"]), None);
    }
}
