//! The tree that every format becomes: values, and where they stand.

/// Containers within each other. No settings come near it, and code that walks a tree may call itself so often.
pub const DEPTH_MAX: usize = 64;
/// Values of one file, those that aliases repeat included.
pub const NODES_MAX: usize = 2_000_000;

/// Counted from 1; the column in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub line: u32,
    pub column: u32,
}

impl Place {
    pub fn new(line: usize, column: usize) -> Self {
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Self { line: number(line), column: number(column) }
    }
}

/// What is wrong at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub place: Place,
    pub message: String,
}

impl Fault {
    pub fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into() }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    /// Larger than the others hold.
    Large(u64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: String,
    pub place: Place,
    pub node: Node,
}

impl Node {
    pub fn new(place: Place, value: Value) -> Self {
        Self { place, value }
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Table(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Values in it, itself included, and how many containers are within each other.
    pub fn measure(&self) -> (usize, usize) {
        let of_all = |nodes: &mut dyn Iterator<Item = &Node>| {
            nodes
                .map(Node::measure)
                .fold((1, 0), |(count, depth), (more, deep)| (count + more, depth.max(deep)))
        };
        match &self.value {
            Value::List(items) => {
                let (count, depth) = of_all(&mut items.iter());
                (count, depth + 1)
            }
            Value::Table(entries) => {
                let (count, depth) = of_all(&mut entries.iter().map(|entry| &entry.node));
                (count, depth + 1)
            }
            _ => (1, 0),
        }
    }

    /// Where the setting of a path stands, or else the nearest that is there.
    pub fn place_of(&self, path: &str) -> Place {
        self.way(path).place
    }

    /// The way to the setting of a path such as `limits.memory`, `env.A` or `http.routes[2]`, counted from 1, as far as it is there.
    pub fn way(&self, path: &str) -> Way {
        let mut way = Way { steps: Vec::new(), place: self.place, is_whole: false };
        let (mut node, mut rest) = (self, path);
        while !rest.is_empty() {
            let Some((step, place, next, left)) = node.step(rest) else { return way };
            way.steps.push(step);
            way.place = place;
            (node, rest) = (next, left);
        }
        way.is_whole = true;
        way
    }

    /// Which entry or item a path leads to first, where that stands, what it is, and what is left of the path.
    fn step<'n, 'p>(&'n self, path: &'p str) -> Option<(usize, Place, &'n Node, &'p str)> {
        match &self.value {
            Value::Table(entries) => {
                let left = |key: &str| {
                    let left = path.strip_prefix(key)?;
                    let ends = left.is_empty() || left.starts_with(['.', '[']);
                    ends.then(|| left.strip_prefix('.').unwrap_or(left))
                };
                let fitting = entries.iter().enumerate().filter_map(|(at, entry)| {
                    let left = left(&entry.key)?;
                    Some((at, entry, left))
                });
                // A key may have a dot in it.
                let (at, entry, left) = fitting.max_by_key(|(_, entry, _)| entry.key.len())?;
                Some((at, entry.place, &entry.node, left))
            }
            Value::List(items) => {
                let (number, left) = path.strip_prefix('[')?.split_once(']')?;
                let at = number.parse::<usize>().ok()?.checked_sub(1)?;
                let item = items.get(at)?;
                Some((at, item.place, item, left.strip_prefix('.').unwrap_or(left)))
            }
            _ => None,
        }
    }
}

/// The way to a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Which entry of a table, which item of a list.
    pub steps: Vec<usize>,
    /// Of the last key or item on it.
    pub place: Place,
    /// Whether it leads there, and not only near.
    pub is_whole: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_place_of_a_path_is_found() {
        let at = |line| Place::new(line, 1);
        let table = |line, key: &str, node| {
            Node::new(at(line), Value::Table(vec![Entry { key: key.into(), place: at(line), node }]))
        };
        let node = table(1, "limits", table(2, "memory", Node::new(at(3), Value::Int(1))));
        assert_eq!(node.place_of("limits.memory"), at(2));
        assert_eq!(node.place_of("limits.cpu"), at(1));
        assert_eq!(node.place_of("scale"), at(1));
        assert_eq!(node.measure(), (3, 2));
    }

    #[test]
    fn a_path_leads_to_items_and_to_keys_with_dots_in_them() {
        let at = |line| Place::new(line, 1);
        let value = |line| Node::new(at(line), Value::Int(1));
        let entry = |line, key: &str, node| Entry { key: key.into(), place: at(line), node };
        let list = Node::new(at(2), Value::List(vec![value(3), value(4)]));
        let env = Node::new(at(5), Value::Table(vec![entry(6, "a", value(6)), entry(7, "a.b", value(7))]));
        let node = Node::new(at(1), Value::Table(vec![entry(2, "routes", list), entry(5, "env", env)]));
        let way = |path: &str| {
            let way = node.way(path);
            (way.steps, way.place.line, way.is_whole)
        };
        assert_eq!(way("routes[2]"), (vec![0, 1], 4, true));
        assert_eq!(way("routes[3]"), (vec![0], 2, false));
        assert_eq!(way("env.a.b"), (vec![1, 1], 7, true));
        assert_eq!(way("env.a"), (vec![1, 0], 6, true));
        assert_eq!(way("env.ab"), (vec![1], 5, false));
        assert_eq!(way("name"), (vec![], 1, false));
    }
}
