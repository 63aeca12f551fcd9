//! Says hello without the SDK: `wstd` and the standard WASI 0.2 world are enough.

use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let path = request.uri().path();
    Ok(Response::new(format!("Hello from plain WASI, you asked for {path}\n").into()))
}
