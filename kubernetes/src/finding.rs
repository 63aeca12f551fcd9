//! What people should know of what was made of their manifests.

use std::collections::BTreeSet;
use std::fmt;

use wharf_compose::node::Place;

use crate::at::At;

/// More would not be read.
const FINDINGS_MAX: usize = 20_000;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What was not taken as it stands, and what was done instead.
    Notice,
    /// A command that has to be run beside the text.
    Command,
    /// What is left out with all that it belongs to, and why.
    Refused,
}

/// One thing about one field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub place: Place,
    pub level: Level,
    /// The kind and the name of the manifest, such as `Deployment web`. Empty: it is about the file.
    pub subject: String,
    /// Of the field within the manifest, such as `spec.template.spec.containers[0].image`. Empty: it is about the whole.
    pub path: String,
    /// Of [`Level::Command`] the command and nothing else.
    pub text: String,
    /// Of a command: what has to be known beside it.
    pub remark: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, level, subject, path, text, remark } = self;
        let about: Vec<&str> = [subject.as_str(), path].into_iter().filter(|part| !part.is_empty()).collect();
        write!(f, "{place}: ")?;
        if !about.is_empty() {
            write!(f, "{}: ", about.join(", "))?;
        }
        match level {
            Level::Notice | Level::Refused => f.write_str(text),
            Level::Command if remark.is_empty() => write!(f, "run this:\n{text}"),
            Level::Command => write!(f, "run this, {remark}:\n{text}"),
        }
    }
}

/// Where findings go, and which manifests cannot be taken.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    findings: Vec<Finding>,
    /// Numbers of the manifests of which something was refused.
    refused: BTreeSet<usize>,
    left_out: usize,
}

impl Sink {
    pub(crate) fn add(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX
            || finding.level == Level::Refused && self.findings.len() < 2 * FINDINGS_MAX
        {
            self.findings.push(finding);
        } else {
            self.left_out += 1;
        }
    }

    fn about(&mut self, at: &At<'_>, level: Level, text: String, remark: String) {
        at.see();
        let (place, subject, path) = (at.place.clone(), at.manifest.subject(), at.path.clone());
        self.add(Finding { place, level, subject, path, text, remark });
    }

    pub(crate) fn notice(&mut self, at: &At<'_>, text: impl Into<String>) {
        self.about(at, Level::Notice, text.into(), String::new());
    }

    pub(crate) fn command(&mut self, at: &At<'_>, command: impl Into<String>, remark: impl Into<String>) {
        self.about(at, Level::Command, command.into(), remark.into());
    }

    pub(crate) fn refuse(&mut self, at: &At<'_>, text: impl Into<String>) {
        self.refused.insert(at.manifest.number);
        self.about(at, Level::Refused, text.into(), String::new());
    }

    /// Takes a manifest out for what was found elsewhere.
    pub(crate) fn mark_refused(&mut self, number: usize) {
        self.refused.insert(number);
    }

    pub(crate) fn is_refused(&self, number: usize) -> bool {
        self.refused.contains(&number)
    }

    /// In the order of their places, each once.
    pub(crate) fn into_findings(self) -> Vec<Finding> {
        let Self { mut findings, left_out, .. } = self;
        findings.sort();
        findings.dedup();
        if let Some(last) = findings.last().filter(|_| left_out > 0).cloned() {
            let text = format!("there is more to say, {left_out} times; import fewer manifests at once");
            let (subject, path, remark) = (String::new(), String::new(), String::new());
            findings.push(Finding { place: last.place, level: Level::Refused, subject, path, text, remark });
        }
        findings
    }
}
