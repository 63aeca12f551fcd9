//! A resolved project as a compose file again: one file, long forms, keys in the order of the alphabet.

use crate::project::Project;
use crate::write::Writer;

impl Project {
    /// YAML that loads as the same project from the same folder. Variables are replaced, so values that came from them are in it.
    pub fn to_yaml(&self) -> String {
        Writer { first: &[], has_variables: true }.write(&self.tree)
    }
}
