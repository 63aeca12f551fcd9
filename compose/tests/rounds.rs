//! All that is wrong with a file is told at once: what is wrong with one service hides nothing of the others.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::Memory;
use wharf_compose::{Context, Problems, Variables, read, translate_all};

/// The lines of a file in which something is wrong, and all that is said.
fn told(files: &[(&str, &str)]) -> (Vec<u32>, String) {
    let named = [files[0].0.to_owned()];
    let (project, mut problems) =
        read(&named, &[], &Variables::new(), &Memory::of(files)).unwrap_or_else(|error| panic!("{error}"));
    problems.extend(translate_all(&project, &Context::default()).1);
    let problems = Problems::or(problems, ()).unwrap_err();
    (problems.iter().map(|problem| problem.place.line).collect(), problems.to_string())
}

#[test]
fn services_are_looked_at_further_whatever_is_wrong_with_others() {
    let text = "services:
  typo:
    image: a.wasm
    enviroment: {A: b}
  ring:
    image: b.wasm
    depends_on: [ring]
  again:
    image: redis:7
    restart: alway
  low:
    image: redis:7
    ports: ['80:80']
  windows:
    image: redis:7
    volumes: ['C:\\data:/data', 'C:/foo:/bar:ro']
  fine:
    image: c.wasm
    depends_on: [typo, ring]
";
    let (lines, said) = told(&[("compose.yaml", text)]);
    assert_eq!(lines, [4, 7, 10, 13, 16, 16], "{said}");
    assert!(said.contains("did you mean `environment`?"), "{said}");
}

#[test]
fn nothing_is_said_of_what_was_left_out_because_it_is_wrong() {
    let text = "services:
  base:
    imgae: redis
    environment: {A: '${'}
  derived:
    extends: base
  fine:
    image: redis
    networks: [front]
    secrets: [key]
    x-wharf: {registry_login: key}
    depends_on: [base]
networks:
  front: {drvier: bridge}
secrets:
  key: {flie: k}
";
    let (lines, said) = told(&[("compose.yaml", text)]);
    assert_eq!(lines, [3, 4, 14, 16], "{said}");
}

#[test]
fn whoever_extends_a_service_of_a_file_with_something_wrong_in_it_is_told_of_that_alone() {
    let main = "services:\n  a: {extends: {file: base.yaml, service: x}}\n  b: {extends: {file: base.yaml, service: y}}\n  c: {image: redis, restart: alway}\n";
    let base = "services:\n  x: {imgae: redis}\n  y: {image: redis}\n";
    let (lines, said) = told(&[("compose.yaml", main), ("base.yaml", base)]);
    assert_eq!(lines.len(), 2, "{said}");
    assert!(said.contains("base.yaml:2:") && said.contains("compose.yaml:4:"), "{said}");
}

#[test]
fn what_is_about_the_whole_project_is_told_before_anything_that_may_come_of_it() {
    let text = "services:\n  a: {image: redis, networks: [front], restart: alway}\nnetwroks: {front: }\n";
    let said = read(&["c.yml".to_owned()], &[], &Variables::new(), &Memory::of(&[("c.yml", text)]));
    let said = said.unwrap_err().to_string();
    assert!(said.contains("c.yml:3:1: there is no key `netwroks` here") && !said.contains('\n'), "{said}");
}
