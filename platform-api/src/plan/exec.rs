//! In which container of an app a command is run, and which one files are copied from or to.

use wharf_types::exec::ExecSpec;
use wharf_types::problem::ProblemCode;
use wharf_types::state::InstanceState;
use wharf_types::{InstanceId, Problem};

use super::{AppView, InstanceView};

/// What a container is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Command,
    Copy,
}

/// The instance that is asked for, or why there is none to run a command in.
pub(crate) fn choose<'a>(view: &'a AppView, spec: &ExecSpec) -> Result<&'a InstanceView, Problem> {
    choose_for(view, Purpose::Command, (spec.slot, spec.instance))
}

/// The instance that is asked for by slot or by id, or why there is none.
pub(crate) fn choose_for(
    view: &AppView,
    purpose: Purpose,
    (slot, instance): (Option<u32>, Option<InstanceId>),
) -> Result<&InstanceView, Problem> {
    let name = &view.name;
    let refuse = |code, detail: String| Err(Problem::new(code, detail));
    if let Some(release) = view.routed_release()
        && !release.world.is_container()
    {
        let world = release.world.describe();
        let detail = match purpose {
            Purpose::Command => format!(
                "`{name}` is a WebAssembly app ({world}), in which there is no shell or other program to run; `wharf job run --app {name}` runs its artifact once more, as a job"
            ),
            Purpose::Copy => format!(
                "`{name}` is a WebAssembly app ({world}), which has no files of its own to copy: those that it is shipped with come with a release, and `wharf volume backup` and `restore` read and fill its volumes"
            ),
        };
        return refuse(ProblemCode::InvalidRequest, detail);
    }
    if view.deleting {
        return refuse(ProblemCode::Conflict, format!("the app `{name}` is being deleted"));
    }
    if view.stopped.is_some() {
        let detail =
            format!("the app `{name}` is stopped, so nothing of it runs; `wharf start {name}` starts it");
        return refuse(ProblemCode::Conflict, detail);
    }
    match (instance, slot) {
        (Some(id), _) => by_id(view, id),
        (None, Some(slot)) => in_slot(view, slot),
        (None, None) => lowest_ready(view, purpose),
    }
}

fn lowest_ready(view: &AppView, purpose: Purpose) -> Result<&InstanceView, Problem> {
    let ready = view.instances.iter().filter(|instance| instance.is_healthy());
    // While a slot moves to another release there are two of them; the newer one stays.
    let lowest = ready.min_by_key(|instance| (instance.slot, std::cmp::Reverse(instance.age())));
    lowest.ok_or_else(|| {
        let name = &view.name;
        let detail = if view.is_asleep() {
            format!("the app `{name}` sleeps, because nobody asks for it; a request wakes it")
        } else {
            let named = match purpose {
                Purpose::Command => "--slot N".to_owned(),
                Purpose::Copy => format!("{name}.N:PATH"),
            };
            format!(
                "no instance of `{name}` is ready; `wharf why {name}` says why, and `{named}` takes one that runs without being ready"
            )
        };
        Problem::new(ProblemCode::Conflict, detail)
    })
}

/// Also one that is not ready: what is wrong with it may be the question.
fn in_slot(view: &AppView, slot: u32) -> Result<&InstanceView, Problem> {
    let name = &view.name;
    let running = view.instances.iter().filter(|it| it.slot_number() == slot && runs(it));
    if let Some(newest) = running.max_by_key(|instance| instance.age()) {
        return Ok(newest);
    }
    let slots = view.replicas();
    Err(if !slot.checked_sub(1).is_some_and(|slot| view.is_slot(slot)) {
        let detail =
            format!("the app `{name}` has no slot {slot}: it has {slots}; `wharf status {name}` lists them");
        Problem::new(ProblemCode::NotFound, detail)
    } else {
        let detail = format!("nothing runs in slot {slot} of `{name}` now; `wharf why {name}` says why");
        Problem::new(ProblemCode::Conflict, detail)
    })
}

fn by_id(view: &AppView, id: InstanceId) -> Result<&InstanceView, Problem> {
    let name = &view.name;
    match view.instances.iter().find(|instance| instance.id == id) {
        Some(instance) if runs(instance) => Ok(instance),
        Some(instance) => {
            let detail =
                format!("the instance {id} of `{name}` does not run: it is {}", instance.state.as_str());
            Err(Problem::new(ProblemCode::Conflict, detail))
        }
        None => {
            let detail =
                format!("`{name}` has no instance {id}; `wharf status {name} --json` lists those it has");
            Err(Problem::new(ProblemCode::NotFound, detail))
        }
    }
}

fn runs(instance: &InstanceView) -> bool {
    instance.is_live() && instance.state == InstanceState::Running
}

#[cfg(test)]
mod tests {
    use wharf_types::api::Stopped;
    use wharf_types::state::Health;
    use wharf_types::world::World;

    use super::*;
    use crate::plan::fixture::Fixture;

    /// A container app all of whose slots serve.
    fn serving(replicas: u32) -> Fixture {
        let mut fixture = Fixture::empty(replicas);
        fixture.deploy_with(1, |release| release.world = World::Container);
        for slot in 0..replicas {
            let index = fixture.add(1, slot);
            fixture.make_ready(index);
        }
        fixture
    }

    fn asked(slot: Option<u32>, instance: Option<InstanceId>) -> ExecSpec {
        ExecSpec { command: vec!["id".into()], slot, instance, ..ExecSpec::default() }
    }

    fn slot_of(fixture: &Fixture, slot: Option<u32>) -> Result<u32, (ProblemCode, String)> {
        match choose(&fixture.app, &asked(slot, None)) {
            Ok(instance) => Ok(instance.slot_number()),
            Err(problem) => Err((problem.code, problem.detail)),
        }
    }

    #[track_caller]
    fn refuses(fixture: &Fixture, spec: &ExecSpec, code: ProblemCode, words: &str) {
        let problem = choose(&fixture.app, spec).unwrap_err();
        assert!(problem.code == code && problem.detail.contains(words), "{problem:?}");
    }

    #[test]
    fn the_lowest_slot_that_is_ready_is_taken_unless_one_is_named() {
        let mut fixture = serving(3);
        assert_eq!(slot_of(&fixture, None), Ok(1));
        fixture.app.instances[0].health = Health::Unhealthy;
        assert_eq!(slot_of(&fixture, None), Ok(2));
        assert_eq!(slot_of(&fixture, Some(1)), Ok(1), "what is wrong with it may be the question");
        assert_eq!(slot_of(&fixture, Some(3)), Ok(3));
        let id = fixture.app.instances[2].id;
        assert_eq!(choose(&fixture.app, &asked(None, Some(id))).unwrap().id, id);
    }

    #[test]
    fn of_two_instances_in_a_slot_the_newer_is_taken() {
        let mut fixture = serving(1);
        fixture.wait(1);
        let newer = fixture.add(1, 0);
        fixture.make_ready(newer);
        let id = fixture.app.instances[newer].id;
        assert_eq!(choose(&fixture.app, &asked(None, None)).unwrap().id, id);
        assert_eq!(choose(&fixture.app, &asked(Some(1), None)).unwrap().id, id);
    }

    #[test]
    fn where_no_instance_can_be_had_it_is_said_why_and_what_to_do() {
        let mut fixture = serving(2);
        refuses(&fixture, &asked(Some(3), None), ProblemCode::NotFound, "it has 2");
        let unknown = asked(None, Some(InstanceId::new()));
        refuses(&fixture, &unknown, ProblemCode::NotFound, "wharf status hello --json");
        fixture.app.instances[1].state = InstanceState::Starting;
        refuses(&fixture, &asked(Some(2), None), ProblemCode::Conflict, "nothing runs in slot 2");
        let starting = asked(None, Some(fixture.app.instances[1].id));
        refuses(&fixture, &starting, ProblemCode::Conflict, "it is starting");
        fixture.app.instances[0].health = Health::Unknown;
        refuses(&fixture, &asked(None, None), ProblemCode::Conflict, "wharf why hello");
        fixture.app.stopped = Some(Stopped { since: fixture.now, by: "ann".into() });
        refuses(&fixture, &asked(None, None), ProblemCode::Conflict, "wharf start hello");
        let wasm = Fixture::serving(1, 1);
        refuses(&wasm, &asked(None, None), ProblemCode::InvalidRequest, "wharf job run --app hello");
    }

    #[test]
    fn who_wants_files_is_told_what_there_is_for_files() {
        let mut fixture = serving(1);
        fixture.app.instances[0].health = Health::Unknown;
        let problem = choose_for(&fixture.app, Purpose::Copy, (None, None)).unwrap_err();
        assert!(problem.detail.contains("`hello.N:PATH` takes one"), "{problem:?}");
        assert!(choose_for(&fixture.app, Purpose::Copy, (Some(1), None)).is_ok());
        let wasm = Fixture::serving(1, 1);
        let problem = choose_for(&wasm.app, Purpose::Copy, (None, None)).unwrap_err();
        assert!(problem.detail.contains("wharf volume backup"), "{problem:?}");
    }
}
