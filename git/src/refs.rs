//! The refs of a repository, read and set by the platform itself.

use std::collections::HashMap;

use crate::git::GitError;
use crate::object_id::ObjectId;
use crate::ref_name::RefName;
use crate::repositories::Repository;

impl Repository {
    /// All refs, the platform's own among them, with what they point to: for a tag with a message that is the tag, not the commit.
    pub async fn refs(&self) -> Result<HashMap<RefName, ObjectId>, GitError> {
        let ran = self.run("for-each-ref", &["--format=%(objectname) %(refname)"]).await?;
        let text = String::from_utf8_lossy(&ran.output()?).into_owned();
        let entry = |line: &str| {
            let (id, name) = line.split_once(' ')?;
            Some((name.parse().ok()?, id.parse().ok()?))
        };
        Ok(text.lines().filter_map(entry).collect())
    }

    /// What a ref points to.
    pub async fn find_ref(&self, name: &RefName) -> Result<Option<ObjectId>, GitError> {
        let ran = self.run("rev-parse", &["--verify", "--quiet", "--end-of-options", name.as_str()]).await?;
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        Ok(text.lines().find_map(|line| line.parse().ok()))
    }

    /// Points a ref to `new` if it points to `old`, or if there is none where `old` is `None`. False: it does not.
    pub async fn update_ref(
        &self,
        name: &RefName,
        old: Option<ObjectId>,
        new: ObjectId,
    ) -> Result<bool, GitError> {
        let (old_text, new) = (ObjectId::or_zero(old).to_string(), new.to_string());
        let ran = self.run("update-ref", &["--no-deref", name.as_str(), &new, &old_text]).await?;
        if ran.status.success() {
            return Ok(true);
        }
        if self.find_ref(name).await? == old { Err(ran.failure()) } else { Ok(false) }
    }

    /// Deletes a ref if it points to `old`. False: it does not.
    pub async fn delete_ref(&self, name: &RefName, old: ObjectId) -> Result<bool, GitError> {
        let ran = self.run("update-ref", &["--no-deref", "-d", name.as_str(), &old.to_string()]).await?;
        if ran.status.success() {
            return Ok(true);
        }
        if self.find_ref(name).await? == Some(old) { Err(ran.failure()) } else { Ok(false) }
    }
}
