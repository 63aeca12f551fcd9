//! `--join TOKEN@ADDR`: a join token, and where to go with it.

use std::net::Ipv6Addr;
use std::str::FromStr;

use reqwest::Url;
use wharf_pki::JoinToken;

/// Where servers take workers, unless they are told otherwise.
const WORKERS_PORT: u16 = 7071;

#[derive(Clone, Debug)]
pub struct JoinAt {
    pub(super) token: JoinToken,
    /// As [`server_address`] writes them.
    pub(super) servers: Vec<String>,
}

impl FromStr for JoinAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (token, servers) = text.trim().rsplit_once('@').ok_or(
            "write TOKEN@ADDR, as `wharf node token create` prints it, such as wharf-join.….…@10.0.0.1:7071",
        )?;
        let servers = servers.split(',').map(server_address).collect::<Result<_, _>>()?;
        let token = token.parse().map_err(|error: wharf_pki::InvalidJoinToken| error.to_string())?;
        Ok(Self { token, servers })
    }
}

/// `HOST:PORT` in the one way in which it is written here. Without a port it is the one at which servers take workers.
pub(super) fn server_address(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.contains(['/', '\\', '?', '#', '@']) {
        return Err(format!("`{text}` is no address: write HOST:PORT, without http:// and without a path"));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (ip, port) = rest
                .split_once(']')
                .filter(|(ip, port)| {
                    ip.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.starts_with(':'))
                })
                .ok_or_else(|| {
                    format!("`{text}` is no address: in brackets stands one of IPv6, such as [::1]:7071")
                })?;
            (format!("[{ip}]"), port.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => {
                return Err(format!("`{text}`: an address of IPv6 stands in brackets, such as [::1]:7071"));
            }
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (text.to_owned(), None),
        },
    };
    let port = port.map_or(Ok(WORKERS_PORT), |port| port_of(port, text))?;
    // Names that are no names are found out here, and not when somebody is to be asked.
    let url = Url::parse(&format!("https://{host}:{port}")).ok();
    let host = url.as_ref().and_then(Url::host_str).filter(|host| !host.is_empty()).ok_or_else(|| {
        format!("`{text}` is no address of a server: write HOST:PORT, such as 10.0.0.1:{WORKERS_PORT}")
    })?;
    Ok(format!("{host}:{port}"))
}

fn port_of(port: &str, text: &str) -> Result<u16, String> {
    let is_plain = !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit());
    port.parse::<u16>().ok().filter(|number| is_plain && *number != 0).ok_or_else(|| {
        format!(
            "`{port}` in `{text}` is no port: it is a number from 1 to 65535, and {WORKERS_PORT} where servers take workers unless they are told otherwise"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_with_the_addresses_of_the_cluster() {
        let token = format!("wharf-join.{}.wharf_ab", "ab".repeat(32));
        let join: JoinAt = format!("{token}@10.0.0.1:7171, [::1]:7071,a.example").parse().unwrap();
        assert_eq!(join.token.to_string(), token);
        assert_eq!(join.servers, ["10.0.0.1:7171", "[::1]:7071", "a.example:7071"]);
        for (bad, word) in [
            (token.clone(), "TOKEN@ADDR"),
            (format!("{token}@"), "no address"),
            (format!("{token}@a:1,"), "no address"),
            ("wharf_x@host:1".to_owned(), "no join token"),
        ] {
            let error = bad.parse::<JoinAt>().unwrap_err();
            assert!(error.contains(word) && !error.contains("wharf_ab"), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_address_is_named() {
        for (text, words) in [
            ("localhost:abc", "`abc` in `localhost:abc` is no port"),
            ("localhost:99999", "`99999`"),
            ("localhost:0", "`0`"),
            ("localhost:+80", "`+80`"),
            ("localhost:", "is no port"),
            ("[::1]:", "is no port"),
            (":7071", "is no address"),
            ("a b:7071", "is no address"),
            ("http://localhost:7071", "without http://"),
            ("localhost:7071/", "without a path"),
            ("::1", "stands in brackets"),
            ("fe80::1:7071", "stands in brackets"),
            ("[::1", "in brackets"),
            ("[::1]7071", "in brackets"),
            ("[localhost]:7071", "in brackets"),
        ] {
            let error = server_address(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn an_address_is_written_in_one_way_and_the_port_of_workers_may_be_left_out() {
        for (text, written) in [
            ("Localhost", "localhost:7071"),
            ("[::1]", "[::1]:7071"),
            ("[0:0::1]:443", "[::1]:443"),
            (" 10.0.0.1:443 ", "10.0.0.1:443"),
        ] {
            assert_eq!(server_address(text).as_deref(), Ok(written));
            assert_eq!(server_address(written).as_deref(), Ok(written));
        }
    }
}
