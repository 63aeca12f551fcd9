//! Requests of containers to apps of their namespace: `http://APP.internal/`, by the routes that guests' requests take.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    CONNECTION, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use wasmtime_wasi_http::{Error, WasiBody};
use wharf_types::AppName;

use crate::wasm::outbound::Neighbours;

/// How long the head of a request may take, and a connection may stay without one.
const HEAD_MAX: Duration = Duration::from_secs(60);
/// The largest head, in octets.
const HEAD_MAX_BYTES: usize = 64 << 10;

/// Answers the requests on a connection, until it ends.
pub(super) async fn serve(app: AppName, neighbours: Arc<dyn Neighbours>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let (app, neighbours) = (app.clone(), neighbours.clone());
        async move { Ok::<_, Infallible>(answer(&app, &*neighbours, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(HEAD_MAX_BYTES)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!("a container's connection to an app ended: {error}");
    }
}

async fn answer(
    app: &AppName,
    neighbours: &dyn Neighbours,
    request: Request<Incoming>,
) -> Response<WasiBody> {
    let (parts, body) = request.into_parts();
    let Some(parts) = addressed(app, parts) else {
        return says(StatusCode::BAD_REQUEST, "the request has no path, or its Host is no name of a host");
    };
    let body = body.map_err(|_| Error::ConnectionTerminated).boxed_unsync();
    match neighbours.call(app, Request::from_parts(parts, body)).await {
        Ok(mut response) => {
            strip(response.headers_mut(), false);
            *response.version_mut() = Version::HTTP_11;
            response
        }
        Err(error) => {
            let (status, why) = told(&error);
            says(status, &format!("{app}: {why}"))
        }
    }
}

/// As a guest would have sent it: with an absolute URI whose authority is the `Host`, and without what is for this connection. None: it makes no sense.
fn addressed(app: &AppName, mut parts: http::request::Parts) -> Option<http::request::Parts> {
    let path = parts.uri.path_and_query().filter(|path| path.as_str().starts_with('/'))?;
    let path: PathAndQuery = path.clone();
    let host = match parts.headers.get(HOST) {
        Some(host) => host.to_str().ok()?.parse::<Authority>().ok()?,
        None => format!("{app}.internal").parse().ok()?,
    };
    strip(&mut parts.headers, true);
    parts.headers.insert(HOST, HeaderValue::from_str(host.as_str()).ok()?);
    let uri = Uri::builder().scheme(Scheme::HTTP).authority(host).path_and_query(path);
    parts.uri = uri.build().ok()?;
    parts.version = Version::HTTP_11;
    Some(parts)
}

/// Removes the fields that end with this connection (RFC 9110 §7.6.1), and those that only front doors give each other.
fn strip(headers: &mut HeaderMap, is_request: bool) {
    let mut doomed: Vec<HeaderName> = Vec::new();
    for value in headers.get_all(CONNECTION) {
        let named = value.as_bytes().split(|octet| *octet == b',');
        let named = named.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
        // What the message itself needs cannot be taken away.
        doomed
            .extend(named.filter(|name| name != HOST && name != http::header::CONTENT_LENGTH && name != TE));
    }
    let ends_here = |name: &HeaderName| {
        let text = name.as_str();
        [&CONNECTION, &TRANSFER_ENCODING, &UPGRADE].contains(&name)
            || text.starts_with("wharf-peer-")
            || text.starts_with("proxy-")
            || ["keep-alive", "http2-settings"].contains(&text)
            || (is_request && name == EXPECT)
    };
    doomed.extend(headers.keys().filter(|name| ends_here(name)).cloned());
    for name in doomed {
        headers.remove(name);
    }
    let takes_trailers = headers.get_all(TE).iter().any(|value| {
        let mut words = value.as_bytes().split(|octet| *octet == b',');
        words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    if takes_trailers && is_request {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(TE);
    }
}

/// What a container is told when there is no answer.
fn told(error: &Error) -> (StatusCode, &'static str) {
    match error {
        Error::DestinationNotFound => (StatusCode::SERVICE_UNAVAILABLE, "no instance is ready"),
        Error::DestinationUnavailable => {
            (StatusCode::SERVICE_UNAVAILABLE, "its instances take no more requests at the moment")
        }
        Error::HttpResponseTimeout => (StatusCode::GATEWAY_TIMEOUT, "it did not answer in time"),
        Error::ConnectionTerminated => (StatusCode::BAD_GATEWAY, "the connection to it broke off"),
        _ => (StatusCode::BAD_GATEWAY, "it failed"),
    }
}

fn says(status: StatusCode, words: &str) -> Response<WasiBody> {
    let body = Full::new(Bytes::from(format!("{words}\n"))).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, text);
    response
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use http_body_util::Empty;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn app() -> AppName {
        "hello".parse().unwrap()
    }

    /// Says what it was asked, and has nothing at `/none`.
    struct Echo;

    impl Neighbours for Echo {
        fn call(
            &self,
            app: &AppName,
            request: Request<WasiBody>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<WasiBody>, Error>> + Send>> {
            let said = format!("{app} {} {:?}", request.uri(), request.headers().get("x-mine"));
            let is_none = request.uri().path() == "/none";
            Box::pin(async move {
                if is_none {
                    return Err(Error::DestinationNotFound);
                }
                let body = Full::new(Bytes::from(said)).map_err(|never| match never {}).boxed_unsync();
                Ok(Response::new(body))
            })
        }
    }

    async fn ask(text: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let served = tokio::spawn(serve(app(), Arc::new(Echo), server));
        client.write_all(text.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        served.await.unwrap();
        said
    }

    #[tokio::test]
    async fn a_request_is_asked_as_a_guest_would_ask_it() {
        let said =
            ask("GET /a?b HTTP/1.1\r\nHost: hello.internal\r\nConnection: x-mine\r\nX-Mine: 1\r\n\r\n\
            GET /c HTTP/1.1\r\nHost: hello:80\r\nX-Mine: 2\r\n\r\n")
            .await;
        assert!(said.contains("hello http://hello.internal/a?b None"), "{said}");
        assert!(said.contains("hello http://hello:80/c Some(\"2\")"), "{said}");
    }

    #[tokio::test]
    async fn what_cannot_be_answered_says_why() {
        let said = ask("GET /none HTTP/1.1\r\nHost: hello.internal\r\n\r\n").await;
        assert!(said.starts_with("HTTP/1.1 503 ") && said.contains("hello: no instance is ready"), "{said}");
        let said = ask("OPTIONS * HTTP/1.1\r\nHost: hello.internal\r\n\r\n").await;
        assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
    }

    #[test]
    fn fields_between_front_doors_and_of_one_connection_do_not_pass() {
        let mut request = Request::new(Empty::<Bytes>::new());
        for name in ["wharf-peer-instance", "upgrade", "proxy-authorization", "keep-alive", "x-kept"] {
            request.headers_mut().insert(name, HeaderValue::from_static("1"));
        }
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("host, content-length"));
        request.headers_mut().insert(HOST, HeaderValue::from_static("hello.internal"));
        *request.uri_mut() = "/".parse().unwrap();
        let parts = addressed(&app(), request.into_parts().0).unwrap();
        let mut names: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["host", "x-kept"]);
        let mut answered = HeaderMap::new();
        answered.insert(CONNECTION, HeaderValue::from_static("close, x-mine"));
        answered.insert("x-mine", HeaderValue::from_static("1"));
        strip(&mut answered, false);
        assert!(answered.is_empty(), "{answered:?}");
    }
}
