//! Values in the order of their keys, of which a copy costs nothing.
//!
//! A balanced tree whose nodes are shared: a change makes those anew that lie between the root and what changed, and only where a copy still has
//! them. So what nodes were told last is kept whole beside what they are to be told next, however much of it there is.

use std::cmp::Ordering;
use std::fmt::Debug;
use std::sync::Arc;

/// A value that says where it belongs.
pub(super) trait Keyed: Clone {
    type Key: Clone + Debug + Ord;

    fn key(&self) -> Self::Key;

    /// How its own key compares with this one.
    fn compare(&self, key: &Self::Key) -> Ordering;
}

#[derive(Clone, Debug)]
pub(super) struct Sorted<T> {
    root: Tree<T>,
}

type Tree<T> = Option<Arc<Node<T>>>;

#[derive(Clone, Debug)]
struct Node<T> {
    value: T,
    left: Tree<T>,
    right: Tree<T>,
    /// Of the longest way down, with this node. No two ways down from a node differ by more than one.
    height: u8,
}

/// From the smallest key to the largest.
pub(super) struct Iter<'a, T> {
    /// What is left of each tree whose left side was taken.
    above: Vec<&'a Node<T>>,
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self { root: None }
    }
}

impl<T> Sorted<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    pub(super) fn iter(&self) -> Iter<'_, T> {
        let mut iter = Iter { above: Vec::new() };
        iter.descend(&self.root);
        iter
    }
}

impl<T: Keyed> Sorted<T> {
    pub(super) fn get(&self, key: &T::Key) -> Option<&T> {
        let mut at = self.root.as_deref();
        while let Some(node) = at {
            at = match node.value.compare(key) {
                Ordering::Equal => return Some(&node.value),
                Ordering::Greater => node.left.as_deref(),
                Ordering::Less => node.right.as_deref(),
            };
        }
        None
    }

    /// Returns what had the key before.
    pub(super) fn insert(&mut self, value: T) -> Option<T> {
        insert(&mut self.root, &value.key(), value)
    }

    pub(super) fn remove(&mut self, key: &T::Key) -> Option<T> {
        // Where there is nothing to remove, nothing is made anew.
        self.get(key)?;
        remove(&mut self.root, key)
    }
}

impl<T: Keyed> FromIterator<T> for Sorted<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let mut sorted = Self::default();
        for value in values {
            sorted.insert(value);
        }
        sorted
    }
}

impl<'a, T> Iter<'a, T> {
    fn descend(&mut self, tree: &'a Tree<T>) {
        let mut at = tree.as_deref();
        while let Some(node) = at {
            self.above.push(node);
            at = node.left.as_deref();
        }
    }
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        let node = self.above.pop()?;
        self.descend(&node.right);
        Some(&node.value)
    }
}

impl<T> Node<T> {
    fn measure(&mut self) {
        self.height = 1 + height(&self.left).max(height(&self.right));
    }
}

fn height<T>(tree: &Tree<T>) -> u8 {
    tree.as_ref().map_or(0, |node| node.height)
}

fn insert<T: Keyed>(tree: &mut Tree<T>, key: &T::Key, value: T) -> Option<T> {
    let Some(node) = tree else {
        *tree = Some(Arc::new(Node { value, left: None, right: None, height: 1 }));
        return None;
    };
    let node = Arc::make_mut(node);
    let before = match node.value.compare(key) {
        Ordering::Equal => return Some(std::mem::replace(&mut node.value, value)),
        Ordering::Greater => insert(&mut node.left, key, value),
        Ordering::Less => insert(&mut node.right, key, value),
    };
    balance(tree);
    before
}

fn remove<T: Keyed>(tree: &mut Tree<T>, key: &T::Key) -> Option<T> {
    let node = Arc::make_mut(tree.as_mut()?);
    let removed = match node.value.compare(key) {
        Ordering::Greater => remove(&mut node.left, key),
        Ordering::Less => remove(&mut node.right, key),
        Ordering::Equal if node.left.is_none() || node.right.is_none() => {
            let value = node.value.clone();
            let rest = node.left.take().or_else(|| node.right.take());
            *tree = rest;
            return Some(value);
        }
        Ordering::Equal => {
            let next = take_first(&mut node.right)?;
            Some(std::mem::replace(&mut node.value, next))
        }
    };
    balance(tree);
    removed
}

/// Takes out the value with the smallest key.
fn take_first<T: Clone>(tree: &mut Tree<T>) -> Option<T> {
    let node = Arc::make_mut(tree.as_mut()?);
    if node.left.is_none() {
        let value = node.value.clone();
        let rest = node.right.take();
        *tree = rest;
        return Some(value);
    }
    let first = take_first(&mut node.left);
    balance(tree);
    first
}

/// Makes up for one value more or less on one side.
fn balance<T: Clone>(tree: &mut Tree<T>) {
    let Some(root) = tree else { return };
    let node = Arc::make_mut(root);
    node.measure();
    if height(&node.left) > height(&node.right) + 1 {
        if let Some(left) = node.left.as_mut().filter(|left| height(&left.right) > height(&left.left)) {
            raise_right(left);
        }
        raise_left(root);
    } else if height(&node.right) > height(&node.left) + 1 {
        if let Some(right) = node.right.as_mut().filter(|right| height(&right.left) > height(&right.right)) {
            raise_left(right);
        }
        raise_right(root);
    }
}

/// Puts the left child in its parent's place.
fn raise_left<T: Clone>(root: &mut Arc<Node<T>>) {
    let parent = Arc::make_mut(root);
    let Some(mut child) = parent.left.take() else { return };
    parent.left = Arc::make_mut(&mut child).right.take();
    parent.measure();
    std::mem::swap(root, &mut child);
    let raised = Arc::make_mut(root);
    raised.right = Some(child);
    raised.measure();
}

/// Puts the right child in its parent's place.
fn raise_right<T: Clone>(root: &mut Arc<Node<T>>) {
    let parent = Arc::make_mut(root);
    let Some(mut child) = parent.right.take() else { return };
    parent.right = Arc::make_mut(&mut child).left.take();
    parent.measure();
    std::mem::swap(root, &mut child);
    let raised = Arc::make_mut(root);
    raised.left = Some(child);
    raised.measure();
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    impl Keyed for (u8, u16) {
        type Key = u8;

        fn key(&self) -> u8 {
            self.0
        }

        fn compare(&self, key: &u8) -> Ordering {
            self.0.cmp(key)
        }
    }

    /// Returns the height, having looked at every node.
    fn checked(tree: &Tree<(u8, u16)>) -> u8 {
        let Some(node) = tree else { return 0 };
        let (left, right) = (checked(&node.left), checked(&node.right));
        assert!(left.abs_diff(right) <= 1, "{left} and {right}");
        assert_eq!(node.height, 1 + left.max(right));
        node.height
    }

    fn steps() -> impl Strategy<Value = Vec<(u8, Option<u16>)>> {
        proptest::collection::vec((any::<u8>(), proptest::option::of(any::<u16>())), 0..400)
    }

    proptest! {
        #[test]
        fn it_has_what_a_map_has_and_copies_stay_as_they_are(steps in steps()) {
            let (mut sorted, mut map) = (Sorted::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for (key, value) in steps {
                copies.push((sorted.clone(), map.clone()));
                match value {
                    Some(value) => {
                        let before = sorted.insert((key, value)).map(|(_, before)| before);
                        prop_assert_eq!(before, map.insert(key, value));
                    }
                    None => {
                        let removed = sorted.remove(&key).map(|(_, value)| value);
                        prop_assert_eq!(removed, map.remove(&key));
                    }
                }
                prop_assert_eq!(sorted.get(&key).map(|(_, value)| *value), map.get(&key).copied());
            }
            copies.push((sorted, map));
            for (sorted, map) in copies {
                checked(&sorted.root);
                prop_assert_eq!(sorted.is_empty(), map.is_empty());
                prop_assert_eq!(sorted.iter().copied().collect::<Vec<_>>(), map.into_iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn keys_that_come_in_their_order_make_no_long_ways() {
        let sorted: Sorted<(u8, u16)> = (0..=u8::MAX).map(|key| (key, 0)).collect();
        assert_eq!(checked(&sorted.root), 9);
    }
}
