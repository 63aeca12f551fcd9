//! `wharf events`: what happened, oldest first.

use clap::Args;
use wharf_types::AppName;
use wharf_types::api::Page;
use wharf_types::event::Event;

use crate::follow::follow;
use crate::output;
use crate::session::Session;

#[derive(Args, Debug)]
pub struct EventsArgs {
    /// Left out, and without --app and wharf.toml: the whole namespace
    #[arg(value_name = "APP")]
    pub name: Option<AppName>,
    /// Wait for more
    #[arg(short, long)]
    pub follow: bool,
}

pub async fn run(session: &Session, args: EventsArgs) -> anyhow::Result<()> {
    let all = [("after", "0".to_owned())];
    let path = match session.find_app(args.name)? {
        Some(app) => {
            let path = app.path("/events");
            // An app that is gone still has its events. One without any is there, or never was.
            let begin: Page<Event> = session.client.page(&path, &all).await?;
            if begin.items.is_empty() {
                session.client.app(&app).await?;
            }
            path
        }
        None => format!("/v1/namespaces/{}/events", session.namespace()?),
    };
    if args.follow {
        match follow(&session.client, &path, &all, |event| print(session, &event)).await? {}
    }
    let mut events: Vec<Event> = session.client.all_with(&path, &all).await?;
    events.sort_by_key(|event| event.seq);
    events.iter().try_for_each(|event| print(session, event))
}

fn print(session: &Session, event: &Event) -> anyhow::Result<()> {
    if session.json {
        return output::json(event);
    }
    let app = event.app.as_ref().map_or("-", |app| app.as_str());
    let time = output::style().dim().apply_to(format!("{:.3}", event.time));
    output::line(format!("{time} {app} {} {}", event.kind, output::printable(&event.message)))
}
