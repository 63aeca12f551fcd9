//! What a failed call is in the words of `wasi:http`.
//!
//! The client wraps the reason many times, and `wasi:http` has a code for each: a guest that proxies for others answers by them.

use std::error::Error as StdError;
use std::io::{self, ErrorKind};

use wasmtime::component::Linker;
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, IoError};

use super::super::state::State;
use super::connect::ConnectError;

/// The code of a call, or of a body, that ended with this error.
pub(super) fn code(error: &(dyn StdError + 'static)) -> Error {
    let causes = std::iter::successors(Some(error), |error| StdError::source(*error));
    causes.filter_map(code_of_cause).last().unwrap_or(Error::HttpProtocolError)
}

/// None: this cause says nothing that is worth more than what is around it.
fn code_of_cause(cause: &(dyn StdError + 'static)) -> Option<Error> {
    if let Some(error) = cause.downcast_ref::<ConnectError>() {
        return Some(error.code());
    }
    if let Some(error) = cause.downcast_ref::<hyper::Error>() {
        return code_of_hyper(error);
    }
    if let Some(error) = cause.downcast_ref::<rustls::Error>() {
        return Some(code_of_tls(error));
    }
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        return code_of_io(error);
    }
    match cause.downcast_ref::<Error>()? {
        // The guest's own body was not as long as it had announced.
        Error::HttpRequestBodySize(size) => Some(Error::HttpRequestBodySize(*size)),
        Error::ConnectionReadTimeout => Some(Error::ConnectionReadTimeout),
        Error::ConnectionWriteTimeout => Some(Error::ConnectionWriteTimeout),
        _ => None,
    }
}

fn code_of_hyper(error: &hyper::Error) -> Option<Error> {
    if error.is_incomplete_message() {
        Some(Error::HttpResponseIncomplete)
    } else if error.is_parse_too_large() {
        Some(Error::HttpResponseHeaderSectionSize(None))
    } else if error.is_canceled() || error.is_closed() {
        Some(Error::ConnectionTerminated)
    } else {
        None
    }
}

fn code_of_tls(error: &rustls::Error) -> Error {
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            Error::TlsCertificateError
        }
        rustls::Error::AlertReceived(alert) => Error::TlsAlertReceived {
            alert_id: Some((*alert).into()),
            alert_message: Some(format!("{alert:?}")),
        },
        _ => Error::TlsProtocolError,
    }
}

fn code_of_io(error: &io::Error) -> Option<Error> {
    // The source of an I/O error is the source of what it holds, which is left out that way.
    if let Some(code) = error.get_ref().and_then(|held| code_of_cause(held)) {
        return Some(code);
    }
    match error.kind() {
        // While a body was read: a head that ends too early is hyper's own error.
        ErrorKind::UnexpectedEof => Some(Error::HttpResponseIncomplete),
        ErrorKind::InvalidInput | ErrorKind::InvalidData => Some(Error::HttpResponseTransferCoding(None)),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
            Some(Error::ConnectionTerminated)
        }
        _ => None,
    }
}

/// Where the engine has `http-error-code`.
const ERROR_CODE_02: (&str, &str) = ("wasi:http/types@0.2.12", "http-error-code");

/// Puts a function before the engine's own, which knows no error of a body: those are of the type that both WASI versions share, and it
/// looks for the one of WASI 0.2.
pub(in super::super) fn tell_codes_of_bodies(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.instance(ERROR_CODE_02.0)?.func_wrap(
        ERROR_CODE_02.1,
        |mut store, (error,): (wasmtime::component::Resource<IoError>,)| {
            let error = store.data_mut().table().get(&error)?;
            let known = error.downcast_ref::<ErrorCode>().cloned();
            Ok((known.or_else(|| error.downcast_ref::<Error>().map(code_of_body)),))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The errors that bodies here fail with.
fn code_of_body(error: &Error) -> ErrorCode {
    match error {
        Error::HttpRequestBodySize(size) => ErrorCode::HttpRequestBodySize(*size),
        Error::ConnectionReadTimeout => ErrorCode::ConnectionReadTimeout,
        Error::ConnectionWriteTimeout => ErrorCode::ConnectionWriteTimeout,
        Error::ConnectionTerminated => ErrorCode::ConnectionTerminated,
        Error::HttpResponseIncomplete => ErrorCode::HttpResponseIncomplete,
        Error::HttpResponseTransferCoding(coding) => ErrorCode::HttpResponseTransferCoding(coding.clone()),
        Error::InternalError(text) => ErrorCode::InternalError(text.clone()),
        _ => ErrorCode::HttpProtocolError,
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::Engine;

    use super::super::super::engine::{Profile, Purpose, config};
    use super::*;

    #[test]
    fn what_is_put_before_the_engines_own_is_what_it_has() {
        let engine = Engine::new(&config(Profile::Concurrent, Purpose::Compile)).unwrap();
        let mut fresh = Linker::<State>::new(&engine);
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut fresh).unwrap();
        // Without shadowing, a name that is there cannot be defined again.
        let again = fresh.instance(ERROR_CODE_02.0).unwrap().func_wrap(ERROR_CODE_02.1, |_, (): ()| Ok(()));
        assert!(again.is_err(), "the engine has it elsewhere");
    }

    #[test]
    fn the_innermost_cause_that_has_a_code_tells_it() {
        let held = |error| io::Error::other(io::Error::new(ErrorKind::InvalidData, error));
        let expired = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        assert!(matches!(code(&held(expired)), Error::TlsCertificateError));
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::HandshakeFailure);
        assert!(matches!(code(&held(alert)), Error::TlsAlertReceived { alert_id: Some(40), .. }));
        let garbage = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert!(matches!(code(&held(garbage)), Error::TlsProtocolError));
        assert!(matches!(code(&io::Error::other(ConnectError::Denied)), Error::DestinationIpProhibited));
        assert!(matches!(code(&io::Error::other("no words for it")), Error::HttpProtocolError));
        let short = io::Error::other(Error::HttpRequestBodySize(Some(3)));
        assert!(matches!(code(&short), Error::HttpRequestBodySize(Some(3))));
        let held = io::Error::other(io::Error::new(ErrorKind::TimedOut, Error::ConnectionWriteTimeout));
        assert!(matches!(code(&held), Error::ConnectionWriteTimeout));
    }
}
