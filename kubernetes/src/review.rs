//! The walk over all fields that asks the table about each, and the one that finds what nobody has read.

use wharf_compose::keys::{Branch, Key, Support};
use wharf_compose::node::Value;

use crate::at::{At, Manifest};
use crate::finding::Sink;
use crate::keys;

/// Which of the two answers of the table counts.
pub(crate) type Column = fn(&Key) -> Support;

pub(crate) fn column(is_wasm: bool) -> Column {
    if is_wasm { |key| key.app } else { |key| key.container }
}

/// Tells what the table says of the fields that are there.
pub(crate) fn review(manifest: &Manifest, of: Column, sink: &mut Sink) {
    walk(&manifest.root(), keys::of(manifest.kind), &mut |at, branch| match of(branch.key()) {
        Support::Honoured => true,
        _ if at.node.says_nothing() => {
            at.tell();
            false
        }
        Support::Translated(how) => {
            at.tell();
            sink.notice(at, how);
            false
        }
        Support::Refused(why) => {
            sink.refuse(at, why);
            false
        }
    });
}

/// Tells of what is honoured and was not read: it says nothing beside the rest of its manifest.
pub(crate) fn tell_unread(manifest: &Manifest, of: Column, sink: &mut Sink) {
    walk(&manifest.root(), keys::of(manifest.kind), &mut |at, branch| {
        if of(branch.key()) != Support::Honoured || manifest.is_read(at.node) {
            return true;
        }
        let is_leaf = matches!(at.node.value, Value::Scalar(_));
        if is_leaf || (at.node.says_nothing() && !matches!(at.node.value, Value::Table(_))) {
            sink.notice(at, "it has no effect on what is made, and is left out");
        }
        true
    });
}

/// Calls for every field that has a line in the table; `false` leaves out what is below it.
fn walk(at: &At<'_>, branch: &Branch, visit: &mut dyn FnMut(&At<'_>, &Branch) -> bool) {
    for (name, field) in at.own_entries() {
        let Some(below) = branch.child(name) else {
            // Something that the table takes as a whole.
            leaves(&field, branch, visit);
            continue;
        };
        if visit(&field, below) {
            walk(&field, below, visit);
        }
    }
    if let Some(below) = branch.child("*") {
        for item in items(at) {
            if visit(&item, below) {
                walk(&item, below, visit);
            }
        }
    } else {
        items(at).iter().for_each(|item| leaves(item, branch, visit));
    }
}

/// What is below a field whose own keys are not listed.
fn leaves(at: &At<'_>, branch: &Branch, visit: &mut dyn FnMut(&At<'_>, &Branch) -> bool) {
    if visit(at, branch) {
        at.own_entries().iter().for_each(|(_, field)| leaves(field, branch, visit));
        items(at).iter().for_each(|item| leaves(item, branch, visit));
    }
}

fn items<'a>(at: &At<'a>) -> Vec<At<'a>> {
    let item = |(index, node): (usize, &'a wharf_compose::Node)| At {
        manifest: at.manifest,
        node,
        place: &node.place,
        path: format!("{}[{index}]", at.path),
    };
    at.node.items().iter().enumerate().map(item).collect()
}
