//! A text that nobody should read by accident: a token.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Shows itself to [`Secret::reveal`] and in the file that it is saved to, and nowhere else.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Without the white space around it, which a file or a paste leaves there.
impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.trim().to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn a_token_of_the_command_line_is_not_shown_with_it() {
        let cli = Cli::parse_from(["wharf", "--token", "hush ", "apps"]);
        assert_eq!(cli.global.token, Some(Secret::from("hush".to_owned())));
        assert!(!format!("{cli:?}").contains("hush"));
    }
}
