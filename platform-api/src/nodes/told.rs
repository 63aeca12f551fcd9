//! What a node was told to run, and the last steps on the way there.
//!
//! Whoever follows from a step that is still known gets the steps since then; anybody else the whole, which is written only then.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;
use wharf_types::delta::AssignmentDelta;
use zeroize::Zeroizing;

use crate::reconcile::Whole;

/// Steps that a follower may lag behind.
const STEPS_MAX: usize = 64;
/// Octets of them: beyond that the whole is no longer.
const STEPS_MAX_BYTES: usize = 4 << 20;

#[derive(Default)]
pub(super) struct Told {
    whole: Option<Arc<Whole>>,
    steps: VecDeque<Step>,
    bytes: usize,
    /// The newest generation, for those who follow.
    generation: watch::Sender<u64>,
}

struct Step {
    after: u64,
    generation: u64,
    line: Line,
}

/// A line in pieces, some of which are those of other nodes, too.
pub(super) type Line = Vec<Bytes>;

/// What a follower has not been sent yet.
pub(super) enum Since {
    Nothing,
    Steps(Vec<Bytes>, u64),
    Whole(Arc<Whole>),
}

impl Told {
    pub(super) fn whole(&self) -> Option<&Arc<Whole>> {
        self.whole.as_ref()
    }

    pub(super) fn follow(&self) -> watch::Receiver<u64> {
        let mut generation = self.generation.subscribe();
        generation.mark_changed();
        generation
    }

    pub(super) fn has_followers(&self) -> bool {
        self.generation.receiver_count() > 0
    }

    /// Whoever follows learns that there is no more.
    pub(super) fn dismiss(&mut self) {
        let newest = *self.generation.borrow();
        self.generation = watch::Sender::new(newest);
    }

    /// Takes in what a follower need not be told.
    pub(super) fn replace(&mut self, whole: Arc<Whole>) {
        self.whole = Some(whole);
    }

    /// Takes in the next; `line` changes the one before it into this. None: only the whole tells.
    pub(super) fn put(&mut self, whole: Arc<Whole>, line: Option<Line>) {
        let generation = whole.generation;
        let after = self.whole.replace(whole).map(|before| before.generation);
        match (line, after) {
            (Some(line), Some(after)) => {
                self.bytes += length(&line);
                self.steps.push_back(Step { after, generation, line });
                while self.steps.len() > STEPS_MAX || self.bytes > STEPS_MAX_BYTES {
                    self.bytes -= self.steps.pop_front().map_or(0, |step| length(&step.line));
                }
            }
            _ => {
                self.steps.clear();
                self.bytes = 0;
            }
        }
        self.generation.send_replace(generation);
    }

    /// What comes after the generation `at`, for a follower that takes steps.
    pub(super) fn since(&self, at: Option<u64>) -> Since {
        let Some(whole) = &self.whole else { return Since::Nothing };
        let Some(at) = at else { return Since::Whole(whole.clone()) };
        if at == whole.generation {
            return Since::Nothing;
        }
        match self.steps.iter().position(|step| step.after == at) {
            Some(first) => {
                let steps = self.steps.range(first..);
                let newest = self.steps.back().map_or(at, |step| step.generation);
                Since::Steps(steps.flat_map(|step| step.line.iter().cloned()).collect(), newest)
            }
            None => Since::Whole(whole.clone()),
        }
    }
}

/// A JSON document and the end of its line.
pub(super) fn line(mut json: Vec<u8>) -> Bytes {
    json.push(b'\n');
    sealed(json)
}

/// It may hold secrets: its memory is overwritten when nobody sends it any more.
fn sealed(json: Vec<u8>) -> Bytes {
    Bytes::from_owner(Zeroizing::new(json))
}

fn length(line: &[Bytes]) -> usize {
    line.iter().map(Bytes::len).sum()
}

/// The line of a delta. `routes` remembers the JSON of the newest routes, by their generation: it is the same piece for every node.
pub(super) fn step(delta: &AssignmentDelta, routes: &mut Option<(u64, Bytes)>) -> Option<Line> {
    // What cannot be written as a step is told as a whole.
    let before = delta.line_before_routes(delta.routes.is_some()).ok()?;
    let mut pieces = vec![sealed(before)];
    if let Some(changed) = &delta.routes {
        if routes.as_ref().is_none_or(|(generation, _)| *generation != changed.generation) {
            *routes = Some((changed.generation, serde_json::to_vec(&**changed).ok()?.into()));
        }
        pieces.extend(routes.iter().map(|(_, json)| json.clone()));
        pieces.push(Bytes::from_static(AssignmentDelta::AFTER_ROUTES));
    }
    Some(pieces)
}

#[cfg(test)]
mod tests {
    use wharf_types::NodeId;
    use wharf_types::delta::RoutesDelta;
    use wharf_types::route::RouteTable;

    use super::*;

    fn whole(generation: u64) -> Arc<Whole> {
        Arc::new(Whole::of(NodeId::from_uuid(uuid::Uuid::nil()), generation, &[]))
    }

    fn told(generations: impl IntoIterator<Item = u64>, bytes: usize) -> Told {
        let mut told = Told::default();
        for generation in generations {
            told.put(whole(generation), Some(vec![line(vec![b'x'; bytes])]));
        }
        told
    }

    fn steps(told: &Told, at: u64) -> Option<usize> {
        match told.since(Some(at)) {
            Since::Steps(lines, newest) => {
                assert_eq!(newest, told.whole.as_ref().unwrap().generation);
                Some(lines.len())
            }
            Since::Whole(_) => None,
            Since::Nothing => Some(0),
        }
    }

    #[test]
    fn a_follower_gets_the_steps_since_what_it_has_and_a_new_one_the_whole() {
        let told = told([3, 5, 9], 10);
        assert_eq!([9, 5, 3, 4].map(|at| steps(&told, at)), [Some(0), Some(1), Some(2), None]);
        assert!(matches!(told.since(None), Since::Whole(whole) if whole.generation == 9));
        assert!(matches!(Told::default().since(None), Since::Nothing));
    }

    #[test]
    fn who_lags_too_far_behind_gets_the_whole() {
        assert_eq!(steps(&told(0..=64, 10), 0), Some(64));
        assert_eq!(steps(&told(0..=65, 10), 0), None);
        let large = told(0..=4, 2 << 20);
        assert_eq!((steps(&large, 3), steps(&large, 0)), (Some(1), None));
    }

    #[test]
    fn a_step_that_only_the_whole_tells_forgets_those_before() {
        let mut told = told([3, 5], 10);
        told.put(whole(7), None);
        assert_eq!((steps(&told, 5), steps(&told, 7)), (None, Some(0)));
        told.replace(whole(7));
        assert_eq!(steps(&told, 7), Some(0), "there is nothing to tell");
    }

    #[test]
    fn whoever_follows_an_earlier_process_learns_that_it_ends() {
        let mut told = told([3], 10);
        let followed = told.follow();
        assert!(told.has_followers() && followed.has_changed().unwrap());
        told.dismiss();
        assert!(followed.has_changed().is_err() && !told.has_followers());
    }

    #[test]
    fn the_pieces_of_a_step_are_its_line_and_nodes_share_the_routes() {
        let delta = |routes: Option<u64>| {
            let table = |generation| RouteTable { generation, ..RouteTable::default() };
            let routes = routes.map(|it| Arc::new(RoutesDelta::between(&table(it - 1), &table(it))));
            AssignmentDelta {
                node: NodeId::from_uuid(uuid::Uuid::nil()),
                after: 3,
                generation: 9,
                instances: Vec::new(),
                dropped_instances: Vec::new(),
                secrets: Vec::new(),
                dropped_secrets: Vec::new(),
                removed_volumes: None,
                routes,
            }
        };
        let mut routes = None;
        for delta in [delta(None), delta(Some(7)), delta(Some(7)), delta(Some(8))] {
            let line = step(&delta, &mut routes).unwrap();
            let octets = line.concat();
            assert_eq!(octets.last(), Some(&b'\n'));
            let read = wharf_types::delta::Told::read(&octets).unwrap();
            assert_eq!(read, wharf_types::delta::Told::Delta(Box::new(delta)));
        }
        let [first, second] = [7, 7].map(|generation| step(&delta(Some(generation)), &mut routes).unwrap());
        assert_eq!(first[1].as_ptr(), second[1].as_ptr());
    }
}
