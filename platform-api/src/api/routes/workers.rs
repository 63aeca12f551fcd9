//! Routes that workers call.

use axum::http::Method;
use axum::routing::{get, post, put};
use wharf_types::api::{ArtifactSources, CertificateRequest, Leaving, NodeCertificate};
use wharf_types::exec::MEDIA_TYPE;
use wharf_types::keyvalue::{KeyValueReply, KeyValueRequest, REQUEST_MAX_BYTES};
use wharf_types::log::LogRecord;
use wharf_types::node::{NodeRegistration, NodeReport, ReportAnswer};

use super::Endpoint;
use crate::access::Access;
use crate::api::openapi::{Payload, array, json};
use crate::api::parameters::PROCESS;
use crate::api::{artifacts, exec, joining, session};

pub(super) fn for_workers() -> Vec<Endpoint> {
    let node = |method, path, handler, summary| Endpoint::new(method, path, Access::Node, handler, summary);
    vec![
        node(Method::PUT, "/v1/nodes/{node}", put(session::register), "Start a worker's session")
            .takes(json::<NodeRegistration>())
            .replies(204, Payload::Nothing),
        node(
            Method::GET,
            "/v1/nodes/{node}/assignments",
            get(session::assignments),
            "What to run, one document a line",
        )
        .query(PROCESS)
        .replies(200, Payload::Lines),
        node(Method::POST, "/v1/nodes/{node}/reports", post(session::report), "What a worker observed")
            .takes(json::<NodeReport>())
            .replies(200, json::<ReportAnswer>())
            .replies(204, Payload::Nothing),
        node(
            Method::POST,
            "/v1/nodes/{node}/leave",
            post(session::leave),
            "A worker is about to end: what it runs starts elsewhere first",
        )
        .query(PROCESS)
        .replies(200, json::<Leaving>())
        .since(2),
        node(Method::POST, "/v1/nodes/{node}/logs", post(session::logs), "What guests printed")
            .takes(array::<LogRecord>())
            .replies(204, Payload::Nothing),
        node(
            Method::POST,
            "/v1/nodes/{node}/keyvalue",
            post(session::key_value),
            "One key-value operation of a guest",
        )
        .body_of(REQUEST_MAX_BYTES)
        .takes(json::<KeyValueRequest>())
        .replies(200, json::<KeyValueReply>()),
        node(
            Method::POST,
            "/v1/nodes/{node}/certificate",
            post(joining::renew),
            "Another certificate for a worker that shows the one before",
        )
        .takes(json::<CertificateRequest>())
        .replies(200, json::<NodeCertificate>()),
        node(
            Method::GET,
            "/v1/nodes/{node}/execs",
            get(exec::orders),
            "Commands to run in containers, one document a line",
        )
        .query(PROCESS)
        .replies(200, Payload::Lines)
        .since(2),
        node(
            Method::POST,
            "/v1/nodes/{node}/execs/{exec}",
            post(exec::join),
            "A worker comes for a command: frames of what it says, and of what it is told",
        )
        .takes(Payload::Octets(MEDIA_TYPE))
        .replies(200, Payload::Octets(MEDIA_TYPE))
        .since(2),
        node(
            Method::GET,
            "/v1/nodes/{node}/transfers",
            get(exec::transfers),
            "Volumes to write to archives or to fill from them, one document a line",
        )
        .query(PROCESS)
        .replies(200, Payload::Lines)
        .since(2),
        node(
            Method::POST,
            "/v1/nodes/{node}/transfers/{exec}",
            post(exec::join_transfer),
            "A worker comes for a transfer: frames of what it says, and of what it is told",
        )
        .takes(Payload::Octets(MEDIA_TYPE))
        .replies(200, Payload::Octets(MEDIA_TYPE))
        .since(2),
        node(
            Method::GET,
            "/v1/nodes/{node}/copies",
            get(exec::copies),
            "Files to copy out of containers or into them, one document a line",
        )
        .query(PROCESS)
        .replies(200, Payload::Lines)
        .since(2),
        node(
            Method::POST,
            "/v1/nodes/{node}/copies/{exec}",
            post(exec::join_copy),
            "A worker comes for a copy: frames of what it says, and of what it is told",
        )
        .takes(Payload::Octets(MEDIA_TYPE))
        .replies(200, Payload::Octets(MEDIA_TYPE))
        .since(2),
        node(Method::GET, "/v1/artifacts/{digest}", get(artifacts::download), "The bytes of an artifact")
            .replies(200, Payload::Octets("application/wasm")),
        node(
            Method::GET,
            "/v1/artifacts/{digest}/sources",
            get(artifacts::sources),
            "Which other workers have an artifact",
        )
        .replies(200, json::<ArtifactSources>())
        .since(2),
    ]
}
