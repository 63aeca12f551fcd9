//! Plans of declared apps, with plain values and with properties.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn namespace() -> NamespaceName {
    NamespaceName::default_namespace()
}

fn app(name: &str, spec: AppSpec) -> AppResource {
    AppResource {
        namespace: namespace(),
        name: name.parse().unwrap(),
        artifact: Digest::of(b"one"),
        spec,
        keep_scale: false,
    }
}

fn declared(apps: &[AppResource]) -> Vec<Resource> {
    apps.iter().cloned().map(|app| Resource::App(Box::new(app))).collect()
}

/// Whose set is as declared in the end.
fn pruned(set: &SetName) -> Prune {
    Prune { set: set.clone(), namespaces: Vec::new(), keep: false }
}

fn nothing() -> Live {
    Live { namespaces: [(namespace(), Some(NamespaceId::new()))].into(), ..Live::default() }
}

/// What an apply makes of the live state: the steps carried out on plain values.
fn applied(planned: &[Planned], set: Option<&SetName>, mut live: Live) -> Live {
    for Planned { step, change } in planned {
        let name = || (change.resource.namespace.clone().unwrap(), change.resource.name.parse().unwrap());
        match step {
            Step::Nothing => {}
            Step::MakeNamespace(name) => {
                live.namespaces.insert(name.clone(), Some(NamespaceId::new()));
            }
            Step::Release { app, rescale, .. } => {
                let release = LiveRelease {
                    id: ReleaseId::new(),
                    artifact: app.artifact,
                    spec: Arc::new(app.spec.clone()),
                };
                let is = live.apps.entry(name()).or_insert_with(|| LiveApp {
                    id: AppId::new(),
                    deleting: false,
                    set: None,
                    scaled_to: None,
                    target: None,
                    release: None,
                });
                (is.target, is.release) = (Some(release.id), Some(release));
                is.scaled_to = is.scaled_to.filter(|_| !rescale);
            }
            Step::SetConfig(config) => {
                let key = (config.namespace.clone(), config.name.clone());
                let (value, is) = (Some(config.value.clone()), live.configs.get(&key));
                let (id, version) = match is.filter(|is| is.value == value) {
                    Some(same) => (same.id, same.version),
                    None => (SecretVersionId::new(), is.map_or(1, |is| is.version + 1)),
                };
                let (kind, behind) = (ValueKind::Config, BTreeSet::new());
                live.configs.insert(key, LiveConfig { id, version, kind, value, behind });
                continue;
            }
            Step::Renew(_) => {
                live.apps.get_mut(&name()).unwrap().target = Some(ReleaseId::new());
                continue;
            }
            Step::Scale { to, .. } => live.apps.get_mut(&name()).unwrap().scaled_to = *to,
            Step::Join(_) => {}
            Step::Delete(_) => {
                live.apps.remove(&name());
                continue;
            }
        }
        if let (Some(set), Some(is)) =
            (set, change.resource.namespace.as_ref().and_then(|_| live.apps.get_mut(&name())))
        {
            is.set = Some(set.clone());
        }
    }
    live
}

fn actions(planned: &[Planned]) -> Vec<Action> {
    planned.iter().map(|planned| planned.change.action).collect()
}

fn paths(planned: &Planned) -> Vec<&str> {
    planned.change.fields.iter().map(|field| field.path.as_str()).collect()
}

#[test]
fn a_new_app_is_created_and_then_unchanged() {
    let resources = declared(&[app("hello", AppSpec::default())]);
    let planned = changes(&resources, None, &nothing());
    assert_eq!(actions(&planned), [Action::Create]);
    let live = applied(&planned, None, nothing());
    assert_eq!(actions(&changes(&resources, None, &live)), [Action::Unchanged]);
}

#[test]
fn a_change_names_its_fields_with_before_and_after() {
    let live =
        applied(&changes(&declared(&[app("hello", AppSpec::default())]), None, &nothing()), None, nothing());
    let mut changed = app("hello", AppSpec::default());
    changed.spec.env.insert("A".into(), "1".into());
    changed.artifact = Digest::of(b"two");
    let planned = changes(&declared(&[changed]), None, &live);
    assert_eq!(actions(&planned), [Action::Update]);
    assert_eq!(paths(&planned[0]), ["artifact", "env.A"]);
    assert_eq!(
        (&planned[0].change.fields[1].before, &planned[0].change.fields[1].after),
        (&json!(null), &json!("1"))
    );
}

#[test]
fn another_number_of_instances_alone_makes_no_release() {
    let live =
        applied(&changes(&declared(&[app("hello", AppSpec::default())]), None, &nothing()), None, nothing());
    let mut scaled = app("hello", AppSpec::default());
    scaled.spec.scale.replicas = 3.into();
    let planned = changes(&declared(&[scaled.clone()]), None, &live);
    assert_eq!(paths(&planned[0]), ["scale.replicas"]);
    assert!(matches!(planned[0].step, Step::Scale { to: Some(3), .. }), "{:?}", planned[0].step);
    let live = applied(&planned, None, live);
    assert_eq!(actions(&changes(&declared(&[scaled]), None, &live)), [Action::Unchanged]);
    let back = changes(&declared(&[app("hello", AppSpec::default())]), None, &live);
    assert!(
        matches!(back[0].step, Step::Scale { to: None, .. }),
        "the release's own number needs nothing over it"
    );
}

#[test]
fn a_range_is_the_releases_and_a_number_over_it_is_given_up() {
    let resource = |scale: serde_json::Value| {
        let spec: AppSpec = serde_json::from_value(json!({ "scale": scale })).unwrap();
        declared(&[app("hello", spec)])
    };
    let range = resource(json!({"replicas": {"min": 0, "max": 5, "concurrency": 10}}));
    let number = resource(json!({"replicas": 2}));
    let live = applied(&changes(&number, None, &nothing()), None, nothing());
    let planned = changes(&range, None, &live);
    assert_eq!(paths(&planned[0]), ["scale.replicas"]);
    assert!(matches!(planned[0].step, Step::Release { .. }), "{:?}", planned[0].step);
    let mut live = applied(&planned, None, live);
    assert_eq!(actions(&changes(&range, None, &live)), [Action::Unchanged]);
    live.apps.values_mut().next().unwrap().scaled_to = Some(3);
    let planned = changes(&range, None, &live);
    assert!(matches!(planned[0].step, Step::Scale { to: None, .. }), "{:?}", planned[0].step);
    let planned = changes(&number, None, &live);
    assert!(matches!(planned[0].step, Step::Release { .. }), "a reset leads to what the file says");
}

#[test]
fn a_file_that_says_nothing_of_the_scale_leaves_it_as_it_is() {
    let mut live =
        applied(&changes(&declared(&[app("hello", AppSpec::default())]), None, &nothing()), None, nothing());
    live.apps.values_mut().next().unwrap().scaled_to = Some(7);
    let mut silent = AppResource { keep_scale: true, ..app("hello", AppSpec::default()) };
    assert_eq!(actions(&changes(&declared(&[silent.clone()]), None, &live)), [Action::Unchanged]);
    silent.spec.args.push("x".into());
    let planned = changes(&declared(&[silent]), None, &live);
    assert_eq!(paths(&planned[0]), ["args"]);
    let live = applied(&planned, None, live);
    assert_eq!(live.apps.values().next().unwrap().scaled_to, Some(7));
}

#[test]
fn only_apps_of_the_set_that_are_not_declared_are_deleted() {
    let set: SetName = "shop".parse().unwrap();
    let both = declared(&[app("a", AppSpec::default()), app("b", AppSpec::default())]);
    let mut live = applied(&changes(&both, Some(&pruned(&set)), &nothing()), Some(&set), nothing());
    let other = declared(&[app("c", AppSpec::default())]);
    live = applied(&changes(&other, None, &live), None, live);
    let planned = changes(&both[..1], Some(&pruned(&set)), &live);
    assert_eq!(actions(&planned), [Action::Unchanged, Action::Delete]);
    assert_eq!(planned[1].change.resource.name, "b");
    assert_eq!(actions(&changes(&both[..1], None, &live)), [Action::Unchanged], "without a set nothing goes");
}

#[test]
fn a_part_of_a_set_joins_it_and_deletes_nothing() {
    let set: SetName = "shop".parse().unwrap();
    let part = Prune { keep: true, ..pruned(&set) };
    let both = declared(&[app("a", AppSpec::default()), app("b", AppSpec::default())]);
    let mut live = applied(&changes(&both, None, &nothing()), None, nothing());
    for one in [&both[..1], &both[1..]] {
        let planned = changes(one, Some(&part), &live);
        assert!(matches!(planned.as_slice(), [Planned { step: Step::Join(_), .. }]), "{planned:?}");
        live = applied(&planned, Some(&set), live);
    }
    assert_eq!(actions(&changes(&both[..1], Some(&part), &live)), [Action::Unchanged]);
    let without = changes(&both[..1], Some(&pruned(&set)), &live);
    assert_eq!(actions(&without), [Action::Unchanged, Action::Delete]);

    // What stays gets the new value of a config, as others do.
    let resources = declared(&[greeter("a"), greeter("b")]);
    let live = applied(&changes(&resources, Some(&part), &nothing()), Some(&set), nothing());
    let planned = changes(&[config("greeting", "hello")], Some(&part), &live);
    assert_eq!(actions(&planned), [Action::Create, Action::Update, Action::Update]);
}

#[test]
fn a_table_that_asks_for_one_thing_differs_in_that_alone() {
    let high: AppSpec = serde_json::from_value(json!({"placement": {"priority": "high"}})).unwrap();
    let (usual, high) = (declared(&[app("hello", AppSpec::default())]), declared(&[app("hello", high)]));
    let live = applied(&changes(&usual, None, &nothing()), None, nothing());
    let planned = changes(&high, None, &live);
    let field = &planned[0].change.fields[0];
    assert_eq!(planned[0].change.fields.len(), 1, "{:?}", planned[0].change.fields);
    assert_eq!(
        (field.path.as_str(), &field.before, &field.after),
        ("placement.priority", &json!("normal"), &json!("high"))
    );
    let live = applied(&planned, None, live);
    let back = changes(&usual, None, &live);
    assert_eq!(back[0].change.fields[0].after, json!("normal"));
}

#[test]
fn an_app_whose_only_release_failed_is_released_anew() {
    let mut live =
        applied(&changes(&declared(&[app("hello", AppSpec::default())]), None, &nothing()), None, nothing());
    let only = live.apps.values_mut().next().unwrap();
    (only.target, only.release) = (None, None);
    let planned = changes(&declared(&[app("hello", AppSpec::default())]), None, &live);
    assert!(matches!(planned[0].step, Step::Release { live: Some(_), .. }));
    assert_eq!(actions(&planned), [Action::Update]);
    let paths: Vec<&str> = planned[0].change.fields.iter().map(|field| field.path.as_str()).collect();
    assert_eq!(paths, ["artifact"], "what has its default is no change");
}

fn config(name: &str, value: &str) -> Resource {
    let (name, value) = (name.parse().unwrap(), value.to_owned());
    Resource::Config(ConfigResource { namespace: namespace(), name, value })
}

/// An app with a variable of the config `greeting`.
fn greeter(name: &str) -> AppResource {
    let mut app = app(name, AppSpec::default());
    app.spec.configs.insert("GREETING".into(), "greeting".parse().unwrap());
    app
}

#[test]
fn a_config_is_set_once_and_its_new_value_is_a_release_of_each_app_that_runs_with_it() {
    let mut resources = vec![config("greeting", "hi"), config("other", "x")];
    resources.extend(declared(&[greeter("web"), app("plain", AppSpec::default())]));
    let planned = changes(&resources, None, &nothing());
    assert!(planned.iter().all(|planned| planned.change.action == Action::Create), "{planned:?}");
    assert_eq!(paths(&planned[0]), ["value"]);
    let mut live = applied(&planned, None, nothing());
    let unchanged = changes(&resources, None, &live);
    assert!(unchanged.iter().all(|planned| planned.change.action == Action::Unchanged), "{unchanged:?}");

    // One more that is not in the file.
    live = applied(&changes(&declared(&[greeter("outside")]), None, &live), None, live);
    resources[0] = config("greeting", "hello");
    let planned = changes(&resources, None, &live);
    assert_eq!(
        actions(&planned),
        [Action::Update, Action::Unchanged, Action::Update, Action::Unchanged, Action::Update]
    );
    let field = |at: usize| &planned[at].change.fields[0];
    assert_eq!((&field(0).before, &field(0).after), (&json!("hi"), &json!("hello")));
    assert_eq!(
        (field(2).path.as_str(), &field(2).after),
        ("configs.GREETING", &json!("greeting, version 2"))
    );
    assert!(matches!(planned[2].step, Step::Release { live: Some(_), .. }), "{:?}", planned[2].step);
    assert_eq!(planned[4].change.resource.name, "outside");
    assert!(matches!(planned[4].step, Step::Renew(_)), "{:?}", planned[4].step);
    let live = applied(&planned, None, live);
    let again = changes(&resources, None, &live);
    assert!(again.iter().all(|planned| planned.change.action == Action::Unchanged), "{again:?}");
}

#[test]
fn who_went_back_from_a_config_gets_its_newest_version_although_the_value_is_there() {
    let mut resources = vec![config("greeting", "hi")];
    resources.extend(declared(&[greeter("web"), greeter("other")]));
    let mut live = applied(&changes(&resources, None, &nothing()), None, nothing());
    live = applied(&changes(&declared(&[greeter("outside")]), None, &live), None, live);
    let id = |name: &str| live.apps[&(namespace(), name.parse::<AppName>().unwrap())].id;
    let behind = BTreeSet::from([id("web"), id("outside")]);
    live.configs.values_mut().next().unwrap().behind = behind;
    let planned = changes(&resources, None, &live);
    assert_eq!(
        actions(&planned),
        [Action::Unchanged, Action::Update, Action::Unchanged, Action::Update],
        "{planned:?}"
    );
    assert!(matches!(planned[0].step, Step::SetConfig(_)), "a renewal asks for its version");
    let field = |at: usize| {
        let field: &FieldChange = &planned[at].change.fields[0];
        (field.path.as_str(), field.after.clone())
    };
    assert_eq!(field(1), ("configs.GREETING", json!("greeting, version 1")));
    assert!(matches!(planned[1].step, Step::Release { live: Some(_), .. }), "{:?}", planned[1].step);
    assert_eq!((field(3), &*planned[3].change.resource.name), (field(1), "outside"));
    assert!(matches!(planned[3].step, Step::Renew(_)), "{:?}", planned[3].step);
    let live = applied(&planned, None, live);
    let again = changes(&resources, None, &live);
    assert!(again.iter().all(|planned| planned.step == Step::Nothing), "{again:?}");
}

#[test]
fn what_is_deleted_gets_no_new_value_and_configs_are_not_deleted() {
    let set: SetName = "shop".parse().unwrap();
    let mut resources = vec![config("greeting", "hi")];
    resources.extend(declared(&[greeter("a"), greeter("b")]));
    let live = applied(&changes(&resources, Some(&pruned(&set)), &nothing()), Some(&set), nothing());
    let mut shorter = vec![config("greeting", "hello")];
    shorter.extend(declared(&[greeter("a")]));
    let planned = changes(&shorter, Some(&pruned(&set)), &live);
    assert_eq!(actions(&planned), [Action::Update, Action::Update, Action::Delete]);
    let without = declared(&[greeter("a"), greeter("b")]);
    assert_eq!(
        actions(&changes(&without, Some(&pruned(&set)), &live)),
        [Action::Unchanged, Action::Unchanged]
    );
}

#[test]
fn the_value_of_a_secret_is_in_no_plan() {
    let mut live = nothing();
    let key = (namespace(), "greeting".parse().unwrap());
    let (id, behind) = (SecretVersionId::new(), BTreeSet::new());
    let is = LiveConfig { id, version: 3, kind: ValueKind::Secret, value: None, behind };
    live.configs.insert(key, is);
    let planned = changes(&[config("greeting", "hi")], None, &live);
    assert_eq!(planned[0].change.fields[0].before, json!(null));
}

#[test]
fn the_base_moves_with_the_version_of_a_config() {
    let resources = [config("greeting", "hi")];
    let live = applied(&changes(&resources, None, &nothing()), None, nothing());
    let mut set = live.clone();
    set.configs.values_mut().next().unwrap().id = SecretVersionId::new();
    assert_ne!(base(&live), base(&set));
}

#[test]
fn the_base_moves_with_releases_and_scale() {
    let live =
        applied(&changes(&declared(&[app("hello", AppSpec::default())]), None, &nothing()), None, nothing());
    let at = base(&live);
    assert_eq!(at, base(&live.clone()));
    let mut scaled = live.clone();
    scaled.apps.values_mut().next().unwrap().scaled_to = Some(2);
    assert_ne!(at, base(&scaled));
    let mut released = live.clone();
    released.apps.values_mut().next().unwrap().target = Some(ReleaseId::new());
    assert_ne!(at, base(&released));
    let mut without_settings = live;
    without_settings.apps.values_mut().next().unwrap().release = None;
    assert_eq!(at, base(&without_settings), "they are of the release, which never changes");
}

prop_compose! {
    fn any_app()(name in "[a-d]", replicas in 0_u32..4, arg in "[xy]{0,2}", keep_scale: bool, content in 0_u8..3, value in "[ab]?")
        -> AppResource {
        let mut app = AppResource { keep_scale, artifact: Digest::of(&[content]), ..app(&name, AppSpec::default()) };
        // The number means nothing where the file says nothing of it.
        app.spec.scale.replicas = if keep_scale { 1 } else { replicas }.into();
        app.spec.args.push(arg);
        app.spec.env.insert("A".into(), value);
        app
    }
}

fn distinct(mut apps: Vec<AppResource>) -> Vec<Resource> {
    apps.sort_by(|a, b| a.name.cmp(&b.name));
    apps.dedup_by(|a, b| a.name == b.name);
    declared(&apps)
}

proptest! {
    #[test]
    fn what_was_applied_plans_nothing(
        first in proptest::collection::vec(any_app(), 0..5),
        second in proptest::collection::vec(any_app(), 0..5),
        hand in proptest::option::of(0_u32..5),
        is_set: bool,
    ) {
        let set: Option<SetName> = is_set.then(|| "shop".parse().unwrap());
        let prune = set.as_ref().map(pruned);
        let mut live = nothing();
        for resources in [distinct(first), distinct(second)] {
            let planned = changes(&resources, prune.as_ref(), &live);
            live = applied(&planned, set.as_ref(), live);
            let again = changes(&resources, prune.as_ref(), &live);
            prop_assert!(again.iter().all(|planned| planned.change.action == Action::Unchanged), "{again:?}");
            for planned in &planned {
                let is_update = planned.change.action == Action::Update;
                prop_assert_eq!(is_update, !planned.change.fields.is_empty(), "an update says what differs");
            }
            for app in live.apps.values_mut() {
                app.scaled_to = hand;
            }
        }
    }
}
