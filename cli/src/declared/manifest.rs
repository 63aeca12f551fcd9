//! `wharf.toml`, read as declared files are: all that is wrong is told at once, at its place.

use wharf_types::manifest::Manifest;

use super::check;
use super::load::told;
use super::node::{Fault, Place};
use super::toml;

/// The manifest, or what is wrong with it; `file` is its name in errors.
pub fn read(file: &str, text: &str) -> Result<Manifest, String> {
    parse(text).map_err(|mut faults| {
        faults.sort_by_key(|fault| fault.place);
        let lines = faults.into_iter().map(|Fault { place: Place { line, column }, message }| {
            format!("{file}:{line}:{column}: {message}")
        });
        told(lines)
    })
}

fn parse(text: &str) -> Result<Manifest, Vec<Fault>> {
    let node = toml::parse(text)?;
    check::decode(&node, Manifest::validate)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of the error.
    fn errors(text: &str) -> Vec<String> {
        let error = read("wharf.toml", text).unwrap_err();
        let lines: Vec<String> = error.lines().map(|line| line.trim().to_owned()).collect();
        if lines.len() > 1 { lines[1..].to_vec() } else { lines }
    }

    #[test]
    fn what_is_read_is_what_the_types_say() {
        let text = include_str!("../../../examples/hello/wharf.toml");
        assert_eq!(read("wharf.toml", text).unwrap(), Manifest::parse(text).unwrap());
        let text = "\u{feff}app = \"db\"\nimage = \"redis:7\"\ntcp.ports = [7000]\ncontainer.tcp.7000 = 6379\n[release]\ncommand = [\"x\"]\n";
        let manifest = read("wharf.toml", text).unwrap();
        assert_eq!(manifest.container.tcp, [(7000, 6379)].into());
        assert_eq!(manifest.release.unwrap().command, ["x"]);
    }

    #[test]
    fn a_word_that_is_nearly_one_is_told_with_the_one_that_was_meant() {
        for (text, error) in [
            ("[scal]\nreplicas = 2", "2:2: there is no key `scal` here; did you mean `scale`?"),
            ("[scale]\nreplica = 2", "3:1: scale: there is no key `replica` here; did you mean `replicas`?"),
            (
                "[scale]\nreplicas = { mni = 1, max = 2, concurrency = 3 }",
                "3:14: scale.replicas: there is no key `mni` here; did you mean `min`?",
            ),
            (
                "[update.canary]\nmin_request = 5",
                "3:1: update.canary: there is no key `min_request` here; did you mean `min_requests`?",
            ),
            (
                "[placement]\npriority = \"hgh\"",
                "3:12: placement.priority: `hgh` is not known; did you mean `high`?",
            ),
            (
                "[build]\ncomand = \"make\"",
                "3:1: build: there is no key `comand` here; did you mean `command`?",
            ),
        ] {
            assert_eq!(errors(&format!("app = \"a\"\n{text}\n")), [format!("wharf.toml:{error}")], "{text}");
        }
    }

    #[test]
    fn all_errors_are_told_at_once_with_their_places() {
        let text = "\
app = \"a\"
[placement]
constraints = [\"node.memory >= 16\"]
priority = \"hgh\"
[update]
parallelism = \"0%\"
[scale.replicas]
min = 5
max = 2
concurrency = 3
[http]
routes = [\"a b\"]
[limits]
memory = 128
";
        let found = errors(text);
        let begin = [
            "wharf.toml:3:",
            "wharf.toml:4:12: placement.priority: `hgh` is not known",
            "wharf.toml:6:1: update.parallelism: 0% is not between 1% and 100%",
            "wharf.toml:8:1: scale.replicas.min: 5 is more than `max`, which is 2",
            "wharf.toml:12:",
            "wharf.toml:14:10: limits.memory: the number 128 stands where a text is needed",
        ];
        assert_eq!(found.len(), begin.len(), "{found:#?}");
        for (found, begin) in found.iter().zip(begin) {
            assert!(found.starts_with(begin), "{found}");
        }
        assert!(found[0].contains("placement.constraints") && found[0].contains("node.memory >= 16"));
        assert!(found[4].contains("http.routes"), "{found:#?}");
    }

    #[test]
    fn settings_that_do_not_go_together_and_texts_that_are_not_toml_have_a_place() {
        assert_eq!(
            errors("app = \"a\"\nimage = \"redis:7\"\n[build]\ncommand = \"make\"\n"),
            [
                "wharf.toml:2:1: image: is a container, which has neither `build` nor `files`; write one of them"
            ]
        );
        assert_eq!(errors("[env]\nA = \"b\"\n"), ["wharf.toml:1:1: `app` is missing"]);
        let found = errors("app = \"a\"\nx = \n");
        assert!(
            found[0].starts_with("wharf.toml:2:") && found[0].contains("this is not TOML: "),
            "{found:?}"
        );
    }
}
