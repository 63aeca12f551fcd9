//! Exit codes, and how an error reaches the user.
//!
//! An error is printed once, here, as one sentence chain and a hint. Which code it ends in is decided by two pure
//! functions: [`Exit::of_problem`] for what the platform answered, [`Exit::of`] for any error.

use std::fmt;
use std::process::ExitCode;

use clap::error::ErrorKind;
use serde::Serialize;
use wharf_types::problem::{Problem, ProblemCode};

/// Why the command ended. Documented in `docs/guide/exit-codes.md` and in `wharf --help`; the numbers never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The platform failed, or this program did.
    Platform = 1,
    /// The command line was not understood.
    Usage = 2,
    NotFound = 3,
    /// Without a valid token, or the token does not allow it.
    Refused = 4,
    /// The release cannot start, or was rolled back.
    RolloutFailed = 5,
    /// A bad artifact, manifest or setting.
    Invalid = 6,
    /// It exists already, or was changed in between.
    Conflict = 7,
    /// Nothing answers at the address.
    Unreachable = 8,
    /// A quota is used up or a disk is full.
    Full = 9,
}

impl Exit {
    pub fn of_problem(code: ProblemCode) -> Self {
        match code {
            ProblemCode::InvalidRequest
            | ProblemCode::TooLarge
            | ProblemCode::DigestMismatch
            | ProblemCode::InvalidArtifact
            | ProblemCode::InvalidSpec => Self::Invalid,
            ProblemCode::Unauthenticated | ProblemCode::TokenExpired | ProblemCode::Forbidden => {
                Self::Refused
            }
            ProblemCode::NotFound => Self::NotFound,
            ProblemCode::AlreadyExists
            | ProblemCode::Conflict
            | ProblemCode::RouteTaken
            | ProblemCode::PortTaken
            | ProblemCode::Incompatible
            | ProblemCode::PreconditionFailed => Self::Conflict,
            ProblemCode::QuotaExceeded | ProblemCode::StorageFull => Self::Full,
            ProblemCode::MethodNotAllowed
            | ProblemCode::Internal
            | ProblemCode::Unavailable
            | ProblemCode::Busy => Self::Platform,
        }
    }

    /// The code of any error: that of the first [`Failure`] or [`Problem`] in its chain.
    pub fn of(error: &anyhow::Error) -> Self {
        for cause in error.chain() {
            if let Some(failure) = cause.downcast_ref::<Failure>() {
                return failure.exit;
            }
            if let Some(problem) = cause.downcast_ref::<Problem>() {
                return Self::of_problem(problem.code);
            }
        }
        Self::Platform
    }

    /// The same word in JSON.
    fn as_str(self) -> &'static str {
        match self {
            Self::Platform => "failed",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::RolloutFailed => "rollout_failed",
            Self::Invalid => "invalid",
            Self::Conflict => "conflict",
            Self::Unreachable => "unreachable",
            Self::Full => "full",
        }
    }
}

/// The table in `wharf --help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  it worked
  1  the platform failed, or the command did
  2  the command line was not understood
  3  there is no such thing
  4  refused: no valid token, or it does not allow this
  5  the rollout failed: the release cannot start, or was rolled back
  6  the artifact, the manifest or a setting is not valid
  7  conflict: it exists, the route is taken, or it changed in between
  8  the platform cannot be reached
  9  a quota is used up, or a disk is full";

/// An error that this program found itself, with its exit code and what to do.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
    help: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), help: None }
    }

    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Exit::Invalid, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// What `--json` prints on stderr: the platform's problem, or the same shape for an error found here.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    code: serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
    exit: u8,
}

/// Every error of `wharf diff`, whose 1 says that there is a difference.
pub const DIFF_FAILED: u8 = 2;

/// Prints the error on stderr and returns the exit code.
pub fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    report_as(error, json, Exit::of(error) as u8)
}

/// The same for a command with exit codes of its own.
pub fn report_as(error: &anyhow::Error, json: bool, exit_code: u8) -> ExitCode {
    let exit = Exit::of(error);
    let (detail, help) = (sentences(error), help_for(error));
    eprintln!("error: {}", crate::output::printable(&detail));
    if let Some(help) = &help {
        eprintln!("help: {help}");
    }
    if json {
        let problem = error.chain().find_map(|cause| cause.downcast_ref::<Problem>());
        let code = match problem {
            Some(problem) => serde_json::json!(problem.code),
            None => serde_json::json!(exit.as_str()),
        };
        let (status, title) = (problem.map(|p| p.status), problem.map(|p| p.title.as_str()));
        print_json(&Report { status, code, title, detail, help, exit: exit_code });
    }
    ExitCode::from(exit_code)
}

/// Prints what is wrong with the command line, or the help that was asked for, and returns the exit code.
pub fn report_usage(error: &clap::Error, json: bool) -> ExitCode {
    // Without a terminal or a reader there is nobody left to tell.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    if json {
        print_json(&usage_report(error));
    }
    ExitCode::from(Exit::Usage as u8)
}

/// The sentence of the error, without the usage that follows it.
fn usage_report(error: &clap::Error) -> Report<'static> {
    let text = error.to_string();
    let sentence = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a command is missing",
        _ => text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: "),
    };
    Report {
        status: None,
        code: serde_json::json!(Exit::Usage.as_str()),
        title: None,
        detail: sentence.split_whitespace().collect::<Vec<_>>().join(" "),
        help: Some("`wharf --help` lists commands, `wharf COMMAND --help` their flags".to_owned()),
        exit: Exit::Usage as u8,
    }
}

fn print_json(report: &Report<'_>) {
    if let Ok(line) = serde_json::to_string(report) {
        eprintln!("{line}");
    }
}

/// The error and what helps, for somebody who is not at this terminal.
pub fn told(error: &anyhow::Error) -> (String, Option<String>) {
    (sentences(error), help_for(error))
}

/// The chain as one text; a cause that the sentence before it already holds is not said again.
fn sentences(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

fn help_for(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.help.clone();
        }
        let problem = cause.downcast_ref::<Problem>()?;
        let help = match problem.code {
            ProblemCode::Unauthenticated | ProblemCode::TokenExpired => {
                "log in with `wharf login URL`, or set WHARF_TOKEN"
            }
            ProblemCode::Forbidden => {
                "`wharf context show` says which token is used; an admin can make another one"
            }
            ProblemCode::Unavailable => "try again in a moment; `wharf doctor` shows what is wrong",
            ProblemCode::Internal => "look at the log of the platform; `wharf doctor` checks what it can",
            _ => return None,
        };
        Some(help.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;
    use clap::Parser as _;

    #[test]
    fn every_problem_code_has_the_exit_code_of_its_status() {
        for code in ProblemCode::ALL {
            let expected = match code.status() {
                // The token is good, and there is no room.
                _ if *code == ProblemCode::QuotaExceeded => Exit::Full,
                // It passes by itself.
                _ if *code == ProblemCode::Busy => Exit::Platform,
                401 | 403 => Exit::Refused,
                404 => Exit::NotFound,
                409 | 412 => Exit::Conflict,
                400 | 413 | 422 => Exit::Invalid,
                507 => Exit::Full,
                _ => Exit::Platform,
            };
            assert_eq!(Exit::of_problem(*code), expected, "{code:?}");
        }
    }

    #[test]
    fn the_exit_code_is_found_below_context() {
        let error = anyhow::Error::new(Problem::new(ProblemCode::RouteTaken, "x.com/ belongs to `a`"))
            .context("could not make the release");
        assert_eq!(Exit::of(&error), Exit::Conflict);
        let error = Err::<(), _>(Failure::new(Exit::Unreachable, "no platform")).context("more").unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Unreachable);
        assert_eq!(Exit::of(&anyhow::anyhow!("else")), Exit::Platform);
    }

    #[test]
    fn a_bad_command_line_is_one_sentence() {
        let error = crate::args::Cli::try_parse_from(["wharf", "scale", "--nonsense"]).unwrap_err();
        let report = usage_report(&error);
        assert_eq!(report.detail, "unexpected argument '--nonsense' found");
        assert_eq!((report.code, report.exit), (serde_json::json!("usage"), 2));
        let error = crate::args::Cli::try_parse_from(["wharf", "token"]).unwrap_err();
        assert_eq!(usage_report(&error).detail, "a command is missing");
    }

    #[test]
    fn a_sentence_is_said_once() {
        let error = anyhow::anyhow!("disk is full").context("could not write x: disk is full");
        assert_eq!(sentences(&error), "could not write x: disk is full");
        let error = anyhow::anyhow!("disk is full").context("could not write x");
        assert_eq!(sentences(&error), "could not write x: disk is full");
    }

    #[test]
    fn the_guide_lists_every_code() {
        let guide = include_str!("../../docs/guide/exit-codes.md");
        for exit in 0..=9 {
            assert!(
                guide.contains(&format!("| {exit} |")),
                "{exit} is missing from docs/guide/exit-codes.md"
            );
            assert!(EXIT_CODES.contains(&format!("  {exit}  ")), "{exit} is missing from --help");
        }
    }
}
