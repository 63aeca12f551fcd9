//! Unrolls short loops of an artifact before it is compiled, so that the epoch is looked at once for several rounds.
//!
//! The engine's compiler looks at the epoch at the head of each loop, which in a loop of a few instructions is a good part of all work. A
//! loop without loops in it is written as several copies of its body, of which all but the last continue with the next one:
//!
//! ```text
//! loop $l  B  end   ->   block $done  loop $l  block $next  B[$l := $next]  br $done  end  …  B  end  end
//! ```
//!
//! What the guest computes, and where it traps, is the same. Between two looks at the epoch are at most [`ROUNDS_MAX`] rounds of a body of at most
//! [`BODY_MAX`] instructions without a loop, so that a guest is interrupted as soon as before, but for less than a microsecond.

use std::convert::Infallible;
use std::ops::Range;

use wasm_encoder::reencode::{Error, Reencode, ReencodeComponent};
use wasm_encoder::{BlockType, CodeSection, Component, Function, Instruction, Module};
use wasmparser::{FunctionBody, Parser, Payload, Validator, WasmFeatures};

/// Rounds in one round of an unrolled loop.
const ROUNDS_MAX: usize = 4;
/// Longest body of a loop that is unrolled, in instructions.
const BODY_MAX: usize = 96;
/// Most instructions of all copies of a body.
const COPIES_MAX: usize = 256;

/// Larger artifacts are left as they are: the copies would need memory that the compiler has not.
const ARTIFACT_MAX_BYTES: usize = 64 << 20;

/// The artifact with its short loops unrolled. None: it has none, is very large or not valid, or something in it is not known here.
pub(in crate::wasm) fn unroll(artifact: &[u8]) -> Option<Vec<u8>> {
    if artifact.len() > ARTIFACT_MAX_BYTES {
        return None;
    }
    if !is_whole(artifact) {
        return None;
    }
    Validator::new_with_features(WasmFeatures::all()).validate_all(artifact).ok()?;
    let mut unroller = Unroller::default();
    let bytes = match Parser::is_core_wasm(artifact) {
        true => {
            let mut module = Module::new();
            unroller.parse_core_module(&mut module, Parser::new(0), artifact).ok()?;
            module.finish()
        }
        false => {
            let mut component = Component::new();
            unroller.parse_component(&mut component, Parser::new(0), artifact).ok()?;
            component.finish()
        }
    };
    (unroller.loops > 0).then_some(bytes)
}

/// Whether everything within a component ends with it at the latest. The parser takes the end of the file for that of what is cut off, and
/// the encoder then panics.
fn is_whole(artifact: &[u8]) -> bool {
    Parser::new(0).parse_all(artifact).all(|payload| match payload {
        Ok(
            Payload::ModuleSection { unchecked_range, .. }
            | Payload::ComponentSection { unchecked_range, .. },
        ) => artifact.get(unchecked_range).is_some(),
        other => other.is_ok(),
    })
}

#[derive(Debug, Default)]
struct Unroller {
    loops: usize,
}

impl ReencodeComponent for Unroller {}

impl Reencode for Unroller {
    type Error = Infallible;

    fn parse_function_body(
        &mut self,
        code: &mut CodeSection,
        body: FunctionBody<'_>,
    ) -> Result<(), Error<Infallible>> {
        let mut function = self.new_function_with_parsed_locals(&body)?;
        let mut reader = body.get_operators_reader()?;
        let mut instructions = Vec::new();
        while !reader.eof() {
            instructions.push(self.parse_instruction(&mut reader)?);
        }
        let mut written = 0;
        for short in short_loops(&instructions) {
            write(&mut function, &instructions[written..short.start]);
            write(&mut function, &unrolled(&instructions[short.clone()]));
            written = short.end;
            self.loops += 1;
        }
        write(&mut function, &instructions[written..]);
        code.function(&function);
        Ok(())
    }
}

fn write(function: &mut Function, instructions: &[Instruction<'_>]) {
    for instruction in instructions {
        function.instruction(instruction);
    }
}

/// The loops that can be unrolled, each from its `loop` to its `end`, in order.
fn short_loops(instructions: &[Instruction<'_>]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    // What is open: where it began, if it is a loop that may still turn out to be short.
    let mut open: Vec<Option<usize>> = Vec::new();
    for (at, instruction) in instructions.iter().enumerate() {
        match instruction {
            Instruction::Loop(kind) => {
                open.iter_mut().for_each(|start| *start = None);
                open.push(takes_nothing(*kind).then_some(at));
            }
            Instruction::Block(_) | Instruction::If(_) => open.push(None),
            Instruction::Try(_) | Instruction::TryTable(..) => {
                open.iter_mut().for_each(|start| *start = None);
                open.push(None);
            }
            Instruction::End => {
                if let Some(Some(start)) = open.pop()
                    && at - start <= BODY_MAX + 1
                {
                    found.push(start..at + 1);
                }
            }
            other if !is_known(other) => open.iter_mut().for_each(|start| *start = None),
            _ => {}
        }
    }
    found
}

/// A loop whose label takes values would need them at the end of each copy.
fn takes_nothing(kind: BlockType) -> bool {
    !matches!(kind, BlockType::FunctionType(_))
}

/// Whether an instruction names no label but in a way that [`relabel`] knows.
fn is_known(instruction: &Instruction<'_>) -> bool {
    use Instruction::*;
    !matches!(
        instruction,
        Catch(_)
            | CatchAll
            | Delegate(_)
            | Rethrow(_)
            | BrOnCast { .. }
            | BrOnCastFail { .. }
            | BrOnCastDescEq { .. }
            | BrOnCastDescEqFail { .. }
            | Resume { .. }
            | ResumeThrow { .. }
            | ResumeThrowRef { .. }
            | Switch { .. }
    )
}

fn unrolled<'a>(short: &[Instruction<'a>]) -> Vec<Instruction<'a>> {
    let [Instruction::Loop(kind), body @ .., Instruction::End] = short else {
        return short.to_vec();
    };
    let rounds = (COPIES_MAX / body.len().max(1)).clamp(1, ROUNDS_MAX);
    let mut all = vec![Instruction::Block(*kind), Instruction::Loop(*kind)];
    for _ in 1..rounds {
        all.push(Instruction::Block(BlockType::Empty));
        all.extend(relabel(body, 2));
        all.extend([Instruction::Br(2), Instruction::End]);
    }
    all.extend(relabel(body, 1));
    all.extend([Instruction::End, Instruction::End]);
    all
}

/// The body of a loop, in which labels beyond the loop itself are `deeper` by so many.
fn relabel<'a>(body: &[Instruction<'a>], deeper: u32) -> Vec<Instruction<'a>> {
    let mut depth = 0;
    let mut all = Vec::with_capacity(body.len());
    for instruction in body {
        let label = |label: u32| if label > depth { label + deeper } else { label };
        all.push(match instruction {
            Instruction::Br(to) => Instruction::Br(label(*to)),
            Instruction::BrIf(to) => Instruction::BrIf(label(*to)),
            Instruction::BrOnNull(to) => Instruction::BrOnNull(label(*to)),
            Instruction::BrOnNonNull(to) => Instruction::BrOnNonNull(label(*to)),
            Instruction::BrTable(to, default) => {
                Instruction::BrTable(to.iter().map(|to| label(*to)).collect(), label(*default))
            }
            other => other.clone(),
        });
        match instruction {
            Instruction::Block(_) | Instruction::If(_) => depth += 1,
            Instruction::End => depth -= 1,
            _ => {}
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use arbitrary::Unstructured;
    use proptest::prelude::*;
    use wasmtime::{Config, Engine, Instance, Store, Val};

    use super::*;

    fn run(wasm: &[u8], export: &str, argument: i32) -> i32 {
        let engine = Engine::default();
        let module = wasmtime::Module::new(&engine, wasm).unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        instance.get_typed_func::<i32, i32>(&mut store, export).unwrap().call(&mut store, argument).unwrap()
    }

    #[test]
    fn a_loop_runs_as_often_as_before_wherever_it_is_left() {
        let wat = r#"(module
            ;; The sum of 1 to n, left at the end of the body.
            (func (export "end") (param $n i32) (result i32) (local $sum i32)
                (loop $again
                    (local.set $sum (i32.add (local.get $sum) (local.get $n)))
                    (local.set $n (i32.sub (local.get $n) (i32.const 1)))
                    (br_if $again (i32.gt_s (local.get $n) (i32.const 0))))
                (local.get $sum))
            ;; The same, left in the middle, and from a block within, by a table.
            (func (export "middle") (param $n i32) (result i32) (local $sum i32)
                (block $done
                    (loop $again
                        (br_if $done (i32.eqz (local.get $n)))
                        (local.set $sum (i32.add (local.get $sum) (local.get $n)))
                        (local.set $n (i32.sub (local.get $n) (i32.const 1)))
                        (block $next (br_table $again $done $next (i32.eqz (local.get $n))))
                        (unreachable)))
                (local.get $sum))
            ;; A loop with a result, and returns from within.
            (func (export "result") (param $n i32) (result i32)
                (i32.add (i32.const 1000) (loop $again (result i32)
                    (if (i32.gt_s (local.get $n) (i32.const 90)) (then (return (local.get $n))))
                    (local.set $n (i32.add (local.get $n) (i32.const 7)))
                    (br_if $again (i32.lt_s (local.get $n) (i32.const 50)))
                    (local.get $n)))))"#;
        let before = wat::parse_str(wat).unwrap();
        let after = unroll(&before).unwrap();
        assert!(after.len() > before.len());
        for export in ["end", "middle", "result"] {
            for argument in 0..100 {
                let expected = run(&before, export, argument);
                assert_eq!(run(&after, export, argument), expected, "{export} of {argument}");
            }
        }
    }

    #[test]
    fn only_the_innermost_and_short_loops_are_unrolled() {
        let count = |body: &str| {
            let wat = format!("(module (func (param i32) {body}))");
            let mut unroller = Unroller::default();
            let wasm = wat::parse_str(wat).unwrap();
            unroller.parse_core_module(&mut Module::new(), Parser::new(0), &wasm).unwrap();
            unroller.loops
        };
        assert_eq!(count("(loop (br_if 0 (local.get 0)))"), 1);
        assert_eq!(count("(loop (loop (br 0)) (loop (br 1)))"), 2);
        assert_eq!(
            count("(i32.const 1) (loop (param i32) (drop) (i32.const 1) (br_if 0 (local.get 0)) (drop))"),
            0
        );
        let long = "(drop (i32.const 1))".repeat(BODY_MAX);
        assert_eq!(count(&format!("(loop {long} (br 0))")), 0);
    }

    #[test]
    fn modules_within_components_are_unrolled_and_what_has_no_loops_is_left() {
        let component = |body: &str| {
            wat::parse_str(format!("(component (core module (func {body})) (component (core module)))"))
                .unwrap()
        };
        let after = unroll(&component("(loop (br 0))")).unwrap();
        wasmparser::Validator::new().validate_all(&after).unwrap();
        assert!(unroll(&component("")).is_none());
        assert!(unroll(b"\0asm nonsense").is_none());
        // A module in a component that would be longer than what there is.
        assert!(unroll(b"\0asm\x0d\0\x01\0\x01\x1f\0asm\x01\0\0\0").is_none());
    }

    /// A module without imports that ends after so many steps, and the names of its functions without parameters.
    fn module(seed: &[u8]) -> Option<Vec<u8>> {
        let config = wasm_smith::Config {
            allow_start_export: false,
            bulk_memory_enabled: true,
            exceptions_enabled: false,
            export_everything: true,
            gc_enabled: false,
            max_imports: 0,
            max_memories: 1,
            max_memory32_bytes: 1 << 20,
            max_table_elements: 1000,
            memory64_enabled: false,
            min_funcs: 1,
            relaxed_simd_enabled: false,
            shared_everything_threads_enabled: false,
            threads_enabled: false,
            ..Default::default()
        };
        let mut module = wasm_smith::Module::new(config, &mut Unstructured::new(seed)).ok()?;
        module.ensure_termination(1000).ok()?;
        Some(module.to_bytes())
    }

    /// What every function of it returns when they are called one after the other; None for a trap.
    fn outcomes(engine: &Engine, wasm: &[u8]) -> Vec<Option<String>> {
        let module = wasmtime::Module::new(engine, wasm).unwrap();
        let mut store = Store::new(engine, ());
        let Ok(instance) = Instance::new(&mut store, &module, &[]) else { return Vec::new() };
        let functions: Vec<_> =
            instance.exports(&mut store).filter_map(|export| export.into_func()).collect();
        let call = |function: wasmtime::Func| {
            let kind = function.ty(&store);
            let zero = |kind| Val::default_for_ty(&kind);
            let arguments: Option<Vec<Val>> = kind.params().map(zero).collect();
            let mut results: Vec<Val> = kind.results().map(|_| Val::I32(0)).collect();
            function.call(&mut store, &arguments?, &mut results).ok()?;
            // A function is another one in each store.
            let shown = results.iter().map(|result| match result {
                Val::FuncRef(Some(_)) => "a function".to_owned(),
                other => format!("{other:?}"),
            });
            Some(shown.collect::<Vec<_>>().join(", "))
        };
        functions.into_iter().map(call).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..Default::default() })]
        #[test]
        fn any_module_computes_the_same_when_unrolled(seed in proptest::collection::vec(any::<u8>(), 500..4000)) {
            let Some(before) = module(&seed) else { return Ok(()) };
            let Some(after) = unroll(&before) else { return Ok(()) };
            let mut config = Config::new();
            config.cranelift_nan_canonicalization(true);
            let engine = Engine::new(&config).unwrap();
            prop_assert_eq!(outcomes(&engine, &after), outcomes(&engine, &before));
        }
    }
}
