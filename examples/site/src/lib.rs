//! Serves the files that it is shipped with: the folder `public`, which the guest sees at `/`, to read.

use std::fs;
use std::io;

use wharf_sdk::http::{Body, HeaderValue, Method, Request, Response, Result, StatusCode, header};

wharf_sdk::p2::http_app!(serve);

async fn serve(request: Request) -> Result<Response> {
    let path = match request.uri().path() {
        "/" => "/index.html".to_owned(),
        path => path.to_owned(),
    };
    match *request.method() {
        Method::GET | Method::HEAD => Ok(match fs::read(&path) {
            Ok(content) => reply(StatusCode::OK, content_type(&path), content),
            Err(error) => refuse(&error),
        }),
        Method::PUT => {
            let content = request.into_body().bytes().await?;
            Ok(match fs::write(&path, content) {
                Ok(()) => reply(StatusCode::CREATED, "text/plain", "written\n"),
                Err(error) => refuse(&error),
            })
        }
        _ => Ok(reply(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET and PUT only\n")),
    }
}

fn refuse(error: &io::Error) -> Response {
    let status = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::IsADirectory => StatusCode::NOT_FOUND,
        _ => StatusCode::FORBIDDEN,
    };
    reply(status, "text/plain", format!("{error}\n"))
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("json") => "application/json",
        Some("png") => "image/png",
        Some("svg") => "image/svg+xml",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
