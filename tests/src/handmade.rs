//! Guests that no compiler would make: core modules written by hand, made into components.

use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

use crate::workspace;

/// What the worlds below are made of, beside the interfaces of `examples/wit`.
const WORLDS: &str = r#"
package wharf:handmade;

world http {
    import wasi:http/types@0.2.10;
    import wasi:config/store@0.2.0-rc.1;
    import wasi:keyvalue/store@0.2.0-draft;
    import wasi:keyvalue/batch@0.2.0-draft;
    export wasi:http/incoming-handler@0.2.10;
}

world command-p3 {
    export wasi:cli/run@0.3.0;
}
"#;

const RUN_P3: &str = "package wasi:cli@0.3.0; interface run { run: async func() -> result; }";

/// A WASI 0.2 HTTP app that answers every request with 200 and no body. A path other than `/` is an attack: what it does is
/// WebAssembly text in these fields, all of which may be empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpGuest<'a> {
    /// Imports beside those of `wasi:http`: functions of `wasi:config` and `wasi:keyvalue`.
    pub imports: &'a str,
    /// Memories, tables, functions, globals, a start function.
    pub definitions: &'a str,
    /// In the handler, before the answer, when attacked.
    pub before_answer: &'a str,
    /// In the handler, after the answer, when attacked.
    pub after_answer: &'a str,
    /// While the host writes the path of an attack into the guest's memory.
    pub in_realloc: &'a str,
    /// After the handler has returned from an attack, while the host cleans up.
    pub in_post_return: &'a str,
}

impl HttpGuest<'_> {
    /// # Panics
    ///
    /// When the text is not WebAssembly.
    pub fn component(&self) -> Vec<u8> {
        let Self { imports, definitions, before_answer, after_answer, in_realloc, in_post_return } = self;
        let text = format!(
            r#"(module
                (import "wasi:http/types@0.2.10" "[method]incoming-request.path-with-query" (func $path (param i32 i32)))
                (import "wasi:http/types@0.2.10" "[constructor]fields" (func $fields (result i32)))
                (import "wasi:http/types@0.2.10" "[constructor]outgoing-response" (func $response (param i32) (result i32)))
                (import "wasi:http/types@0.2.10" "[static]response-outparam.set"
                    (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
                {imports}
                (memory (export "memory") 1)
                (global $attacked (mut i32) (i32.const 0))
                (func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
                    (if (i32.gt_u (local.get $size) (i32.const 1)) (then {in_realloc}))
                    (i32.const 1024))
                (func (export "wasi:http/incoming-handler@0.2.10#handle") (param $request i32) (param $out i32)
                    (call $path (local.get $request) (i32.const 0))
                    (global.set $attacked (i32.gt_u (i32.load (i32.const 8)) (i32.const 1)))
                    (if (global.get $attacked) (then {before_answer}))
                    (call $set (local.get $out) (i32.const 0) (call $response (call $fields))
                        (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
                    (if (global.get $attacked) (then {after_answer})))
                (func (export "cabi_post_wasi:http/incoming-handler@0.2.10#handle")
                    (if (global.get $attacked) (then {in_post_return})))
                {definitions})"#
        );
        component(&text, "http")
    }
}

/// A WASI 0.3 command that does this and returns.
///
/// # Panics
///
/// When the text is not WebAssembly.
pub fn command_p3(definitions: &str, run: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (import "[export]wasi:cli/run@0.3.0" "[task-return]run" (func $return (param i32)))
            {definitions}
            (func (export "[async-lift]wasi:cli/run@0.3.0#run") (result i32)
                {run}
                (call $return (i32.const 0))
                (i32.const 0))
            (func (export "[callback][async-lift]wasi:cli/run@0.3.0#run") (param i32 i32 i32) (result i32) (i32.const 0)))"#
    );
    component(&text, "command-p3")
}

/// The same component with so many more core instances, of an empty module, that are made with every instance of it.
///
/// # Panics
///
/// When it is none.
pub fn with_core_instances(mut component: Vec<u8>, more: u32) -> Vec<u8> {
    // The new module comes after those that are there, each of which is a section of its own.
    let (mut modules, mut at) = (0, 8);
    while at < component.len() {
        modules += u32::from(component[at] == 1);
        let (length, octets) = read_number(&component[at + 1..]);
        at += 1 + octets + length as usize;
    }
    let empty = wat::parse_str("(module)").unwrap();
    component.push(1);
    write_number(&mut component, empty.len() as u32);
    component.extend(empty);
    let mut instances = Vec::new();
    write_number(&mut instances, more);
    for _ in 0..more {
        instances.push(0);
        write_number(&mut instances, modules);
        instances.push(0);
    }
    component.push(2);
    write_number(&mut component, instances.len() as u32);
    component.extend(instances);
    component
}

/// A number in LEB128, and how many octets it takes.
fn read_number(octets: &[u8]) -> (u32, usize) {
    let length = 1 + octets.iter().take_while(|octet| **octet >= 0x80).count();
    let add = |number: u32, octet: &u8| (number << 7) | u32::from(octet & 0x7f);
    (octets[..length].iter().rev().fold(0, add), length)
}

fn write_number(to: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        to.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn component(module: &str, world: &str) -> Vec<u8> {
    let mut wit = Resolve::default();
    let deps = workspace::root().join("examples/wit/deps");
    for package in ["io", "clocks", "cli", "http"] {
        wit.push_file(deps.join(format!("{package}.wit"))).unwrap();
    }
    for package in ["config", "keyvalue"] {
        wit.push_file(workspace::root().join(format!("sdk/wit/deps/{package}.wit"))).unwrap();
    }
    wit.push_str("run.wit", RUN_P3).unwrap();
    let package = wit.push_str("worlds.wit", WORLDS).unwrap();
    let world = wit.select_world(&[package], Some(world)).unwrap();
    let mut module = wat::parse_str(module).unwrap_or_else(|error| panic!("{error}"));
    wit_component::embed_component_metadata(&mut module, &wit, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}
