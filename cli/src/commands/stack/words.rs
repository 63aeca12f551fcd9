//! What the platform refuses of a stack, at the places and in the words of its compose file.

use std::collections::BTreeMap;

use wharf_compose::translate::key_of;
use wharf_compose::{Place, Project, Translation};
use wharf_types::AppName;
use wharf_types::declare::Kind;
use wharf_types::declare::change::PlanError;

use crate::declared::load::told;
use crate::exit::{Exit, Failure};

/// Settings of apps that the platform names where it depends on what there is whether they can be had.
const SETTINGS: [&str; 14] = [
    "container.capabilities_add",
    "container.devices",
    "container.host_network",
    "container.host_paths",
    "container.networks",
    "container.privileged",
    "container.registry_login",
    "container.sysctls",
    "http.routes",
    "limits.memory",
    "outbound.allow",
    "placement.constraints",
    "scale.replicas",
    "tcp.ports",
];

/// The services of a file, by the apps and jobs that they are.
pub struct Services<'a> {
    project: &'a Project,
    by_name: BTreeMap<&'a str, (&'a str, &'a Place)>,
}

impl<'a> Services<'a> {
    pub fn of(project: &'a Project, translation: &'a Translation) -> Self {
        let apps = translation
            .apps
            .iter()
            .map(|app| (app.document.name.as_str(), (app.service.as_str(), &app.place)));
        let jobs = translation.jobs.iter().map(|job| (job.name.as_str(), (job.service.as_str(), &job.place)));
        Self { project, by_name: apps.chain(jobs).collect() }
    }

    /// `FILE:LINE:COLUMN: the service …`. None: it is no service of the file.
    pub fn place(&self, app: &AppName) -> Option<String> {
        let (service, place) = self.by_name.get(app.as_str())?;
        Some(format!("{place}: the service `{service}`"))
    }

    /// Why nothing is applied, with the place of each error. None: it is.
    pub fn refusal(&self, errors: &[PlanError]) -> Option<Failure> {
        let first = errors.first()?;
        Some(Failure::new(Exit::of_problem(first.code), told(errors.iter().map(|error| self.line(error)))))
    }

    fn line(&self, error: &PlanError) -> String {
        let known = self.by_name.get(error.resource.name.as_str()).copied();
        let Some((service, place)) = known.filter(|_| error.resource.kind == Kind::App) else {
            return format!("{}: {}", error.resource, error.detail);
        };
        let (detail, at) = self.in_words(service, &error.detail);
        format!("{}: the service `{service}`: {detail}", at.unwrap_or(place))
    }

    /// A text with the keys of the file in place of the settings that they become, and where the first of them stands.
    fn in_words(&self, service: &str, text: &str) -> (String, Option<&'a Place>) {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/');
        let (mut said, mut place, mut rest) = (String::with_capacity(text.len()), None, text);
        while let Some(start) = rest.find(is_part) {
            let end = rest[start..].find(|c: char| !is_part(c)).map_or(rest.len(), |bytes| start + bytes);
            let word = &rest[start..end];
            said.push_str(&rest[..start]);
            match SETTINGS.into_iter().find(|setting| *setting == word.trim_end_matches('.')) {
                Some(setting) => {
                    let (key, at) = key_of(self.project, service, setting);
                    said.push_str(&key);
                    said.push_str(&word[setting.len()..]);
                    place = place.or(Some(at));
                }
                None => said.push_str(word),
            }
            rest = &rest[end..];
        }
        said.push_str(rest);
        (said, place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::stack::fixture::{project, translation};
    use wharf_types::declare::ResourceId;
    use wharf_types::problem::ProblemCode;

    const FILE: &str = "services:\n  web:\n    image: nginx\n    ports: ['7070:80']\n    privileged: true\n  db:\n    image: redis:7\n";

    fn error(app: &str, detail: &str) -> PlanError {
        let resource = ResourceId::of_app(&"default".parse().unwrap(), &app.parse().unwrap());
        PlanError { resource, code: ProblemCode::Forbidden, detail: detail.to_owned(), field: None }
    }

    #[test]
    fn what_the_platform_refuses_has_the_place_and_the_words_of_the_file() {
        let (project, translation) = (project(FILE), translation(FILE));
        let services = Services::of(&project, &translation);
        let told = |errors: &[PlanError]| services.refusal(errors).unwrap().to_string();
        let port = "tcp.ports: the platform itself listens at port 7070; choose another in `tcp.ports`";
        assert_eq!(
            told(&[error("web", port)]),
            "compose.yaml:4:5: the service `web`: ports: the platform itself listens at port 7070; choose another in `ports`"
        );
        let rights = "it may not, which `container.privileged` and `container.devices` do; ask the owner of x/tcp.ports.";
        assert_eq!(
            told(&[error("web", rights)]),
            "compose.yaml:5:5: the service `web`: it may not, which `privileged` and `devices` do; ask the owner of x/tcp.ports."
        );
        assert!(
            told(&[error("db", "it may not")]).starts_with("compose.yaml:7:5: the service `db`: it may not")
        );
        let both = told(&[error("web", "no"), error("old", "no")]);
        assert!(both.starts_with("there are 2 errors") && both.contains("app default/old: no"), "{both}");
        assert!(services.refusal(&[]).is_none());
    }
}
