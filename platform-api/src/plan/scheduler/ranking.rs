//! The nodes of one class by what they have free, kept so that the best is found without looking at the others.
//!
//! A tournament: a complete binary tree in one vector, whose leaves are nodes and whose inner entries hold the better of two. A
//! change plays one leaf's games anew; a search goes down only where something better than what it has can be.

use wharf_types::NodeId;

use super::Resources;

/// Which node is at which leaf, and the games.
#[derive(Debug, Default)]
pub(super) struct Ranking {
    leaves: Vec<Leaf>,
    /// Leaves that nobody uses.
    vacant: Vec<u32>,
    /// The root is at 1, the children of `i` at `2i` and `2i + 1`, the leaves at the end.
    games: Vec<Game>,
}

#[derive(Clone, Copy, Debug)]
struct Leaf {
    id: NodeId,
    node: u32,
}

/// The best of a subtree: most free memory, then the lowest id.
#[derive(Clone, Copy, Debug)]
struct Game {
    memory_bytes: u64,
    /// The leaf that has it; [`NOBODY`] where the subtree is empty.
    leaf: u32,
    /// The most that any leaf of the subtree has free, not only the best one.
    cpu_millis: u32,
}

const NOBODY: u32 = u32::MAX;
const EMPTY: Game = Game { memory_bytes: 0, leaf: NOBODY, cpu_millis: 0 };

/// What a search has found so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) memory_bytes: u64,
    pub(super) id: NodeId,
    pub(super) node: u32,
}

impl Found {
    fn is_before(&self, memory_bytes: u64, id: NodeId) -> bool {
        (self.memory_bytes, id) > (memory_bytes, self.id)
    }
}

impl Ranking {
    /// Takes a node in and returns its leaf.
    pub(super) fn insert(&mut self, id: NodeId, node: u32, free: Resources) -> u32 {
        let leaf = if let Some(leaf) = self.vacant.pop() {
            self.leaves[leaf as usize] = Leaf { id, node };
            leaf
        } else {
            self.leaves.push(Leaf { id, node });
            if self.leaves.len() > self.width() {
                self.widen();
            }
            u32::try_from(self.leaves.len() - 1).expect("nodes are numbered by u32")
        };
        self.set(leaf, free);
        leaf
    }

    pub(super) fn remove(&mut self, leaf: u32) {
        self.vacant.push(leaf);
        self.play(leaf, EMPTY);
    }

    pub(super) fn set(&mut self, leaf: u32, free: Resources) {
        let cpu_millis = u32::try_from(free.cpu_millis).unwrap_or(u32::MAX);
        self.play(leaf, Game { memory_bytes: free.memory_bytes, leaf, cpu_millis });
    }

    /// The best node that has `needed` free and that `may` accepts, if it is better than `best`.
    pub(super) fn search(&self, needed: Resources, best: &mut Option<Found>, may: impl Fn(u32) -> bool) {
        if !self.games.is_empty() {
            self.search_below(1, needed, best, &may);
        }
    }

    fn search_below(
        &self,
        at: usize,
        needed: Resources,
        best: &mut Option<Found>,
        may: &impl Fn(u32) -> bool,
    ) {
        let game = self.games[at];
        if game.leaf == NOBODY
            || game.memory_bytes < needed.memory_bytes
            || u64::from(game.cpu_millis) < needed.cpu_millis
        {
            return;
        }
        let leaf = self.leaves[game.leaf as usize];
        if best.is_some_and(|best| best.is_before(game.memory_bytes, leaf.id)) {
            return;
        }
        if at >= self.width() {
            if may(leaf.node) {
                *best = Some(Found { memory_bytes: game.memory_bytes, id: leaf.id, node: leaf.node });
            }
            return;
        }
        // The side of the winner first: what it finds often spares the other.
        let left = 2 * at;
        let first = left + usize::from(self.games[left].leaf != game.leaf);
        self.search_below(first, needed, best, may);
        self.search_below(first ^ 1, needed, best, may);
    }

    fn width(&self) -> usize {
        self.games.len() / 2
    }

    fn play(&mut self, leaf: u32, result: Game) {
        let mut at = self.width() + leaf as usize;
        self.games[at] = result;
        while at > 1 {
            at /= 2;
            self.games[at] = self.winner(self.games[2 * at], self.games[2 * at + 1]);
        }
    }

    fn winner(&self, a: Game, b: Game) -> Game {
        let cpu_millis = a.cpu_millis.max(b.cpu_millis);
        let id = |game: Game| self.leaves.get(game.leaf as usize).map(|leaf| leaf.id);
        let b_wins = match (id(a), id(b)) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(a_id), Some(b_id)) => (b.memory_bytes, a_id) > (a.memory_bytes, b_id),
        };
        Game { cpu_millis, ..if b_wins { b } else { a } }
    }

    fn widen(&mut self) {
        let (before, width) = (self.width(), (self.width() * 2).max(1));
        let mut games = vec![EMPTY; 2 * width];
        games[width..width + before].copy_from_slice(&self.games[before..]);
        self.games = games;
        for at in (1..width).rev() {
            self.games[at] = self.winner(self.games[2 * at], self.games[2 * at + 1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> NodeId {
        NodeId::from_uuid(Uuid::from_u128(number))
    }

    fn resources((memory_bytes, cpu_millis): (u64, u64)) -> Resources {
        Resources { memory_bytes, cpu_millis }
    }

    proptest! {
        #[test]
        fn the_best_is_what_looking_at_all_of_them_finds(
            nodes in proptest::collection::vec(((0..20u64, 0..8u64), any::<bool>()), 1..40),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), proptest::option::of((0..20u64, 0..8u64))), 0..40),
            needed in (0..20u64, 0..8u64),
        ) {
            let mut ranking = Ranking::default();
            let mut known: Vec<Option<(u32, Resources)>> = Vec::new();
            for (number, (free, _)) in (0..).zip(&nodes) {
                // Ids fall, so that the order of arrival is not theirs.
                known.push(Some((ranking.insert(id(1000 - u128::from(number)), number, resources(*free)), resources(*free))));
            }
            for (at, change) in changes {
                let at = at.index(known.len());
                let number = u32::try_from(at).unwrap();
                known[at] = match (known[at], change) {
                    (Some((leaf, _)), Some(free)) => {
                        ranking.set(leaf, resources(free));
                        Some((leaf, resources(free)))
                    }
                    (Some((leaf, _)), None) => {
                        ranking.remove(leaf);
                        None
                    }
                    (None, change) => {
                        let free = resources(change.unwrap_or_default());
                        Some((ranking.insert(id(1000 - u128::from(number)), number, free), free))
                    }
                };
            }
            let needed = resources(needed);
            let mut found = None;
            ranking.search(needed, &mut found, |node| nodes[node as usize].1);
            let fits = (0u32..).zip(&known).filter_map(|(number, entry)| {
                let free = entry.filter(|(_, free)| free.covers(needed) && nodes[number as usize].1)?.1;
                Some((free.memory_bytes, number))
            });
            prop_assert_eq!(found.map(|found| found.node), fits.max().map(|(_, number)| number));
        }
    }
}
