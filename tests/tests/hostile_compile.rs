//! Artifacts that are made to be large, deep or slow: each is compiled within its limits, or refused with the reason.
//!
//! A module that takes for ever to compile is in `bad_input.rs`, the compiler's limits are in `compile.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use wharf_tests::{HttpGuest, Siege};

const MANIFEST: &str = "app = \"bad\"\n";
/// The control plane reads an artifact whole to look into it.
const KEEPS_MIB: u64 = 128;

/// The artifact must not come to serve, and the reason must hold these words.
async fn refused(artifact: &[u8], words: &[&str]) {
    let siege = Siege::begin().await;
    siege.deploy_fails(artifact, MANIFEST, words).await;
    // The place in the queue of the compiler is free again.
    siege.platform.deploy("hello-plain", "late", &[]).await;
    siege.platform.text("late", "/").await;
    siege.end(KEEPS_MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_functions_are_compiled_while_a_neighbour_serves() {
    let definitions =
        "(func (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))\n".repeat(100_000);
    let siege = Siege::begin().await;
    let guest = HttpGuest { definitions: &definitions, ..HttpGuest::default() };
    siege.platform.deploy_bytes(&guest.component(), MANIFEST).await.ok();
    siege.platform.text("bad", "/").await;
    siege.end(KEEPS_MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_functions_than_a_module_may_have_are_refused() {
    let module = module_of(1_000_001, 0);
    refused(&module, &["functions count exceeds limit of 1000000"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_exports_are_refused() {
    let module = module_of(1, 1_000_001);
    refused(&module, &["exports count exceeds limit of 1000000"]).await;
    // One less would be allowed if its names did not make its type too large.
    let module = module_of(1, 999_999);
    refused(&module, &["effective type size exceeds the limit"]).await;
}

/// A module of WASI 0.1 with so many functions, the last of which is exported so many times and as `_start`.
fn module_of(functions: u32, exports: u32) -> Vec<u8> {
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    let mut section = |id: u8, content: Vec<u8>| {
        module.push(id);
        leb(&mut module, u32::try_from(content.len()).unwrap());
        module.extend(content);
    };
    section(1, vec![1, 0x60, 0, 0]);
    let mut types = Vec::new();
    leb(&mut types, functions);
    types.extend(std::iter::repeat_n(0, functions as usize));
    section(3, types);
    let mut names = Vec::new();
    leb(&mut names, exports + 1);
    let all = (0..exports).map(|number| format!("f{number}")).chain(["_start".to_owned()]);
    for name in all {
        names.push(u8::try_from(name.len()).unwrap());
        names.extend(name.bytes());
        names.push(0);
        leb(&mut names, functions - 1);
    }
    section(7, names);
    let mut bodies = Vec::new();
    leb(&mut bodies, functions);
    bodies.extend([2, 0, 0x0b].repeat(functions as usize));
    section(10, bodies);
    module
}

fn leb(to: &mut Vec<u8>, mut number: u32) {
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        to.push(if number == 0 { low } else { low | 0x80 });
        if number == 0 {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn components_inside_components_do_no_harm() {
    let mut nested = Vec::new();
    for _ in 0..2000 {
        nested = component_section(&nested);
    }
    let siege = Siege::begin().await;
    let component = [HttpGuest::default().component(), nested].concat();
    siege.platform.deploy_bytes(&component, MANIFEST).await.ok();
    siege.platform.text("bad", "/").await;
    siege.end(KEEPS_MIB).await;
}

/// A section that holds a component with these sections.
fn component_section(sections: &[u8]) -> Vec<u8> {
    let component = [b"\0asm\x0d\0\x01\0", sections].concat();
    let mut section = vec![4];
    leb(&mut section, u32::try_from(component.len()).unwrap());
    section.extend(component);
    section
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_inside_blocks_are_compiled_or_refused() {
    let deep = format!("{}{}", "(block ".repeat(500), ")".repeat(500));
    // Text would end the parser's stack before the compiler's.
    let siege = Siege::begin().await;
    let guest = HttpGuest { definitions: &format!("(func {deep})"), ..HttpGuest::default() };
    siege.platform.deploy_bytes(&guest.component(), MANIFEST).await.ok();
    siege.platform.text("bad", "/").await;
    siege.end(KEEPS_MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_place_of_the_pool_has_room_for_is_refused_with_what_it_lacks() {
    let tables = "(table 0 funcref)".repeat(9);
    for (definitions, lacks) in [
        ("(memory 0) (memory 0)", "memories"),
        (&tables, "tables"),
        ("(table 100001 funcref)", "element size of 100001"),
    ] {
        let siege = Siege::begin().await;
        let guest = HttpGuest { definitions, ..HttpGuest::default() };
        let ran = siege.deploy_fails(&guest.component(), MANIFEST, &[lacks]).await;
        assert!(!ran.stderr.contains("no further instance became ready"), "{}", ran.stderr);
        siege.end(KEEPS_MIB).await;
    }
}
