//! A plan in a file: `wharf plan --out FILE`, and later `wharf apply FILE`, which does exactly that or nothing.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use wharf_types::declare::change::Plan;
use wharf_types::declare::{Prune, Resource};

use crate::exit::{Exit, Failure};

/// Grows with every change of the file that an older version would misread.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    wharf_plan: u32,
    /// The platform that it is for.
    pub api: String,
    pub resources: Vec<Resource>,
    pub prune: Option<Prune>,
    pub plan: Plan,
}

impl Saved {
    pub fn new(api: &str, resources: Vec<Resource>, prune: Option<Prune>, plan: Plan) -> Self {
        Self { wharf_plan: VERSION, api: api.to_owned(), resources, prune, plan }
    }

    /// Variables may be nobody else's business, so only the user can read the file.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let writing = || format!("could not write {}", path.display());
        let text = serde_json::to_vec(self).with_context(writing)?;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(path).with_context(writing)?;
        file.write_all(&text).with_context(writing)
    }

    /// Reads a plan for this platform.
    pub fn read(path: &Path, api: &str) -> anyhow::Result<Self> {
        let name = path.display();
        let text = std::fs::read(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Failure::new(Exit::NotFound, format!("there is no file {name}")).into()
            }
            _ => anyhow::Error::new(error).context(format!("could not read {name}")),
        })?;
        #[derive(Deserialize)]
        struct Version {
            wharf_plan: u32,
        }
        let version = serde_json::from_slice::<Version>(&text).map_err(|_| {
            Failure::invalid(format!("{name} is no saved plan"))
                .help("make one with `wharf plan --out FILE`, or apply files with `-f FILE`")
        })?;
        if version.wharf_plan != VERSION {
            let message = format!("{name} was saved by another version of wharf; plan again");
            return Err(Failure::invalid(message).into());
        }
        let saved: Self = serde_json::from_slice(&text).map_err(|error| {
            Failure::invalid(format!("{name} was changed since it was saved: {error}; plan again"))
        })?;
        if saved.api != api {
            let message = format!("{name} was made for the platform at {}, and this is {api}", saved.api);
            return Err(Failure::invalid(message)
                .help("plan again, or name that platform with `--api`")
                .into());
        }
        Ok(saved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_types::declare::change::Counts;

    #[test]
    fn a_plan_is_for_the_platform_that_it_was_made_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.plan");
        let plan =
            Plan { base: "b".into(), counts: Counts::default(), changes: Vec::new(), errors: Vec::new() };
        Saved::new("http://a", Vec::new(), None, plan).write(&path).unwrap();
        assert_eq!(Saved::read(&path, "http://a").unwrap().plan.base, "b");
        let error = Saved::read(&path, "http://b").unwrap_err();
        assert!(error.to_string().contains("made for the platform at http://a"), "{error}");
        std::fs::write(&path, "kind: app").unwrap();
        assert!(Saved::read(&path, "http://a").unwrap_err().to_string().contains("no saved plan"));
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o77, 0);
    }
}
