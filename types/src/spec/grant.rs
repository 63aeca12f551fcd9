//! What a guest may connect to, as it stands in a spec.

/// One parsed entry of [`super::OutboundSpec::allow`]: scheme, host and port that a guest may connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundGrant {
    pub scheme: OutboundScheme,
    /// A hostname in lower case, `*.` and a hostname (any name below it), an IP address, a CIDR block, or `*` for any public name.
    pub host: String,
    /// None: any port.
    pub port: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboundScheme {
    Http,
    Https,
    Tcp,
    Udp,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGrant {
    #[error(
        "`{0}` is not a grant: write scheme, host and port, such as `https://api.example.com` or `tcp://10.0.0.5:5432`"
    )]
    Malformed(String),
    /// Who opens a socket gives an address, and nobody can list the names below another.
    #[error(
        "`{0}` can never match: a socket has an address and no name; write the whole hostname or a CIDR block"
    )]
    NamesForSockets(String),
}

impl std::str::FromStr for OutboundGrant {
    type Err = InvalidGrant;

    fn from_str(text: &str) -> Result<Self, InvalidGrant> {
        let shown = || text.chars().take(120).collect();
        let invalid = || InvalidGrant::Malformed(shown());
        let (scheme, rest) = text.split_once("://").ok_or_else(invalid)?;
        let (scheme, default_port) = match scheme {
            "http" => (OutboundScheme::Http, Some(80)),
            "https" => (OutboundScheme::Https, Some(443)),
            "tcp" => (OutboundScheme::Tcp, None),
            "udp" => (OutboundScheme::Udp, None),
            _ => return Err(invalid()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, "*")) => (host, None),
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, Some(port.parse().map_err(|_| invalid())?))
            }
            _ => (rest, default_port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '*' | '/' | '_');
        if host.is_empty() || !host.chars().all(valid) {
            return Err(invalid());
        }
        if host.contains('/') {
            let (network, bits) = host.split_once('/').ok_or_else(invalid)?;
            let network: std::net::IpAddr = network.parse().map_err(|_| invalid())?;
            let bits: u8 = bits.parse().map_err(|_| invalid())?;
            if bits > if network.is_ipv4() { 32 } else { 128 } {
                return Err(invalid());
            }
        }
        if host.starts_with("*.") && matches!(scheme, OutboundScheme::Tcp | OutboundScheme::Udp) {
            return Err(InvalidGrant::NamesForSockets(shown()));
        }
        Ok(Self { scheme, host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_parsed() {
        let grant: OutboundGrant = "https://API.example.com".parse().unwrap();
        assert_eq!((grant.host.as_str(), grant.port), ("api.example.com", Some(443)));
        let grant: OutboundGrant = "tcp://10.0.0.0/8:*".parse().unwrap();
        assert_eq!((grant.host.as_str(), grant.port), ("10.0.0.0/8", None));
        assert!("https://*.example.com".parse::<OutboundGrant>().is_ok());
        let refused = "tcp://*.example.com:5432".parse::<OutboundGrant>().unwrap_err().to_string();
        assert!(refused.contains("CIDR block"), "{refused}");
        assert!("api.example.com".parse::<OutboundGrant>().is_err());
        assert!("ftp://x".parse::<OutboundGrant>().is_err());
        assert!("http://10.0.0.0/99".parse::<OutboundGrant>().is_err());
    }
}
