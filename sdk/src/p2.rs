//! HTTP apps on WASI 0.2, the world `wasi:http/proxy`.
//!
//! Unless the app's settings say otherwise, every request meets fresh memory.

use std::time::Duration;

use wasip2::exports::http::incoming_handler::ResponseOutparam;
use wasip2::http::types::IncomingRequest;
use wstd::http::request::try_from_incoming;
use wstd::http::server::Responder;

use crate::http::{Body, Request, Response, Result, Uri, answer};

/// Makes an `async fn(Request) -> Result<Response>` the app's handler. Once in a crate.
///
/// ```ignore
/// use wharf_sdk::http::{Request, Response, Result};
///
/// wharf_sdk::p2::http_app!(hello);
///
/// async fn hello(request: Request) -> Result<Response> {
///     Ok(Response::new(format!("You asked for {}\n", request.uri().path()).into()))
/// }
/// ```
#[doc(inline)]
pub use crate::__http_app_p2 as http_app;

#[doc(hidden)]
#[macro_export]
macro_rules! __http_app_p2 {
    ($handler:path) => {
        const _: () = {
            use $crate::__private::wasip2;

            struct App;

            impl wasip2::exports::http::incoming_handler::Guest for App {
                fn handle(
                    request: wasip2::http::types::IncomingRequest,
                    response: wasip2::exports::http::incoming_handler::ResponseOutparam,
                ) {
                    $crate::p2::serve(request, response, $handler);
                }
            }

            wasip2::http::proxy::export! { App with_types_in wasip2 }
        };
    };
}

/// Runs the handler for one request, until the last octet of its response is sent.
#[doc(hidden)]
pub fn serve(
    request: IncomingRequest,
    response: ResponseOutparam,
    handler: impl AsyncFnOnce(Request) -> Result<Response>,
) {
    let responder = Responder::new(response);
    wstd::runtime::block_on(async move {
        let request = match try_from_incoming(request) {
            Ok(request) => request.map(|body| Body::from_boxed(body.into_boxed_body())),
            Err(error) => return responder.fail(error),
        };
        let response = answer(handler(request).await).map(wstd::http::Body::from_http_body);
        if let Err(error) = responder.respond(response).await {
            eprintln!("the response was not sent to its end: {error:#}");
        }
    });
}

/// Sends a request to another server. The app's settings must grant it: `outbound.allow` in `wharf.toml`.
///
/// Another app of the same namespace is called by its name, `http://APP.internal/`.
///
/// # Errors
/// When the address is not granted, or the server cannot be reached. A response with status 500 is not an error.
///
/// ```ignore
/// let request = http::Request::post("http://orders.internal/v1/orders").body(Body::from("{}"))?;
/// let response = wharf_sdk::p2::send(request).await?;
/// ```
pub async fn send(request: Request) -> Result<Response> {
    let response = wstd::http::Client::new().send(request.map(wstd::http::Body::from_http_body)).await?;
    Ok(response.map(|body| Body::from_boxed(body.into_boxed_body())))
}

/// Sends a `GET`; see [`send`].
///
/// # Errors
/// As [`send`], and when `uri` is not one.
pub async fn get<U>(uri: U) -> Result<Response>
where
    U: TryInto<Uri>,
    U::Error: Into<http::Error>,
{
    send(http::Request::get(uri).body(Body::empty())?).await
}

/// Waits without using the CPU.
pub async fn sleep(duration: Duration) {
    wstd::task::sleep(duration.into()).await;
}
