//! HTTP apps on WASI 0.3, the world `wasi:http/service`.
//!
//! Unless the app's settings say otherwise, several requests share one memory: keep nothing in statics that one client may
//! not see of another, and expect that a trap ends the requests beside it.

use std::time::Duration;

use wasip3::http::types::{self, ErrorCode};
use wasip3::http_compat::{
    http_from_wasi_request, http_from_wasi_response, http_into_wasi_request, http_into_wasi_response,
};

use crate::http::{Body, Request, Response, Result, Uri, answer};

/// Makes an `async fn(Request) -> Result<Response>` the app's handler. Once in a crate.
///
/// ```ignore
/// use wharf_sdk::http::{Request, Response, Result};
///
/// wharf_sdk::p3::http_app!(hello);
///
/// async fn hello(request: Request) -> Result<Response> {
///     Ok(Response::new(format!("You asked for {}\n", request.uri().path()).into()))
/// }
/// ```
#[doc(inline)]
pub use crate::__http_app_p3 as http_app;

#[doc(hidden)]
#[macro_export]
macro_rules! __http_app_p3 {
    ($handler:path) => {
        const _: () = {
            use $crate::__private::wasip3;

            struct App;

            impl wasip3::exports::http::handler::Guest for App {
                async fn handle(
                    request: wasip3::http::types::Request,
                ) -> Result<wasip3::http::types::Response, wasip3::http::types::ErrorCode> {
                    $crate::p3::serve(request, $handler).await
                }
            }

            wasip3::http::service::export! { App with_types_in wasip3 }
        };
    };
}

/// Runs the handler for one request. The body is sent by a task of its own.
#[doc(hidden)]
pub async fn serve(
    request: types::Request,
    handler: impl AsyncFnOnce(Request) -> Result<Response>,
) -> Result<types::Response, ErrorCode> {
    let request = http_from_wasi_request(request)?.map(Body::new);
    http_into_wasi_response(answer(handler(request).await))
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
/// let response = wharf_sdk::p3::send(request).await?;
/// ```
pub async fn send(request: Request) -> Result<Response> {
    let response = wasip3::http::client::send(http_into_wasi_request(request)?).await?;
    Ok(http_from_wasi_response(response)?.map(Body::new))
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
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    wasip3::clocks::monotonic_clock::wait_for(nanos).await;
}

/// Goes on with something after the answer, such as telling another service. The platform ends what takes longer than the app's
/// `limits.timeout`, counted from the end of the answer.
pub fn spawn(work: impl Future<Output = ()> + 'static) {
    wasip3::spawn_local(work);
}
