//! Whom a request is for: one authority, taken from the request line or the `Host` header, or a refusal.

use http::header::HOST;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderValue, Method};

use crate::error::ErrorCode;

/// Why a request is refused before anyone is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: ErrorCode,
    pub(crate) hint: &'static str,
}

const fn bad(hint: &'static str) -> Refused {
    Refused { code: ErrorCode::BadRequest, hint }
}

/// Makes the URI absolute, and `Host` say the same. An authority in the request line wins over `Host` (RFC 9112 §3.2.2); a scheme there says
/// nothing about how the client came in, and is replaced.
pub(crate) fn make_absolute(parts: &mut Parts, scheme: &Scheme) -> Result<(), Refused> {
    if parts.method == Method::CONNECT {
        return Err(Refused { code: ErrorCode::NotImplemented, hint: "Send a plain request." });
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(bad("It has more than one `Host` header."));
    }
    let path = parts.uri.path();
    if !path.is_empty() && !path.starts_with('/') {
        return Err(bad("Its target is not a path."));
    }
    // An authority alone is for `CONNECT` (RFC 9112 §3.2.3).
    if parts.uri.authority().is_some() && parts.uri.scheme().is_none() {
        return Err(bad("Its target is a host without a path."));
    }
    let authority = match (parts.uri.authority(), host) {
        (Some(authority), host) => {
            let authority = authority.clone();
            if host.is_none_or(|host| host.as_bytes() != authority.as_str().as_bytes()) {
                let value = HeaderValue::from_str(authority.as_str())
                    .map_err(|_| bad("Its authority is not valid."))?;
                parts.headers.insert(HOST, value);
            }
            authority
        }
        (None, Some(host)) => {
            Authority::try_from(host.as_bytes()).map_err(|_| bad("Its `Host` header is not valid."))?
        }
        (None, None) => return Err(bad("It has no `Host` header.")),
    };
    let port_ok = match authority.as_str().rsplit_once(':') {
        Some((_, rest)) if !rest.contains(']') => rest.is_empty() || authority.port_u16().is_some(),
        _ => true,
    };
    if authority.host().is_empty() || authority.as_str().contains('@') || !port_ok {
        return Err(bad("Its host is not valid."));
    }
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.scheme = Some(scheme.clone());
    uri.authority = Some(authority);
    uri.path_and_query = Some(match uri.path_and_query {
        None => PathAndQuery::from_static("/"),
        // A path is never empty (RFC 9110 §4.2.3), and the library leaves it so before a query.
        Some(target) if target.as_str().starts_with('?') => {
            PathAndQuery::try_from(format!("/{}", target.as_str()))
                .map_err(|_| bad("Its target is not valid."))?
        }
        Some(target) => target,
    });
    parts.uri = Uri::from_parts(uri).map_err(|_| bad("Its target is not valid."))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn absolute(method: &str, target: &str, hosts: &[&str]) -> Result<(String, Option<String>), Refused> {
        let mut request = Request::builder().method(method).uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        make_absolute(&mut parts, &Scheme::HTTP)?;
        let host = parts.headers.get(HOST).map(|host| host.to_str().unwrap().to_owned());
        Ok((parts.uri.to_string(), host))
    }

    #[test]
    fn a_path_gets_the_host() {
        let (uri, _) = absolute("GET", "/a?b=c", &["hello.example.com:8080"]).unwrap();
        assert_eq!(uri, "http://hello.example.com:8080/a?b=c");
    }

    #[test]
    fn the_authority_of_an_absolute_target_wins_over_host_and_its_scheme_is_ignored() {
        let (uri, host) = absolute("GET", "https://a.com/x", &["b.com"]).unwrap();
        assert_eq!((uri.as_str(), host.as_deref()), ("http://a.com/x", Some("a.com")));
        let (uri, host) = absolute("GET", "http://a.com", &[]).unwrap();
        assert_eq!((uri.as_str(), host.as_deref()), ("http://a.com/", Some("a.com")));
        let (uri, _) = absolute("GET", "http://a.com?b", &[]).unwrap();
        assert_eq!(uri, "http://a.com/?b");
    }

    #[test]
    fn what_names_no_single_host_is_refused() {
        let none: &[&str] = &[];
        for (target, hosts) in [
            ("/", none),
            ("/", &[""]),
            ("/", &["a.com", "a.com"]),
            ("/", &["user@a.com"]),
            ("/", &["a b.com"]),
            ("/", &["a.com/x"]),
            ("/", &["a.com:99999"]),
            ("/", &[":80"]),
            ("/", &["a.com:x"]),
            ("http://user:secret@a.com/", &["a.com"]),
            ("*", &["a.com"]),
            ("a.com:80", &["a.com"]),
        ] {
            let refused = absolute("GET", target, hosts).unwrap_err();
            assert_eq!(refused.code, ErrorCode::BadRequest, "{target} {hosts:?}");
        }
    }

    #[test]
    fn connect_is_not_offered() {
        assert_eq!(absolute("CONNECT", "a.com:443", &["a.com"]).unwrap_err().code, ErrorCode::NotImplemented);
    }
}
