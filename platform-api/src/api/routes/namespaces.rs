//! Routes of namespaces, and of what is in them beside apps.

use axum::http::Method;
use axum::routing::{delete, get, post, put};
use wharf_types::api::{
    AppInfo, ArtifactInfo, ConfigValue, CreateNamespace, FilesInfo, MemberInfo, NamespaceInfo, Quota,
    QuotaInfo, ResolveImage, SecretInfo, SecretSet, SetMember, Usage, Verb, VolumeInfo,
};
use wharf_types::event::Event;
use wharf_types::image::ImageDocument;

use super::{ADMIN, DEVELOPER, Endpoint, NAMESPACE_ADMIN, VIEWER};
use crate::access::Access;
use crate::api::openapi::{Payload, json, list};
use crate::api::parameters::{CONFIG, EVENTS, EXEC, PAGE_BY_NAME, RESUMES, SETTINGS_CHANGES, VALUE_CHANGES};
use crate::api::{
    apps, artifacts, events, files, images, members, namespaces, nodes, quotas, secrets, volumes,
};

pub(super) fn about_namespaces() -> Vec<Endpoint> {
    let e = Endpoint::new;
    vec![
        e(Method::POST, "/v1/namespaces", ADMIN, post(namespaces::create), "Make a namespace")
            .once()
            .takes(json::<CreateNamespace>())
            .replies(201, json::<NamespaceInfo>()),
        e(
            Method::GET,
            "/v1/namespaces",
            Access::Anyone,
            get(namespaces::list),
            "List the namespaces that the token reaches",
        )
        .replies(200, list::<NamespaceInfo>()),
        e(Method::GET, "/v1/namespaces/{namespace}", VIEWER, get(namespaces::show), "One namespace")
            .replies(200, json::<NamespaceInfo>()),
        e(
            Method::DELETE,
            "/v1/namespaces/{namespace}",
            ADMIN,
            delete(namespaces::remove),
            "Delete an empty namespace",
        )
        .replies(204, Payload::Nothing),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/members",
            VIEWER,
            get(members::list),
            "List who is a member, and as what",
        )
        .replies(200, list::<MemberInfo>()),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/members/{user}",
            VIEWER,
            get(members::show),
            "One member",
        )
        .replies(200, json::<MemberInfo>())
        .with_etag(),
        e(
            Method::PUT,
            "/v1/namespaces/{namespace}/members/{user}",
            NAMESPACE_ADMIN,
            put(members::set),
            "Make a user a member, or give a member another role",
        )
        .headers(SETTINGS_CHANGES)
        .takes(json::<SetMember>())
        .replies(200, json::<MemberInfo>())
        .with_etag(),
        e(
            Method::DELETE,
            "/v1/namespaces/{namespace}/members/{user}",
            NAMESPACE_ADMIN,
            delete(members::remove),
            "Remove a member, who loses access at once",
        )
        .replies(204, Payload::Nothing),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/quota",
            VIEWER,
            get(quotas::show),
            "What the namespace may use, and what it uses",
        )
        .replies(200, json::<QuotaInfo>())
        .with_etag(),
        e(
            Method::PUT,
            "/v1/namespaces/{namespace}/quota",
            ADMIN,
            put(quotas::set),
            "Set the namespace's limits, as a whole; a limit below what is used only refuses growth",
        )
        .headers(SETTINGS_CHANGES)
        .takes(json::<Quota>())
        .replies(200, json::<QuotaInfo>())
        .with_etag(),
        e(
            Method::PUT,
            "/v1/namespaces/{namespace}/artifacts/{digest}",
            DEVELOPER,
            put(artifacts::push),
            "Push an artifact; 200 when it was there before",
        )
        .takes(Payload::Octets("application/wasm"))
        .replies(201, json::<ArtifactInfo>())
        .or(200, "It was there before"),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/artifacts/{digest}",
            VIEWER,
            get(artifacts::show),
            "What is known of an artifact",
        )
        .replies(200, json::<ArtifactInfo>()),
        e(
            Method::POST,
            "/v1/namespaces/{namespace}/images",
            DEVELOPER,
            post(images::resolve),
            "Which image of a container a name means now; what is told is then pushed as an artifact",
        )
        .takes(json::<ResolveImage>())
        .replies(200, json::<ImageDocument>()),
        e(
            Method::PUT,
            "/v1/namespaces/{namespace}/files/{digest}",
            DEVELOPER,
            put(files::push),
            "Push the files of an app as a tar archive; 200 when they were there before",
        )
        .takes(Payload::Octets("application/x-tar"))
        .replies(201, json::<FilesInfo>())
        .or(200, "They were there before"),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/files/{digest}",
            VIEWER,
            get(files::show),
            "What is known of pushed files",
        )
        .replies(200, json::<FilesInfo>()),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/secrets",
            VIEWER,
            get(secrets::list),
            "List secrets: names, versions and who uses them, never values",
        )
        .replies(200, list::<SecretInfo>()),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/secrets/{secret}",
            VIEWER,
            get(secrets::show),
            "One secret: its versions and who uses it, never its value",
        )
        .replies(200, json::<SecretInfo>())
        .with_etag(),
        e(
            Method::PUT,
            "/v1/namespaces/{namespace}/secrets/{secret}",
            Access::User(Verb::Secrets),
            put(secrets::set),
            "Set a secret to the body, which is text; apps that use it get a new release",
        )
        .headers(VALUE_CHANGES)
        .takes(Payload::Secret)
        .replies(200, json::<SecretSet>())
        .with_etag(),
        e(
            Method::DELETE,
            "/v1/namespaces/{namespace}/secrets/{secret}",
            Access::User(Verb::Secrets),
            delete(secrets::remove),
            "Remove a secret that no kept release uses",
        )
        .replies(204, Payload::Nothing),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/configs",
            VIEWER,
            get(secrets::list_configs),
            "List configs: names, versions and who uses them",
        )
        .replies(200, list::<SecretInfo>()),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/configs/{config}",
            DEVELOPER,
            get(secrets::show_config),
            "A config with its value",
        )
        .query(CONFIG)
        .replies(200, json::<ConfigValue>())
        .with_etag(),
        e(
            Method::PUT,
            "/v1/namespaces/{namespace}/configs/{config}",
            DEVELOPER,
            put(secrets::set_config),
            "Set a config to the body, which is text; apps that use it get a new release",
        )
        .headers(VALUE_CHANGES)
        .takes(Payload::Secret)
        .replies(200, json::<SecretSet>())
        .with_etag(),
        e(
            Method::DELETE,
            "/v1/namespaces/{namespace}/configs/{config}",
            DEVELOPER,
            delete(secrets::remove_config),
            "Remove a config that no kept release uses",
        )
        .replies(204, Payload::Nothing),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/usage",
            VIEWER,
            get(nodes::usage),
            "What the namespace's apps used",
        )
        .replies(200, json::<Usage>())
        .by_leader(),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/events",
            VIEWER,
            get(events::of_namespace),
            "What happened; a stream with `Accept: text/event-stream`",
        )
        .query(EVENTS)
        .headers(RESUMES)
        .replies(200, list::<Event>()),
        e(Method::GET, "/v1/namespaces/{namespace}/apps", VIEWER, get(apps::list), "List apps")
            .query(PAGE_BY_NAME)
            .replies(200, list::<AppInfo>())
            .by_leader(),
        e(
            Method::GET,
            "/v1/namespaces/{namespace}/volumes",
            VIEWER,
            get(volumes::list),
            "List volumes, also those of deleted apps",
        )
        .replies(200, list::<VolumeInfo>())
        .by_leader(),
        e(
            Method::DELETE,
            "/v1/namespaces/{namespace}/volumes/{volume}",
            DEVELOPER,
            delete(volumes::remove),
            "Remove a volume that no release in use has, and its data",
        )
        .replies(202, Payload::Nothing),
        e(
            Method::POST,
            "/v1/namespaces/{namespace}/volumes/{volume}/backup",
            DEVELOPER,
            post(volumes::backup),
            "Read what a volume holds: the connection then carries frames with a tar archive in stdout",
        )
        .headers(EXEC)
        .replies(101, Payload::Nothing)
        .by_leader()
        .takes_over(),
        e(
            Method::POST,
            "/v1/namespaces/{namespace}/volumes/{volume}/restore",
            DEVELOPER,
            post(volumes::restore),
            "Replace what a volume holds, which no instance has: the connection then carries frames with a tar archive in stdin, whose end is an empty one",
        )
        .headers(EXEC)
        .replies(101, Payload::Nothing)
        .by_leader()
        .takes_over(),
    ]
}
