//! `wharf import`: what is written for other platforms, made into files for `wharf apply`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use wharf_compose::yaml::BYTES_MAX;
use wharf_kubernetes::{Finding, Import, Level, Source};

use crate::args::{Global, With};
use crate::declared::source::octets;
use crate::exit::{Exit, Failure};
use crate::output;

#[derive(Args, Debug)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct ImportArgs {
    #[command(subcommand)]
    pub command: ImportCommand,
}

#[derive(Subcommand, Debug)]
pub enum ImportCommand {
    /// Make apps of manifests of Kubernetes; nothing is applied
    #[command(visible_alias = "k8s")]
    Kubernetes(With<KubernetesArgs>),
}

#[derive(Args, Debug)]
pub struct KubernetesArgs {
    /// Files, or folders of which the .yaml, .yml and .json files are taken; `-` is stdin
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Write the documents to a file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Files of a folder that are taken.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

pub fn run(before: Global, args: ImportArgs) -> anyhow::Result<()> {
    match args.command {
        ImportCommand::Kubernetes(with) => kubernetes(&with.args, with.global.or(before).json),
    }
}

/// The documents are printed in any case; what was refused is not in them.
fn kubernetes(args: &KubernetesArgs, json: bool) -> anyhow::Result<()> {
    let made = wharf_kubernetes::import(&sources(&args.files)?);
    if let Some(file) = &args.out {
        std::fs::write(file, &made.text).with_context(|| format!("could not write {}", file.display()))?;
    }
    if json {
        output::json(&as_json(&made))?;
    } else {
        made.findings.iter().for_each(tell);
        if args.out.is_none() && !made.text.is_empty() {
            output::line(made.text.trim_end())?;
        }
    }
    let refused = made.refused();
    if refused == 0 {
        return Ok(());
    }
    let message =
        format!("{}: what is refused is left out of the documents", output::count(refused as u64, "refusal"));
    Err(Failure::new(Exit::Invalid, message).into())
}

fn tell(finding: &Finding) {
    let word = match finding.level {
        Level::Notice => "note",
        Level::Command => "to do",
        Level::Refused => "refused",
    };
    output::note(format!("{word}: {}", output::printable(&finding.to_string())));
}

fn as_json(made: &Import) -> serde_json::Value {
    let finding = |finding: &Finding| {
        let Finding { place, level, subject, path, text, remark } = finding;
        let level = match level {
            Level::Notice => "notice",
            Level::Command => "command",
            Level::Refused => "refused",
        };
        json!({
            "file": &*place.file, "line": place.line, "column": place.column, "level": level, "manifest": subject,
            "path": path, "text": text, "remark": remark,
        })
    };
    let findings: Vec<_> = made.findings.iter().map(finding).collect();
    json!({ "yaml": made.text, "findings": findings })
}

fn sources(files: &[PathBuf]) -> anyhow::Result<Vec<Source>> {
    let found = octets(files, &ENDINGS, BYTES_MAX as u64)?;
    Ok(found.into_iter().map(|file| Source { name: file.name, octets: file.octets }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_taken_by_name_and_what_is_refused_fails() {
        let folder = tempfile::tempdir().unwrap();
        let manifest =
            |kind: &str, name: &str| format!("apiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}}}\n");
        std::fs::write(folder.path().join("b.yaml"), manifest("Namespace", "shop")).unwrap();
        std::fs::write(folder.path().join("a.txt"), "no manifest").unwrap();
        let out = folder.path().join("out");
        let args = || KubernetesArgs { files: vec![folder.path().to_owned()], out: Some(out.clone()) };
        kubernetes(&args(), false).unwrap();
        assert!(std::fs::read_to_string(&out).unwrap().ends_with("kind: namespace\nname: shop\n"));
        std::fs::write(folder.path().join("c.yml"), manifest("ReplicaSet", "a")).unwrap();
        let error = kubernetes(&args(), false).unwrap_err().to_string();
        assert_eq!(error, "1 refusal: what is refused is left out of the documents");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = sources(&["nowhere.yaml".into()]).unwrap_err().to_string();
        assert_eq!(error, "there is no file or folder nowhere.yaml");
    }
}
