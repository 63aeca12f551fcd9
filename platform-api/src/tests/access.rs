//! Who may call what: the table of routes is walked.

use axum::http::Method;
use serde_json::{Value, json};

use wharf_types::api::{Role, Verb};

use super::fixture::{Platform, Reply, component, eventually, quick};
use crate::access::Access;
use crate::api::endpoints;

impl Platform {
    pub(super) async fn token(&self, role: &str, namespace: Option<&str>, expires_in: &str) -> String {
        let body = json!({"name": format!("test {role}"), "role": role, "namespace": namespace, "expires_in": expires_in});
        let created = self.call(Method::POST, "/v1/tokens", body).await.is(201);
        created["secret"].as_str().unwrap().to_owned()
    }

    /// A new user who is a member of a namespace, and an unlimited token of theirs.
    pub(super) async fn member(&self, user: &str, namespace: &str, role: &str) -> String {
        self.call(Method::POST, "/v1/users", json!({"name": user})).await.is(201);
        let path = format!("/v1/namespaces/{namespace}/members/{user}");
        self.call(Method::PUT, &path, json!({"role": role})).await.is(200);
        self.own_token(user, json!({"name": "laptop"})).await
    }

    /// A token of a user, with these settings.
    pub(super) async fn own_token(&self, user: &str, mut settings: Value) -> String {
        settings["user"] = user.into();
        let created = self.call(Method::POST, "/v1/tokens", settings).await.is(201);
        created["secret"].as_str().unwrap().to_owned()
    }
}

/// The path with the names of a namespace that is there and of things that are not, so that who is let in changes nothing.
pub(super) fn filled(path: &str, namespace: &str) -> String {
    path.replace("{namespace}", namespace)
        .replace("{digest}", &format!("sha256:{}", "0".repeat(64)))
        .split('/')
        // An id is a name as well.
        .map(|part| if part.starts_with('{') { ABSENT } else { part })
        .collect::<Vec<_>>()
        .join("/")
}

const ABSENT: &str = "0190f5d8-0000-7000-8000-000000000000";

/// A caller, described by what the test knows of it, and not by what the platform makes of it.
struct Who {
    what: String,
    secret: String,
    /// In the namespace `default`.
    here: Option<Role>,
    /// In every namespace.
    everywhere: Option<Role>,
    only: Option<Verb>,
    /// Whether it may look after tokens.
    tokens: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Unauthenticated,
    Forbidden,
    /// As if there were no such namespace.
    Hidden,
    /// Whatever else is wrong with the request, it is not who sent it.
    Allowed,
}

fn answer(reply: &Reply) -> Answer {
    let detail = reply.json["detail"].as_str().unwrap_or_default();
    match (reply.status, reply.json["code"].as_str()) {
        (401, _) => Answer::Unauthenticated,
        (403, Some("forbidden")) => Answer::Forbidden,
        (404, _) if detail.starts_with("there is no namespace") => Answer::Hidden,
        _ => Answer::Allowed,
    }
}

/// What the table promises.
fn promised(access: Access, who: &Who) -> Answer {
    let allowed = |role: Option<Role>, verb: Verb| {
        let enough = role.is_some_and(|role| role >= verb.role());
        if enough && who.only.is_none_or(|only| only == verb) { Answer::Allowed } else { Answer::Forbidden }
    };
    match access {
        Access::Public | Access::Anyone | Access::Joining => Answer::Allowed,
        Access::Node => Answer::Forbidden,
        Access::Own if who.tokens => Answer::Allowed,
        Access::Own => Answer::Forbidden,
        // Without a body nothing but the token's own limits is known.
        Access::Body(verb) if who.only.is_none_or(|only| only == verb) => Answer::Allowed,
        Access::Body(_) => Answer::Forbidden,
        Access::User(_) if who.here.is_none() => Answer::Hidden,
        Access::User(verb) => allowed(who.here, verb),
        // Asked without a namespace.
        Access::Cluster(verb) | Access::Asked(verb) => allowed(who.everywhere, verb),
    }
}

const ROLES: [Role; 3] = [Role::Viewer, Role::Developer, Role::Admin];

async fn everybody(platform: &Platform) -> Vec<Who> {
    let mut all = Vec::new();
    let role_name = Role::as_str;
    for role in ROLES {
        let word = role_name(role);
        let here = platform.member(&format!("here-{word}"), "default", word).await;
        let there = platform.member(&format!("there-{word}"), "other", word).await;
        let bound = platform.token(word, Some("default"), "1h").await;
        let bound_elsewhere = platform.token(word, Some("other"), "1h").await;
        let wide = platform.token(word, None, "1h").await;
        let who = |what: &str, secret, here, everywhere, tokens| Who {
            what: format!("{word} {what}"),
            secret,
            here,
            everywhere,
            only: None,
            tokens,
        };
        all.push(who("of this namespace", here, Some(role), None, true));
        all.push(who("of another namespace", there, None, None, true));
        all.push(who("bound to this namespace", bound, Some(role), None, false));
        all.push(who("bound to another namespace", bound_elsewhere, None, None, false));
        all.push(who("everywhere", wide, Some(role), Some(role), role == Role::Admin));
    }
    for verb in Verb::ALL {
        let limits = json!({"name": "limited", "verbs": [verb]});
        let secret = platform.own_token("here-admin", limits).await;
        let what = format!("an admin's token for `{}` alone", verb.as_str());
        let (here, only) = (Some(Role::Admin), Some(verb));
        all.push(Who { what, secret, here, everywhere: None, only, tokens: false });
    }
    let capped = platform.own_token("here-admin", json!({"name": "capped", "role": "viewer"})).await;
    let what = "an admin's token that may no more than a viewer".to_owned();
    all.push(Who {
        what,
        secret: capped,
        here: Some(Role::Viewer),
        everywhere: None,
        only: None,
        tokens: false,
    });
    let bound = platform.own_token("here-admin", json!({"name": "bound", "namespace": "default"})).await;
    let what = "an admin's token for this namespace alone".to_owned();
    all.push(Who {
        what,
        secret: bound,
        here: Some(Role::Admin),
        everywhere: None,
        only: None,
        tokens: false,
    });
    all
}

#[tokio::test]
async fn every_route_answers_every_caller_as_the_table_says() {
    let platform = Platform::start().await;
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    // So that nobody who may delete the namespace can.
    platform.deploy("present", &component(0), quick()).await.is(201);
    let expired = platform.token("admin", None, "1ms").await;
    let everybody = everybody(&platform).await;
    for endpoint in endpoints() {
        let path = filled(endpoint.path, "default");
        let call =
            async |token: &str| platform.call_as(token, endpoint.method.clone(), &path, Value::Null).await;
        if endpoint.access == Access::Public {
            assert_eq!(answer(&call("").await), Answer::Allowed, "{path}");
            continue;
        }
        call("").await.refuses(401, "unauthenticated", &["token"]);
        call("wharf_wrong").await.refuses(401, "unauthenticated", &["not known"]);
        if endpoint.access == Access::Joining {
            continue;
        }
        match endpoint.access {
            Access::Node => {}
            _ => {
                call(&expired).await.refuses(401, "token_expired", &["expired at"]);
                call(&platform.node_token).await.refuses(403, "forbidden", &["worker"]);
            }
        }
        for who in &everybody {
            let reply = call(&who.secret).await;
            let about = format!("{} {path}, {}: {} {}", endpoint.method, who.what, reply.status, reply.json);
            assert_eq!(answer(&reply), promised(endpoint.access, who), "{about}");
        }
    }
}

/// Also the order of checks is the same: what is wrong with the rest of the request is not said first in one of the two cases.
#[tokio::test]
async fn a_namespace_of_others_is_answered_like_one_that_does_not_exist() {
    let platform = Platform::start().await;
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    platform.deploy("present", &component(0), quick()).await.is(201);
    let outsiders = [
        platform.member("outsider", "other", "admin").await,
        platform.token("admin", Some("other"), "1h").await,
    ];
    for endpoint in endpoints() {
        let namespace_of = |name: &str| filled(&endpoint.path.replace("{app}", "present"), name);
        if !endpoint.path.contains("{namespace}") || endpoint.access == Access::Node {
            continue;
        }
        for (token, suffix) in outsiders.iter().flat_map(|token| [(token, ""), (token, "?bad=1")]) {
            let mut replies = Vec::new();
            for name in ["default", "nowhere"] {
                let path = namespace_of(name) + suffix;
                let reply = platform.call_as(token, endpoint.method.clone(), &path, json!({"bad": 1})).await;
                let text = reply.json.to_string().replace(name, "NAME");
                replies.push((reply.status, format!("{:?}", reply.headers).replace(name, "NAME"), text));
            }
            let lengths_apart = |text: &str| text.replace(|letter: char| letter.is_ascii_digit(), "");
            assert_eq!(
                (replies[0].0, lengths_apart(&replies[0].1), &replies[0].2),
                (replies[1].0, lengths_apart(&replies[1].1), &replies[1].2),
                "{} {}{suffix}",
                endpoint.method,
                endpoint.path
            );
        }
    }
}

/// [`Endpoint::new`](crate::api) takes the access as one of its arguments, so that a route without does not compile; and nothing but
/// the table makes routes.
#[test]
fn there_is_no_route_beside_the_table_and_none_with_the_wrong_kind_of_access() {
    for endpoint in endpoints() {
        let about = format!("{} {}", endpoint.method, endpoint.path);
        let names_one = endpoint.path.contains("{namespace}");
        match endpoint.access {
            Access::User(verb) => {
                assert!(names_one, "{about}: in which namespace?");
                // Git asks for what it fetches in a body.
                let fetches = endpoint.path.ends_with("/git-upload-pack");
                let changes = endpoint.method != Method::GET && !fetches;
                assert!(!(changes && verb == Verb::Read), "{about}: a change is no reading");
            }
            Access::Asked(_) => {
                assert!(endpoint.query.iter().any(|parameter| parameter.name == "namespace"), "{about}");
            }
            Access::Cluster(_) | Access::Body(_) | Access::Node => {}
            Access::Public | Access::Anyone | Access::Own | Access::Joining => {
                assert!(!names_one, "{about}: a namespace is nobody's but its members'");
            }
        }
    }
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let mut routers = Vec::new();
    let mut folders = vec![std::path::PathBuf::from(sources)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("tests/access.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                routers.extend(std::iter::repeat_n(path, text.matches(".route(").count()));
            }
        }
    }
    assert_eq!(
        routers,
        [std::path::Path::new(sources).join("api.rs")],
        "routes are made from the table alone"
    );
}

#[tokio::test]
async fn a_bound_token_sees_only_its_namespace() {
    let platform = Platform::start().await;
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    let bound = platform.token("admin", Some("other"), "1h").await;
    let seen = platform.call_as(&bound, Method::GET, "/v1/namespaces", Value::Null).await.is(200);
    assert_eq!(seen["items"].as_array().unwrap().len(), 1);
    assert_eq!(seen["items"][0]["name"], "other");
    platform.call_as(&bound, Method::GET, "/v1/namespaces/other/apps", Value::Null).await.is(200);
    let unknown = platform.call_as(&bound, Method::GET, "/v1/namespaces/nowhere", Value::Null).await;
    let existing = platform.call_as(&bound, Method::GET, "/v1/namespaces/default", Value::Null).await;
    assert_eq!(
        unknown.json["detail"],
        existing.json["detail"].as_str().unwrap().replace("default", "nowhere")
    );
}

#[tokio::test]
async fn an_expired_and_a_revoked_token_are_told_apart() {
    let platform = Platform::start().await;
    let short = platform.token("viewer", None, "1ms").await;
    let reply = eventually("the token has expired", async || {
        let reply = platform.call_as(&short, Method::GET, "/v1/whoami", Value::Null).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    reply.refuses(401, "token_expired", &["expired at", "wharf login"]);

    let long = platform.token("viewer", None, "1h").await;
    let listed = platform.get("/v1/tokens").await;
    let id = listed["items"].as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned();
    platform.call(Method::DELETE, &format!("/v1/tokens/{id}"), Value::Null).await.is(204);
    let reply = platform.call_as(&long, Method::GET, "/v1/whoami", Value::Null).await;
    reply.refuses(401, "unauthenticated", &["revoked"]);
    assert!(!platform.get("/v1/tokens").await.to_string().contains(&long), "a secret is shown once only");
}

#[tokio::test]
async fn a_viewer_sees_the_names_of_variables_and_a_developer_their_values() {
    let platform = Platform::start().await;
    platform.deploy("hello", &component(0), json!({"env": {"PASSWORD": "s3cret"}})).await.is(201);
    let path = "/v1/namespaces/default/apps/hello/releases";
    for (role, shown) in
        [("viewer", "(hidden: reading it needs the role `developer`)"), ("developer", "s3cret")]
    {
        let token = platform.token(role, None, "1h").await;
        let releases = platform.call_as(&token, Method::GET, path, Value::Null).await.is(200);
        assert_eq!(releases["items"][0]["spec"]["env"], json!({"PASSWORD": shown}), "{role}");
    }
}
