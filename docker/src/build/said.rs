//! What is read from the words of a builder: what a build has made so far, and how a step of it has ended.

use bollard::models::BuildInfo;

/// Containers and images of one build that are remembered; a Dockerfile of more steps leaves some behind.
const REMEMBERED_MAX: usize = 1000;

/// What a build has made so far, by what the builder says. Steps print to the same stream, so none of it is certain.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) containers: Vec<String>,
    pub(crate) images: Vec<String>,
    /// Whether the image that is named next is one that was there before.
    is_base_next: bool,
}

impl Seen {
    pub(crate) fn take(&mut self, info: &BuildInfo) {
        let Some(text) = info.stream.as_deref().map(str::trim_end) else { return };
        if let Some(step) = text.strip_prefix("Step ") {
            let instruction = step.split_once(" : ").map_or("", |(_, instruction)| instruction);
            self.is_base_next = instruction.to_ascii_uppercase().starts_with("FROM");
        } else if let Some(id) = text.strip_prefix(" ---> Running in ").filter(|id| is_id(id)) {
            remember(&mut self.containers, id);
        } else if let Some(id) = text.strip_prefix(" ---> ").filter(|id| is_id(id))
            && !std::mem::take(&mut self.is_base_next)
        {
            remember(&mut self.images, id);
        }
    }
}

fn remember(ids: &mut Vec<String>, id: &str) {
    if ids.len() < REMEMBERED_MAX {
        ids.push(id.to_owned());
    }
}

/// The beginning of an ID, as the builder shows it.
fn is_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `The command '…' returned a non-zero code: 7`
pub(crate) fn code_of(message: &str) -> Option<i64> {
    message.rsplit_once("returned a non-zero code: ")?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(texts: &[&str]) -> Seen {
        let mut seen = Seen::default();
        for text in texts {
            seen.take(&BuildInfo { stream: Some((*text).to_owned()), ..BuildInfo::default() });
        }
        seen
    }

    #[test]
    fn what_the_steps_make_is_remembered_and_what_was_there_is_not() {
        let seen = said(&[
            "Step 1/3 : FROM base:1 AS one",
            "\n",
            " ---> a8f707c465d4\n",
            "Step 2/3 : RUN true",
            " ---> Running in 2f1c4a87b60b\n",
            " ---> not an id\n",
            " ---> c578caa4362b\n",
        ]);
        assert_eq!(
            (seen.containers, seen.images),
            (vec!["2f1c4a87b60b".to_owned()], vec!["c578caa4362b".to_owned()])
        );
    }

    #[test]
    fn a_step_that_prints_much_that_looks_like_an_id_takes_little_memory() {
        let line = " ---> c578caa4362b\n";
        assert_eq!(said(&[line; 2 * REMEMBERED_MAX]).images.len(), REMEMBERED_MAX);
    }

    #[test]
    fn how_a_command_ended_is_read_from_what_is_said_of_it() {
        assert_eq!(code_of("The command '/bin/sh -c exit 7' returned a non-zero code: 7"), Some(7));
        assert_eq!(code_of("COPY failed: no such file"), None);
    }
}
