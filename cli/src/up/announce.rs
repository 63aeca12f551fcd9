//! What `wharf up` says when it is ready.

use std::io::Write as _;
use std::net::SocketAddr;

use crate::args::Global;
use crate::context::{self, Target, TokenSource};
use crate::local::Local;

/// Prints it on stdout: one JSON object, or lines for a person.
pub fn print(local: &Local, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(local)?)?;
    } else {
        // Without a readable configuration no client finds anything: they are told the address too.
        let target = context::target(&Global::default()).ok();
        for line in lines(local, target.as_ref()) {
            writeln!(out, "{line}")?;
        }
    }
    out.flush()?;
    Ok(())
}

/// `target` is where a client on this machine talks to when it is told nothing.
fn lines(local: &Local, target: Option<&Target>) -> Vec<String> {
    let api = &local.api;
    let here = match target {
        Some(target) if target.api != *api => format!(
            "Clients on this machine talk to {} ({}); to this platform with `--api {api}`.",
            target.api, target.origin
        ),
        Some(target) if target.token != TokenSource::None => {
            "Clients on this machine are logged in already: `wharf deploy hello.wasm --app hello`.".to_owned()
        }
        _ => format!("Clients on this machine need `--api {api}` and the token above."),
    };
    vec![
        "Wharf is up.".to_owned(),
        format!("  API    {api}"),
        format!("  apps   http://APP.NAMESPACE.localhost:{}/", port_of(&local.http)),
        format!("  token  {}", local.token_file.display()),
        String::new(),
        here,
        elsewhere(api),
        "Ctrl-C stops.".to_owned(),
    ]
}

/// The API speaks plain HTTP: where it listens on this machine only, the way to it is a tunnel.
fn elsewhere(api: &str) -> String {
    let address = api.strip_prefix("http://").and_then(|address| address.parse::<SocketAddr>().ok());
    match address {
        Some(address) if address.ip().is_loopback() => {
            let port = address.port();
            format!(
                "Elsewhere: `ssh -L {port}:{address} HOST`, then `wharf login http://127.0.0.1:{port}` with the token above."
            )
        }
        Some(address) if address.ip().is_unspecified() => {
            format!("Elsewhere: `wharf login http://HOST:{}` with the token above.", address.port())
        }
        _ => format!("Elsewhere: `wharf login {api}` with the token above."),
    }
}

fn port_of(url: &str) -> &str {
    url.rsplit(':').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Origin, Sources, resolve};

    fn local(api: &str) -> Local {
        Local { api: api.into(), http: "http://127.0.0.1:8080".into(), token_file: "/data/token".into() }
    }

    #[test]
    fn clients_are_logged_in_only_where_they_talk_to_this_platform() {
        let this = local("http://127.0.0.1:7070");
        let mut target = resolve(Sources { local: vec![this.clone()], ..Sources::default() });
        assert!(lines(&this, Some(&target))[5].contains("logged in already"));
        let unknown = resolve(Sources::default());
        assert!(lines(&this, Some(&unknown))[5].contains("the token above"));
        target.api = "https://prod".into();
        target.origin = Origin::Context("prod".into());
        let line = &lines(&this, Some(&target))[5];
        assert!(line.contains("https://prod (context `prod`)"), "{line}");
        assert!(line.contains("`--api http://127.0.0.1:7070`"), "{line}");
    }

    #[test]
    fn the_way_from_elsewhere_works_from_there() {
        assert!(elsewhere("http://127.0.0.1:7070").contains("`ssh -L 7070:127.0.0.1:7070 HOST`"));
        assert!(elsewhere("http://0.0.0.0:7070").contains("`wharf login http://HOST:7070`"));
        assert!(elsewhere("http://10.0.0.1:7070").contains("`wharf login http://10.0.0.1:7070`"));
    }
}
