//! Why a host could not join, and what helps.

use std::error::Error;
use std::io;

use rustls::CertificateError;
use wharf_runtime::control::ControlError;

use crate::exit::{Exit, Failure};

/// What is in the way.
#[derive(Debug, PartialEq)]
enum Trouble<'a> {
    Certificate(&'a CertificateError),
    /// What listens there answers in another protocol.
    NoTls,
    /// Nothing listens there.
    Closed,
    NoName,
    Silent,
}

pub(super) fn could_not_join(error: ControlError, servers: &[String]) -> anyhow::Error {
    let at = asked(&error).unwrap_or_else(|| servers.join(", "));
    let (exit, why, help) = match trouble_of(&error) {
        // The one that the token names did not come along.
        Some(Trouble::Certificate(CertificateError::UnknownIssuer)) => (
            Exit::Refused,
            format!("the join token names another CA than {at} shows"),
            "the token is of another cluster, or the CA was replaced since it was made; `wharf node token create` makes another",
        ),
        Some(Trouble::Certificate(why)) if is_about_time(why) => (
            Exit::Refused,
            format!("by the clock of this host the certificate of {at} is not valid now: {why}"),
            "set the clocks of both hosts, which may differ by less than an hour; the join token has not been used",
        ),
        Some(Trouble::NoTls) => (
            Exit::Unreachable,
            format!("{at} speaks no TLS, so that is no port for workers"),
            "workers go to the port that `wharf server` names when it is ready (`workers come to …`): 7071, unless it was told otherwise. 7070 is the API's",
        ),
        Some(Trouble::Closed) => (
            Exit::Unreachable,
            format!("nothing listens at {at}"),
            "`wharf server ls` lists the servers with their addresses for workers, and --join takes several, separated by commas; is `wharf server` running there?",
        ),
        Some(Trouble::NoName) => (
            Exit::Unreachable,
            format!("nobody knows an address for the name in {at}"),
            "name a server by its address, such as 10.0.0.1:7071, or by a name that this host can look up",
        ),
        Some(Trouble::Silent) => (
            Exit::Unreachable,
            format!("{at} does not answer"),
            "is that host up, and do the firewalls in between let connections to this port through?",
        ),
        Some(Trouble::Certificate(_)) | None => {
            return anyhow::Error::new(error).context("could not join the cluster");
        }
    };
    Failure::new(exit, format!("could not join the cluster: {why}")).help(help).into()
}

/// The server that was asked in vain.
fn asked(error: &ControlError) -> Option<String> {
    let ControlError::Unreachable { source, .. } = error else { return None };
    let url = source.url()?;
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}

fn trouble_of(error: &ControlError) -> Option<Trouble<'_>> {
    let ControlError::Unreachable { source, .. } = error else { return None };
    trouble(source).or(source.is_timeout().then_some(Trouble::Silent))
}

/// What is at the bottom of an error, as far as there is something to say about it.
fn trouble<'a>(error: &'a (dyn Error + 'static)) -> Option<Trouble<'a>> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return match tls {
            rustls::Error::InvalidCertificate(why) => Some(Trouble::Certificate(why)),
            rustls::Error::InvalidMessage(_) => Some(Trouble::NoTls),
            _ => None,
        };
    }
    // The connector has no other word for it.
    if error.to_string() == "dns error" {
        return Some(Trouble::NoName);
    }
    let Some(io) = error.downcast_ref::<io::Error>() else { return error.source().and_then(trouble) };
    // What an error of the system's kind wraps is not its source.
    if let Some(wrapped) = io.get_ref() {
        return trouble(wrapped);
    }
    match io.kind() {
        io::ErrorKind::ConnectionRefused => Some(Trouble::Closed),
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Some(Trouble::Silent)
        }
        _ => None,
    }
}

fn is_about_time(why: &CertificateError) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    matches!(why, Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
}

#[cfg(test)]
mod tests {
    use rustls::InvalidMessage;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use wharf_pki::{Authority, NodeKey, joining_config};
    use wharf_runtime::control::join;
    use wharf_types::Timestamp;

    use super::*;
    use crate::exit::told;

    #[test]
    fn what_is_in_the_way_is_found_however_deep_it_is() {
        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let wrapped = io::Error::other(io::Error::other(unknown()));
        assert_eq!(trouble(&unknown()), Some(Trouble::Certificate(&CertificateError::UnknownIssuer)));
        assert_eq!(trouble(&wrapped), Some(Trouble::Certificate(&CertificateError::UnknownIssuer)));
        let plain = rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType);
        assert_eq!(trouble(&io::Error::other(plain)), Some(Trouble::NoTls));
        assert_eq!(trouble(&io::Error::from(io::ErrorKind::ConnectionRefused)), Some(Trouble::Closed));
        assert_eq!(trouble(&io::Error::from(io::ErrorKind::HostUnreachable)), Some(Trouble::Silent));
        assert_eq!(trouble(&io::Error::other(NoSuchName)), Some(Trouble::NoName));
        assert_eq!(trouble(&io::Error::other("no answer")), None);
        assert_eq!(trouble(&io::Error::other(rustls::Error::DecryptError)), None);
        assert!(is_about_time(&CertificateError::NotValidYet) && is_about_time(&CertificateError::Expired));
        assert!(!is_about_time(&CertificateError::UnknownIssuer));
    }

    #[derive(Debug, thiserror::Error)]
    #[error("dns error")]
    struct NoSuchName;

    /// What somebody is told who joins there.
    async fn says(server: &str) -> (String, String) {
        let pin = Authority::generate(Timestamp::now()).unwrap().pin();
        let request = NodeKey::generate().unwrap().request().unwrap();
        let api = format!("https://{server}");
        let failed = join(&[api], joining_config(pin).unwrap(), "secret", &request).await.unwrap_err();
        let (why, help) = told(&could_not_join(failed, &[server.to_owned()]));
        (why, help.expect("there is something that helps"))
    }

    #[tokio::test]
    async fn the_port_of_the_api_is_told_from_a_port_where_nothing_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let answering = tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut greeting = [0; 16];
            let _ = connection.read(&mut greeting).await;
            connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            // Until the other side has read that and left.
            let _ = connection.read_to_end(&mut Vec::new()).await;
        });
        let (why, help) = says(&address).await;
        assert!(why.contains(&format!("{address} speaks no TLS")) && help.contains("7071"), "{why}; {help}");
        answering.await.unwrap();

        let (why, help) = says(&address).await;
        assert!(why.contains(&format!("nothing listens at {address}")), "{why}");
        assert!(help.contains("wharf server ls"), "{help}");
    }
}
