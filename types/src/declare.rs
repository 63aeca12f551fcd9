//! Resources that are declared in files: what a plan compares and an apply makes so.
//!
//! [`Resource`] is what goes to the platform, complete and with every content as a digest; [`document`] is how a person writes it.
//! Another kind of resource is a variant of [`Kind`], one of [`Resource`] and one of [`document::Document`].

pub mod change;
mod compact;
pub mod document;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::digest::Digest;
use crate::name::{AppName, InvalidName, NamespaceName, SecretName, SetName};
use crate::spec::AppSpec;

pub use compact::{compact_spec, complete_spec};

/// The most resources of one plan.
pub const RESOURCES_MAX: usize = 20_000;
/// The most octets of a request with resources.
pub const REQUEST_MAX_BYTES: usize = 32 << 20;

/// What a resource is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[schema(as = ResourceKind)]
pub enum Kind {
    Namespace,
    Config,
    App,
}

impl Kind {
    /// What others need comes first.
    pub const ALL: &[Self] = &[Self::Namespace, Self::Config, Self::App];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Config => "config",
            Self::App => "app",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    /// The kinds that there are.
    type Err = &'static [Self];
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text).ok_or(Self::ALL)
    }
}

/// One thing that is to be as it is written here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", try_from = "Written")]
pub enum Resource {
    Namespace(NamespaceResource),
    Config(ConfigResource),
    App(Box<AppResource>),
}

/// A resource as it is read: of one piece, so that nothing is set aside until the `kind` is known, and errors have a place.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    kind: Kind,
    name: String,
    #[serde(default, deserialize_with = "present")]
    namespace: Option<NamespaceName>,
    #[serde(default, deserialize_with = "present")]
    value: Option<String>,
    #[serde(default, deserialize_with = "present")]
    artifact: Option<Digest>,
    #[serde(default, deserialize_with = "present")]
    spec: Option<AppSpec>,
    #[serde(default, deserialize_with = "present")]
    keep_scale: Option<bool>,
}

/// What may be left out, but is not null.
pub(crate) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl TryFrom<Written> for Resource {
    type Error = String;
    fn try_from(written: Written) -> Result<Self, String> {
        let Written { kind, name, namespace, value, artifact, spec, keep_scale } = written;
        let invalid = |error: InvalidName| format!("name: {error}");
        let (of_namespace, of_config, of_app) =
            (Kind::Namespace == kind, Kind::Config == kind, Kind::App == kind);
        let given = [
            ("namespace", namespace.is_some() && of_namespace),
            ("value", value.is_some() && !of_config),
            ("artifact", artifact.is_some() && !of_app),
            ("spec", spec.is_some() && !of_app),
            ("keep_scale", keep_scale.is_some() && !of_app),
        ];
        if let Some((other, _)) = given.into_iter().find(|(_, is_other)| *is_other) {
            let has = match kind {
                Kind::Namespace => "a namespace has nothing but a `name`",
                Kind::Config => "a config has a `namespace`, a `name` and a `value`",
                Kind::App => "a `value` is what a config has",
            };
            return Err(format!("unknown field `{other}`: {has}"));
        }
        match kind {
            Kind::Namespace => {
                Ok(Self::Namespace(NamespaceResource { name: name.parse().map_err(invalid)? }))
            }
            Kind::Config => Ok(Self::Config(ConfigResource {
                namespace: namespace.ok_or("missing field `namespace`")?,
                name: name.parse().map_err(invalid)?,
                value: value.ok_or("missing field `value`")?,
            })),
            Kind::App => Ok(Self::App(Box::new(AppResource {
                namespace: namespace.ok_or("missing field `namespace`")?,
                name: name.parse().map_err(invalid)?,
                artifact: artifact.ok_or("missing field `artifact`")?,
                spec: spec.unwrap_or_default(),
                keep_scale: keep_scale.unwrap_or_default(),
            }))),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamespaceResource {
    pub name: NamespaceName,
}

/// A config: what `wharf config set` would make of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigResource {
    pub namespace: NamespaceName,
    pub name: SecretName,
    /// Text without a NUL character, at least one octet and at most 65536.
    pub value: String,
}

/// An app: what `wharf deploy` would make of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AppResource {
    pub namespace: NamespaceName,
    pub name: AppName,
    /// Pushed before: `PUT /v1/namespaces/{namespace}/artifacts/{digest}`. An app of a namespace that the same request makes may
    /// use what any namespace has.
    pub artifact: Digest,
    /// What is left out has its default.
    #[serde(default, serialize_with = "compact::serialize")]
    pub spec: AppSpec,
    /// `spec.scale` says nothing: an app that is there keeps the number of instances that it has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_scale: bool,
}

/// Which resource. Its order is that in which resources are made: what others need comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ResourceId {
    pub kind: Kind,
    /// None: it belongs to none, as namespaces do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<NamespaceName>,
    pub name: String,
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

impl ResourceId {
    pub fn of_app(namespace: &NamespaceName, name: &AppName) -> Self {
        Self { kind: Kind::App, namespace: Some(namespace.clone()), name: name.as_str().to_owned() }
    }

    pub fn of_config(namespace: &NamespaceName, name: &SecretName) -> Self {
        Self { kind: Kind::Config, namespace: Some(namespace.clone()), name: name.as_str().to_owned() }
    }

    pub fn of_namespace(name: &NamespaceName) -> Self {
        Self { kind: Kind::Namespace, namespace: None, name: name.as_str().to_owned() }
    }
}

/// A resource with its `kind`, in one object: a schema that takes no other properties than its own cannot be extended by another.
fn of_kind<T: PartialSchema>(kind: Kind) -> RefOr<Schema> {
    let mut schema = T::schema();
    if let RefOr::T(Schema::Object(object)) = &mut schema {
        let word = ObjectBuilder::new().schema_type(Type::String).enum_values(Some([kind.as_str()]));
        object.properties.insert("kind".to_owned(), word.into());
        object.required.push("kind".to_owned());
    }
    schema
}

impl PartialSchema for Resource {
    fn schema() -> RefOr<Schema> {
        let namespace = of_kind::<NamespaceResource>(Kind::Namespace);
        let config = of_kind::<ConfigResource>(Kind::Config);
        let app = of_kind::<AppResource>(Kind::App);
        let about = "One thing that is to be as it is written here.";
        OneOfBuilder::new().description(Some(about)).item(namespace).item(config).item(app).into()
    }
}

impl ToSchema for Resource {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        NamespaceResource::schemas(schemas);
        ConfigResource::schemas(schemas);
        AppResource::schemas(schemas);
    }
}

impl Resource {
    pub fn id(&self) -> ResourceId {
        match self {
            Self::Namespace(namespace) => ResourceId::of_namespace(&namespace.name),
            Self::Config(config) => ResourceId::of_config(&config.namespace, &config.name),
            Self::App(app) => ResourceId::of_app(&app.namespace, &app.name),
        }
    }

    /// The namespace that it is, or is in.
    pub fn namespace(&self) -> &NamespaceName {
        match self {
            Self::Namespace(namespace) => &namespace.name,
            Self::Config(config) => &config.namespace,
            Self::App(app) => &app.namespace,
        }
    }
}

/// Deletes what was applied before under the name of a set and is not declared any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Prune {
    /// What is applied belongs to this set from then on.
    pub set: SetName,
    /// Where the set is looked for, beside the namespaces of the resources.
    #[serde(default)]
    pub namespaces: Vec<NamespaceName>,
    /// Nothing is deleted: what is applied belongs to the set, as one part of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn app(spec: AppSpec) -> Resource {
        Resource::App(Box::new(AppResource {
            namespace: NamespaceName::default_namespace(),
            name: "hello".parse().unwrap(),
            artifact: Digest::of(b""),
            spec,
            keep_scale: false,
        }))
    }

    #[test]
    fn a_resource_goes_over_the_wire_without_its_defaults() {
        let mut spec = AppSpec::default();
        spec.scale.replicas = 3.into();
        spec.env.insert("A".into(), "b".into());
        let resource = app(spec);
        let wire = serde_json::to_value(&resource).unwrap();
        assert_eq!(wire["spec"], json!({"scale": {"replicas": 3}, "env": {"A": "b"}}));
        assert_eq!(wire["kind"], "app");
        assert_eq!(serde_json::from_value::<Resource>(wire).unwrap(), resource);
    }

    #[test]
    fn unknown_keys_of_a_resource_are_refused() {
        let mut wire = serde_json::to_value(app(AppSpec::default())).unwrap();
        wire["replicas"] = json!(3);
        let error = serde_json::from_value::<Resource>(wire).unwrap_err();
        assert!(error.to_string().contains("`replicas`"), "{error}");
    }

    #[test]
    fn a_config_has_a_value_and_nothing_of_an_app() {
        let wire = json!({"kind": "config", "namespace": "team", "name": "greeting", "value": "hi"});
        let config: Resource = serde_json::from_value(wire.clone()).unwrap();
        assert_eq!(serde_json::to_value(&config).unwrap(), wire);
        assert_eq!(config.id().to_string(), "config team/greeting");
        let refused = |edit: fn(&mut serde_json::Value)| {
            let mut wire = wire.clone();
            edit(&mut wire);
            serde_json::from_value::<Resource>(wire).unwrap_err().to_string()
        };
        let with_spec = refused(|wire| wire["spec"] = json!({}));
        assert!(with_spec.contains("unknown field `spec`: a config has"), "{with_spec}");
        let empty = refused(|wire| drop(wire.as_object_mut().unwrap().remove("value")));
        assert!(empty.contains("missing field `value`"), "{empty}");
        let app = refused(|wire| wire["kind"] = "app".into());
        assert!(app.contains("unknown field `value`"), "{app}");
    }

    #[test]
    fn namespaces_and_configs_come_before_what_is_in_them() {
        let namespace = ResourceId::of_namespace(&"zoo".parse().unwrap());
        let config = ResourceId::of_config(&"zoo".parse().unwrap(), &"zebra".parse().unwrap());
        assert!(namespace < config && config < app(AppSpec::default()).id());
        assert!(namespace < app(AppSpec::default()).id());
        assert_eq!(namespace.to_string(), "namespace zoo");
        assert_eq!(app(AppSpec::default()).id().to_string(), "app default/hello");
    }
}
