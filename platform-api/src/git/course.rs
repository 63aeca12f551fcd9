//! What a push asks for, decided from the names that it moves and from nothing else.

use wharf_git::{ObjectId, RefName, RefUpdate};
use wharf_types::AppName;

/// What follows from a push.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Course {
    /// What is to be deployed, before anything moves.
    pub(crate) deploy: Option<Deploy>,
    /// Branches of previews that go.
    pub(crate) ends: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deploy {
    pub(crate) commit: ObjectId,
    /// What the client takes the branch for.
    pub(crate) update: RefUpdate,
    /// Such as `main`.
    pub(crate) branch: String,
    /// The app that gets it: that of the repository, or a preview.
    pub(crate) app: AppName,
    pub(crate) is_preview: bool,
}

/// Branches of previews begin so.
const PREVIEW: &str = "preview/";

/// The deploys of a push to the repository of `app`, whose branch `deploys` is what runs. An error is a sentence with the way out.
pub(crate) fn decide(updates: &[RefUpdate], app: &AppName, deploys: &str) -> Result<Course, String> {
    let mut course = Course::default();
    for update in updates {
        let Some(branch) = update.name.branch() else {
            check_other(&update.name)?;
            continue;
        };
        let deploy = match (update.new, branch.strip_prefix(PREVIEW)) {
            (Some(commit), None) if branch == deploys => Deploy {
                commit,
                update: update.clone(),
                branch: branch.to_owned(),
                app: app.clone(),
                is_preview: false,
            },
            (None, None) if branch == deploys => {
                return Err(format!(
                    "`{branch}` is the branch that runs, so it is not deleted; `wharf delete {app}` removes the app"
                ));
            }
            (Some(commit), Some(name)) => Deploy {
                commit,
                update: update.clone(),
                branch: branch.to_owned(),
                app: preview_app(app, name)?,
                is_preview: true,
            },
            (None, Some(_)) => {
                course.ends.push(branch.to_owned());
                continue;
            }
            (Some(commit), None) => return Err(elsewhere(commit, branch, deploys)),
            // It is left from when it was what ran.
            (None, None) => continue,
        };
        if let Some(other) = course.deploy.replace(deploy) {
            return Err(format!(
                "`{}` and `{branch}` would both be deployed: push one after the other",
                other.branch
            ));
        }
    }
    Ok(course)
}

/// The commands name the commit, as only the client knows what the branch is called there. Behind an id git wants to know in full where to.
fn elsewhere(commit: ObjectId, branch: &str, deploys: &str) -> String {
    let name = branch.rsplit('/').next().unwrap_or(branch);
    let commit = commit.to_string();
    let commit = &commit[..12];
    format!(
        "`{branch}` is not deployed here, `{deploys}` is: `git push wharf {commit}:refs/heads/{deploys}` deploys it, and \
         `git push wharf {commit}:refs/heads/{PREVIEW}{name}` makes a preview of it"
    )
}

/// Tags are kept, and nothing follows from them.
fn check_other(name: &RefName) -> Result<(), String> {
    if name.tag().is_some() {
        return Ok(());
    }
    Err(format!("`{name}` is neither a branch nor a tag, and nothing else is kept here: leave it out"))
}

/// The app that shows a branch `preview/NAME`.
fn preview_app(app: &AppName, name: &str) -> Result<AppName, String> {
    let slug: String = name
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' })
        .collect();
    let slug: Vec<&str> = slug.split('-').filter(|part| !part.is_empty()).collect();
    let text = format!("{app}-preview-{}", slug.join("-"));
    text.parse().map_err(|error| {
        format!("the preview `{name}` would be the app `{text}`, and {error}: push to a shorter name below `{PREVIEW}`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn update(name: &str, is_there: bool, stays: bool) -> RefUpdate {
        let id: ObjectId = A.parse().unwrap();
        RefUpdate { name: name.parse().unwrap(), old: is_there.then_some(id), new: stays.then_some(id) }
    }

    fn decided(updates: &[RefUpdate]) -> Result<Course, String> {
        decide(updates, &"hello".parse().unwrap(), "main")
    }

    #[test]
    fn the_branch_that_runs_is_deployed_and_tags_come_along() {
        let course =
            decided(&[update("refs/tags/v1", false, true), update("refs/heads/main", true, true)]).unwrap();
        let deploy = course.deploy.unwrap();
        assert_eq!((deploy.app.as_str(), deploy.is_preview), ("hello", false));
        assert_eq!(decided(&[update("refs/tags/v1", true, false)]).unwrap(), Course::default());
    }

    #[test]
    fn another_branch_is_refused_with_the_commands_that_would_work() {
        let refusal = decided(&[update("refs/heads/feature/colours", false, true)]).unwrap_err();
        let deploys = "`git push wharf aaaaaaaaaaaa:refs/heads/main` deploys it";
        let previews = "`git push wharf aaaaaaaaaaaa:refs/heads/preview/colours` makes a preview";
        assert!(refusal.contains(deploys) && refusal.contains(previews), "{refusal}");
    }

    #[test]
    fn a_preview_has_an_app_of_its_own_and_ends_with_its_branch() {
        let course = decided(&[update("refs/heads/preview/New_Colours", false, true)]).unwrap();
        let deploy = course.deploy.unwrap();
        assert_eq!((deploy.app.as_str(), deploy.is_preview), ("hello-preview-new-colours", true));
        let course = decided(&[update("refs/heads/preview/x", true, false)]).unwrap();
        assert_eq!((course.deploy, course.ends), (None, vec!["preview/x".to_owned()]));
        for name in ["preview/ä", &format!("preview/{}", "x".repeat(40))] {
            let refusal = decided(&[update(&format!("refs/heads/{name}"), false, true)]).unwrap_err();
            assert!(refusal.contains("shorter name"), "{refusal}");
        }
    }

    #[test]
    fn what_runs_is_not_deleted_and_only_one_branch_is_deployed_at_once() {
        let refusal = decided(&[update("refs/heads/main", true, false)]).unwrap_err();
        assert!(refusal.contains("wharf delete hello"), "{refusal}");
        let both = [update("refs/heads/main", true, true), update("refs/heads/preview/a", false, true)];
        assert!(decided(&both).unwrap_err().contains("one after the other"));
        assert!(
            decided(&[update("refs/notes/commits", false, true)]).unwrap_err().contains("refs/notes/commits")
        );
    }
}
