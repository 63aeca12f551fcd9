//! How many instances of one app there are, by node and by class of nodes.

/// Small sorted lists: an app has few instances, and most apps have one.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// Position of a node, and how many instances are there.
    nodes: Vec<(u32, u32)>,
    /// Number of a class, how many instances there are, and on how many of its nodes.
    classes: Vec<(u32, ClassCount)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ClassCount {
    pub(super) instances: u32,
    pub(super) nodes: u32,
}

impl Counts {
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(super) fn on(&self, node: u32) -> u32 {
        self.nodes.binary_search_by_key(&node, |(node, _)| *node).map_or(0, |at| self.nodes[at].1)
    }

    pub(super) fn nodes(&self) -> &[(u32, u32)] {
        &self.nodes
    }

    pub(super) fn classes(&self) -> &[(u32, ClassCount)] {
        &self.classes
    }

    pub(super) fn of_class(&self, class: u32) -> ClassCount {
        let found = self.classes.binary_search_by_key(&class, |(class, _)| *class);
        found.map_or(ClassCount::default(), |at| self.classes[at].1)
    }

    pub(super) fn add(&mut self, node: u32, class: u32) {
        let count = entry(&mut self.nodes, node);
        *count += 1;
        let is_first = *count == 1;
        let of_class = entry(&mut self.classes, class);
        of_class.instances += 1;
        of_class.nodes += u32::from(is_first);
    }

    pub(super) fn remove(&mut self, node: u32, class: u32) {
        let count = entry(&mut self.nodes, node);
        *count = count.saturating_sub(1);
        let was_last = *count == 0;
        if was_last {
            forget(&mut self.nodes, node);
        }
        self.take_from_class(class, 1, was_last);
    }

    /// A node with instances of the app has changed its class.
    pub(super) fn move_node(&mut self, node: u32, from: u32, to: u32) {
        let instances = self.on(node);
        if instances > 0 {
            self.take_from_class(from, instances, true);
            let of_class = entry(&mut self.classes, to);
            of_class.instances += instances;
            of_class.nodes += 1;
        }
    }

    fn take_from_class(&mut self, class: u32, instances: u32, also_a_node: bool) {
        let of_class = entry(&mut self.classes, class);
        of_class.instances = of_class.instances.saturating_sub(instances);
        of_class.nodes = of_class.nodes.saturating_sub(u32::from(also_a_node));
        if *of_class == ClassCount::default() {
            forget(&mut self.classes, class);
        }
    }
}

fn entry<T: Default>(list: &mut Vec<(u32, T)>, key: u32) -> &mut T {
    let at = match list.binary_search_by_key(&key, |(key, _)| *key) {
        Ok(at) => at,
        Err(at) => {
            // Room for a few more, and not for twice as many: there is a list for each app.
            if list.len() == list.capacity() {
                list.reserve_exact(1 + list.len() / 4);
            }
            list.insert(at, (key, T::default()));
            at
        }
    };
    &mut list[at].1
}

fn forget<T>(list: &mut Vec<(u32, T)>, key: u32) {
    if let Ok(at) = list.binary_search_by_key(&key, |(key, _)| *key) {
        list.remove(at);
    }
}
